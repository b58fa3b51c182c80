"""The methods that are compared, each with the settings among which validation chooses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tasks import HEAL
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.frontier.methods import METHODS as FRONTIER
from benchmarks.frontier.methods import Frame
from benchmarks.frontier.options import Options

BETAS = (0.01, 0.1, 1.0)
ENDS = (0.25, 0.5, 0.7)
LAMS = tuple(10.0**-k * m for k in (5, 4, 3, 2, 1) for m in (1, 2, 5))
"""The grid of lam, each about twice the one before."""
OPTIONS = Options(end=0.5, heal=HEAL)


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


def built(name: str) -> Callable[[nn.Module, int, float, float], Any]:
    """Return how to build a method of the frontier."""

    def build(model: nn.Module, steps: int, target: float, setting: float) -> Any:
        return FRONTIER[name].build(Frame(model, steps, target, OPTIONS), setting)

    return build


METHODS = [
    Method("RVSM, l0", built("rvsm-l0-w"), "beta", BETAS),
    Method("RVSM, l0, gradient at u", built("rvsm-l0-u"), "beta", BETAS),
    Method("RVSM, l1", built("rvsm-l1-w"), "beta", BETAS),
    Method("RVSM, transformed l1", built("rvsm-tl1-w"), "beta", BETAS),
    Method("ADMM, l0", built("admm"), "rho", BETAS),
    Method("ProximalGradient, l1", built("prox-l1"), "lam"),
    Method("ProximalGradient, aggregated, l0", built("aprox"), "end of the schedule", ENDS),
    Method("LinearizedBregman, l1", built("bregman"), "lam", start_depends=True),
    Method("MagnitudePruning", built("magnitude"), "end of the schedule", ENDS),
    Method("HardConcrete", built("hard-concrete"), "lam"),
    Method(
        "torchao PAT, smallest weights", built("pat-target"), "share of warm-up", (0.0, 0.1, 0.3)
    ),
    Method("torchao PAT, lasso", built("pat-lasso"), "lam"),
]
