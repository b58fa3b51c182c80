"""Exact targets by thresholds alone: where no two magnitudes tie, no mask has to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rvsm.optim import passes
from rvsm.optim.budget import Budget, check_reachable, shares_of
from rvsm.optim.distributed import is_sharded
from rvsm.optim.near import Found, Near, Nears, flat
from rvsm.optim.targets import rounding, two_smallest
from rvsm.optim.units import Unit


def clear_threshold(
    ws: Sequence[Tensor], k: int, roundings: int = 32, near: Near | None = None
) -> Found | None:
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
    if [k + 1] == [w.numel() for w in ws]:
        found = _one_survives(np.abs(flat(ws[0])))
    else:
        found = (near and near.look(ws, k)) or _around([flat(w) for w in ws], k)
        if near is not None:
            near.note(found.t)
    if found.t == 0 or found.following <= found.t * (1 + roundings * rounding(dtype)):
        return None
    return found


def _around(xs: Sequence[NDArray[Any]], k: int) -> Found:
    """Return the k-th smallest magnitude and the next."""
    together = np.concatenate(xs)
    return Found(*two_smallest(np.abs(together, out=together), k))


def _one_survives(x: NDArray[Any]) -> Found:
    """Return the two largest numbers, the largest last, without selecting: 0.1 ms for 400,000."""
    i = x.argmax()
    second = max(x[:i].max(initial=0), x[i + 1 :].max(initial=0))
    return Found(float(second), float(x[i]), (1,))


def clear_thresholds(
    budget: Budget,
    units: Sequence[Unit],
    ws: Sequence[Tensor],
    k: int,
    roundings: int,
    near: Nears | None = None,
) -> list[float | None] | None:
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
    list of float or None, or None
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

    def clear(chosen: Sequence[int], k: int) -> Found | None:
        own = near.setdefault(tuple(units[i].members for i in chosen), Near())
        return clear_threshold([ws[i] for i in chosen], k, roundings, own)

    own: dict[int, float | None] = {}

    def alone(i: int, k: int) -> bool:
        """Let a unit have `k` zeros of its own; say whether a threshold marks them."""
        found = clear([i], k) if k else None
        own[i] = None if found is None else found.t
        return k == 0 or found is not None

    if budget.layout != "threshold":
        shares = shares_of(budget, units, k)
        if not all(alone(i, zeros) for i, zeros in enumerate(shares)):
            return None
    free = [i for i in range(len(units)) if i not in own]
    while free and k:
        found = clear(free, k)
        if found is None:
            return None
        above = found.above or [_above(ws[i], found.t) for i in free]
        least = [budget.least(units[i]) for i in free]
        short = [i for i, n, m in zip(free, above, least, strict=True) if n < m]
        if not short:
            own |= dict.fromkeys(free, found.t)
            break
        for i in short:
            most = units[i].count - budget.least(units[i])
            if not alone(i, most):
                return None
            k -= most
        free = [i for i in free if i not in own]
    return [own.get(i) for i in range(len(units))]


def _above(w: Tensor, t: float) -> int:
    """Return how many weights on the CPU are larger than `t`."""
    if passes.covers(w):
        return passes.count_above(w, t)
    x = flat(w)
    return int(np.count_nonzero(np.abs(x) > x.dtype.type(t)))
