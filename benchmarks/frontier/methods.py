"""The methods that are compared, each with the strengths that tuning tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.frontier import peers
from benchmarks.frontier.counting import matrices
from benchmarks.frontier.options import Options
from rvsm.optim import (
    ADMM,
    RVSM,
    Continuation,
    HardConcrete,
    LinearizedBregman,
    MagnitudePruning,
    ProximalGradient,
    Rule,
    sparse_start,
)
from rvsm.penalties import L0, L1, Penalty, TransformedL1

CANDIDATES = 4
"""Strengths that every method has to choose among."""
BETAS = (0.001, 0.01, 0.1, 1.0)
ENDS = (0.25, 0.4, 0.55, 0.7)
GROWTHS = 10
"""In so many steps beta grows."""


@dataclass(frozen=True)
class Frame:
    """What a method is told of the training it is for.

    Parameters
    ----------
    model : nn.Module
        Freshly initialised.
    steps : int
        Of the whole training.
    target : float
        Share of zeros asked for.
    options : Options
        How training goes otherwise.
    rates : float
        Sum of the learning rates until the support is fixed. Strengths that add up over the steps
        are given per unit of it, so that they mean the same in short and in long runs.
    seed : int
        For methods that draw.
    epochs : int
        Of the whole training.
    begun : int
        Steps that are over when the method begins.
    """

    model: nn.Module
    steps: int
    target: float
    options: Options
    rates: float = 1.0
    seed: int = 0
    epochs: int = 1
    begun: int = 0

    @property
    def heal(self) -> int:
        """The step at which the support is fixed."""
        return int(self.options.heal * self.steps)

    def base(self, groups: Any = None) -> torch.optim.Optimizer:
        """Return the base optimizer, of all parameters by default."""
        groups = self.model.named_parameters() if groups is None else groups
        lr, decay = self.options.lr, self.options.weight_decay
        if self.options.base == "adam":
            return torch.optim.Adam(groups, lr=lr, weight_decay=decay)
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=decay)

    def rules(self, penalty: Penalty, **strength: Any) -> list[Rule]:
        """Return a rule for every layer's weights."""
        return [Rule(name, penalty, **strength) for name, _ in matrices(self.model)]

    def exact(self, penalty: Penalty, *, end: float | None = None, **more: Any) -> list[Rule]:
        """Return rules that bring the network to its target."""
        schedule = self.options.rise(self.steps, end=end, begun=self.begun)
        return self.rules(penalty, sparsity=self.target, schedule=schedule, **more)


Build = Callable[[Frame, float], Any]
"""Makes the optimizer of a frame at a setting."""


@dataclass(frozen=True)
class Method:
    """A way to zeros.

    Parameters
    ----------
    name : str
        What tables call it.
    build : callable
        Makes its optimizer.
    setting : str
        What the setting is.
    kind : {"exact", "strength"}
        Whether it meets a share of zeros by itself, or has a strength that makes more or fewer.
    settings : sequence of float
        Those that tuning tries; for a strength where the search for them begins.
    party : {"ours", "relative", "peer", "dense"}
        Whose it is: RVSM, another algorithm in our frame, another project's code.
    needs : str
        The module it is skipped without.
    tensors_alone : bool
        Whether a forward pass is the same tensors in the same memory at every step; a GPU's
        kernels can be recorded then.
    """

    name: str
    build: Build
    setting: str
    kind: Literal["exact", "strength"]
    settings: Sequence[float] = field(default=())
    party: Literal["ours", "relative", "peer", "dense"] = "ours"
    needs: str = ""
    tensors_alone: bool = True

    def missing(self) -> str | None:
        """Return why the method cannot take part here, None where it can."""
        return peers.missing(self.needs) if self.needs else None


def _penalty(name: str, options: Options) -> Penalty:
    penalties: dict[str, Penalty] = {"l0": L0(), "l1": L1(), "tl1": TransformedL1(options.a)}
    return penalties[name]


