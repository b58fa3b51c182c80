"""Muon in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_optimizer import Muon

from rvsm import RVSM, Rule
from rvsm.experiments import muon
from rvsm.experiments.muon import WideMuon, zero_power_via_newton_schulz_5
from rvsm.penalties import L0


def stepped(kind: type[Muon]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(12, 4, 3, 3))
    bias = torch.nn.Parameter(torch.randn(12))
    start = weight.detach().clone()
    groups = [
        {"params": [weight], "lr": 0.5, "use_muon": True},
        {"params": [bias], "lr": 0.1, "use_muon": False},
    ]
    optimizer = kind(groups)
    weight.grad, bias.grad = torch.randn_like(weight), torch.randn_like(bias)
    optimizer.step()
    return (start - weight.detach()).flatten(1) / 0.5, bias.detach()


def test_the_step_is_that_of_muon_but_for_rounding() -> None:
    wide, wide_bias = stepped(WideMuon)
    plain, plain_bias = stepped(Muon)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, plain, rtol=0, atol=0.03)
    assert torch.equal(wide_bias, plain_bias)


def test_the_iteration_itself_has_the_precision_of_float32() -> None:
    step, _ = stepped(WideMuon)
    torch.manual_seed(0)
    torch.randn(12, 4, 3, 3), torch.randn(12)
    x = torch.randn(12, 4, 3, 3).flatten(1).double()
    x /= x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(step.double(), x, rtol=0, atol=1e-4)


def test_filters_of_zeros_cost_nothing_and_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = torch.randn(12, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    update[[0, 3, 4, 11]] = 0
    group = {"ns_steps": 5, "ns_coeffs": (3.4445, -4.7750, 2.0315)}
    seen: list[torch.Size] = []

    def watched(matrix: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(matrix.shape)
        return zero_power_via_newton_schulz_5(matrix, **options)

    monkeypatch.setattr(muon, "zero_power_via_newton_schulz_5", watched)
    (found,) = WideMuon._orthogonalize(group, [update])
    whole = watched(update.flatten(1), num_steps=5, weights=group["ns_coeffs"], dtype=torch.float32)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert seen == [(8, 36), (12, 36)]
    assert not found[[0, 3, 4, 11]].any()
    (nothing,) = WideMuon._orthogonalize(group, [torch.zeros(3, 2, 1, 1)])
    assert not nothing.any()


def test_its_coupling_can_be_decoupled() -> None:
    """Its rates are those of its groups: there is none for all of them."""
    weight = torch.nn.Parameter(torch.randn(12, 4, 3, 3))
    base = WideMuon([{"params": [("weight", weight)], "lr": 0.5, "use_muon": True}])
    optimizer = RVSM(base, [Rule("weight", L0(), lam=0.1, beta=0.2)], coupling="decoupled")
    weight.grad = torch.zeros_like(weight)
    start = weight.detach().clone()
    optimizer.step()
    pulled = 0.5 * 0.2 * (start - L0().prox(start, 0.1 / 0.2))
    torch.testing.assert_close(weight.detach(), start - pulled)
