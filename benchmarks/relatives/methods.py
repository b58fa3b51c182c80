"""The methods that are compared, each with the settings among which validation chooses."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tasks import HEAL, matrices
from torch import nn

import rvsm
from rvsm.optim import (
    ADMM,
    RVSM,
    Cubic,
    HardConcrete,
    LinearizedBregman,
    MagnitudePruning,
    ProximalGradient,
    sparse_start,
)
from rvsm.penalties import L0, L1, Penalty, TransformedL1

BETAS = (0.01, 0.1, 1.0)
ENDS = (0.25, 0.5, 0.7)
LAMS = tuple(10.0**-k * m for k in (5, 4, 3, 2, 1) for m in (1, 2, 5))
"""The grid of lam, each about twice the one before."""


def sgd(groups: Any) -> torch.optim.Optimizer:
    """Return the base optimizer of every method; training sets its rate."""
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


@dataclass(frozen=True)
class Method:
    """A way to zeros: `build(model, steps, target, setting)` makes its optimizer."""

    name: str
    build: Callable[[nn.Module, int, float, float], Any]
    setting: str
    """What the settings are."""
    settings: Sequence[float] = ()
    """Those that validation chooses among; empty where it is lam, which is looked for first."""
    start_depends: bool = False
    """Whether a run at the same lam differs by the target before its cut."""


def splitting(penalty: Penalty, **options: Any) -> Callable[[nn.Module, int, float, float], Any]:
    """Return how to build an RVSM, whose setting is beta."""

    def build(model: nn.Module, steps: int, target: float, beta: float) -> Any:
        rule = rvsm.Rule(
            "*.weight", penalty, sparsity=target, beta=beta, schedule=Cubic(0, steps // 2)
        )
        return RVSM(sgd(model.named_parameters()), [rule], budget="global", **options)

    return build


def admm(model: nn.Module, steps: int, target: float, rho: float) -> Any:
    """ADMM on l0."""
    rule = rvsm.Rule("*.weight", L0(), sparsity=target, beta=rho, schedule=Cubic(0, steps // 2))
    return ADMM(sgd(model.named_parameters()), [rule], every=10, budget="global")


def proximal(model: nn.Module, steps: int, target: float, lam: float) -> Any:
    """Proximal gradient on l1."""
    return ProximalGradient(sgd(model.named_parameters()), [rvsm.Rule("*.weight", L1(), lam=lam)])


def aprox(model: nn.Module, steps: int, target: float, end: float) -> Any:
    """Aggregated proximal steps on l0."""
    rule = rvsm.Rule("*.weight", L0(), sparsity=target, schedule=Cubic(0, int(end * steps)))
    return ProximalGradient(
        sgd(model.named_parameters()), [rule], aggregate=True, budget="global"
    )  # fmt: skip


def bregman(model: nn.Module, steps: int, target: float, lam: float) -> Any:
    """LinBreg from half the weights that the target leaves."""
    rules = [rvsm.Rule("*.weight", L1(), lam=lam)]
    generator = torch.Generator().manual_seed(0)
    sparse_start(model.named_parameters(), rules, (1 - target) / 2, generator)
    return LinearizedBregman(sgd(model.named_parameters()), rules)


def magnitude(model: nn.Module, steps: int, target: float, end: float) -> Any:
    """Gradual magnitude pruning."""
    rule = rvsm.Rule("*.weight", L0(), sparsity=target, schedule=Cubic(0, int(end * steps)))
    return MagnitudePruning(sgd(model.named_parameters()), [rule], budget="global")


def gates(model: nn.Module, steps: int, target: float, lam: float) -> Any:
    """Hard concrete gates."""
    rules = [rvsm.Rule("*.weight", L0(), lam=lam)]
    return HardConcrete(sgd(model.named_parameters()), rules, gate_lr=0.05)


def pat(**options: Any) -> Callable[[nn.Module, int, float, float], Any]:
    """Return how to build torchao's PruneOptimizer.

    The setting is its reg_lambda, or under a target the share of the steps to warm up for; its
    own ramp is cubic and ends where healing begins.
    """

    def build(model: nn.Module, steps: int, target: float, setting: float) -> Any:
        module = importlib.import_module("torchao.prototype.pat.optim")
        ruled = {"params": [p for _, p in matrices(model)], **options}
        if "min_sparsity_schedule" in options:
            ruled["min_sparsity"] = target
            start, lam = int(setting * steps), 0.0
        else:
            start, lam = 0, setting
        rest = {"params": [p for p in model.parameters() if p.dim() == 1]}
        return module.PruneOptimizer(
            sgd([ruled, rest]), start, int(HEAL * steps), reg_lambda=lam
        )  # fmt: skip

    return build


METHODS = [
    Method("RVSM, l0", splitting(L0()), "beta", BETAS),
    Method("RVSM, l0, gradient at u", splitting(L0(), grad_at="u"), "beta", BETAS),
    Method("RVSM, l1", splitting(L1()), "beta", BETAS),
    Method("RVSM, transformed l1", splitting(TransformedL1()), "beta", BETAS),
    Method("ADMM, l0", admm, "rho", BETAS),
    Method("ProximalGradient, l1", proximal, "lam"),
    Method("ProximalGradient, aggregated, l0", aprox, "end of the schedule", ENDS),
    Method("LinearizedBregman, l1", bregman, "lam", start_depends=True),
    Method("MagnitudePruning", magnitude, "end of the schedule", ENDS),
    Method("HardConcrete", gates, "lam"),
    Method(
        "torchao PAT, smallest weights",
        pat(
            prox_type="GlobalMinSparsityConstraint",
            group_type="ElemGrouper",
            min_sparsity_schedule=True,
        ),
        "share of warm-up",
        (0.0, 0.1, 0.3),
    ),
    Method("torchao PAT, lasso", pat(prox_type="ProxLasso", group_type="ElemGrouper"), "lam"),
]
