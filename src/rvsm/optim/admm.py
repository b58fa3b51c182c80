"""ADMM pruning: splitting with a multiplier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.optim.budget import Budget
from rvsm.optim.checks import check_steps
from rvsm.optim.relative import Relative
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import Ruled
from rvsm.optim.sparse import Writer

_Z, _Y = "rvsm_z", "rvsm_y"


class ADMM(Relative):
    r"""ADMM pruning around a base optimizer, in scaled form.

    Minimises ``f(w) + sum_rules lam P(z)`` subject to ``w = z``, with rho the `beta` of the rule::

        w <- a step of the base along grad f(w) + rho (w - z + y)
        z <- prox_{lam/rho P}(w + y),  y <- y + w - z       every `every` steps

    Under ``sparsity=`` z is the exact target's map of w + y, whose zeros are the smallest
    magnitudes; with ``L0()`` that is the projection. The first step is the base's alone; after it
    ``z = prox(w)`` and ``y = 0``. The result is z.

    Between steps the parameters hold w, which has no zeros; z and y are two stored tensors per
    ruled parameter, ``state[p]["rvsm_z"]`` and ``["rvsm_y"]``. After ``finalize()`` or `heal_from`
    the parameters hold z, whose zeros stay.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Does the descent.
    rules : sequence of Rule
        What is penalised; `beta` is rho.
    every : int
        Steps of the base between two updates of z and y, >= 1. A target that rises between two
        updates is met at the next.
    warmup, heal_from, budget, model, named_parameters
        As in RVSM.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing or the base cannot be used.

    References
    ----------
    Zhang et al., "A systematic DNN weight pruning framework using alternating direction method of
    multipliers", arXiv 1804.03294; Boyd et al., Found. Trends Mach. Learn. 3 (2011), section 3.1.1.

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    >>> optimizer = ADMM(base, [Rule("weight", L0(), sparsity=0.5, beta=0.1)], every=10)
    """

    _own = (*Relative._own, "every")

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        every: int = 10,
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        check_steps("every", every, 1)
        self.every = every
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
        for r in self._ruled:
            p, z, y = self._parameter(r), self._kept(r, _Z), self._kept(r, _Y)
            if p.grad is None or z is None or y is None:
                continue
            p.grad.add_((p - z).add_(y), alpha=self._sign(r) * self._beta(r))

    def _conclude(self) -> None:
        due = (self.steps - self.warmup) % self.every == 0
        moved = [r for r in self._ruled if self._parameter(r).grad is not None]
        if self.steps < self.warmup or not (due or any(self._kept(r, _Z) is None for r in moved)):
            return
        x = {}
        for r in self._ruled:
            p, y = self._parameter(r), self._kept(r, _Y)
            x[r] = p if y is None else p + y
        levels = self._levels(x)
        for r in moved:
            p, z, y = self._parameter(r), self._kept(r, _Z), self._kept(r, _Y)
            if z is not None and not due:
                continue
            if r not in levels:  # no strength: w is free, and nothing must pull it
                for key in (_Z, _Y):
                    self.state[p].pop(key, None)
                continue
            if z is None or y is None:
                self.state[p].update({_Z: p.clone(), _Y: torch.zeros_like(p)})
                levels[r].show(self.state[p][_Z], p)
            else:
                levels[r].show(z, x[r])
                y.add_(p).sub_(z)

    def _sparse(self) -> dict[Ruled, Writer]:
        held = {r: self._kept(r, _Z) for r in self._ruled}
        x = {r: self._parameter(r) if z is None else z for r, z in held.items()}
        levels = self._levels(x)
        writers: dict[Ruled, Writer] = {}
        for r, z in held.items():
            if z is not None:
                writers[r] = partial(_write, z)
            elif r in levels:
                writers[r] = partial(levels[r].show, w=x[r])
        return writers

    def _mu(self, r: Ruled, lam: float) -> float:
        return lam / self._beta(r)


def _write(result: Tensor, target: Tensor) -> None:
    target.copy_(result)
