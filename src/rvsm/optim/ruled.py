"""What every optimizer with rules shares: it stands on a base and matches rules to names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from rvsm.errors import RuleError, RunError
from rvsm.groups import Tied
from rvsm.optim import passes
from rvsm.optim.checks import check_number
from rvsm.optim.description import TOLD, difference, rule_text
from rvsm.optim.distributed import whole
from rvsm.optim.rule import Rule, assign, clean_name
from rvsm.optim.schedules import Continuation
from rvsm.optim.units import Ruled as Ruled
from rvsm.optim.units import Unit, units_of

NUMBERS = "rvsm"
"""Key in every param_group of what is kept there, plain numbers and text.

``step``; ``frozen``, whether the zeros of its parameters are held; ``rules``, each rule's
strengths; ``made``, each rule in words, and ``mode``, both for checkpoints to tell.
"""

OWN = "rvsm_"
"""How every key that is not the base's begins in ``state[p]``."""

_FLATTENED = ("_fsdp_flattened", "_is_flat_param")
"""Marks on the parameters of the first FullyShardedDataParallel."""


class RuledOptimizer(Optimizer):
    """An optimizer that shares state and groups with a base and has rules for its parameters.

    It owns no state: `state`, `param_groups` and `defaults` are the base's, whatever a load
    replaces them with, and what it must remember are plain numbers inside the groups. Building it
    begins anew, with what the parameters hold: what an earlier one left on the base is dropped.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Does the descent.
    rules : sequence of Rule
        The last rule that matches a parameter's name holds.
    named_parameters : iterable of (str, Tensor), optional
        Names for a base that has none.

    Raises
    ------
    RuleError
        If the base or a rule cannot be used.
    """

    _own: tuple[str, ...] = ("base", "rules", "_ruled", "_units", "_free")
    """Attributes that pickle and deepcopy keep; the rest are hooks, which torch drops too."""

    _ties: ClassVar[bool] = False
    """Whether the algorithm knows groups that reach across parameters."""

    _mode: ClassVar[tuple[str, ...]] = ()
    """Options under which alone a checkpoint means the same."""

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        named_parameters: Iterable[tuple[str, Tensor]] | None,
    ) -> None:
        if not isinstance(base, Optimizer) or isinstance(base, RuledOptimizer):
            raise RuleError(
                f"{type(self).__name__} needs a torch optimizer to stand on, such as "
                f"torch.optim.SGD, not {type(base).__name__}."
            )
        if type(base).__name__ == "ZeroRedundancyOptimizer":
            raise RuleError(
                "ZeroRedundancyOptimizer keeps each state on one rank, where rules cannot follow; "
                "shard with torch.distributed.fsdp.fully_shard instead."
            )
        self.base = base
        self.rules = tuple(rules) if isinstance(rules, Iterable) else ()
        if not self.rules or not all(isinstance(rule, Rule) for rule in self.rules):
            raise RuleError(f"{type(self).__name__} needs a list of at least one rvsm.Rule.")
        super().__setstate__({})  # the hooks that Optimizer.__init__ would make
        self._ruled: list[Ruled] = []
        self._units: list[Unit] = []
        self._free: list[tuple[str, int, int]] = []  # name, group, index of what no rule is for
        before = [dict(group) for group in base.param_groups]
        try:
            if named_parameters is not None:
                _name_groups(base, named_parameters)
            for group in base.param_groups:
                group.pop(NUMBERS, None)
            self._match_rules()
        except BaseException:  # leave the base as it was
            for group, held in zip(base.param_groups, before, strict=True):
                group.clear()
                group.update(held)
            raise
        for state in base.state.values():
            for key in [key for key in state if str(key).startswith(OWN)]:
                del state[key]

    @property
    def state(self) -> Any:
        """The base optimizer's state."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's groups; rvsm's numbers are under the key ``"rvsm"``."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "_free"):  # pickled before there was one
            self._free = []
            self._match_rules()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._own}

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state_dict, whose param_groups hold rvsm's numbers."""
        self._adopt()
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict saved under the same rules, or one of the bare base optimizer.

        The strengths of the state_dict hold from now on, not those of the rules. The model may be
        loaded before or after: nothing is computed from its weights here.

        Raises
        ------
        RuleError
            If it was saved under other patterns, penalties, groups or modes; nothing is loaded
            then.
        """
        self._adopt()
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        numbers = [group[NUMBERS] for group in self.param_groups]
        for saved, own in zip(state_dict["param_groups"], numbers, strict=False):
            if NUMBERS in saved and (found := difference(saved[NUMBERS], own)):
                raise RuleError(
                    f"The checkpoint was made under other rules ({found}); build the optimizer "
                    "with the rules it was saved with, or load the model's weights alone."
                )
        self.base.load_state_dict(state_dict)
        for group, own in zip(self.param_groups, numbers, strict=True):
            loaded = group.setdefault(NUMBERS, own)
            for key in TOLD:  # which older checkpoints do not say
                loaded.setdefault(key, own[key])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; the rules hold for its parameters too."""
        self.base.add_param_group(param_group)
        try:
            self._match_rules()
        except RuleError:
            self.param_groups.pop()
            raise

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.param_groups[0][NUMBERS]["step"])

    @property
    def frozen(self) -> bool:
        """Whether the support is fixed: later steps leave the zeros zero."""
        return bool(self.param_groups[0][NUMBERS]["frozen"])

    def ruled_names(self) -> list[str]:
        """Return the names of the parameters under a rule, in the base's order."""
        self._adopt()
        return [r.name for r in self._ruled]

    def _count_step(self) -> None:
        for group in self.param_groups:
            group[NUMBERS]["step"] += 1

    def _freeze(self) -> None:
        """Hold the zeros of now; groups added later have none to hold."""
        if not self.frozen:
            for group in self.param_groups:
                group[NUMBERS]["frozen"] = 1

    def _adopt(self) -> None:
        """Match the rules to groups that were added to the base itself."""
        if any(NUMBERS not in group for group in self.param_groups):
            self._match_rules()

    def _parameter(self, r: Ruled) -> Tensor:
        return cast(Tensor, self.param_groups[r.group]["params"][r.index])

    def _numbers(self, r: Ruled) -> dict[str, float]:
        """Return the strengths of a parameter's rule, as its group holds them."""
        return cast("dict[str, float]", self.param_groups[r.group][NUMBERS]["rules"][str(r.rule)])

    def _beta(self, r: Ruled) -> float:
        """Return the coupling strength in force after the steps taken."""
        start, beta = self._numbers(r)["beta"], self.rules[r.rule].beta
        check_number(f"{r.name} in param_groups: beta", start, positive=True)
        return beta(self.steps, start) if isinstance(beta, Continuation) else start

    def _sign(self, r: Ruled) -> float:
        """Return what a penalty's gradient is multiplied by before the base sees it."""
        return -1.0 if self.param_groups[r.group].get("maximize") else 1.0

    def _match_rules(self) -> None:
        names: list[str] = []
        places: list[tuple[int, int]] = []
        for g, group in enumerate(self.param_groups):
            if "param_names" not in group:
                raise RuleError(
                    "The base optimizer's parameters have no names; build it from "
                    f"model.named_parameters() or pass named_parameters= to {type(self).__name__}, "
                    "and give groups added later pairs of name and parameter."
                )
            names += group["param_names"]
            places += [(g, i) for i in range(len(group["params"]))]
        found, free = list[Ruled](), list[tuple[str, int, int]]()
        for name, rule, place in zip(names, assign(names, self.rules), places, strict=True):
            if rule is None:
                free.append((clean_name(name), *place))
            else:
                found.append(Ruled(clean_name(name), rule, *place))
        for r in found:
            self._check_parameter(r)
        units = units_of(found, self.rules, self._parameter)
        self._check_units(units)
        steps = self.param_groups[0].get(NUMBERS, {"step": 0})["step"]
        for g, group in enumerate(self.param_groups):
            own = {str(r.rule): self.rules[r.rule] for r in found if r.group == g}
            fresh = {
                "step": steps,
                "frozen": 0,
                "rules": {key: rule.numbers() for key, rule in own.items()},
                "made": {key: rule_text(rule) for key, rule in own.items()},
                "mode": {name: getattr(self, name) for name in self._mode},
            }
            group.setdefault(NUMBERS, fresh)
        self._ruled[:], self._units[:], self._free[:] = found, units, free

    def _check_parameter(self, r: Ruled) -> None:
        """Raise RuleError if the parameter cannot be under its rule."""
        dtype, rule = self._parameter(r).dtype, self.rules[r.rule]
        if any(hasattr(self._parameter(r), mark) for mark in _FLATTENED):
            raise RuleError(
                f"{r.name} is a flattened shard of FullyShardedDataParallel, whose groups and "
                "positions are lost; shard with torch.distributed.fsdp.fully_shard instead."
            )
        if not dtype.is_floating_point:
            raise RuleError(
                f"Rule({rule.pattern!r}) matches {r.name} of type {dtype}, but "
                "only real weights can be penalised; narrow the pattern."
            )
        if isinstance(rule.groups, Tied) and not self._ties:
            raise RuleError(
                f"Rule({rule.pattern!r}): {type(self).__name__} knows no tied groups; use "
                "rvsm.RVSM, or a rule for each parameter."
            )

    def _check_units(self, units: Sequence[Unit]) -> None:
        """Raise RuleError if the rules ask of their parameters what cannot be done."""

    def _check_gradients(self) -> None:
        """Raise if a ruled parameter's gradient is sparse or, on the CPU, not finite."""
        for r in self._ruled:
            self._check_layout(r)
            if not self._summed(r):
                self._check_finite(r)

    def _summed(self, r: Ruled) -> bool:
        """Whether a gradient is found finite later, where it is read anyway."""
        return False

    def _check_layout(self, r: Ruled) -> None:
        """Raise RuleError if the parameter's gradient is a sparse tensor."""
        grad = self._parameter(r).grad
        if grad is not None and grad.is_sparse:
            raise RuleError(
                f"{r.name} has a sparse gradient, which takes no coupling; build its layer "
                "with sparse=False or leave it out of the rules."
            )

    def _check_finite(self, r: Ruled, total: float | None = None) -> None:
        """Raise RunError if the parameter's gradient is not finite; on the CPU only.

        `total` is the gradient's sum where it is known.
        """
        self._check_gradient(r.name, self._parameter(r).grad, total)

    def _check_others(self) -> None:
        """Raise RunError if a gradient that no rule is for is not finite; on the CPU only."""
        for name, group, index in self._free:
            grad = self.param_groups[group]["params"][index].grad
            if grad is not None:
                values = grad.coalesce().values() if grad.is_sparse else grad
                if values.is_complex():
                    values = torch.view_as_real(values.resolve_conj())
                self._check_gradient(name, values)

    def _check_gradient(self, name: str, grad: Tensor | None, total: float | None = None) -> None:
        # Elsewhere the host would have to wait.
        if grad is None or grad.device.type != "cpu":
            return
        if total is None and passes.covers(grad):
            bad = not passes.finite(grad)
        else:
            # A sum may overflow: where it is not finite, that is only a reason to look.
            total = float(whole(grad.sum())) if total is None else total
            bad = not math.isfinite(total) and bool(whole((~torch.isfinite(grad)).sum()))
        if bad:
            raise RunError(
                f"The gradient of {name} is not finite at step {self.steps}; lower the "
                "learning rate, clip the gradients or look for NaN in the data."
            )


def _name_groups(base: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Write names into the base's groups as torch does when it is given them."""
    pairs = list(named_parameters) if isinstance(named_parameters, Iterable) else None
    if pairs is None or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise RuleError(
            "named_parameters must be pairs of name and tensor, as model.named_parameters() gives."
        )
    names = {id(p): name for name, p in pairs}
    found = [[names.get(id(p)) for p in group["params"]] for group in base.param_groups]
    missing = sum(name is None for group in found for name in group)
    if missing:
        raise RuleError(
            f"named_parameters lacks {missing} of the base optimizer's parameters; pass those of "
            "the whole model."
        )
    for group, named in zip(base.param_groups, found, strict=True):
        group["param_names"] = named