def _beta(frame: Frame, beta: float) -> float | Continuation:
    limit = frame.options.beta_limit
    if limit is None or limit <= beta:
        return beta
    return Continuation(
        beta, (limit / beta) ** (1 / GROWTHS), max(frame.heal // GROWTHS, 1), limit
    )  # fmt: skip


def splitting(penalty: str, grad_at: Literal["w", "u"]) -> Build:
    """Return how to build RVSM at an exact target; the setting is beta."""

    def build(frame: Frame, setting: float) -> Any:
        rules = frame.exact(_penalty(penalty, frame.options), beta=_beta(frame, setting))
        return RVSM(
            frame.base(), rules, grad_at=grad_at, budget=frame.options.budget_of_targets()
        )  # fmt: skip

    return build


def penalised(penalty: str, grad_at: Literal["w", "u"]) -> Build:
    """Return how to build RVSM at a fixed lam; the setting is lam."""

    def build(frame: Frame, setting: float) -> Any:
        schedule = frame.options.rise(frame.steps, begun=frame.begun)
        beta = _beta(frame, frame.options.beta)
        rules = frame.rules(
            _penalty(penalty, frame.options), lam=setting, beta=beta, schedule=schedule
        )  # fmt: skip
        return RVSM(frame.base(), rules, grad_at=grad_at)

    return build


def admm(frame: Frame, setting: float) -> Any:
    """ADMM on l0; the setting is rho."""
    rules = frame.exact(L0(), beta=_beta(frame, setting))
    return ADMM(frame.base(), rules, every=10, budget=frame.options.budget_of_targets())


def proximal(frame: Frame, setting: float) -> Any:
    """Proximal gradient on l1; the setting is lam."""
    return ProximalGradient(frame.base(), frame.rules(L1(), lam=setting))


def aprox(frame: Frame, setting: float) -> Any:
    """Aggregated proximal steps on l0; the setting is where the schedule ends."""
    budget = frame.options.budget_of_targets()
    rules = frame.exact(L0(), end=setting)
    return ProximalGradient(frame.base(), rules, aggregate=True, budget=budget)


def bregman(frame: Frame, setting: float) -> Any:
    """LinBreg from half the weights that the target leaves; the setting is lam per rate."""
    rules = frame.rules(L1(), lam=setting * frame.rates)
    generator = torch.Generator().manual_seed(frame.seed)
    sparse_start(frame.model.named_parameters(), rules, (1 - frame.target) / 2, generator)
    return LinearizedBregman(frame.base(), rules)


def magnitude(frame: Frame, setting: float) -> Any:
    """Gradual magnitude pruning; the setting is where the schedule ends."""
    budget = frame.options.budget_of_targets()
    return MagnitudePruning(frame.base(), frame.exact(L0(), end=setting), budget=budget)


def gates(frame: Frame, setting: float) -> Any:
    """Hard concrete gates; the setting is lam."""
    rules = frame.rules(L0(), lam=setting)
    return HardConcrete(frame.base(), rules, gate_lr=0.05, seed=frame.seed)


def dense(frame: Frame, setting: float) -> Any:
    """The base alone."""
    return frame.base()


def pat_lasso(frame: Frame, setting: float) -> Any:
    """torchao's PAT with lasso; the setting is lam per rate: the threshold in the end."""
    return peers.pat(frame.model, frame.base, 0, frame.heal, reg_lambda=setting / frame.rates)


def pat_target(frame: Frame, setting: float) -> Any:
    """torchao's PAT with a global target; the setting is the share of steps to warm up for."""
    warm = int(setting * frame.steps)
    return peers.pat(frame.model, frame.base, warm, frame.heal, target=frame.target)


def torch_prune(frame: Frame, setting: float) -> Any:
    """torch.nn.utils.prune under a cubic schedule; the setting is where it ends."""
    schedule = frame.options.rise(frame.steps, end=setting, begun=frame.begun)
    return peers.TorchPrune(frame.model, frame.base(), frame.target, schedule)


def pdp(frame: Frame, setting: float) -> Any:
    """PQuantML's PDP; the setting is its temperature.

    Its masks begin after a fifth of the training and are at the target shortly before healing.
    """
    end = frame.options.heal - 0.1
    return peers.PDP(
        frame.model, frame.base, frame.target, frame.epochs, frame.steps, 0.2, end, setting
    )  # fmt: skip


_AT = {"w": "", "u": ", gradient at u"}
_NAMES = {"l0": "l0", "l1": "l1", "tl1": "transformed l1"}

METHODS: dict[str, Method] = {
    "dense": Method("dense", dense, "", "exact", (), "dense"),
    **{
        f"rvsm-{p}-{at}": Method(f"RVSM, {name}{_AT[at]}", splitting(p, at), "beta", "exact", BETAS)
        for p, name in _NAMES.items()
        for at in ("w", "u")
    },
    **{
        f"rvsm-{p}-{at}-lam": Method(
            f"RVSM, {name}{_AT[at]}, fixed lam", penalised(p, at), "lam", "strength", (start,)
        )
        for (p, name), start in zip(_NAMES.items(), (1e-4, 1e-3, 5e-4), strict=True)
        for at in ("w", "u")
    },
    "admm": Method("ADMM, l0", admm, "rho", "exact", BETAS, "relative"),
    "aprox": Method("AProx, l0", aprox, "end of the schedule", "exact", ENDS, "relative"),
    "bregman": Method(
        "LinearizedBregman, l1", bregman, "lam per rate", "strength", (1e-3,), "relative"
    ),
    "hard-concrete": Method("HardConcrete", gates, "lam", "strength", (1e-5,), "relative"),
    "magnitude": Method(
        "MagnitudePruning, cubic", magnitude, "end of the schedule", "exact", ENDS, "relative"
    ),
    "prox-l1": Method("ProximalGradient, l1", proximal, "lam", "strength", (1e-4,), "relative"),
    "pat-target": Method(
        "torchao PAT, smallest weights",
        pat_target,
        "share of warm-up",
        "exact",
        (0.0, 0.1, 0.2, 0.4),
        "peer",
        "torchao",
    ),
    "pat-lasso": Method(
        "torchao PAT, lasso", pat_lasso, "lam per rate", "strength", (0.05,), "peer", "torchao"
    ),
    "torch-prune": Method(
        "torch.nn.utils.prune, cubic",
        torch_prune,
        "end of the schedule",
        "exact",
        ENDS,
        "peer",
        tensors_alone=False,
    ),
    "pdp": Method(
        "PQuantML, PDP",
        pdp,
        "temperature",
        "exact",
        (1e-5, 1e-4, 1e-3, 1e-2),
        "peer",
        "pquant",
        tensors_alone=False,
    ),
}
"""Every method by the name that rows use."""
