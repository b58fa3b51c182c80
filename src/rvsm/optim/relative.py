"""What the relatives of RVSM share beyond it: which rules they take, and what they keep hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.optim.budget import Budget, check_reachable, choose
from rvsm.optim.level import Level
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import NUMBERS, Ruled
from rvsm.optim.sparse import SparseOptimizer
from rvsm.optim.strength import check_target, mu_just_below
from rvsm.optim.units import Unit
from rvsm.penalties import L0
from rvsm.penalties.base import Penalty

_METHOD = "method"
"""Key beside the step count of the class that wrote the state."""


class Relative(SparseOptimizer):
    """A relative of RVSM, for float32 or float64 parameters in a single process.

    Whatever is outside that raises: half-precision and distributed parameters, several
    processes, a rule's `subgradient`, LBFGS, and the strengths a subclass does not take.
    """

    _own = (*SparseOptimizer._own, "budget")
    _takes: ClassVar[tuple[str, ...]] = ("lam", "sparsity")
    """Strengths that a rule may have."""
    _only_l0: ClassVar[bool] = False
    """Whether survivors are never shrunk, so that only L0 tells the truth about the penalty."""
    _hidden: ClassVar[str] = "rvsm_w"
    """Key in ``state[p]`` of what the base steps on where the parameters hold something else."""

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        if isinstance(base, torch.optim.LBFGS):
            raise RuleError(
                f"{type(self).__name__} cannot stand on LBFGS, which steps more than once a "
                "closure; use RVSM or another base optimizer."
            )
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        super().__init__(
            base, rules, warmup=warmup, heal_from=heal_from, named_parameters=named_parameters
        )

    def _match_rules(self) -> None:
        super()._match_rules()
        for group in self.param_groups:
            group[NUMBERS].setdefault(_METHOD, type(self).__name__)

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step of the base optimizer under the rules, as RVSM does; never compiled."""
        # Dynamo swallows what is raised while it traces; the frame it falls back to is still its.
        if torch.compiler.is_compiling() or get_eval_frame_callback() is not None:
            raise RuleError(f"{type(self).__name__}.step() cannot be compiled; use RVSM.")
        if self._only_looked_at():
            raise RuleError(
                f"{type(self).__name__} has no part in torch's distributed checkpoints; save and "
                "load optimizer.state_dict() itself, or use RVSM."
            )
        return super().step(closure)

    def _only_looked_at(self) -> bool:
        """Say whether this is the step by which distributed checkpoints look for the state.

        They take it on a fresh optimizer, every rate and gradient zero; it would change weights.
        """
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        return (
            self.steps == 0
            and not self.state
            and all(group.get("lr", 1.0) == 0 for group in self.param_groups)
            and all(p.grad is not None and not bool(p.grad.any()) for p in parameters)
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of the same class under the same rules, or one of the bare base.

        Raises
        ------
        RuleError
            If it was saved by another class or under other rules; nothing is loaded then.
        """
        for saved in state_dict["param_groups"]:
            method = saved.get(NUMBERS, {_METHOD: type(self).__name__}).get(_METHOD, "RVSM")
            if method != type(self).__name__:
                raise RuleError(
                    f"The checkpoint was made by {method}, not {type(self).__name__}; build the "
                    "optimizer it was saved with, or load the model's weights alone."
                )
        super().load_state_dict(state_dict)

    def _check_parameter(self, r: Ruled) -> None:
        super()._check_parameter(r)
        rule, p, name = self.rules[r.rule], self._parameter(r), type(self).__name__
        where = f"Rule({rule.pattern!r})"
        if rule.subgradient is not None:
            raise RuleError(f"{where}: {name} takes no subgradient; use RVSM or leave it out.")
        if self._only_l0 and not isinstance(rule.penalty, L0):
            raise RuleError(f"{where}: {name} keeps or kills and never shrinks; give it L0().")
        given = "lam" if rule.lam is not None else "sparsity"
        if given not in self._takes:
            raise RuleError(
                f"{where}: {name} takes no {given}=; give {self._takes[0]}= or use RVSM."
            )
        if p.dtype not in (torch.float32, torch.float64):
            raise RuleError(
                f"{name} needs float32 or float64 parameters and {r.name} is {p.dtype}; train "
                "under autocast or use RVSM."
            )
        if hasattr(p, "placements") or (
            torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            raise RuleError(f"{name} trains in a single process ({r.name} is shared); use RVSM.")

    def _target(self, r: Ruled) -> float:
        """Return the share of zeros that a parameter brings to its target now."""
        return self._numbers(r)["sparsity"] * self._share(r)

    def _levels(
        self, x: Mapping[Ruled, Tensor], factor: Callable[[Ruled], float] = lambda r: 1.0
    ) -> dict[Ruled, Level]:
        """Return what makes every `x` sparse: ``prox_{factor lam P}``, or exact zeros.

        A parameter whose result is its `x` has none.
        """
        levels: dict[Ruled, Level] = {}
        for r in x:
            rule, numbers = self.rules[r.rule], self._numbers(r)
            if "lam" in numbers and (mu := numbers["lam"] * self._share(r) * factor(r)) != 0:
                levels[r] = Level(cast(Penalty, rule.penalty), rule.groups, mu)
        for pool in self._pools([unit for unit in self._units if unit.lead in x]):
            levels.update(self._exact_levels(pool, x))
        return levels

    def _pools(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Return the units that meet a target together."""
        pools: dict[int, list[Unit]] = {}
        for i, unit in enumerate(units):
            if self.rules[unit.lead.rule].sparsity is not None:
                key = {"rule": unit.lead.rule, "global": -1, "parameter": i}[self.budget.scope]
                pools.setdefault(key, []).append(unit)
        return list(pools.values())

    def _exact_levels(self, pool: list[Unit], x: Mapping[Ruled, Tensor]) -> dict[Ruled, Level]:
        """Return the levels at which all of a pool together has exactly its target of zeros."""
        k = round(sum(self._target(unit.lead) * unit.count for unit in pool))
        if k == 0:
            return {}
        norms = [unit.norms([x[unit.lead]]) for unit in pool]
        levels: dict[Ruled, Level] = {}
        for unit, chosen in zip(pool, choose(self.budget, pool, norms, k), strict=True):
            if chosen is not None:
                zero, t = chosen
                penalty = cast(Penalty, self.rules[unit.lead.rule].penalty)
                mu = mu_just_below(penalty, t)
                levels.update(unit.levels(penalty, [x[unit.lead]], mu, zero))
        return levels

    def _check_units(self, units: Sequence[Unit]) -> None:
        for pool in self._pools(units):
            for unit in pool:
                check_target(self.rules[unit.lead.rule])
            targets = [(self.rules[unit.lead.rule].sparsity or 0) * unit.count for unit in pool]
            check_reachable(self.budget, pool, round(sum(targets)))

    def _kept(self, r: Ruled, key: str) -> Tensor | None:
        """Return the tensor under `key` in the state of a parameter, if there is one yet."""
        p = self._parameter(r)
        return cast("Tensor | None", self.state[p].get(key)) if p in self.state else None

    def _unveil(self) -> None:
        """Let the parameters hold what the base steps on."""
        for r in self._ruled:
            hidden = self._kept(r, self._hidden)
            if hidden is not None:
                self._parameter(r).copy_(hidden)

    def _veil(self) -> dict[Ruled, Tensor]:
        """Store what the parameters hold after the base's step and return it where it is stored.

        A state that the base has not filled yet stays empty: Adam takes any entry for its own.
        It fills it in the first step that has a gradient.
        """
        stored = {}
        for r in self._ruled:
            p, hidden = self._parameter(r), self._kept(r, self._hidden)
            if hidden is not None:
                stored[r] = hidden.copy_(p)
            elif p.grad is not None:
                stored[r] = self.state[p][self._hidden] = p.clone()
        return stored
