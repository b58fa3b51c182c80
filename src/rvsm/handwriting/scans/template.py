"""The pen's strokes apart from a printed template: by colour, or by what all people share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting.images import encode_png, grey_of, read_picture
from rvsm.handwriting.morphology import opened, spread
from rvsm.handwriting.ranks import quantile
from rvsm.handwriting.scans.paper import Array, Mask, darkness, ink_mask, light_on_dark
from rvsm.handwriting.scans.sideways import in_blocks, without_rules

_COLOURED = 0.3
_CHROMA, _LEAST_COLOUR = 40, 0.0005
_LEAST_SHARE = 0.05
_RULED, _FAINT = 0.6, 0.3
_LEAST_PEOPLE = 3
_SHARED = 0.75


def pen_by_colour(picture: Image.Image) -> tuple[Array, Mask] | None:
    """Strokes of a coloured pen on a black template, or of a black one on coloured rules.

    In each colour channel the paper is evened out by itself. Black print darkens all channels
    alike; a pen darkens one (blue ink: red) far more than another. Ink is the pen's where the
    channels differ by more than 0.3 of the darkest. Where the pen crosses the print it is not to be
    told from it, so gaps no wider than the print are closed along the pen's path.

    Where what is coloured is straight lines for six tenths or more, and what is black is not, it is
    the paper's rules, margin or squares, and what is written is what all channels show.

    Parameters
    ----------
    picture : PIL.Image.Image
        Any mode; grey ones have no colour.

    Returns
    -------
    (ndarray of float, ndarray of bool) or None
        Darkness and ink of the pen alone, shapes (h, w). None where the ink has no two colours:
        less than 5 % of it is coloured, or less than 5 % black.
    """
    if picture.mode not in {"RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB", "HSV", "PA"}:
        return None
    if picture.mode == "RGB" and "transparency" not in picture.info:
        bands = np.asarray(picture)
    else:
        rgba = picture.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        bands = np.asarray(Image.alpha_composite(paper, rgba).convert("RGB"))
    red, green, blue = (bands[..., i] for i in range(3))
    most, least = (f(f(red, green), blue) for f in (np.maximum, np.minimum))
    if np.mean(most - least > _CHROMA) < _LEAST_COLOUR:
        return None  # grey but for a tint, which each channel's own paper would take away
    if light_on_dark(grey_of(picture)):
        return None  # print is dark; coloured chalk is not a pen on it
    channels = np.stack([darkness(np.ascontiguousarray(bands[..., i]))[0] for i in range(3)])
    highest, lowest = channels.max(axis=0), channels.min(axis=0)
    every = ink_mask(highest)
    if not every.any():
        return None
    coloured = every & (highest - lowest > _COLOURED * highest)
    # The soft rim of black print picks up colour where a lossy file halves its chroma.
    coloured &= spread(opened(coloured, (2, 2)), 1)
    share = coloured.sum() / every.sum()
    if not _LEAST_SHARE < share < 1 - _LEAST_SHARE:
        return None
    black = every & ~coloured
    if _ruled(coloured) and not _ruled(black):
        rim = spread(coloured, 1) & (lowest < _FAINT * quantile(lowest[black], 0.9))
        dark = np.where(rim, 0.0, lowest)
        ink = ink_mask(dark)
        return np.where(spread(ink, 1), dark, 0.0), ink
    ink = _bridged(coloured, black)
    return np.where(spread(ink, 1), highest, 0.0), ink


def _ruled(ink: Mask) -> bool:
    """Whether it is straight lines and little else."""
    ink = in_blocks(ink)
    rest = min(int(without_rules(side).sum()) for side in (ink, np.rot90(ink)))
    return rest < (1 - _RULED) * int(ink.sum())


@dataclass(frozen=True, eq=False)
class Template:
    """What is printed on the sheets that different people drew on.

    Attributes
    ----------
    printed : ndarray of bool, shape (h, w)
    """

    printed: Mask

    @cached_property
    def blurred(self) -> Array:
        """What drawings are aligned to."""
        return _blurred(self.printed)

    @property
    def digest(self) -> str:
        """Tells one template from another."""
        return hashlib.sha256(self.png()).hexdigest()

    def png(self) -> bytes:
        """A picture of it, in black on white, that `read_template` reads."""
        return encode_png(np.where(self.printed, 0, 255).astype(np.uint8))


def read_template(file: Path) -> Template:
    """Read a picture of what is printed.

    Parameters
    ----------
    file : Path
        What `Template.png` made, or a scan of the empty form.

    Returns
    -------
    Template

    Raises
    ------
    DataError
        The picture cannot be read, or shows no print.
    """
    grey = grey_of(read_picture(file))
    black = grey == 0
    # Of a picture that is all black and white nothing is to be judged: it comes back as it was.
    printed = black if (black | (grey == 255)).all() else ink_mask(darkness(grey)[0])
    if not printed.any():
        raise DataError(
            f"{file} shows no print: give a scan of the empty form, or the template that "
            "`rvsm data import --isolate registration` kept."
        )
    return Template(printed)


def template_of(drawings: Sequence[Array], persons: Sequence[str]) -> Template:
    """Find what the drawings of different people have in common.

    Drawings are aligned by whole pixels (phase correlation). A place that has ink in three
    quarters of the people's drawings is template.

    Parameters
    ----------
    drawings : sequence of ndarray of float, all of one shape (h, w)
        Darkness, of `paper.darkness`.
    persons : sequence of str
        Who drew each; every person counts once.

    Returns
    -------
    Template

    Raises
    ------
    DataError
        Fewer than 3 people, or pictures of different sizes.
    """
    if (people := len(set(persons))) < _LEAST_PEOPLE:
        raise DataError(
            f"A printed template is found from what different people's drawings share, and there "
            f"are {people} people: give at least {_LEAST_PEOPLE}, told apart by --person where the "
            "set does not, or a coloured pen."
        )
    if len({drawing.shape for drawing in drawings}) > 1:
        raise DataError(
            "The drawings are of different sizes, so that a printed template cannot be found: "
            "scale them to one size."
        )
    masks = [ink_mask(drawing) for drawing in drawings]
    soft = [_blurred(mask) for mask in masks]
    common = soft[int(np.argmax([mask.sum() for mask in masks]))]
    shifts = np.zeros((len(masks), 2))
    for _ in range(2):  # the second round aligns to what the first found in common
        shifts = np.array([_shift(common, blurred) for blurred in soft])
        moved = [ndimage.shift(m, s, order=1) for m, s in zip(soft, shifts, strict=True)]
        common = _by_person(moved, persons)
    aligned = [
        ndimage.shift(mask.astype(np.float64), s, order=0)
        for mask, s in zip(masks, shifts, strict=True)
    ]
    return Template(_by_person(aligned, persons) >= _SHARED)


def without_template(drawing: Array, template: Template) -> Array:
    """Strokes of a drawing without the template, wherever on the sheet that is.

    A pen that lies exactly on the template cannot be told from it and goes with it; gaps no wider
    than the print are closed.

    Parameters
    ----------
    drawing : ndarray of float, shape (h, w)
        Darkness, of `paper.darkness`.
    template : Template

    Returns
    -------
    ndarray of float, shape (h, w)
        Darkness of the pen, in the place it had.

    Raises
    ------
    DataError
        The drawing is not as large as the template.
    """
    if drawing.shape != template.printed.shape:
        (height, width), (rows, columns) = drawing.shape, template.printed.shape
        raise DataError(
            f"The picture is {width}x{height} pixels, the template {columns}x{rows}: scale it to "
            "that size, or scan the form anew."
        )
    mask = ink_mask(drawing)
    shift = _shift(template.blurred, _blurred(mask))
    printed = ndimage.shift(template.printed.astype(np.float64), -shift, order=0) > 0.5
    pen = _bridged(mask & ~printed, mask & printed)
    return np.where(pen, drawing, 0.0)


def _blurred(mask: Mask) -> Array:
    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float64), 2.0))


def _shift(common: Array, blurred: Array) -> Array:
    """By how many rows and columns to move a drawing onto the others."""
    from skimage.registration import phase_cross_correlation

    if not (common.any() and blurred.any()):
        return np.zeros(2)  # a blank page lies anywhere
    align: Any = phase_cross_correlation
    return np.asarray(align(common, blurred)[0])


def _by_person(values: Sequence[Array], persons: Sequence[str]) -> Array:
    """Mean over people of the mean over each one's drawings."""
    names = list(dict.fromkeys(persons))
    means = [
        np.mean([value for value, person in zip(values, persons, strict=True) if person == name], 0)
        for name in names
    ]
    return np.asarray(np.mean(means, axis=0))


def _bridged(pen: Mask, printed: Mask) -> Mask:
    """The pen with its gaps over print closed: by closing, and only on print."""
    if not printed.any():
        return pen
    # The median distance to the rim is a quarter of a line's width.
    steps = max(1, round(2 * float(np.median(ndimage.distance_transform_edt(printed)[printed]))))
    closed = ndimage.binary_closing(
        np.pad(pen, steps), structure=np.ones((3, 3)), iterations=steps
    )[steps:-steps, steps:-steps]
    return np.asarray(pen | (closed & printed), dtype=np.bool_)
