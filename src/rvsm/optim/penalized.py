"""From strengths to maps: what turns the weights of now into sparse ones, under every rule."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, cast

from torch import Tensor
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.groups import Elements
from rvsm.optim import distributed
from rvsm.optim.budget import Budget, choose
from rvsm.optim.checks import check_number, check_share, is_steps
from rvsm.optim.clear import clear_thresholds
from rvsm.optim.level import Level
from rvsm.optim.near import Nears
from rvsm.optim.nearest import check_target_of, groups_of
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import RuledOptimizer
from rvsm.optim.strength import check_target, mu_beside
from rvsm.optim.units import Ruled, Unit
from rvsm.penalties.base import Penalty, roundings, separable

_BELOW = 16
"""Roundings by which a map's threshold lies below that of a mask."""


class Pool:
    """Units that meet a target of zeros together, with what of them stays the same.

    Parameters
    ----------
    units : list of Unit
        At least one.
    rules : sequence of Rule
        All of the optimizer.

    Attributes
    ----------
    penalties : list of Penalty
        Of each unit.
    apart : int or None
        By how many roundings the first survivor must lie above a threshold that alone marks the
        zeros, where single weights of single parameters compete; None where no threshold does.
    """

    def __init__(self, units: list[Unit], rules: Sequence[Rule]) -> None:
        self.units = units
        self.penalties = [cast(Penalty, rules[unit.lead.rule].penalty) for unit in units]
        single = all(map(separable, self.penalties)) and all(map(_single, units))
        self.apart = max(map(roundings, self.penalties)) if single else None


