"""The ink of a word: taken off its paper, traced as a pen would, and drawn again where it moved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting.images import SIZE, GreyImage
from rvsm.handwriting.letters import letter_rows
from rvsm.handwriting.scans.paper import cleaned
from rvsm.handwriting.skeleton import pen_paths
from rvsm.handwriting.wordfiles import Mask, clean

Array = npt.NDArray[np.float64]

_X_HEIGHT_RANGE = (6.0, 36.0)
_FINER = 2
_GRID = 2
_PARTS = (2, 6)
_LETTER_SHARE = 0.5
"""Of the x-height: a letter, or a part of one, is as wide or high; a dot is not."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A word taken apart: its ink and the pen path through it.

    Attributes
    ----------
    pixels : ndarray of int32, shape (n, 2)
        Column and row of every pixel with ink, at twice the resolution of the image.
    darkness : ndarray of float32, shape (n,)
        0 to 1.
    nearest : ndarray of int32, shape (n,)
        The point of the path nearest to each pixel.
    path : ndarray of float, shape (m, 2)
        The same pixels (x, y), strokes one after the other in writing order.
    stroke : ndarray of int, shape (m,)
        Number of the stroke of each point.
    x_height : float
        Height of small letters, the same pixels.
    """

    pixels: npt.NDArray[np.int32]
    darkness: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.int32]
    path: Array
    stroke: npt.NDArray[np.intp]
    x_height: float


def splat(traced: Traced, displacement: Array, scale: float, offset: Array) -> GreyImage:
    """Draw the ink of a word, each pixel moved with the path point nearest to it.

    The ink is moved forwards: a tremor folds a word over itself, and a picture pulled backwards
    through a folded map tears. Every pixel is moved in parts, 2 x 2 to 6 x 6 of them by `scale`, on
    a grid twice as fine, where the darkest part wins; cracks where the ink was stretched are
    closed.

    Parameters
    ----------
    traced : Traced
    displacement : ndarray of float, shape (m, 2)
        Of the points of the path, pixels (x, y) of the source.
    scale : float
        Size of the result relative to the source.
    offset : ndarray of float, shape (2,)
        Where the source's origin comes to lie, pixels.

    Returns
    -------
    ndarray of uint8, shape (64, 256)
    """
    height, width = SIZE
    left, top = traced.pixels.min(axis=0)
    shape = np.ptp(traced.pixels, axis=0)[::-1] + 1
    at = (traced.pixels[:, 1] - top, traced.pixels[:, 0] - left)
    known = np.zeros(shape, dtype=np.float32)
    known[at] = 1.0
    weight = np.maximum(_smoothed(known), 1e-6)
    fine = parts_of_pixel(scale)
    steps = ((np.arange(fine) + 0.5) / fine - 0.5).astype(np.float32)
    parts = []
    for axis in (0, 1):
        field = np.zeros(shape, dtype=np.float32)
        field[at] = displacement[traced.nearest, axis]
        # Averaged over the ink, so that strokes that cross do not tear each other apart.
        field = np.asarray(_smoothed(field) / weight, dtype=np.float32)
        slope_y, slope_x = _slopes(field)
        base = (traced.pixels[:, axis].astype(np.float32) + field[at])[:, None]
        along_x = ((axis == 0) + np.clip(slope_x[at], -2, 2))[:, None] * steps
        along_y = ((axis == 1) + np.clip(slope_y[at], -2, 2))[:, None] * steps
        place = (base + along_x)[:, None, :] + along_y[:, :, None]
        place *= np.float32(_GRID * scale)
        place += np.float32(_GRID * (offset[axis] + 0.5) - 0.5)
        parts.append(np.rint(place, out=place).astype(np.int32).reshape(-1))
    columns, rows = parts
    dark = np.repeat(traced.darkness, fine * fine)
    inside = (columns >= 0) & (columns < width * _GRID) & (rows >= 0) & (rows < height * _GRID)
    if not inside.all():
        columns, rows, dark = columns[inside], rows[inside], dark[inside]
    out = np.full(SIZE, 255, dtype=np.uint8)
    if not len(dark):
        return out
    grid = np.zeros((height * _GRID, width * _GRID), dtype=np.float32)
    np.maximum.at(grid.reshape(-1), rows * (width * _GRID) + columns, dark)
    box = _around(rows, height), _around(columns, width)
    closed = close_cracks(grid[tuple(slice(b.start * _GRID, b.stop * _GRID) for b in box)])
    # The mean of blocks of 2 x 2, in the order of numpy's and fifteen times as fast.
    upper, lower = (closed[row::_GRID, ::_GRID] + closed[row::_GRID, 1::_GRID] for row in (0, 1))
    coarse = (upper + lower) / np.float32(_GRID * _GRID)
    out[box] = np.rint(255 * (1 - coarse))
    return out


def _slopes(field: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
    if min(field.shape) < 2:
        return 0 * field, 0 * field
    return tuple(np.gradient(field))


def _smoothed(field: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(field, _FINER, truncate=2.0), dtype=np.float32)


def parts_of_pixel(scale: float) -> int:
    """Along each axis: enough that, until stretched, none of the grid's cells is passed over."""
    return int(np.clip(np.ceil(1.25 * _GRID * scale), *_PARTS))


