"""Pen strokes over time, as recorders stamp them, and where such a record has to be cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_PAUSE_S = 0.05
_JUMP_MM_S = 600.0
_LEAST = 4


@dataclass(frozen=True, slots=True)
class TimedStrokes:
    """Pen strokes over time.

    Attributes
    ----------
    paths : tuple of ndarray of float, shapes (n, 3)
        Time in seconds, x, and y upwards; one array each time the pen was down. Times count from
        the first point and are as stamped: uneven, and one may repeat or run backwards. Positions
        are in mm where `in_mm`, else in the recorder's own unit.
    in_mm : bool
        Whether the scale is known.
    """

    paths: tuple[Array, ...]
    in_mm: bool


def cut(strokes: TimedStrokes) -> list[tuple[Array, Array]]:
    """Times (n,) and points (n, 2) of the `unbroken` stretches of all strokes, in order."""
    return [
        part
        for path in strokes.paths
        for part in unbroken(path[:, 0], path[:, 1:], jumps=strokes.in_mm)
    ]


def unbroken(time_s: Array, points: Array, *, jumps: bool = True) -> list[tuple[Array, Array]]:
    """Stretches of one stroke with stamps that increase, without pauses and jumps.

    Samples of equal stamps become one at their mean; stretches of fewer than four are left out.

    Parameters
    ----------
    time_s : ndarray, shape (n,)
    points : ndarray, shape (n, 2)
    jumps : bool
        Cut also where the pen was faster than any hand, 600 mm/s: `points` are millimetres.

    Returns
    -------
    list of (ndarray, ndarray), shapes (m,) and (m, 2)
    """
    if len(time_s) < 2:
        return []
    step = np.diff(time_s)
    broken = (step < 0) | (step > _PAUSE_S)
    if jumps:
        far = np.hypot(*np.diff(points, axis=0).T)
        # Of a burst of samples with one stamp nobody knows the speed: 1 ms apart at least.
        broken |= far > _JUMP_MM_S * np.maximum(step, 1e-3) + 1.0
    out = []
    for part in np.split(np.arange(len(time_s)), np.flatnonzero(broken) + 1):
        stamps, which = np.unique(time_s[part], return_inverse=True)
        if len(stamps) < _LEAST:
            continue
        count = np.bincount(which)
        mean = [np.bincount(which, points[part, axis]) / count for axis in (0, 1)]
        out.append((stamps, np.stack(mean, axis=1)))
    return out