class PenalizedOptimizer(RuledOptimizer):
    """A ruled optimizer that knows the level of every parameter: strength, target and budget.

    Parameters
    ----------
    base, rules, named_parameters
        As in RuledOptimizer.
    warmup : int
        Steps of the bare base optimizer before the rules begin.
    budget : {"rule", "global", "parameter"} or Budget
        Who meets a ``sparsity=`` together.
    """

    _own = (*RuledOptimizer._own, "warmup", "budget")
    _masks: ClassVar[bool] = False
    """Whether the algorithm reads which groups a target zeroes off the levels."""

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        warmup: int,
        budget: Literal["rule", "global", "parameter"] | Budget,
        named_parameters: Iterable[tuple[str, Tensor]] | None,
    ) -> None:
        self.warmup, self._near = warmup, Nears()
        self._pooled: tuple[tuple[object, ...], list[Pool]] | None = None
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        super().__init__(base, rules, named_parameters)
        for rule in self.rules:
            _warn_of_a_jump(rule, warmup)

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "_near": Nears(), "_pooled": None})

    def _split(self) -> Iterator[tuple[Ruled, Tensor]]:
        """Yield every parameter with a split penalty."""
        for r in self._ruled:
            if self.rules[r.rule].penalty is not None:
                yield r, self._parameter(r)

    def _share(self, r: Ruled) -> float:
        """Return the share of full strength in force after the steps taken."""
        if self.steps < self.warmup:
            return 0.0
        rule = self.rules[r.rule]
        if rule.schedule is None:
            return 1.0
        share = float(rule.schedule(self.steps))
        if not 0 <= share <= 1:
            raise RuleError(
                f"Rule({rule.pattern!r}): the schedule gave {share!r} at step {self.steps}; let "
                "it return a share between 0 and 1."
            )
        return share

    def _mu(self, r: Ruled, lam: float) -> float:
        """Return the mu of the map under a `lam`."""
        return lam

    def _target(self, r: Ruled) -> float:
        """Return the share of zeros that a parameter brings to its target now."""
        sparsity = self._numbers(r)["sparsity"]
        check_share(f"{r.name} in param_groups: sparsity", sparsity, "[0, 1]", "the share of zeros")
        return sparsity * self._share(r)

    def _levels(self, xs: Mapping[Ruled, Tensor]) -> dict[Ruled, Level]:
        """Return what makes every one of `xs` sparse: ``prox_{mu P}``, or exact zeros.

        A parameter whose sparse result is its x itself has none.
        """
        levels: dict[Ruled, Level] = {}
        if self.frozen:
            return levels
        for unit in self._units:
            numbers = self._numbers(unit.lead)
            if unit.lead not in xs or "lam" not in numbers:
                continue
            lam = self._lam(unit)
            if lam != 0 and (mu := self._mu(unit.lead, lam)) != 0:
                penalty = cast(Penalty, self.rules[unit.lead.rule].penalty)
                levels.update(unit.levels(penalty, [xs[r] for r in unit.members], mu))
        for pool in self._pools_among([unit for unit in self._units if unit.lead in xs]):
            levels.update(self._exact_levels(pool, xs))
        return {r: distributed.level_of(level, xs[r]) for r, level in levels.items()}

    def _lam(self, unit: Unit) -> float:
        """Return the lam in force after the steps taken."""
        lam = self._numbers(unit.lead)["lam"]
        check_number(f"{unit} in param_groups: lam", lam)
        return lam * self._share(unit.lead)

    def _check_strengths(self) -> None:
        """Raise RuleError where the strengths in force cannot be met, without computing a level."""
        for unit in self._units:
            if "lam" in self._numbers(unit.lead):
                self._mu(unit.lead, self._lam(unit))
        for pool in self._pools_among(self._units):
            shares = [self._target(unit.lead) for unit in pool.units]
            check_target_of(self.budget, pool.units, shares)

    def _pools(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Return the units that meet a target together."""
        pools: dict[int, list[Unit]] = {}
        for i, unit in enumerate(units):
            if self.rules[unit.lead.rule].sparsity is not None:
                key = {"rule": unit.lead.rule, "global": -1, "parameter": i}[self.budget.scope]
                pools.setdefault(key, []).append(unit)
        return list(pools.values())

    def _pools_among(self, units: Sequence[Unit]) -> list[Pool]:
        """Return the units that meet a target together, as they were if they are the same."""
        made_of = (self.rules, self.budget, list(units))
        if self._pooled is None or self._pooled[0] != made_of:
            self._pooled = made_of, [Pool(own, self.rules) for own in self._pools(units)]
        return self._pooled[1]

    def _exact_levels(self, pool: Pool, xs: Mapping[Ruled, Tensor]) -> dict[Ruled, Level]:
        """Return the levels at which `pool` together has exactly its target of zeros."""
        units, penalties = pool.units, pool.penalties
        shares = [self._target(unit.lead) for unit in units]
        if not any(shares):
            return {}
        own = [[xs[r] for r in unit.members] for unit in units]
        clear = self._clear_levels(pool, own, shares)
        if clear is not None:
            return clear
        norms = [
            unit.norms(penalty, x) for unit, penalty, x in zip(units, penalties, own, strict=True)
        ]
        if (k := groups_of(self.budget, units, norms, shares)) == 0:
            return {}
        found, levels = choose(self.budget, units, norms, k), dict[Ruled, Level]()
        for unit, x, penalty, chosen in zip(units, own, penalties, found, strict=True):
            if chosen is not None:
                zero, t = chosen
                mu = mu_beside(penalty, t, -_BELOW, t.dtype)
                levels.update(unit.levels(penalty, x, mu, zero))
        return levels

    def _clear_levels(
        self, pool: Pool, own: Sequence[Sequence[Tensor]], shares: Sequence[float]
    ) -> dict[Ruled, Level] | None:
        """Return the same levels, all without a mask; None where one is needed."""
        units, penalties, apart = pool.units, pool.penalties, pool.apart
        if self._masks or apart is None:
            return None
        k = round(sum(s * unit.count for s, unit in zip(shares, units, strict=True)))
        ws = [
            unit.norms(penalty, x) if distributed.is_sharded(x[0]) else x[0]
            for unit, penalty, x in zip(units, penalties, own, strict=True)
        ]
        thresholds = clear_thresholds(self.budget, units, ws, k, apart, self._near)
        if thresholds is None:
            return None
        levels: dict[Ruled, Level] = {}
        for unit, x, penalty, t in zip(units, own, penalties, thresholds, strict=True):
            if t is not None:
                mu = mu_beside(penalty, t, apart // 2, x[0].dtype)
                levels.update(unit.levels(penalty, x, mu))
        return levels

    def _check_units(self, units: Sequence[Unit]) -> None:
        super()._check_units(units)
        for unit in units:
            self._check_sharded(unit)
        for pool in self._pools(units):
            for unit in pool:
                check_target(self.rules[unit.lead.rule])
            shares = [self.rules[unit.lead.rule].sparsity or 0.0 for unit in pool]
            check_target_of(self.budget, pool, shares)

    def _check_sharded(self, unit: Unit) -> None:
        """Raise RuleError where groups or a budget need more of a unit than a rank holds."""
        if not any(distributed.is_sharded(self._parameter(r)) for r in unit.members):
            return
        if len(unit.members) > 1:
            raise RuleError(
                f"{unit} are sharded, and tied groups need them whole; give each its own rule."
            )
        if self.budget.scale != "none" or self.budget.floor:
            raise RuleError(
                f"{unit} is sharded, where a budget knows neither scale nor floor; leave them out."
            )


def _single(unit: Unit) -> bool:
    """Say whether what a unit cuts are the weights of one parameter, each by itself."""
    return len(unit.groups) == 1 and isinstance(unit.groups[0], Elements)


def _warn_of_a_jump(rule: Rule, warmup: int) -> None:
    """Warn where a schedule rises during the warm-up alone: steps count from the first."""
    end = getattr(rule.schedule, "end", None)
    if is_steps(end, 1) and end <= warmup:
        warnings.warn(
            f"Rule({rule.pattern!r}): its schedule ends at step {end} and the warm-up at step "
            f"{warmup}, so that full strength sets in at once; schedules count from the first "
            f"step, so let it start at {warmup}.",
            stacklevel=5,
        )
