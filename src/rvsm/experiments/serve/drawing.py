"""A drawing as a browser sends it, and the picture of it that a network reads."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.render import PIXELS_PER_MM, draw_strokes
from rvsm.handwriting.scans.normalise import X_HEIGHT_PX
from rvsm.handwriting.scans.reading import Reading

Array = npt.NDArray[np.float64]

MAX_POINTS = 100_000
MAX_STROKES = 2_000
CSS_PX_PER_MM = 96 / 25.4
"""A pixel of a style sheet is 1/96 inch by definition; what a screen makes of it differs."""

PX_PER_MM_RANGE = (1.0, 40.0)
LEAST_EXTENT_MM = 2.0
"""A drawing that is smaller both ways is a dot, and no writing."""

PEN_PX = 3.0
"""The middle, in logarithms, of the pens of the training images: 0.2 to 0.7 mm."""

FIGURE_FILL, FIGURE_PEN_PX = 0.84, 1.6
"""The middle of what made figures fill of their picture, and of their pens there."""

WORDS = Reading()

_FARTHEST_PX = 100_000.0
_LONGEST_S = 3600.0
_MARGIN_PX = 2.0
_ROWS = 96
_FLATTEST = 0.3


@dataclass(frozen=True)
class Drawing:
    """Timed strokes on a screen.

    Attributes
    ----------
    paths : tuple of ndarray of float, shapes (n, 3)
        Time in seconds from the first point, x and y upwards in mm; one array a stroke.
    px_per_mm : float
        Style sheet pixels that were taken for a mm.
    """

    paths: tuple[Array, ...]
    px_per_mm: float

    @property
    def points_mm(self) -> Array:
        """All points, (n, 2)."""
        return np.concatenate([path[:, 1:] for path in self.paths])

    @property
    def seconds(self) -> float:
        """From the first point to the last."""
        return float(max(path[-1, 0] for path in self.paths))


@dataclass(frozen=True)
class Rendered:
    """A drawing as the network reads it.

    Attributes
    ----------
    image : ndarray of uint8, shape `Reading.size`
    scale : float
        mm in the picture of a mm on the screen.
    x_height_mm : float or None
        Height of small letters on the screen, as estimated; None where drawings are read.
    """

    image: GreyImage
    scale: float
    x_height_mm: float | None


def parse_drawing(body: bytes) -> Drawing:
    """Read ``{"strokes": [[[ms, x, y], ...], ...], "px_per_mm": 3.78}``, y downwards in pixels.

    Raises
    ------
    DataError
        It is not that, has no point or too many, values that are no numbers or beyond any screen,
        or times that run backwards.
    """
    try:
        told = json.loads(body, parse_constant=_refuse_constant)
        strokes, px_per_mm = told["strokes"], float(told.get("px_per_mm", CSS_PX_PER_MM))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
        raise DataError(
            'The drawing is not JSON of the form {"strokes": [[[ms, x, y], ...], ...]} with finite '
            "numbers: reload the page and draw again."
        ) from None
    low, high = PX_PER_MM_RANGE
    if not low <= px_per_mm <= high:
        raise DataError(
            f"A scale of {px_per_mm:g} pixels a mm is that of no screen: set it between {low:g} "
            f"and {high:g}."
        )
    return Drawing(_paths(strokes, px_per_mm), px_per_mm)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _paths(strokes: Any, px_per_mm: float) -> tuple[Array, ...]:
    if not isinstance(strokes, list) or not all(isinstance(stroke, list) for stroke in strokes):
        raise DataError("The strokes of the drawing are not lists: reload the page and draw again.")
    count = sum(map(len, strokes))
    if not count:
        raise DataError("The drawing is empty: draw a word first.")
    if count > MAX_POINTS or len(strokes) > MAX_STROKES:
        raise DataError(
            f"The drawing has {count} points in {len(strokes)} strokes, beyond {MAX_POINTS} in "
            f"{MAX_STROKES}: clear it and draw a single word."
        )
    try:
        arrays = [np.asarray(stroke, dtype=np.float64) for stroke in strokes if stroke]
    except (ValueError, TypeError, OverflowError):
        raise DataError(
            "A stroke of the drawing holds something else than [ms, x, y]: reload the page and "
            "draw again."
        ) from None
    if any(array.ndim != 2 or array.shape[1] != 3 for array in arrays):
        raise DataError("A point of the drawing is not [ms, x, y]: reload the page and draw again.")
    every = np.concatenate(arrays)
    if not np.isfinite(every).all() or np.abs(every[:, 1:]).max() > _FARTHEST_PX:
        raise DataError(
            "The drawing has positions that are no numbers or on no screen: clear it and draw anew."
        )
    time = (every[:, 0] - every[0, 0]) / 1000.0
    if (np.diff(time) < 0).any() or time[-1] > _LONGEST_S:
        raise DataError(
            "The times of the drawing run backwards or last longer than an hour: clear it and draw "
            "again."
        )
    placed = np.column_stack([time, every[:, 1] / px_per_mm, -every[:, 2] / px_per_mm])
    return tuple(np.split(placed, np.cumsum([len(array) for array in arrays])[:-1]))


def is_dot(drawing: Drawing) -> bool:
    """Whether there is too little to call it writing: less than 2 mm both ways."""
    return bool(np.ptp(drawing.points_mm, axis=0).max() < LEAST_EXTENT_MM)


def render(drawing: Drawing, how: Reading = WORDS) -> Rendered:
    """Draw the strokes as the training images are: small letters 20 pixels high, figures fitted.

    People write larger on a screen than on paper, so the drawing is scaled until its small letters
    have the 2.5 mm that a network was trained on, further down where it would not fit into
    8 x 32 mm, and centred. The pen is 3 pixels wide whatever was drawn with. For a network that
    learned from drawings it fills the picture as those did, and the pen has the width of theirs.

    Parameters
    ----------
    drawing : Drawing
    how : Reading
        How the network reads: words of 64x256 pixels by default.

    Returns
    -------
    Rendered
    """
    points = drawing.points_mm
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    x_height = None if how.drawing else small_letters_mm(drawing)
    pen = FIGURE_PEN_PX if how.drawing else PEN_PX
    sides = np.array([how.size[1], how.size[0]])
    room = FIGURE_FILL * sides if how.drawing else sides - 2 * _MARGIN_PX - PEN_PX
    factors = [side / length for side, length in zip(room, extent, strict=True) if length > 0]
    if x_height:
        factors.append(X_HEIGHT_PX / x_height)
    factor = float(min(factors, default=1.0))
    corner = (sides - extent * factor) / 2
    stroke = np.repeat(np.arange(len(drawing.paths)), [len(path) for path in drawing.paths])
    image = draw_strokes((points - low) * factor + corner, stroke, pen, how.size)
    return Rendered(image, factor / PIXELS_PER_MM, x_height)


def small_letters_mm(drawing: Drawing) -> float:
    """Height of small letters: the longest run of rows that lines cross often.

    Of 96 rows those count that are crossed at least half as often as the most crossed one; few
    lines cross where only ascenders and descenders reach (the density histogram of Vinciarelli
    and Luettin 2001). What is found is held above 0.3 of the whole height.

    Parameters
    ----------
    drawing : Drawing

    Returns
    -------
    float
        In mm; 0 for a level line.
    """
    y = drawing.points_mm[:, 1]
    low, height = float(y.min()), float(np.ptp(y))
    if height == 0:
        return 0.0
    change = np.zeros(_ROWS + 1, dtype=np.intp)
    for path in drawing.paths:
        rows = (path[:, 2] - low) / height * _ROWS - 0.5
        # Half open: a point between two lines counts once, and a level line not at all.
        first = np.ceil(np.minimum(rows[:-1], rows[1:])).astype(np.intp)
        after = np.ceil(np.maximum(rows[:-1], rows[1:])).astype(np.intp)
        np.add.at(change, first, 1)
        np.add.at(change, after, -1)
    crossed = np.cumsum(change)[:-1]
    smooth = np.convolve(np.pad(crossed, 2, mode="edge"), np.ones(5, dtype=np.intp), mode="valid")
    core = np.concatenate([[False], 2 * smooth >= smooth.max(), [False]])
    ends = np.flatnonzero(np.diff(core.astype(np.intp)))
    longest = float((ends[1::2] - ends[::2]).max()) / _ROWS
    return height * max(longest, _FLATTEST)


def percent(probability: float) -> str:
    """A probability as a person reads it: never 0 or 100 %."""
    if probability < 0.001:
        return "under 0.1 %"
    if probability > 0.999:
        return "over 99.9 %"
    digits = 0 if math.isclose(probability * 100, round(probability * 100)) else 1
    return f"{100 * probability:.{digits}f} %"
