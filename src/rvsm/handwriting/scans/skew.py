"""How far the lines of a text are turned, from where its ink lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.handwriting.images import GreyImage

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_MOST_DEG = 15.0
_POINTS = 20_000
_WIDE = 600


def skew_deg(ink: Mask, most: float = _MOST_DEG) -> float:
    """Angle by which lines of writing rise to the right, in degrees.

    Seen along the lines, ink crowds into rows: of all angles within `most`, the one where the
    squares of the ink in each row sum to the most (Postl 1986), first to a degree (half a degree
    on pages), then to 0.05. An angle that crowds the ink less than 5 % more than none is taken for
    none.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)
    most : float
        Largest angle looked at, degrees.

    Returns
    -------
    float
    """
    y, x = np.nonzero(ink)
    if len(x) < 50:
        return 0.0
    if len(x) > _POINTS:
        chosen = np.random.default_rng(0).permutation(len(x))[:_POINTS]
        y, x = y[chosen], x[chosen]
    bin_size = max(1.0, max(ink.shape) / 1500)
    step = 0.5 if max(ink.shape) > _WIDE else 1.0
    tried = np.arange(-most, most + step / 2, step)
    scores = crowding(x, y, tried, bin_size)
    level = scores[len(tried) // 2]
    for finer in (step / 4, 0.05):
        best = tried[int(np.argmax(scores))]
        tried = best + finer * np.arange(-4, 5)
        scores = crowding(x, y, tried, bin_size)
    if scores.max() < 1.05 * level:
        return 0.0
    return float(tried[int(np.argmax(scores))])


def crowding(
    x: npt.NDArray[np.intp], y: npt.NDArray[np.intp], degrees: Array, bin_size: float
) -> Array:
    """Sums of the squared numbers of points in each row, seen along lines at each angle.

    Parameters
    ----------
    x, y : ndarray of int, shape (n,)
    degrees : ndarray of float, shape (k,)
    bin_size : float
        Height of a row.

    Returns
    -------
    ndarray of float, shape (k,)
    """
    angles = np.deg2rad(degrees)[:, None]
    across = y.astype(np.float64) * np.cos(angles)
    across += x.astype(np.float64) * np.sin(angles)
    if bin_size != 1.0:
        across /= bin_size
    across -= across.min(axis=1, keepdims=True)
    rows = across.astype(np.intp)
    # All angles are counted at once, each in rows of its own.
    reach = int(across.max()) + 1
    rows += reach * np.arange(len(degrees))[:, None]
    counts = np.bincount(rows.ravel(), minlength=reach * len(degrees)).reshape(len(degrees), -1)
    return np.asarray((counts * counts).sum(axis=1), dtype=np.float64)


def turned(grey: GreyImage, degrees: float) -> GreyImage:
    """Turn a picture clockwise, so that lines that rose by `degrees` lie level; corners are white.

    The picture grows to hold all of it.
    """
    if not degrees:
        return grey
    picture = Image.fromarray(grey)
    how = Image.Resampling.BICUBIC
    return np.asarray(picture.rotate(-degrees, how, expand=True, fillcolor=255))
