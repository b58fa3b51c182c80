"""Gradual magnitude pruning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.optim import passes
from rvsm.optim.budget import Budget
from rvsm.optim.checks import check_share, check_steps
from rvsm.optim.relative import Relative
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import Ruled
from rvsm.optim.sparse import Writer

_MASK = "rvsm_mask"


class MagnitudePruning(Relative):
    r"""Gradual magnitude pruning: every `every` steps the smallest weights go, and stay away.

    At step t the share of zeros is ``s_i + (s_f - s_i) share(t)`` with the rule's schedule; with
    ``Cubic(t0, t1)``, the paper's ``s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3``. Between two
    updates the zeros neither see gradients nor move; survivors are never shrunk.

    Between steps the parameters hold the pruned weights, and the zeros of the last update are one
    stored bool tensor per ruled parameter, ``state[p]["rvsm_mask"]``. ``sparse_weights()`` and
    ``finalize()`` meet the share in force now, which may have risen since.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Does the descent.
    rules : sequence of Rule
        With ``L0()`` and ``sparsity=`` s_f; ``lam=`` raises and `beta` has no meaning.
    initial : float
        Share s_i in [0, s_f] at the first update.
    every : int
        Steps between two updates, >= 1: the first comes after step `warmup` or else `every`.
    warmup, heal_from, budget, model, named_parameters
        As in RVSM.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing or the base cannot be used.

    References
    ----------
    Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878 (2017).

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    >>> rule = Rule("weight", L0(), sparsity=0.8, schedule=Cubic(100, 1000))
    >>> optimizer = MagnitudePruning(base, [rule], every=50)
    """

    _own = (*Relative._own, "initial", "every")
    _takes = ("sparsity",)
    _only_l0 = True
    _masks = True

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        initial: float = 0.0,
        every: int = 10,
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        check_steps("every", every, 1)
        check_share("initial", initial, "[0, 1)", "the share of zeros")
        self.initial, self.every = initial, every
        super().__init__(
            base,
            rules,
            warmup=warmup,
            heal_from=heal_from,
            budget=budget,
            model=model,
            named_parameters=named_parameters,
        )

    def _check_parameter(self, r: Ruled) -> None:
        super()._check_parameter(r)
        rule = self.rules[r.rule]
        if rule.sparsity is not None and rule.sparsity < self.initial:
            raise RuleError(
                f"Rule({rule.pattern!r}): its sparsity {rule.sparsity} is below "
                f"initial={self.initial}, where pruning starts; raise it or lower initial."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict as RVSM does."""
        super().load_state_dict(state_dict)
        for r in self._ruled:  # torch casts all state to the parameter's type
            mask = self._kept(r, _MASK)
            if mask is not None:
                self.state[self._parameter(r)][_MASK] = mask.bool()

    def _target(self, r: Ruled) -> float:
        if self.steps < self.warmup:
            return 0.0
        final = self._numbers(r)["sparsity"]
        return self.initial + (final - self.initial) * self._share(r)

    def _dead(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.frozen:
            yield from super()._dead()
            return
        for r in self._ruled:
            mask = self._kept(r, _MASK)
            if mask is not None:
                yield self._parameter(r), mask

    def _conclude(self) -> None:
        if self.steps < self.warmup or (self.steps - self.warmup) % self.every:
            return
        levels = self._levels({r: self._parameter(r) for r in self._ruled})
        for r in self._ruled:
            p = self._parameter(r)
            zero = levels[r].zero if r in levels else None
            if zero is None:
                self.state.get(p, {}).pop(_MASK, None)
            elif p.grad is not None:
                mask = self.rules[r.rule].groups.spread(zero, p)
                self.state[p][_MASK] = torch.empty_like(p, dtype=torch.bool).copy_(mask)
                passes.clear(p, mask)
                self._forget(p, mask)

    def _sparse(self) -> dict[Ruled, Writer]:
        levels = self._levels({r: self._parameter(r) for r in self._ruled})
        return {r: partial(level.show, w=self._parameter(r)) for r, level in levels.items()}
