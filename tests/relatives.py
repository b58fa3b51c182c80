"""What the tests of RVSM's relatives share: one of each kind, built on a small problem."""

from __future__ import annotations

import copy

import pytest

from problems import MLP
from rvsm.optim import (
    ADMM,
    Cubic,
    HardConcrete,
    LinearizedBregman,
    MagnitudePruning,
    ProximalGradient,
    Rule,
)
from rvsm.penalties import L0, L1, TransformedL1
from test_optim_state import BASES

EXACT = {"sparsity": 0.7}
METHODS = {
    "admm": (ADMM, TransformedL1(), {"lam": 0.01}, {"every": 3}),
    "admm-exact": (ADMM, L0(), EXACT, {"every": 1}),
    "proximal": (ProximalGradient, L1(), {"lam": 0.05}, {}),
    "proximal-exact": (ProximalGradient, TransformedL1(), EXACT, {"budget": "global"}),
    "aprox": (ProximalGradient, L1(), {"lam": 0.05}, {"aggregate": True}),
    "aprox-exact": (ProximalGradient, L1(), EXACT, {"aggregate": True}),
    "bregman": (LinearizedBregman, L1(), {"lam": 0.05}, {"delta": 1.5}),
    "magnitude": (MagnitudePruning, L0(), EXACT, {"every": 3, "initial": 0.1}),
    "magnitude-global": (MagnitudePruning, L0(), EXACT, {"every": 1, "budget": "global"}),
    "hard-concrete": (HardConcrete, L0(), {"lam": 0.01}, {"gate_lr": 0.1}),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
exact_methods = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m[2] == EXACT], ids=lambda m: m[0].__name__
)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def build(method, base=BASES["momentum"], problem=MLP, groups=None, **more):
    """Every phase in 24 steps: warm-up to 4, sparsify to 16, heal."""
    make, penalty, strength, options = method
    model, loss_of = problem.build()
    cut = {} if groups is None else {"groups": groups}
    rule = Rule("*.weight", penalty, schedule=Cubic(4, 12), beta=0.5, **strength, **cut)
    phases = {"warmup": 4, "heal_from": 16}
    return model, loss_of, make(base(model.named_parameters()), [rule], **phases, **options, **more)


def begun(method, base=BASES["momentum"], problem=MLP, groups=None, **strength):
    """In full strength from the first step, and without an end."""
    make, penalty, given, options = method
    model, loss_of = problem.build()
    cut = {} if groups is None else {"groups": groups}
    rule = Rule(problem.weights, penalty, beta=0.5, **(strength or given), **cut)
    return model, loss_of, make(base(model.named_parameters()), [rule], **options)


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())
