"""A few values in place of many: k-means in one dimension, the same at every call."""

import heapq

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

MIN_SIZE, MAX_SIZE = 4, 256
_CELLS = 4096
_ROUNDS = 300


def fit(values: Values, size: int) -> tuple[Values, Numbers]:
    """Return at most `size` values and, for each element, the number of the one in its place.

    Minimises sum_i (x_i - c_code(i))^2. The sorted values are cut into a few thousand cells;
    neighbours are merged, the cheapest first, down to `size` groups (Ward 1963); then Lloyd's
    algorithm moves their borders until none moves. Where all distinct values fit in, they are
    kept. Zeros stay zero and nothing else becomes zero: no group holds two signs.

    Parameters
    ----------
    values
        Finite values.
    size
        From 4 to 256.

    Returns
    -------
    codebook, codes
        Ascending values, and numbers into them in the order of `values`.
    """
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if distinct.size <= size:
        return distinct, inverse
    weights = counts.astype(np.float64)
    starts = _polished(distinct, weights, _merged(distinct, weights, size))
    groups = np.searchsorted(starts, np.arange(distinct.size), side="right") - 1
    means = np.bincount(groups, weights * distinct) / np.bincount(groups, weights)
    return means, groups[inverse]


def _merged(distinct: Values, weights: Values, size: int) -> Numbers:
    """Return where in `distinct` each of `size` groups starts, by merging cells."""
    starts = _cells(distinct, weights)
    mass = np.add.reduceat(weights, starts).tolist()
    mean = (np.add.reduceat(weights * distinct, starts) / mass).tolist()
    sign = np.sign(distinct[starts]).tolist()
    after = list(range(1, len(mass) + 1))
    before = list(range(-1, len(mass) - 1))
    version = [0] * len(mass)

    def offer(left: int) -> None:
        right = after[left]
        if right < len(mass) and sign[left] == sign[right]:
            step = mean[right] - mean[left]
            cost = step * step * mass[left] * mass[right] / (mass[left] + mass[right])
            heapq.heappush(heap, (cost, left, right, version[left], version[right]))

    heap: list[tuple[float, int, int, int, int]] = []
    for cell in range(len(mass)):
        offer(cell)
    alive = np.ones(len(mass), dtype=bool)
    surplus = len(mass) - size
    while surplus > 0:
        _, left, right, *versions = heapq.heappop(heap)
        if not (alive[left] and alive[right]) or versions != [version[left], version[right]]:
            continue  # one of the two has grown since
        total = mass[left] + mass[right]
        mean[left] += (mean[right] - mean[left]) * mass[right] / total
        mass[left] = total
        version[left] += 1
        alive[right] = False
        after[left] = after[right]
        if after[left] < len(mass):
            before[after[left]] = left
        offer(left)
        if before[left] >= 0:
            offer(before[left])
        surplus -= 1
    return starts[alive]


def _cells(distinct: Values, weights: Values) -> Numbers:
    """Return where in `distinct` each of some `_CELLS` cells starts, none with two signs."""
    if distinct.size <= _CELLS:
        return np.arange(distinct.size)
    # Equal steps of the integral of the cube root of the density are the best spacing of many
    # codes (Panter and Dite, Quantization distortion in pulse-count modulation, 1951).
    spread = np.cumsum(np.cbrt(weights * np.diff(distinct, prepend=distinct[0]) ** 2))
    starts = np.searchsorted(spread, spread[-1] * np.arange(_CELLS) / _CELLS)
    return np.unique(np.concatenate([[0], starts, _signs(distinct)]))


def _polished(distinct: Values, weights: Values, starts: Numbers) -> Numbers:
    """Return the starts of the groups after Lloyd's algorithm."""
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * distinct)])
    signs = _signs(distinct)
    for _ in range(_ROUNDS):
        ends = np.append(starts[1:], distinct.size)
        means = (moment[ends] - moment[starts]) / (mass[ends] - mass[starts])
        borders = np.searchsorted(distinct, (means[1:] + means[:-1]) / 2)
        # Between two signs the border stays where it is.
        inner = np.diff(np.sign(distinct[starts])) == 0
        moved = np.unique(np.concatenate([[0], borders[inner], signs]))
        if np.array_equal(moved, starts):
            break
        starts = moved
    return starts


def _signs(distinct: Values) -> Numbers:
    """Return where in `distinct` the zero and the positive values start, if they do."""
    starts = np.array([np.searchsorted(distinct, 0.0, side) for side in ("left", "right")])
    return starts[starts < distinct.size]