def _around(places: npt.NDArray[np.intp], full: int) -> slice:
    """Pixels along an axis beyond which there is no ink, nor will be once cracks are closed."""
    low, high = int(places.min()) // _GRID, int(places.max()) // _GRID
    return slice(max(low - 2, 0), min(high + 3, full))


def close_cracks(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey closing by a square of 3 x 3 pixels, the edges mirrored, several times scipy's speed."""

    def spread(values: npt.NDArray[np.float32], pick: np.ufunc) -> npt.NDArray[np.float32]:
        rows = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        values = pick(pick(rows[:-2], rows[1:-1]), rows[2:])
        columns = np.pad(values, ((0, 0), (1, 1)), mode="edge")
        return np.asarray(pick(pick(columns[:, :-2], columns[:, 1:-1]), columns[:, 2:]))

    return spread(spread(image, np.maximum), np.minimum)


@lru_cache(maxsize=6000)
def trace(path: Path) -> Traced | None:
    """Take a word apart: clean it, measure its x-height, follow its strokes.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Traced or None
        None where the file cannot be read or shows no writing.
    """
    try:
        found = clean(path)
    except DataError:
        return None
    if found is None:
        return None
    ink = without_specks(found.ink)
    height = x_height(ink)
    paths = [p for p in pen_paths(ink, min_spur=0.25 * height) if len(p) >= 2]
    if not paths:
        return None
    points = _FINER * np.concatenate(paths) + (_FINER - 1) / 2
    stroke = np.repeat(np.arange(len(paths)), [len(p) for p in paths])
    # The faint rim of the strokes belongs to them; specks and rules farther off do not. Ink is
    # brought to black as that of scans is: pencils and pens tell writers apart, not hands.
    darkness = 1.0 - _finer(cleaned(np.where(found.rules, 0.0, found.darkness), ink)) / 255.0
    belongs = darkness > 0
    rows, columns = np.nonzero(belongs)
    from scipy.spatial import KDTree

    pixels = np.stack([columns, rows], axis=1)
    nearest = KDTree(points).query(pixels)[1]
    return Traced(
        pixels.astype(np.int32),
        darkness[belongs].astype(np.float32),
        np.asarray(nearest, dtype=np.int32),
        points,
        stroke,
        _FINER * height,
    )


def _finer(grey: GreyImage) -> Array:
    """More pixels where there were few: small writing is drawn larger than it was scanned."""
    height, width = grey.shape
    size = (_FINER * width, _FINER * height)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC), dtype=float)


def without_specks(ink: Mask) -> Mask:
    """The ink without what is off the line of writing and near no letter: specks, bits of rules.

    Letters are pieces as wide or high as half a small letter, no farther above or below the small
    letters than their height; what is as near as that to one of them stays.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    ndarray of bool, shape (h, w)
    """
    start, stop = letter_rows(ink.sum(axis=1))
    reach = _held(start, stop)
    labels, count = ndimage.label(ink, structure=np.ones((3, 3)))
    letters = np.zeros(count + 1, dtype=np.bool_)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels, count), start=1):
        extent = max(rows.stop - rows.start, columns.stop - columns.start)
        near_line = rows.stop > start - reach and rows.start <= stop + reach
        letters[number] = extent >= _LETTER_SHARE * reach and near_line
    if not letters.any():
        return ink
    far = ndimage.distance_transform_edt(~letters[labels])
    near = ndimage.minimum(far, labels, np.arange(count + 1)) <= reach
    near[0] = False
    return np.asarray(near[labels], dtype=np.bool_)


def x_height(ink: Mask) -> float:
    """Height of small letters in pixels, as `letter_rows` finds them in an image of a word.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    float
        Kept between 6 and 36.
    """
    return _held(*letter_rows(ink.sum(axis=1)))


def _held(start: int, stop: int) -> float:
    return float(np.clip(stop - start + 1, *_X_HEIGHT_RANGE))
