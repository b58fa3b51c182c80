"""Median and quantiles of many numbers, as NumPy computes them and without its overhead."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SORTED = 1 << 16  # up to so many values NumPy sorts several times as fast as it partitions


def median(values: npt.NDArray[Any]) -> float:
    """The same as ``float(np.median(values))``: of an even number the mean of the middle two."""
    flat = values.ravel()
    middle = len(flat) // 2
    low = flat.min()
    # Clean paper is one value, and more than half of most pictures.
    if np.count_nonzero(flat == low) > middle:
        return float(low)
    if len(flat) > _SORTED:
        parted = np.partition(flat, middle)
        below = parted[:middle].max()
    else:
        parted = np.sort(flat)
        below = parted[middle - 1]
    if len(flat) % 2:
        return float(parted[middle])
    return (float(below) + float(parted[middle])) / 2


def quantile(values: npt.NDArray[Any], share: float) -> float:
    """The same as ``float(np.quantile(values, share))``: linear between two of the values."""
    flat = values.ravel()
    place = share * (len(flat) - 1)
    low = int(place)
    if low >= len(flat) - 1:
        return float(flat.max())
    if len(flat) > _SORTED:
        parted = np.partition(flat, low)
        first, second = float(parted[low]), float(parted[low + 1 :].min())
    else:
        parted = np.sort(flat)
        first, second = float(parted[low]), float(parted[low + 1])
    # NumPy's own interpolation, to the last bit.
    part = place - low
    if part >= 0.5:
        return second - (second - first) * (1 - part)
    return first + (second - first) * part
