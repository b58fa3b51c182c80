"""When the pen is where: times along strokes from a natural speed profile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIFT_S = 0.06
AIR_SPEED_FACTOR = 2.5


def pen_times(points: Array, stroke: NDArray[np.intp], speed_mm_s: float) -> Array:
    """Times at which a pen passes the points of its strokes.

    The speed along a stroke follows the two-thirds power law, v ~ (0.3 + curvature)^(-1/3) with
    the curvature in 1/mm, slows down at both ends, and is scaled so that the mean speed on paper
    is `speed_mm_s`. Between strokes the pen travels through the air 2.5 times as fast and takes
    0.06 s to lift and land.

    Parameters
    ----------
    points : (n, 2) millimetres, strokes one after the other in writing order.
    stroke : (n,) number of the stroke a point belongs to, not decreasing.
    speed_mm_s : mean speed on paper, millimetres a second, > 0.

    Returns
    -------
    (n,) seconds from the first point, not decreasing.

    References
    ----------
    Lacquaniti, Terzuolo & Viviani 1983 (two-thirds power law).
    """
    n = len(points)
    if n < 2:
        return np.zeros(n)
    step = np.diff(points, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    same = stroke[1:] == stroke[:-1]
    heading = np.arctan2(step[:, 1], step[:, 0])
    turn = np.zeros(n - 1)
    turn[1:] = np.abs((np.diff(heading) + np.pi) % (2 * np.pi) - np.pi)
    curvature = turn / np.maximum(length, 1e-6)
    slow = np.clip((0.3 + _smooth(curvature)) ** (-1 / 3), 0.45, 1.6)
    slow *= _end_slowing(same, length)
    on_paper = np.where(same, length / slow, 0.0)
    paper_s = float(length[same].sum()) / speed_mm_s
    total = float(on_paper.sum())
    if total > 0:
        on_paper *= paper_s / total
    in_air = np.where(same, 0.0, LIFT_S + length / (AIR_SPEED_FACTOR * speed_mm_s))
    return np.concatenate([[0.0], np.cumsum(on_paper + in_air)])


def _smooth(values: Array) -> Array:
    kernel = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9.0
    return np.convolve(values, kernel, mode="same") if len(values) >= 5 else values


def _end_slowing(same: NDArray[np.bool_], length: Array) -> Array:
    """Factor 0.5 at the ends of each stroke, rising to 1 within 0.5 mm."""
    on_paper = np.where(same, length, 0.0)
    end = np.cumsum(on_paper)
    walked = end - 0.5 * on_paper
    bounds = np.concatenate([[0.0], end[~same], [end[-1]]])
    i = np.clip(np.searchsorted(bounds, walked), 1, len(bounds) - 1)
    distance = np.minimum(walked - bounds[i - 1], bounds[i] - walked)
    return np.asarray(0.5 + np.clip(distance, 0.0, 0.5))
