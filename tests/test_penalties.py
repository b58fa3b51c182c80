"""Every penalty against the same properties, brute force and independent formulas."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pyproximal
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rvsm.errors import RuleError
from rvsm.penalties import L0, L1, Penalty, TransformedL1


@dataclass(frozen=True)
class OfAUser:
    """A user's own penalty, l1 plus half the square: no base class, no registration."""

    def value(self, x: Tensor) -> Tensor:
        return (x.abs() + x.square() / 2).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        return (x - x.clamp(-mu, mu)) / (1 + mu)

    def threshold(self, mu):
        return mu

    def mu_for_threshold(self, t):
        return t


PENALTIES = [
    L0(),
    L1(),
    TransformedL1(a=1e-3),
    TransformedL1(a=0.3),
    TransformedL1(),
    TransformedL1(a=10.0),
    TransformedL1(a=1e4),
    OfAUser(),
]
OURS = PENALTIES[:-1]
every_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
each_of_ours = pytest.mark.parametrize("penalty", OURS, ids=str)
MUS = [0.0, 1e-6, 0.01, 0.1, 0.25, 0.5, 1.0, 7.0]
CANDIDATES = torch.linspace(-4.5, 4.5, 9001, dtype=torch.float64)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

numbers = st.floats(-50, 50, allow_subnormal=False)
strengths = st.floats(0, 20, allow_subnormal=False)


def elementwise(penalty: Penalty, x: Tensor) -> Tensor:
    return torch.stack([penalty.value(x_i) for x_i in x.flatten()]).view(x.shape)


@functools.cache
def penalty_of_candidates(penalty: Penalty) -> Tensor:
    return elementwise(penalty, CANDIDATES)


def transformed_l1_prox_by_arccos(x: Tensor, mu: float, a: float) -> Tensor:
    """The slow reference twin: the published formula in float64."""
    x = x.double()
    continuous, jumping = mu * (a + 1) / a, math.sqrt(2 * mu * (a + 1)) - a / 2
    t = continuous if mu <= a**2 / (2 * (a + 1)) else jumping
    argument = 1 - 27 * mu * a * (a + 1) / (2 * (a + x.abs()) ** 3)
    phi = torch.arccos(argument.clamp(-1, 1))
    u = (2 / 3) * (a + x.abs()) * torch.cos(phi / 3) - 2 * a / 3 + x.abs() / 3
    return torch.where(x.abs() <= t, 0, x.sign() * u)


@every_penalty
def test_is_a_penalty_and_hashable(penalty):
    assert isinstance(penalty, Penalty)
    assert penalty == type(penalty)(**penalty.__dict__)
    hash(penalty)


@every_penalty
@pytest.mark.parametrize("mu", MUS)
def test_prox_minimises_over_a_grid(penalty, mu):
    x = torch.linspace(-4, 4, 161, dtype=torch.float64)
    u = penalty.prox(x, mu)
    cost = mu * penalty_of_candidates(penalty) + (CANDIDATES - x[:, None]).square() / 2
    ours = mu * elementwise(penalty, u) + (u - x).square() / 2
    assert (ours <= cost.min(dim=1).values + 1e-12).all()


@every_penalty
@pytest.mark.parametrize("mu", MUS)
def test_prox_is_zero_exactly_up_to_the_threshold(penalty, mu):
    t = penalty.threshold(mu)
    x = torch.tensor([0.0, -0.0, t * (1 - 1e-9), t, -t], dtype=torch.float64)
    assert (penalty.prox(x, mu) == 0).all()
    above = torch.tensor([t * (1 + 1e-9), -t * (1 + 1e-9), t + 1], dtype=torch.float64)
    if mu > 0:
        assert (penalty.prox(above, mu) != 0).all()


@every_penalty
@given(x=st.lists(numbers, min_size=1, max_size=20), mu=strengths)
@settings(max_examples=60, deadline=None)
def test_prox_is_odd_monotone_and_shrinks(penalty, x, mu):
    x = torch.tensor(sorted(x), dtype=torch.float64)
    u = penalty.prox(x, mu)
    assert torch.equal(penalty.prox(-x, mu), -u)
    assert (u.abs() <= x.abs()).all()
    assert (u * x >= 0).all()
    assert (u.diff() >= -1e-12).all()


@every_penalty
@given(t=st.floats(1e-6, 1e3))
@settings(max_examples=60, deadline=None)
def test_threshold_and_its_inverse(penalty, t):
    assert penalty.threshold(penalty.mu_for_threshold(t)) == pytest.approx(t, rel=1e-9)


@every_penalty
@given(low=strengths, high=strengths)
@settings(max_examples=60, deadline=None)
def test_a_larger_mu_never_has_a_smaller_threshold(penalty, low, high):
    low, high = sorted((low, high))
    assert penalty.threshold(low) <= penalty.threshold(high)


@each_of_ours
@pytest.mark.parametrize("dtype", FLOATS)
def test_mu_zero_returns_x_and_a_huge_mu_returns_zero(penalty, dtype):
    x = torch.tensor([0.0, 1e-4, -0.5, 3.0, -1000.0], dtype=dtype)
    assert torch.equal(penalty.prox(x, 0.0), x)
    for mu in (1e30, 1e300, math.inf):
        assert torch.equal(penalty.prox(x, mu), torch.zeros_like(x))


