"""Targets over groups of different size: how many groups hold the share of weights asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rvsm.errors import RuleError
from rvsm.optim import distributed
from rvsm.optim.budget import Budget, check_reachable, choose, names_of
from rvsm.optim.units import Unit


def size_of(unit: Unit) -> int:
    """Return how many weights a group of a unit holds."""
    return unit.numel // max(unit.count, 1)


def _counts_weights(budget: Budget, units: Sequence[Unit]) -> bool:
    """Say whether groups of different size compete: a share of them is none of weights."""
    sizes = {size_of(unit) for unit in units if unit.count}
    return budget.layout == "threshold" and len(sizes) > 1


def _share_of_groups(units: Sequence[Unit], shares: Sequence[float]) -> int:
    return round(sum(share * unit.count for share, unit in zip(shares, units, strict=True)))


def _share_of_weights(units: Sequence[Unit], shares: Sequence[float]) -> float:
    return sum(share * unit.numel for share, unit in zip(shares, units, strict=True))


def check_target_of(budget: Budget, units: Sequence[Unit], shares: Sequence[float]) -> None:
    """Raise RuleError where these shares of zeros, one for each unit, cannot be reached."""
    if not _counts_weights(budget, units):
        check_reachable(budget, units, _share_of_groups(units, shares))
        return
    wanted = _share_of_weights(units, shares)
    most = sum((unit.count - budget.least(unit)) * size_of(unit) for unit in units)
    if wanted > most + min(map(size_of, units)) / 2:
        total = sum(unit.numel for unit in units)
        raise RuleError(
            f"{names_of(units)}: {round(wanted)} zeros of {total} weights cannot be reached, since "
            f"the groups and the budget's floor leave at most {most}; lower the sparsity to "
            f"{most / total:.4g} or the floor."
        )


def groups_of(
    budget: Budget, units: Sequence[Unit], norms: Sequence[Tensor], shares: Sequence[float]
) -> int:
    """Return how many groups are to be zero under a target.

    Parameters
    ----------
    budget : Budget
        How zeros are shared out.
    units : sequence of Unit
        Who shares the target.
    norms : sequence of Tensor
        As :func:`rvsm.optim.budget.choose` takes them.
    shares : sequence of float
        The share of zeros that each unit brings to the target.

    Returns
    -------
    int
        The k whose zero weights come nearest to ``sum of share * weights``, the smaller of two.
        Where all groups are of one size or a layout fixes each layer's share, ``round(sum of
        share * groups)``: then it is that already.

    Notes
    -----
    Bisection over k: the weights of the k smallest groups grow with k, whatever the scale and the
    floor. Each step selects once, so that the host waits for a device. By default every layer keeps
    a group until so few are left that not all can; from there on other groups go, and the weights
    may be fewer again: such targets are bisected by themselves, where they could come nearer.
    """
    if not _counts_weights(budget, units):
        return _share_of_groups(units, shares)
    check_target_of(budget, units, shares)
    wanted = _share_of_weights(units, shares)
    most = sum(unit.count - budget.least(unit) for unit in units)
    last = most if budget.floor is not None else min(most, budget.last_of_default(units))
    gap, found = _nearest(budget, units, norms, wanted, 0, last)
    if last < most and _fewest(units, last + 1) - wanted < gap:
        other, beyond = _nearest(budget, units, norms, wanted, last + 1, most)
        return beyond if other < gap else found
    return found


def _nearest(
    budget: Budget,
    units: Sequence[Unit],
    norms: Sequence[Tensor],
    wanted: float,
    low: int,
    high: int,
) -> tuple[float, int]:
    """Return how near k groups come, and which k from `low` to `high` it is, the smaller of two."""
    below = _weights(budget, units, norms, low) if low else 0
    if below >= wanted or low == high:
        return abs(below - wanted), low
    above = _weights(budget, units, norms, high)
    if above <= wanted:
        return wanted - above, high
    while high - low > 1:
        middle = (low + high) // 2
        if (found := _weights(budget, units, norms, middle)) <= wanted:
            low, below = middle, found
        else:
            high, above = middle, found
    return min((wanted - below, low), (above - wanted, high))


def _fewest(units: Sequence[Unit], k: int) -> int:
    """Return how many weights `k` groups hold at least."""
    total = 0
    for size, count in sorted((size_of(unit), unit.count) for unit in units):
        total += size * min(count, k)
        k -= min(count, k)
    return total


def _weights(budget: Budget, units: Sequence[Unit], norms: Sequence[Tensor], k: int) -> int:
    """Return how many weights lie in the `k` groups that `choose` would make zero."""
    chosen = choose(budget, units, norms, k) if k else [None] * len(units)
    total = 0
    for found, unit, norm in zip(chosen, units, norms, strict=True):
        if found is not None and found[0] is not None:
            total += size_of(unit) * int(distributed.summed(found[0].sum(), norm))
    return total
