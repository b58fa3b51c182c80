"""What the tests of the optimizer share: penalties, modes, strengths and base optimizers."""

from __future__ import annotations

import pytest
import torch

from problems import EVERY
from rvsm.penalties import L0, L1, TransformedL1

PENALTIES = [L0(), L1(), TransformedL1(), TransformedL1(a=0.1)]
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
each_problem = pytest.mark.parametrize("problem", EVERY, ids=str)

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)

STRENGTHS = [{"lam": 1e-3}, {"sparsity": 0.6}]
each_strength = pytest.mark.parametrize("strength", STRENGTHS, ids=str)

BASES = {
    "sgd": lambda named: torch.optim.SGD(named, lr=0.05),
    "momentum": lambda named: torch.optim.SGD(
        named, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda named: torch.optim.Adam(named, lr=0.01),
    "adamw-foreach": lambda named: torch.optim.AdamW(named, lr=0.01, foreach=True),
    "adam-fused": lambda named: torch.optim.Adam(named, lr=0.01, fused=True),
    "rmsprop": lambda named: torch.optim.RMSprop(named, lr=0.01),
}
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)