@each_of_ours
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mu", [1e-4, 0.05, 0.6, 3.0])
def test_every_type_agrees_with_float64(penalty, dtype, mu):
    x = torch.linspace(-6, 6, 1001, dtype=dtype)
    u = penalty.prox(x, mu)
    exact = penalty.prox(x.double(), mu)
    t = penalty.threshold(mu)
    clear = (x.double().abs() - t).abs() > 2 * torch.finfo(dtype).eps * max(t, 1)
    # Near the one point where the map rises vertically a rounding of x is worth its root.
    tolerance = 4 * math.sqrt(torch.finfo(torch.float32).eps) * 0.02 + 4 * torch.finfo(dtype).eps
    assert u.dtype == dtype
    assert torch.allclose(u.double()[clear], exact[clear], rtol=tolerance, atol=tolerance)
    assert penalty.value(x).item() == pytest.approx(penalty.value(x.double()).item(), rel=1e-5)


@every_penalty
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 1, 4)])
def test_shapes_are_kept(penalty, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    before = x.clone()
    for mu in (0.1, torch.tensor(0.1)):
        u = penalty.prox(x, mu)
        assert u.shape == x.shape
        assert u.dtype == x.dtype
        assert u is not x
    assert torch.equal(x, before)
    assert penalty.value(x).shape == ()


@every_penalty
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_mu_agrees_with_a_float(penalty, dtype):
    torch.manual_seed(0)
    x = 2 * torch.randn(500, dtype=dtype)
    for mu in MUS:
        as_tensor = torch.tensor(mu, dtype=torch.float64)
        for function in (penalty.threshold, penalty.mu_for_threshold):
            assert isinstance(function(mu), float)
            tensor = function(as_tensor)
            assert tensor.shape == ()
            assert tensor.item() == pytest.approx(function(mu), rel=1e-12)
        assert torch.allclose(penalty.prox(x, mu), penalty.prox(x, as_tensor), rtol=1e-6)


class NothingRead(TorchDispatchMode):
    """Fails where the host reads a tensor's value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@each_of_ours
def test_a_tensor_mu_is_never_read_by_the_host(penalty):
    mu, x = torch.tensor(0.1), torch.randn(3)
    with NothingRead():
        penalty.prox(x, mu)
        penalty.value(x)
        penalty.threshold(mu)
        penalty.mu_for_threshold(mu)
    with pytest.raises(AssertionError), NothingRead():
        mu.item()


@each_of_ours
@pytest.mark.parametrize("mu", [-1e-9, -1.0, math.nan])
def test_a_negative_or_missing_strength_is_refused(penalty, mu):
    with pytest.raises(RuleError, match="must be a number >= 0"):
        penalty.prox(torch.ones(3), mu)
    with pytest.raises(RuleError, match="mu must be"):
        penalty.threshold(mu)
    with pytest.raises(RuleError, match="t must be"):
        penalty.mu_for_threshold(mu)


@each_of_ours
def test_special_values_pass_through(penalty):
    u = penalty.prox(torch.tensor([math.inf, -math.inf, math.nan]), 0.1)
    assert u[0] == math.inf
    assert u[1] == -math.inf
    assert u[2].isnan()


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


@pytest.mark.parametrize("a", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("mu", [0.01, 0.2, 1.0])
def test_transformed_l1_is_geman_of_pyproximal(a, mu):
    x = np.linspace(-5, 5, 1000)  # even, so that no point sits on a tie
    geman = pyproximal.Geman(sigma=a + 1, gamma=a)
    penalty = TransformedL1(a=a)
    assert penalty.value(torch.tensor(x)).item() == pytest.approx(geman(x))
    ours = penalty.prox(torch.tensor(x), mu).numpy()
    np.testing.assert_allclose(ours, geman.prox(x, mu), atol=1e-7)


def test_l1_is_that_of_pyproximal():
    # Its L0 is no cross-check: pyproximal 0.13 cuts at mu, where the map cuts at sqrt(2 mu).
    x = np.linspace(-5, 5, 1000)
    ours = L1().prox(torch.tensor(x), 0.3).numpy()
    np.testing.assert_allclose(ours, pyproximal.L1(sigma=1.0).prox(x, 0.3), atol=1e-12)


@pytest.mark.parametrize("penalty", [L1(), TransformedL1(), TransformedL1(a=0.1)], ids=str)
def test_values_are_differentiable_with_derivative_zero_at_zero(penalty):
    x = torch.tensor([0.0, 0.7, -0.2], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalty.value(x), x)
    assert gradient[0] == 0
    step = torch.tensor([0.0, 1e-6, 1e-6], dtype=torch.float64)
    difference = elementwise(penalty, x + step) - elementwise(penalty, x - step)
    assert torch.allclose(gradient[1:], difference[1:] / 2e-6, rtol=1e-6)


def test_the_value_of_many_half_precision_weights_does_not_overflow():
    x = torch.ones(100_000, dtype=torch.float16)
    for penalty in OURS:
        assert penalty.value(x).item() == pytest.approx(100_000, rel=1e-3)
