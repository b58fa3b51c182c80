"""Proximal stochastic gradient, and its aggregate form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.optim.budget import Budget
from rvsm.optim.level import Level
from rvsm.optim.relative import Relative
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import NUMBERS, Ruled
from rvsm.optim.sparse import Writer
from rvsm.penalties import L0

_RATES = "rates"
"""Key beside the step count of the sum of the learning rates."""


class ProximalGradient(Relative):
    r"""Proximal gradient steps: thresholding after every step of a base optimizer.

    Minimises ``f(u) + sum_rules lam P(u)``, the objective itself with nothing split::

        u <- a step of the base along grad f(u);  u <- prox_{lr lam P}(u)

    With ``aggregate=True`` (AProx) the base steps on a latent w, and the map adds up::

        w <- a step of the base along grad f(u);  u <- prox_{(sum of lr) lam P}(w)

    so that nothing is shrunk twice, but the threshold grows with the number of steps. The step
    size is always the rate ``lr`` of the parameter's group; what an adaptive base divides by
    beside it is left out of account, so a `lam` for SGD is not one for Adam. Under
    ``sparsity=`` the rate plays no part: each step takes the map with exactly the target's zeros.

    Between steps the parameters hold u. Nothing is stored without `aggregate`; with it w is one
    stored tensor per ruled parameter, ``state[p]["rvsm_w"]``.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Does the descent; it must have a rate lr.
    rules : sequence of Rule
        What is penalised; their `beta` has no meaning here.
    aggregate : bool
        Step on a latent w and threshold it with the sum of the rates so far.
    warmup, heal_from, budget, model, named_parameters
        As in RVSM.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing or the base cannot be used.

    References
    ----------
    Parikh and Boyd, "Proximal algorithms", Found. Trends Optim. 1 (2014), section 4.2; Jin et al.,
    "PARQ: piecewise-affine regularized quantization", arXiv 2503.15748 (2025).

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05)
    >>> optimizer = ProximalGradient(base, [Rule("weight", L1(), lam=1e-3)])
    """

    _own = (*Relative._own, "aggregate")
    _mode = ("aggregate",)
    _masks = True

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        aggregate: bool = False,
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        if isinstance(base, Optimizer) and "lr" not in base.defaults:
            raise RuleError("ProximalGradient needs a base optimizer with a rate lr.")
        self.aggregate = aggregate
        super().__init__(
            base,
            rules,
            warmup=warmup,
            heal_from=heal_from,
            budget=budget,
            model=model,
            named_parameters=named_parameters,
        )

    def _prepare(self) -> None:
        self._unveil()

    def _conclude(self) -> None:
        if self.steps <= self.warmup:
            return
        for group in self.param_groups:
            group[NUMBERS][_RATES] = group[NUMBERS].get(_RATES, 0.0) + float(group["lr"])
        if self.aggregate:
            shown = self._veil()
        else:
            moved = {r: self._parameter(r) for r in self._ruled}
            shown = {r: p for r, p in moved.items() if p.grad is not None}
        levels = self._levels(self._latents())
        for r, w in shown.items():
            if r in levels:
                levels[r].show(self._parameter(r), w)

    def _latents(self) -> dict[Ruled, Tensor]:
        latents = {}
        for r in self._ruled:
            w = self._kept(r, self._hidden)
            latents[r] = self._parameter(r) if w is None else w
        return latents

    def _mu(self, r: Ruled, lam: float) -> float:
        return lam * self._rate(r)

    def _rate(self, r: Ruled) -> float:
        group = self.param_groups[r.group]
        return float(group[NUMBERS].get(_RATES, 0.0) if self.aggregate else group["lr"])

    def _sparse(self) -> dict[Ruled, Writer]:
        # The parameters hold u. What has not had a gradient yet only owes its exact zeros.
        return {
            r: partial(Level(L0(), level.groups, 0.0, level.zero).show, w=self._parameter(r))
            for r, level in self._levels(self._latents()).items()
            if level.zero is not None and self._kept(r, self._hidden) is None
        }
