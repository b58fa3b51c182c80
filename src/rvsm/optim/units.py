"""Units: what a penalty acts on, one parameter or several that are tied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups import Elements, Groups, Tied
from rvsm.groups.partition import shrinkage
from rvsm.optim import distributed
from rvsm.optim.level import Level
from rvsm.optim.rule import Rule
from rvsm.penalties.base import Penalty, separable


@dataclass(frozen=True, eq=False)
class Ruled:
    """Where a ruled parameter stands in param_groups, and the index of its rule.

    Equal to itself alone: hashed hundreds of times a step.
    """

    name: str
    rule: int
    group: int
    index: int


@dataclass(frozen=True, eq=False)
class Unit:
    """Parameters whose groups live or die together: one, or the members of a tied set.

    Parameters
    ----------
    members : tuple of Ruled
        At least one.
    groups : tuple of Groups
        How each member is cut, every one into `count` groups.
    shapes : tuple of tuple of int
        Of the members.
    count : int
        Groups.
    reachable : int
        How many of them can be zero: all but those that the groups leave free.
    """

    members: tuple[Ruled, ...]
    groups: tuple[Groups, ...]
    shapes: tuple[tuple[int, ...], ...]
    count: int
    reachable: int

    @property
    def lead(self) -> Ruled:
        """The first member, whose param_group holds the strengths of all."""
        return self.members[0]

    @property
    def numel(self) -> int:
        """Weights of all members."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def __str__(self) -> str:
        return " + ".join(r.name for r in self.members)

    def norms(self, penalty: Penalty, ws: Sequence[Tensor]) -> Tensor:
        """Return the norms of the groups of all members together, flat unless sharded.

        Sharded where each rank can apply the map of `penalty` to its own part.
        """
        if len(ws) == 1:
            own = distributed.norms_of(penalty, self.groups[0], ws[0])
            return own if distributed.is_sharded(own) else own.flatten()
        norms = [g.norms(w).flatten() for g, w in zip(self.groups, ws, strict=True)]
        wide = [n.float() if n.element_size() < 4 else n for n in norms]
        together: Tensor = torch.linalg.vector_norm(torch.stack(wide), dim=0)
        return together

    def value(self, penalty: Penalty, ws: Sequence[Tensor]) -> Tensor:
        """Return the penalty's value on the groups of `ws`."""
        if len(ws) == 1:
            return self.groups[0].value(penalty, ws[0])
        return penalty.value(self.norms(penalty, ws))

    def subgradient(self, penalty: Penalty, ws: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradient of `value` at each of `ws`."""
        with torch.enable_grad():
            parts = zip(self.groups, ws, strict=True)
            xs = [
                distributed.gradient_at(penalty, g, w.detach()).detach().requires_grad_()
                for g, w in parts
            ]
            slopes = torch.autograd.grad(self.value(penalty, xs), xs)
        return tuple(
            distributed.gradient_like(slope, penalty, g, w)
            for slope, g, w in zip(slopes, self.groups, ws, strict=True)
        )

    def levels(
        self,
        penalty: Penalty,
        ws: Sequence[Tensor],
        mu: float | Tensor,
        zero: Tensor | None = None,
    ) -> dict[Ruled, Level]:
        """Return the level of every member; those of a tied set share the factor of each group."""
        if len(ws) == 1:
            return {self.lead: Level(penalty, self.groups[0], mu, zero)}
        scale = shrinkage(penalty, self.norms(penalty, ws), mu)
        if zero is not None:
            scale = scale.masked_fill(zero, 0)
        return {
            r: Level(penalty, groups, mu, scale=scale)
            for r, groups in zip(self.members, self.groups, strict=True)
        }


def units_of(
    ruled: Sequence[Ruled], rules: Sequence[Rule], parameter: Callable[[Ruled], Tensor]
) -> list[Unit]:
    """Return the units of the ruled parameters, in the order of their first members.

    Raises
    ------
    RuleError
        If a parameter cannot be cut by its rule's groups or by groups within its penalty, or a
        tied set lacks a member or its members are cut into different numbers of groups.
    """
    sets: dict[tuple[object, ...], list[tuple[Ruled, str | None]]] = {}
    for r in ruled:
        groups = rules[r.rule].groups
        place = groups.place(r.name) if isinstance(groups, Tied) else None
        key = (r.rule, place[0]) if place else (r.rule, r.name, r.group, r.index)
        sets.setdefault(key, []).append((r, place[1] if place else None))
    return [_unit(members, rules[members[0][0].rule], parameter) for members in sets.values()]


def _unit(
    members: Sequence[tuple[Ruled, str | None]],
    rule: Rule,
    parameter: Callable[[Ruled], Tensor],
) -> Unit:
    if isinstance(rule.groups, Tied):
        found = {member for _, member in members}
        missing = [member for member in rule.groups.members if member not in found]
        if missing:
            raise RuleError(
                f"Rule({rule.pattern!r}) ties {members[0][0].name} to {', '.join(missing)}, which "
                "it does not hold; correct the name, widen the pattern or move the rule after "
                "those that take it."
            )
        groups = tuple(rule.groups.members[str(member)] for _, member in members)
    else:
        groups = (rule.groups,)
    ruled = tuple(r for r, _ in members)
    shapes = tuple(tuple(parameter(r).shape) for r in ruled)
    counts = [_count(r.name, g, s) for r, g, s in zip(ruled, groups, shapes, strict=True)]
    if len({count for count, _ in counts}) > 1:
        sizes = ", ".join(f"{r.name} {n}" for r, (n, _) in zip(ruled, counts, strict=True))
        raise RuleError(
            f"Rule({rule.pattern!r}) ties parameters of different numbers of groups ({sizes}); "
            "correct how they are cut."
        )
    unit = Unit(ruled, groups, shapes, counts[0][0], min(reachable for _, reachable in counts))
    if rule.penalty is not None and not separable(rule.penalty):
        _try_value(unit, rule.penalty)
    return unit


def _try_value(unit: Unit, penalty: Penalty) -> None:
    """Raise RuleError where groups within the penalty cannot cut the parameters."""
    try:
        unit.value(penalty, [torch.zeros(shape) for shape in unit.shapes])
    except RuleError as error:
        raise RuleError(f"{unit}: {error}") from None


def _count(name: str, groups: Groups, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many groups a parameter has, and how many of them can be zero."""
    numel = torch.Size(shape).numel()
    if isinstance(groups, Elements):
        return numel, numel
    try:
        norms = groups.norms(torch.zeros(shape))
    except RuleError as error:
        raise RuleError(f"{name}: {error}") from None
    return norms.numel(), int(norms.isfinite().sum())
