"""Budgets: among which groups an exact target of zeros is shared out, and how."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.optim.checks import is_number, is_steps
from rvsm.optim.distributed import is_sharded
from rvsm.optim.floor import holds, spare
from rvsm.optim.targets import smallest_of
from rvsm.optim.units import Unit


@dataclass(frozen=True)
class Budget:
    r"""How the zeros of ``sparsity=`` are shared out.

    Parameters
    ----------
    scope : {"rule", "global", "parameter"}
        Who meets a target together: the parameters of a rule, all parameters with ``sparsity=``
        (``round(sum of s n)`` zeros), or every parameter by itself.
    scale : {"none", "rms", "max", "mean"}
        What the norms of each parameter's groups are divided by before they compete: nothing;
        the root of the group's size, which makes small and large groups comparable; the largest
        or the mean norm of the parameter, which makes layers comparable. With one threshold t
        for the quotients, a parameter's own threshold is t times its divisor.
    layout : {"threshold", "uniform", "erk"}
        The smallest norms wherever they lie; the same share of zeros for every parameter; or
        Erdos-Renyi-Kernel, a density in proportion to (sum of the sizes of the axes) / (their
        product), where a layer that would exceed density 1 stays dense and the others pay.
    floor : float or int, optional
        The least that each parameter keeps of its groups, so that no layer dies: a share in
        [0, 1), rounded up, or a count. By default one group, where w is not zero anyway and as
        long as the target leaves as many groups as there are parameters; 0 lets layers die.

    Raises
    ------
    RuleError
        If an option is out of range, or `scale` is given where a layout leaves nothing to it.

    References
    ----------
    Evci et al., "Rigging the lottery", arXiv 1911.11134, for the layouts.
    """

    scope: Literal["rule", "global", "parameter"] = "rule"
    scale: Literal["none", "rms", "max", "mean"] = "none"
    layout: Literal["threshold", "uniform", "erk"] = "threshold"
    floor: float | int | None = None

    def __post_init__(self) -> None:
        check_choice("budget", self.scope, ("rule", "global", "parameter"))
        check_choice("Budget: scale", self.scale, ("none", "rms", "max", "mean"))
        check_choice("Budget: layout", self.layout, ("threshold", "uniform", "erk"))
        floor = 0 if self.floor is None else self.floor
        if not is_number(floor) or floor < 0 or (floor >= 1 and not is_steps(floor)):
            raise RuleError(
                f"Budget: floor must be a share in [0, 1) or a count >= 0, not {self.floor!r}."
            )
        if self.layout != "threshold" and self.scale != "none":
            raise RuleError(
                f'Budget: layout="{self.layout}" fixes every parameter\'s share, so that '
                f'scale="{self.scale}" has no effect; leave it out.'
            )

    def least(self, unit: Unit) -> int:
        """Return how many groups of a unit are never zero, whatever the target."""
        floor = self.floor or 0
        floor = math.ceil(floor * unit.count) if floor < 1 else int(floor)
        return max(min(floor, unit.count), unit.count - unit.reachable)

    def at_target(self, units: Sequence[Unit], k: int) -> Budget:
        """Return the budget with the floor that holds at `k` zeros: by default 1 or else 0."""
        if self.floor is not None:
            return self
        return _with_floor(self, 1 if k <= self.last_of_default(units) else 0)

    def last_of_default(self, units: Sequence[Unit]) -> int:
        """Return up to how many zeros every unit keeps a group by default."""
        one = _with_floor(self, 1)
        return sum(unit.count - one.least(unit) for unit in units)

    def divisor(self, unit: Unit, norms: Tensor) -> float | Tensor:
        """Return what the norms of a unit are divided by before they compete."""
        if self.scale == "none" or norms.numel() == 0:
            return 1.0
        if self.scale == "rms":
            return math.sqrt(unit.numel / unit.count)
        free = unit.reachable < unit.count
        finite = norms.masked_fill(norms.isinf(), 0) if free else norms
        found = finite.amax() if self.scale == "max" else finite.sum() / max(unit.reachable, 1)
        return torch.where(found > 0, found, 1)


@functools.lru_cache(maxsize=64)
def _with_floor(budget: Budget, floor: int) -> Budget:
    return replace(budget, floor=floor)


def check_choice(name: str, choice: str, choices: Sequence[str]) -> None:
    """Raise RuleError unless `choice` is one of `choices`."""
    if choice not in choices:
        raise RuleError(f"{name} must be {' or '.join(map(repr, choices))}, not {choice!r}.")


def names_of(units: Sequence[Unit]) -> str:
    """Return the names of the first units, for an error."""
    return ", ".join(map(str, units[:3])) + (", ..." if len(units) > 3 else "")


def check_reachable(budget: Budget, units: Sequence[Unit], k: int) -> None:
    """Raise RuleError if not that many groups of `units` can be zero."""
    total = sum(unit.count for unit in units)
    most = total - sum(budget.least(unit) for unit in units)
    if k > most:
        floor = f" and the budget's floor={budget.floor}" if budget.floor else ""
        raise RuleError(
            f"{names_of(units)}: {k} zeros of {total} cannot be reached, since the groups{floor} "
            f"leave at most {most}; lower the sparsity to {most / total:.4g}"
            f"{' or lower the floor' if floor else ''}."
        )


def choose(
    budget: Budget,
    units: Sequence[Unit],
    norms: Sequence[Tensor],
    k: int,
) -> list[tuple[Tensor, Tensor] | None]:
    """Choose exactly `k` groups to be zero, ties broken by position.

    Parameters
    ----------
    budget : Budget
        How.
    units : sequence of Unit
        Who shares the target.
    norms : sequence of Tensor
        Flat, one for each unit; inf where a group must stay.
    k : int
        Zeros over all units.

    Returns
    -------
    list of (bool Tensor, 0-d Tensor) or None
        For each unit which of its groups are zero, and the threshold that no survivor lies below
        but for rounding; None for a unit that no threshold is for.

    Raises
    ------
    RuleError
        If not that many groups can be zero.
    """
    check_reachable(budget, units, k)
    default, budget = budget.floor is None, budget.at_target(units, k)
    if budget.layout != "threshold":
        shares = shares_of(budget, units, k)
        return [
            None if own == 0 else _one(norm, own)
            for unit, norm, own in zip(units, norms, shares, strict=True)
        ]
    if k == 0:
        return [None] * len(units)
    divisors = [budget.divisor(unit, norm) for unit, norm in zip(units, norms, strict=True)]
    most = [unit.count - budget.least(unit) for unit in units]
    bound = [n < min(unit.reachable, k) for unit, n in zip(units, most, strict=True)]
    # Elsewhere than on the CPU the host would have to wait.
    looks = norms[0].device.type == "cpu" and not any(map(is_sharded, norms))
    if looks or not any(bound):
        found = _by_threshold(norms, divisors, k)
        alive = [
            not is_bound or holds(mask, norm, n, zeros=default)
            for (mask, _), norm, n, is_bound in zip(found, norms, most, bound, strict=True)
        ]
        if all(alive):
            return list(found)  # the floor asks for nothing, which is the rule
    protected = [
        spare(norm, n, zeros=default) if is_bound else None
        for norm, n, is_bound in zip(norms, most, bound, strict=True)
    ]
    candidates = [
        norm if spared is None else spared.norms
        for norm, spared in zip(norms, protected, strict=True)
    ]
    return [
        (mask, t if spared is None else spared.threshold(t))
        for (mask, t), spared in zip(_by_threshold(candidates, divisors, k), protected, strict=True)
    ]


def _by_threshold(
    norms: Sequence[Tensor], divisors: Sequence[float | Tensor], k: int
) -> list[tuple[Tensor, Tensor]]:
    """Return for each of `norms` which quotients are among the `k` smallest of all."""
    quotients = [_divided(norm, by) for norm, by in zip(norms, divisors, strict=True)]
    masks, t = smallest_of(quotients, k)
    return [
        (mask, t if isinstance(by, float) and by == 1 else t * by)
        for mask, by in zip(masks, divisors, strict=True)
    ]


def _one(norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose `k` groups of a single unit."""
    found, t = smallest_of([norms], k)
    return found[0], t


