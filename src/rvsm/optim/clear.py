"""Exact targets by thresholds alone: where no two magnitudes tie, no mask has to be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rvsm.optim.budget import Budget, check_reachable, shares_of
from rvsm.optim.distributed import is_sharded
from rvsm.optim.targets import rounding
from rvsm.optim.units import Unit

_PIECE = 131072
_SAMPLED = 64
"""Of so many weights one is looked at first: mostly that is enough to know that a layer lives."""


class Near:
    """Where the k-th smallest lay in the last selections: the next is looked for there first.

    What is found is the same. From one step to the next a threshold moves by a thousandth, and
    reading all norms once costs a tenth of partitioning them.
    """

    _LEAST, _MOST = 1e-3, 0.1
    """Bounds of half a window's width, as a share of the threshold."""

    def __init__(self) -> None:
        self._last, self._width = 0.0, 0.0

    def look(self, flat: Sequence[NDArray[Any]], k: int) -> tuple[Any, Any] | None:
        """Return the k-th smallest magnitude of all and the next if the k-th is in the window."""
        if not self._last:
            return None
        low, high = self._last * (1 - self._width), self._last * (1 + self._width)
        below, inside = 0, []
        for magnitudes in _magnitudes(flat):
            chosen = magnitudes >= low
            below += len(magnitudes) - int(np.count_nonzero(chosen))
            chosen &= magnitudes <= high
            inside.append(_picked(magnitudes, chosen))
        candidates = np.concatenate(inside)
        k -= below
        if not 0 < k <= len(candidates):
            return None
        candidates.partition(k - 1)
        following = candidates[k:].min(initial=np.inf)
        if k == len(candidates):  # what is zeroed shrinks, until nothing is near it
            following = min(_picked(x, x > high).min(initial=np.inf) for x in _magnitudes(flat))
        return candidates[k - 1], following

    def note(self, t: float) -> None:
        """Remember a threshold, and that the next may move twice as far as this one did."""
        moved = abs(t - self._last) / t if t and self._last else 0.0
        width = max(2 * moved, self._width / 2, self._LEAST)
        self._last, self._width = t, min(width, self._MOST)


Nears = dict[tuple[str, ...], Near]
"""By the names of the units that share a target."""


def _magnitudes(flat: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield the absolute values in pieces that stay in the cache, each in the memory of the last.

    Of a tensor that is read once and never written, a third of what whole ones cost.
    """
    space = np.empty(min(_PIECE, max(map(len, flat))), flat[0].dtype)
    for x in flat:
        for start in range(0, len(x), _PIECE):
            piece = x[start : start + _PIECE]
            yield np.abs(piece, out=space[: len(piece)])


def _picked(x: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return ``x[mask]`` for a mask with few True: eight are looked at at once."""
    whole = len(x) // 8 * 8
    eights = np.flatnonzero(mask[:whole].view(np.uint64))
    some, which = x[:whole].reshape(-1, 8)[eights], mask[:whole].reshape(-1, 8)[eights]
    return np.concatenate([some[which], x[whole:][mask[whole:]]])


def clear_threshold(
    ws: Sequence[Tensor], k: int, roundings: int = 32, near: Near | None = None
) -> Tensor | None:
    """Return the k-th smallest magnitude of all where comparing with it marks exactly `k`.

    None where the next lies too near for a penalty's threshold to come between, where the k-th is
    0, or where it cannot be known without waiting for a device.

    Parameters
    ----------
    ws : sequence of Tensor
        Numbers without NaN, of one type.
    k : int
        At least 1.
    roundings : int
        By how many the next must lie above it.
    near : Near, optional
        Where it lay before.
    """
    dtype = ws[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(
        w.device.type != "cpu" or w.dtype != dtype or is_sharded(w) for w in ws
    ):
        return None
    flat = [w.detach().numpy().reshape(-1) for w in ws]
    if [k + 1] == [*map(len, flat)]:
        t, following = _one_survives(np.abs(flat[0]))
    else:
        t, following = (near and near.look(flat, k)) or _around(flat, k)
        if near is not None:
            near.note(float(t))
    if t == 0 or following <= t * (1 + roundings * rounding(dtype)):
        return None
    return torch.as_tensor(t)


def _around(flat: Sequence[NDArray[Any]], k: int) -> tuple[Any, Any]:
    """Return the k-th smallest magnitude and the next."""
    together = np.concatenate(flat)
    np.abs(together, out=together).partition(k - 1)
    return together[k - 1], together[k:].min(initial=np.inf)


def _one_survives(x: NDArray[Any]) -> tuple[Any, Any]:
    """Return the two largest numbers, the largest last, without selecting: 0.1 ms for 400,000."""
    i = x.argmax()
    return max(x[:i].max(initial=0), x[i + 1 :].max(initial=0)), x[i]


def clear_thresholds(
    budget: Budget,
    units: Sequence[Unit],
    ws: Sequence[Tensor],
    k: int,
    roundings: int,
    near: Nears | None = None,
) -> list[Tensor | None] | None:
    """Return for each unit the threshold that alone marks its zeros, those of `choose`.

    For units of single weights.

    A unit that would fall below its floor keeps its largest: its threshold is the largest of the
    others, and the rest of the zeros is shared out among the other units.

    Parameters
    ----------
    budget, units, k
        As `choose` takes them.
    ws : sequence of Tensor
        The weights of the units.
    roundings : int
        How far the first survivor must lie above its threshold.
    near : Nears, optional
        Where thresholds lay when units last shared a target; kept up to date.

    Returns
    -------
    list of 0-d Tensor or None, or None
        None for a unit without zeros. No list where only a mask can say what is zero: under a
        scale, at ties, on another device than the CPU.

    Raises
    ------
    RuleError
        If not that many weights can be zero.
    """
    if budget.scale != "none":
        return None
    check_reachable(budget, units, k)
    budget = budget.at_target(units, k)
    near = {} if near is None else near

    def clear(chosen: Sequence[int], k: int) -> Tensor | None:
        own = near.setdefault(tuple(str(units[i]) for i in chosen), Near())
        return clear_threshold([ws[i] for i in chosen], k, roundings, own)

    own: dict[int, Tensor | None] = {}
    if budget.layout != "threshold":
        for i, zeros in enumerate(shares_of(budget, units, k)):
            own[i] = clear([i], zeros) if zeros else None
            if zeros and own[i] is None:
                return None
    free = [i for i in range(len(units)) if i not in own]
    while free and k:
        t = clear(free, k)
        if t is None:
            return None
        short = [i for i in free if not _keeps_floor(budget, units[i], ws[i], t)]
        if not short:
            own |= dict.fromkeys(free, t)
            break
        for i in short:
            most = units[i].count - budget.least(units[i])
            own[i] = clear([i], most) if most else None
            if most and own[i] is None:
                return None
            k -= most
        free = [i for i in free if i not in own]
    return [own.get(i) for i in range(len(units))]


def _keeps_floor(budget: Budget, unit: Unit, w: Tensor, t: Tensor) -> bool:
    """Say whether more than `t` are as many weights of a unit as it must keep; on the CPU."""
    least, flat = budget.least(unit), w.detach().numpy().reshape(-1)
    if least == 0 or (least == 1 and (np.abs(flat[::_SAMPLED]) > t.numpy()).any()):
        return True
    return int(np.count_nonzero(np.abs(flat) > t.numpy())) >= least
