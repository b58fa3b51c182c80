"""Median and quantiles of many numbers, as NumPy computes them and without its overhead."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def median(values: npt.NDArray[Any]) -> float:
    """The same as ``float(np.median(values))``: of an even number the mean of the middle two."""
    flat = values.ravel()
    middle = len(flat) // 2
    parted = np.partition(flat, middle)
    if len(flat) % 2:
        return float(parted[middle])
    return (float(parted[:middle].max()) + float(parted[middle])) / 2


def quantile(values: npt.NDArray[Any], share: float) -> float:
    """The same as ``float(np.quantile(values, share))``: linear between two of the values."""
    flat = values.ravel()
    place = share * (len(flat) - 1)
    low = int(place)
    if low >= len(flat) - 1:
        return float(flat.max())
    parted = np.partition(flat, low)
    first, second, part = float(parted[low]), float(parted[low + 1 :].min()), place - low
    # NumPy's own interpolation, to the last bit.
    if part >= 0.5:
        return second - (second - first) * (1 - part)
    return first + (second - first) * part
