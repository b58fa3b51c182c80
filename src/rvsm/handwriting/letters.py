"""Where the small letters of a word are, from how its ink is spread over the rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

_ROWS = 64
_LEAST = 4.0


def letter_rows(counts: npt.NDArray[np.intp]) -> tuple[int, int]:
    """First and last row of the small letters of a word that lies level.

    Small letters fill the rows between baseline and mean line more densely than ascenders and
    descenders fill theirs: the rows are those around the fullest one that hold at least half as
    much ink.

    Parameters
    ----------
    counts : ndarray of int, shape (h,)
        Pixels of ink in each of some 64 rows.

    Returns
    -------
    (int, int)
    """
    profile = ndimage.uniform_filter1d(counts.astype(np.float64), 3)
    full = profile >= 0.5 * profile.max()
    centre = int(profile.argmax())
    start, stop = centre, centre
    # One sparse row between two full ones belongs to the letters.
    while start > 0 and full[max(start - 2, 0) : start].any():
        start -= 1
    while stop < len(full) - 1 and full[stop + 1 : stop + 3].any():
        stop += 1
    return start, stop


def height_of_letters(ink: Mask) -> float:
    """Height of the small letters of a word in pixels, at any resolution.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    float
        At least 4.
    """
    step = max(1, round(len(ink) / _ROWS))
    counts = ink[: len(ink) // step * step].sum(axis=1).reshape(-1, step).sum(axis=1)
    start, stop = letter_rows(counts)
    return max(_LEAST, float(step * (stop - start + 1)))
