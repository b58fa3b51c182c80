"""What is particular to one penalty: published values, limits, and the one on whole tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties import (
    L0,
    L1,
    TransformedL1,
)


def transformed_l1_prox_by_arccos(x: Tensor, mu: float, a: float) -> Tensor:
    """The slow reference twin: the published formula in float64."""
    x = x.double()
    continuous, jumping = mu * (a + 1) / a, math.sqrt(2 * mu * (a + 1)) - a / 2
    t = continuous if mu <= a**2 / (2 * (a + 1)) else jumping
    argument = 1 - 27 * mu * a * (a + 1) / (2 * (a + x.abs()) ** 3)
    phi = torch.arccos(argument.clamp(-1, 1))
    u = (2 / 3) * (a + x.abs()) * torch.cos(phi / 3) - 2 * a / 3 + x.abs() / 3
    return torch.where(x.abs() <= t, 0, x.sign() * u)


@pytest.mark.parametrize("a", [0.0, -1.0, math.nan, math.inf])
def test_transformed_l1_refuses_a_bad_shape(a):
    with pytest.raises(RuleError, match="a must be a finite number > 0"):
        TransformedL1(a=a)


def test_published_check_values_of_transformed_l1():
    penalty = TransformedL1(a=1.0)
    assert penalty.threshold(0.5) == pytest.approx(0.9142, abs=5e-5)
    just_above = torch.tensor(penalty.threshold(0.5) + 1e-12, dtype=torch.float64)
    assert penalty.prox(just_above, 0.5).item() == pytest.approx(0.4142, abs=5e-5)
    assert penalty.threshold(0.1) == pytest.approx(0.2)
    just_above = torch.tensor(0.2 + 1e-9, dtype=torch.float64)
    assert penalty.prox(just_above, 0.1).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("a", [1e-2, 0.1, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("mu", [1e-5, 1e-2, 0.3, 2.0])
def test_transformed_l1_agrees_with_its_reference(a, mu):
    penalty = TransformedL1(a=a)
    x = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    reference = transformed_l1_prox_by_arccos(x, mu, a)
    assert torch.allclose(penalty.prox(x, mu), reference, rtol=1e-9, atol=1e-9)
    single = x.float()
    clear = (single.abs() - penalty.threshold(mu)).abs() > 1e-6
    reference = transformed_l1_prox_by_arccos(single, mu, a)
    error = ((penalty.prox(single, mu) - reference).abs() / (1 + single.abs()))[clear]
    assert error.max() < 2e-5  # at the critical mu, where the map rises vertically
    assert error.median() < 2e-7


def test_the_polynomial_of_transformed_l1_is_as_good_as_float32():
    # mu far from critical: what is left is the polynomial's own error.
    penalty = TransformedL1(a=1.0)
    x = torch.linspace(2, 50, 10001)
    error = (penalty.prox(x, 0.5) - penalty.prox(x.double(), 0.5)).abs() / x
    assert error.max() < 2.5e-7


@pytest.mark.parametrize("mu", [0.01, 0.2, 1.0])
def test_transformed_l1_tends_to_l0_and_to_l1(mu):
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    clear = (x.abs() - L0().threshold(mu)).abs() > 1e-3
    to_l0 = TransformedL1(a=1e-9).prox(x, mu)
    assert torch.allclose(to_l0[clear], L0().prox(x, mu)[clear], atol=1e-6)
    assert torch.allclose(TransformedL1(a=1e8).prox(x, mu), L1().prox(x, mu), atol=1e-6)


@pytest.mark.parametrize("a", [1e-300, 1e-30, 1e-8, 1e30, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transformed_l1_has_no_nan_at_extreme_shapes(a, dtype):
    x = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e10], dtype=dtype)
    for mu in (0.0, 1e-30, 1.0, 1e30):
        u = TransformedL1(a=a).prox(x, mu)
        assert u.isfinite().all()
        assert (u <= x).all()
