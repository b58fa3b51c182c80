"""Any picture of writing as the same thing: black on white, level, cropped, without its form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import SIZE, GreyImage, fit, grey_of
from rvsm.handwriting.morphology import closed, dilated, spread
from rvsm.handwriting.render import PIXELS_PER_MM
from rvsm.handwriting.scans.paper import Array, Mask, cleaned, darkness, ink_mask
from rvsm.handwriting.scans.rules import rule_mask
from rvsm.handwriting.scans.sideways import sideways_deg
from rvsm.handwriting.scans.skew import skew_deg, turned
from rvsm.handwriting.scans.template import Template, pen_by_colour, without_template

Isolate = Literal["auto", "colour", "none"] | Template

X_HEIGHT_PX = 20.0
"""Height of small letters in the images that networks are trained on: 2.5 mm."""

_CLEAN = 0.1
_MARGIN_SHARE = 0.04
_DOWN_SHARE, _CROSSING = 0.3, 13


@dataclass(frozen=True)
class Normalised:
    """A picture of writing without its paper.

    Attributes
    ----------
    grey : ndarray of uint8, shape (h, w)
        Black ink on white, cropped to the ink with a margin, in the picture's own scale.
    ink : ndarray of bool, shape (h, w)
    box : (int, int, int, int)
        Left, top, right and lower edge of the crop in the picture (turned level where it was).
    turned_deg : float
        By how much it was turned clockwise to lie level, after `quarters_deg`.
    inverted : bool
        Whether it was light on dark.
    isolated : bool
        Whether a pen was told from a template.
    ink_share : float
        Part of the whole picture that is ink.
    unrest : float
        Part of the rest, two pixels and more from ink, that is darker than paper by 0.1.
    pixels_per_mm : float or None
        Scale, where it is known.
    quarters_deg : int
        By how many quarters it was turned clockwise, in degrees.
    """

    grey: GreyImage
    ink: Mask
    box: tuple[int, int, int, int]
    turned_deg: float
    inverted: bool
    isolated: bool
    ink_share: float
    unrest: float
    pixels_per_mm: float | None = None
    quarters_deg: int = 0


def normalise(
    picture: Image.Image,
    *,
    deskew: bool = False,
    rules: bool = False,
    squares: bool = False,
    isolate: Isolate = "auto",
    crop: bool = True,
    turn: int | None = 0,
    pixels_per_mm: float | None = None,
) -> Normalised:
    """Normalise a picture of a word or a drawing, whatever its mode, tint, size or background.

    Transparency is put on white and colour becomes grey; where the ink has two colours, a pen's
    strokes are kept and black print is dropped; light on dark is turned over; the paper is evened
    out and whitened; the ink is brought to black, writing is turned level, ruled lines are taken
    away, and the margins are cropped to the ink.

    Parameters
    ----------
    picture : PIL.Image.Image
        Of `images.read_picture`, with its rotation tag obeyed.
    deskew : bool
        Whether to turn writing level; not for drawings, which have no line.
    rules : bool
        Whether to take ruled lines away; not for drawings, which may hold level lines.
    squares : bool
        Whether to take lines away that run down too, of squared paper and margins; for pages alone,
        as a tall letter runs down the whole picture of a word.
    isolate : {"auto", "colour", "none"} or Template
        Whether to keep a coloured pen alone ("colour" raises where there is none), or to take away
        a template that others of the set share.
    crop : bool
        Whether to crop to the ink.
    turn : {0, 90, 180, 270} or None
        By how much to turn it clockwise first, degrees; None turns a page that lies sideways (see
        `sideways_deg`).
    pixels_per_mm : float, optional
        Scale, passed on; by default from the picture's resolution in ``info["dpi"]``.

    Returns
    -------
    Normalised

    Raises
    ------
    DataError
        ``isolate="colour"``, and the ink is not of two colours; a template of another size.
    """
    grey = grey_of(picture)
    found = pen_by_colour(picture) if isolate in ("auto", "colour") else None
    if isolate == "colour" and found is None:
        raise DataError(
            "The picture has no pen in another colour than print: isolate none, or by "
            "registration where there are several people's drawings of one template."
        )
    dark, inverted = darkness(grey)
    ink = ink_mask(dark)
    if isinstance(isolate, Template):
        alone = without_template(dark, isolate)
        found = alone, ink_mask(alone)
    if found is not None:
        (dark, ink), inverted = found, False
    unrest = _unrest(dark, ink)
    quarters = sideways_deg(ink) if turn is None else turn
    dark, ink = np.rot90(dark, -quarters // 90), np.rot90(ink, -quarters // 90)
    angle = 0.0
    if deskew and (angle := skew_deg(ink)):
        level = turned(cleaned(dark, ink), angle)
        dark = 1.0 - level / 255.0
        ink = ink_mask(dark)
    across = rule_mask(ink) if rules else np.zeros_like(ink)
    down = rule_mask(ink.T, _DOWN_SHARE * max(ink.shape)).T if squares else np.zeros_like(ink)
    if down.any():  # where they cross they are not thin, and dots would be left
        across |= ink & closed(across, (1, _CROSSING)) & closed(down, (_CROSSING, 1))
    if (lines := across | down).any():
        # A printed rule may be far darker than the pen: what ink is shows only without it.
        rim = dilated(across, (7, 3))
        if down.any():
            rim |= dilated(down, (3, 7))
        rim &= ~(ink & ~lines)
        dark = np.where(lines | rim, 0.0, dark)
        ink = ink_mask(dark)
    out = cleaned(dark, ink)
    box = _box(ink) if crop else (0, 0, ink.shape[1], ink.shape[0])
    left, top, right, bottom = box
    return Normalised(
        out[top:bottom, left:right],
        ink[top:bottom, left:right],
        box,
        angle,
        inverted,
        found is not None,
        float(ink.mean()),
        unrest,
        pixels_per_mm if pixels_per_mm is not None else scale_of(picture),
        quarters,
    )


def scale_of(picture: Image.Image) -> float | None:
    """Pixels per mm from the resolution that a file states, None where it states none.

    A resolution of 72 or 96 a picture gets from software that knows none, and counts as none.
    """
    try:
        value = float(picture.info["dpi"][0])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    if not np.isfinite(value) or value < 50 or round(value) in {72, 96}:
        return None
    return value / 25.4


def _unrest(dark: Array, ink: Mask) -> float:
    rest = ~spread(ink, 2)
    count = np.count_nonzero(rest)
    return np.count_nonzero((dark > _CLEAN) & rest) / count if count else 1.0


def _box(ink: Mask) -> tuple[int, int, int, int]:
    height, width = ink.shape
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return (0, 0, width, height)
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    margin = max(2, round(_MARGIN_SHARE * max(tall, wide)))
    return (
        max(0, int(columns[0]) - margin),
        max(0, int(rows[0]) - margin),
        min(width, int(columns[-1]) + 1 + margin),
        min(height, int(rows[-1]) + 1 + margin),
    )


def to_network(
    found: Normalised, size: tuple[int, int] = SIZE, x_height: float | None = None
) -> GreyImage:
    """A normalised picture at the size and, where possible, the scale of the training images.

    Networks learn at 8 pixels a mm, small letters about 20 pixels high. With a known scale the
    picture is brought to it, else by the height of its small letters where that is given, else it
    is fitted. What would not fit then is scaled down to fit.

    Parameters
    ----------
    found : Normalised
    size : (int, int)
        Height and width of the result.
    x_height : float, optional
        Height of small letters in the picture, pixels.

    Returns
    -------
    ndarray of uint8, shape `size`
    """
    if found.pixels_per_mm is not None:
        factor = PIXELS_PER_MM / found.pixels_per_mm
    elif x_height:
        factor = X_HEIGHT_PX / x_height
    else:
        return fit(found.grey, size)
    height, width = found.grey.shape
    factor = min(factor, size[0] / height, size[1] / width)
    inner = (max(1, round(height * factor)), max(1, round(width * factor)))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    scaled = np.asarray(Image.fromarray(found.grey).resize((inner[1], inner[0]), how))
    out = np.full(size, 255, dtype=np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = scaled
    return out
