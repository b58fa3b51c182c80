"""The k-th smallest of many magnitudes, looked for where it lay a step ago."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rvsm.optim import passes

_PIECE = 131072
_ROOM = 8
"""A window holds at most one of so many weights, or it was no help."""


_WIDER = 4
"""How much wider the second window is: together they cost a fifth of partitioning."""


class Found(NamedTuple):
    """What is known of the k-th smallest magnitude of several tensors.

    Attributes
    ----------
    t, following : float
        It, and the next.
    above : tuple of int, optional
        How many of each tensor are larger, where that is known.
    """

    t: float
    following: float
    above: tuple[int, ...] | None = None


class Near:
    """Where the k-th smallest lay in the last selections: the next is looked for there first.

    What is found is the same. From one step to the next a threshold moves by a thousandth, and
    reading all norms once costs a tenth of partitioning them.
    """

    _LEAST, _MOST = 1e-3, 0.1
    """Bounds of half a window's width, as a share of the threshold."""

    def __init__(self) -> None:
        self._last, self._width = 0.0, 0.0

    def look(self, ws: Sequence[Tensor], k: int) -> Found | None:
        """Return the k-th smallest magnitude of all if it is in the window, or not far from it."""
        if not self._last:
            return None
        found = self._within(ws, k, self._width)
        if found is None and self._width < self._MOST:
            found = self._within(ws, k, min(_WIDER * self._width, self._MOST))
        return found

    def _within(self, ws: Sequence[Tensor], k: int, width: float) -> Found | None:
        low, high = self._last * (1 - width), self._last * (1 + width)
        if all(map(passes.covers, ws)):
            room = sum(w.numel() for w in ws) // _ROOM + 64
            inside = passes.between(ws, low, high, k, room)
            return None if inside is None else Found(*inside)
        return _between([flat(w) for w in ws], low, high, k)

    def note(self, t: float) -> None:
        """Remember a threshold, and that the next may move twice as far as this one did."""
        moved = abs(t - self._last) / t if t and self._last else 0.0
        width = max(2 * moved, self._width / 2, self._LEAST)
        self._last, self._width = t, min(width, self._MOST)


Nears = dict[Hashable, Near]
"""By the members of the units that share a target."""


def _between(xs: Sequence[NDArray[Any]], low: float, high: float, k: int) -> Found | None:
    """Return the k-th smallest magnitude if it lies in a window."""
    below, inside, above = zip(*[_by_numpy(x, low, high) for x in xs], strict=True)
    candidates = np.concatenate(inside)
    k -= sum(below)
    if not 0 < k <= len(candidates):
        return None
    candidates.partition(k - 1)
    t = candidates[k - 1]
    # What is zeroed shrinks, until nothing is near it.
    following = candidates[k:].min(initial=np.inf) if k < len(candidates) else min(above)
    larger = tuple(
        len(x) - less - int(np.count_nonzero(own <= t))
        for x, less, own in zip(xs, below, inside, strict=True)
    )
    return Found(float(t), float(following), larger)


def _by_numpy(x: NDArray[Any], low: float, high: float) -> tuple[int, NDArray[Any], float]:
    below, inside, above = 0, [], np.inf
    for magnitudes in _magnitudes(x):
        chosen = magnitudes >= low
        below += len(magnitudes) - int(np.count_nonzero(chosen))
        beyond = magnitudes > high
        above = min(above, float(magnitudes.min(where=beyond, initial=np.inf)))
        chosen &= ~beyond
        inside.append(_picked(magnitudes, chosen))
    return below, np.concatenate(inside), above


def flat(w: Tensor) -> NDArray[Any]:
    """Return the numbers of a tensor on the CPU, in the tensor's memory where they lie in a row."""
    found: NDArray[Any] = w.detach().numpy().reshape(-1)
    return found


def _magnitudes(x: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the absolute values in pieces that stay in the cache, each in the memory of the last.

    Of a tensor that is read once and never written, a third of what whole ones cost.
    """
    space = np.empty(min(_PIECE, len(x)), x.dtype)
    for start in range(0, max(len(x), 1), _PIECE):
        piece = x[start : start + _PIECE]
        yield np.abs(piece, out=space[: len(piece)])


def _picked(x: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return ``x[mask]`` for a mask with few True: eight are looked at at once."""
    whole = len(x) // 8 * 8
    eights = np.flatnonzero(mask[:whole].view(np.uint64))
    some, which = x[:whole].reshape(-1, 8)[eights], mask[:whole].reshape(-1, 8)[eights]
    return np.concatenate([some[which], x[whole:][mask[whole:]]])
