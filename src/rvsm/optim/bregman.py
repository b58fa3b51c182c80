"""Linearised Bregman iterations: networks that start sparse and grow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.groups import Groups
from rvsm.optim.checks import check_number, check_share
from rvsm.optim.relative import Relative
from rvsm.optim.rule import Rule, assign
from rvsm.optim.ruled import Ruled
from rvsm.optim.sparse import Writer
from rvsm.penalties.base import Penalty


class LinearizedBregman(Relative):
    r"""Linearised Bregman iterations: LinBreg on a base SGD, AdaBreg on a base Adam.

    Minimises f along an inverse scale space of ``J(u) = lam P(u)``: the base steps on a
    subgradient v of ``J + |.|^2 / (2 delta)``, and the weights follow::

        v <- a step of the base along grad f(u);  u <- delta prox_{lam P}(v)

    A weight is born when its v has gathered `lam`, so start sparse (``sparse_start``) and stop
    early: what limits the number of weights is the path, not the limit, which for a constant
    `lam` is a minimiser of f itself. The theory asks for a convex P, such as l1 and group l1.

    Between steps the parameters hold u; v is one stored tensor per ruled parameter,
    ``state[p]["rvsm_v"]``. It starts as ``v = u / delta + lam P'(u / delta)``, which maps to u.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Steps on v. Its weight decay would act on v too: leave it 0.
    rules : sequence of Rule
        With ``lam=``, which a schedule may move; ``sparsity=`` raises and `beta` has no meaning.
    delta : float
        Elastic parameter > 0: how far a weight moves per unit of v.
    warmup, heal_from, model, named_parameters
        As in RVSM.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing, or a penalty has no derivative.

    References
    ----------
    Bungert, Roith, Tenbrinck, Burger, "A Bregman learning framework for sparse neural networks",
    J. Mach. Learn. Res. 23 (2022), arXiv 2105.04319, algorithms 1 and 3.

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> rules = [Rule("weight", L1(), lam=0.1)]
    >>> sparse_start(model.named_parameters(), rules, density=0.1)
    >>> base = torch.optim.Adam(model.named_parameters(), lr=0.01)
    >>> optimizer = LinearizedBregman(base, rules)
    """

    _own = (*Relative._own, "delta")
    _takes = ("lam",)
    _hidden = "rvsm_v"

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        delta: float = 1.0,
        warmup: int = 0,
        heal_from: int | None = None,
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        check_number("delta", delta, positive=True)
        self.delta = delta
        super().__init__(
            base,
            rules,
            warmup=warmup,
            heal_from=heal_from,
            model=model,
            named_parameters=named_parameters,
        )

    def _check_parameter(self, r: Ruled) -> None:
        super()._check_parameter(r)
        self._subgradient(r, torch.ones_like(self._parameter(r), requires_grad=False))

    def _prepare(self) -> None:
        if self.steps < self.warmup:
            return
        for r in self._ruled:
            p = self._parameter(r)
            if p.grad is not None and self._kept(r, self._hidden) is None:
                x = p / self.delta
                lam = self._numbers(r)["lam"] * self._share(r)
                p.copy_(x.add_(self._subgradient(r, x), alpha=lam))
        self._unveil()

    def _conclude(self) -> None:
        if self.steps <= self.warmup:
            return
        stored = self._veil()
        levels = self._levels(stored)
        for r, v in stored.items():
            p = self._parameter(r)
            if r in levels:
                levels[r].show(p, v)
            p.mul_(self.delta)

    def _sparse(self) -> dict[Ruled, Writer]:
        return {}

    def _subgradient(self, r: Ruled, x: Tensor) -> Tensor:
        rule = self.rules[r.rule]
        return _slope(rule.groups, cast(Penalty, rule.penalty), x)


def _slope(groups: Groups, penalty: Penalty, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = groups.value(penalty, x)
        if not value.requires_grad:
            raise RuleError(
                f"LinearizedBregman needs a penalty with a derivative, such as L1(), not {penalty}."
            )
        return torch.autograd.grad(value, x)[0]


@torch.no_grad()
def sparse_start(
    named_parameters: Iterable[tuple[str, Tensor]],
    rules: Sequence[Rule],
    density: float,
    generator: torch.Generator | None = None,
) -> None:
    """Keep a random share of the groups of every ruled parameter, in place, and zero the rest.

    Survivors grow by ``1 / sqrt(density)``, which keeps the variance of what a layer puts out.

    Parameters
    ----------
    named_parameters : iterable of (str, Tensor)
        Of the model, freshly initialised.
    rules : sequence of Rule
        Say which parameters, and what is a group.
    density : float
        Probability in (0, 1] that a group survives.
    generator : torch.Generator, optional
        Draws who survives; on the CPU.

    Raises
    ------
    RuleError
        If `density` is out of range or a rule matches nothing.

    References
    ----------
    Bungert et al., arXiv 2105.04319, section 4.1.
    """
    check_share("density", density, "(0, 1]", "the share that survives")
    named = list(named_parameters)
    for (_, p), rule in zip(named, assign([name for name, _ in named], rules), strict=True):
        if rule is None:
            continue
        groups = rules[rule].groups
        norms = groups.norms(p)
        drawn = torch.rand(norms.shape, generator=generator) >= density
        p.div_(math.sqrt(density)).masked_fill_(groups.spread(drawn.to(p.device), p), 0)