def _divided(norms: Tensor, by: float | Tensor) -> Tensor:
    if isinstance(by, float) and by == 1:
        return norms
    return (norms.float() if norms.element_size() < 4 else norms) / by


def shares_of(budget: Budget, units: Sequence[Unit], k: int) -> tuple[int, ...]:
    """Return how many groups of each unit are zero under a fixed layout."""
    counts = tuple(unit.count for unit in units)
    weights = tuple(
        unit.count * (1.0 if budget.layout == "uniform" else _erdos_renyi(unit)) for unit in units
    )
    least = tuple(budget.least(unit) for unit in units)
    kept = apportion(sum(counts) - k, weights, least, counts)
    return tuple(count - keep for count, keep in zip(counts, kept, strict=True))


def _erdos_renyi(unit: Unit) -> float:
    """Return the density that Erdos-Renyi-Kernel gives a layer, up to a common factor."""
    return sum(sum(shape) for shape in unit.shapes) / max(unit.numel, 1)


@functools.lru_cache(maxsize=64)
def apportion(
    total: int, weights: tuple[float, ...], least: tuple[int, ...], most: tuple[int, ...]
) -> tuple[int, ...]:
    """Share out `total` in proportion to `weights` within bounds, exactly.

    Before rounding the shares are ``clip(c weights, least, most)`` with the one c that meets the
    total; what rounding down leaves goes to the largest remainders, the first among equals.

    Parameters
    ----------
    total : int
        Between ``sum(least)`` and ``sum(most)``.
    weights : tuple of float
        > 0 where `most` exceeds `least`.
    least, most : tuple of int
        Bounds of each share.
    """

    def shares(c: float) -> list[float]:
        return [
            min(max(c * w, low), high) for w, low, high in zip(weights, least, most, strict=True)
        ]

    low, high = 0.0, max((h / w for h, w in zip(most, weights, strict=True) if w > 0), default=0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(shares(middle)) >= total else (middle, high)
    exact = shares(high)
    found = [math.floor(share) for share in exact]
    while (missing := total - sum(found)) > 0:
        room = [i for i in range(len(found)) if found[i] < most[i]]
        room.sort(key=lambda i: found[i] - exact[i])
        for i in room[:missing]:
            found[i] += 1
    return tuple(found)
