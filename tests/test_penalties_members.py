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
    MCP,
    SCAD,
    CappedL1,
    Elastic,
    L1MinusL2,
    LHalf,
    LogSum,
    Lp,
    LTwoThirds,
    TransformedL1,
    log_sum,
    lp,
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


@pytest.mark.parametrize("a", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("share", [1e-12, 1e-6, 1e-3, 0.1, 0.139, 0.14, 0.3, 0.9])
def test_transformed_l1_far_from_critical_is_as_good_as_float32(a, share):
    """On both sides of where the root of q is no longer needed."""
    mu = share * a**2 / (2 * (a + 1))
    penalty = TransformedL1(a=a)
    x = penalty.threshold(mu) * torch.logspace(1e-6, 3, 10001)
    clear = x.double() > penalty.threshold(mu) * (1 + 1e-6)
    error = (penalty.prox(x, mu) - penalty.prox(x.double(), mu)).abs() / x
    assert error[clear].max() < (4e-6 if share > 0.5 else 1e-6)


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MCP(gamma=0.0), "MCP: gamma must be a finite number > 0"),
        (lambda: SCAD(a=2.0), "SCAD: a must be a finite number > 2"),
        (lambda: SCAD(knee=-1.0), "SCAD: knee must be"),
        (lambda: LogSum(eps=math.inf), "LogSum: eps must be"),
        (lambda: CappedL1(theta=math.nan), "CappedL1: theta must be"),
        (lambda: Lp(p=1.0), "Lp: p must be a number between 0 and 1"),
        (lambda: L1MinusL2(alpha=1.5), "alpha must be a number from 0 to 1"),
        (lambda: Elastic(L1(), ridge=0.0), "ridge must be"),
        (lambda: Elastic(L1, ridge=1.0), "must be a penalty such as"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(RuleError, match=message):
        make()


X = torch.linspace(-4, 4, 1000, dtype=torch.float64)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.7])
@pytest.mark.parametrize(
    "penalty",
    [
        MCP(1e9),
        SCAD(knee=1e9),
        LogSum(1e9),
        CappedL1(1e9),
        Lp(1 - 1e-9),
        L1MinusL2(0.0),
        Elastic(L1(), ridge=1e-9),
    ],
    ids=str,
)
def test_limits_that_are_l1(penalty, mu):
    assert torch.allclose(penalty.prox(X, mu), L1().prox(X, mu), atol=1e-6)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.7])
@pytest.mark.parametrize(
    ("penalty", "cap"),
    [
        (MCP(1e-6), 0.5e-6),
        (SCAD(a=3.0, knee=1e-6), 2e-6),
        (CappedL1(1e-6), 1e-6),
        (Lp(1e-7), 1.0),
        (Elastic(L0(), ridge=1e-9), 1.0),
    ],
    ids=str,
)
def test_limits_that_are_l0(penalty, cap, mu):
    clear = (X.abs() - L0().threshold(mu)).abs() > 1e-3
    u = penalty.prox(X, mu / cap)
    assert torch.allclose(u[clear], L0().prox(X, mu)[clear], atol=1e-5)


def test_log_sum_tends_to_l0_slowly():
    eps = 1e-100
    mu = 0.3 / (eps * math.log1p(1 / eps))
    assert LogSum(eps).threshold(mu) == pytest.approx(L0().threshold(0.3), rel=2e-2)


@pytest.mark.parametrize(("closed", "p"), [(LHalf(), 1 / 2), (LTwoThirds(), 2 / 3)], ids=str)
@pytest.mark.parametrize("mu", [1e-6, 0.05, 0.6, 3.0])
def test_closed_lp_is_lp(closed, p, mu):
    assert closed.threshold(mu) == Lp(p).threshold(mu)
    assert torch.allclose(closed.prox(X, mu), Lp(p).prox(X, mu), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_newton_steps_of_lp_suffice(p, monkeypatch):
    x = Lp(p).threshold(1.0) * (1 + torch.logspace(-12, 3, 500, dtype=torch.float64))
    u = Lp(p).prox(x, 1.0)
    monkeypatch.setattr(lp, "_STEPS", 60)
    assert ((u - Lp(p).prox(x, 1.0)).abs() <= 1e-14 * x).all()


@pytest.mark.parametrize("m", [1 + 1e-15, 1 + 1e-6, 1.1, 3.0, 1e3, 1e12, 1e30, 1e100])
def test_newton_steps_of_log_sum_suffice(m, monkeypatch):
    penalty = LogSum()
    t, back = penalty.threshold(m), penalty.mu_for_threshold(m)
    monkeypatch.setattr(log_sum, "_STEPS", 60)
    assert t == pytest.approx(penalty.threshold(m), rel=1e-14)
    assert back == pytest.approx(penalty.mu_for_threshold(m), rel=1e-14)


def test_scad_with_its_knee_at_mu_is_that_of_fan_and_li():
    mu, a = 0.5, 3.7
    u = SCAD(a=a, knee=mu).prox(X, mu)
    size = X.abs()
    middle = ((a - 1) * size - a * mu) / (a - 2)
    expected = torch.where(size <= 2 * mu, (size - mu).clamp(min=0), middle)
    expected = torch.where(size > a * mu, size, expected) * X.sign()
    assert torch.allclose(u, expected, atol=1e-14)


def l1_minus_l2_by_supports(x: Tensor, mu: float, alpha: float) -> Tensor:
    """The least cost over a fine grid of the positive octant that `x` lies in."""
    axes = [torch.linspace(0, 1, 81, dtype=x.dtype) * x_i for x_i in x]
    u = torch.cartesian_prod(*axes)
    value = u.abs().sum(1) - alpha * u.norm(dim=1)
    return (mu * value + (u - x).square().sum(1) / 2).min()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("mu", [0.05, 0.5, 1.5, 4.0])
def test_l1_minus_l2_minimises_over_a_grid(alpha, mu):
    penalty = L1MinusL2(alpha)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        x = 2 * torch.randn(3, dtype=torch.float64, generator=generator)
        u = penalty.prox(x, mu)
        cost = mu * penalty.value(u) + (u - x).square().sum() / 2
        assert cost <= l1_minus_l2_by_supports(x, mu, alpha) + 1e-12
        assert torch.allclose(penalty.prox(-x, mu), -u)
        assert (u.abs() <= x.abs()).all()
        assert torch.allclose(penalty.prox(x, torch.tensor(mu)), u, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_l1_minus_l2_at_its_edges(dtype):
    penalty, half = L1MinusL2(), L1MinusL2(alpha=0.5)
    x = torch.tensor([[0.5, -2.0], [2.0, 0.0]], dtype=dtype)
    assert torch.equal(penalty.prox(x, 0.0), x)
    # One survives any mu, the first of the largest; with alpha < 1 it dies in the end.
    only = torch.tensor([[0.0, -2.0], [0.0, 0.0]], dtype=dtype)
    for mu in (2.0, 1e30, torch.tensor(1e300, dtype=torch.float64)):
        assert torch.equal(penalty.prox(x, mu), only)
    assert torch.equal(half.prox(x, 3.0), only / 4)
    assert torch.equal(half.prox(x, 4.0), torch.zeros_like(x))
    for shape in ((), (0,), (2, 0)):
        zero = torch.zeros(shape, dtype=dtype)
        assert torch.equal(penalty.prox(zero, 0.3), zero)
        assert penalty.value(zero) == 0
    y = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalty.value(y), y)
    assert (gradient == 0).all()
