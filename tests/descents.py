"""A network, its training and its optimizer for the tests of steps in C."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rvsm.optim import RVSM, Rule, descent
from rvsm.penalties import L0


def model_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 30), nn.ReLU(), nn.Linear(30, 5)
    ).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = model[0].weight.dtype
    for _ in range(steps):
        x = torch.randn(8, 3, 6, 6, generator=generator).to(dtype)
        optimizer.zero_grad()
        (model(x) - x.flatten(1)[:, :5]).square().mean().backward()
        optimizer.step()


def rvsm_of(model: nn.Module, grad_at: str = "u", **options: object) -> RVSM:
    base = torch.optim.SGD(model.named_parameters(), **{"lr": 0.1, "momentum": 0.9, **options})
    return RVSM(base, [Rule("*.weight", L0(), sparsity=0.8, beta=0.3)], grad_at=grad_at)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that grows with every step that C is asked to take: whether it did."""
    counts = []
    step = descent.Plan.step

    def counted(plan: descent.Plan) -> bool:
        took = step(plan)
        counts.append(took)
        return took

    monkeypatch.setattr(descent.Plan, "step", counted)
    return counts
