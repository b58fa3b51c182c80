"""Every penalty that acts on single weights against the same properties, and brute force."""

from __future__ import annotations

import doctest
import functools
import math
import runpy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rvsm.penalties
from penalty_table import OURS, PAGE, PENALTIES, WHOLE, elementwise
from rvsm.errors import RuleError
from rvsm.groups import SparseGroup
from rvsm.penalties import L0, L1MinusL2, Penalty

every_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
every_and_whole = pytest.mark.parametrize("penalty", [*PENALTIES, *WHOLE], ids=str)
each_of_ours = pytest.mark.parametrize("penalty", OURS, ids=str)
all_of_ours = pytest.mark.parametrize("penalty", [*OURS, *WHOLE], ids=str)
with_inverse = [p for p in [*PENALTIES, *WHOLE] if not isinstance(p, SparseGroup)]
MUS = [0.0, 1e-6, 0.01, 0.1, 0.25, 0.5, 1.0, 7.0]
CANDIDATES = torch.linspace(-4.5, 4.5, 9001, dtype=torch.float64)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

numbers = st.floats(-50, 50, allow_subnormal=False)
strengths = st.floats(0, 20, allow_subnormal=False)


@functools.cache
def penalty_of_candidates(penalty: Penalty) -> Tensor:
    return elementwise(penalty, CANDIDATES)


@every_and_whole
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


@every_and_whole
@given(x=st.lists(numbers, min_size=1, max_size=20), mu=strengths)
@settings(max_examples=30, deadline=None)
def test_prox_is_odd_monotone_and_shrinks(penalty, x, mu):
    x = torch.tensor([sorted(x)], dtype=torch.float64)
    u = penalty.prox(x, mu)
    assert torch.equal(penalty.prox(-x, mu), -u)
    assert (u.abs() <= x.abs()).all()
    assert (u * x >= 0).all()
    if isinstance(penalty, L1MinusL2):  # of equals the first alone may survive
        x, where = x.unique(return_inverse=True)
        u = u.new_zeros(x.shape).scatter_reduce(0, where[0], u[0], "amax", include_self=False)
    assert (u.diff() >= -1e-12).all()


@pytest.mark.parametrize("penalty", with_inverse, ids=str)
@given(t=st.floats(1e-6, 1e3))
@settings(max_examples=30, deadline=None)
def test_threshold_and_its_inverse(penalty, t):
    assert penalty.threshold(penalty.mu_for_threshold(t)) == pytest.approx(t, rel=1e-9)


@every_and_whole
@given(low=strengths, high=strengths)
@settings(max_examples=30, deadline=None)
def test_a_larger_mu_never_has_a_smaller_threshold(penalty, low, high):
    low, high = sorted((low, high))
    assert penalty.threshold(low) <= penalty.threshold(high)


@all_of_ours
@pytest.mark.parametrize("dtype", FLOATS)
def test_mu_zero_returns_x_and_a_huge_mu_returns_zero(penalty, dtype):
    x = torch.tensor([[0.0, 1e-4, -0.5], [3.0, 2.0, -1000.0]], dtype=dtype)
    assert torch.equal(penalty.prox(x, 0.0), x)
    expected = torch.zeros_like(x)
    if penalty == L1MinusL2():
        expected[1, 2] = x[1, 2]  # a single weight is free
    for mu in (1e30, 1e300, math.inf):
        assert torch.equal(penalty.prox(x, mu), expected)


@each_of_ours
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mu", [1e-4, 0.05, 0.6, 3.0])
def test_every_type_agrees_with_float64(penalty, dtype, mu):
    x = torch.linspace(-6, 6, 1001, dtype=dtype)
    u, wide = penalty.prox(x, mu).double(), x.double()
    exact = penalty.prox(wide, mu)
    # What a rounding of x is worth: much at a jump, and where the map rises vertically.
    rounding = 2 * torch.finfo(dtype).eps * (wide.abs() + penalty.threshold(mu))
    worth = (penalty.prox(wide + rounding, mu) - penalty.prox(wide - rounding, mu)).abs()
    tolerance = 2e-5 + 4 * torch.finfo(dtype).eps
    assert penalty.prox(x, mu).dtype == dtype
    assert ((u - exact).abs() <= worth + tolerance * (1 + wide.abs())).all()
    assert penalty.value(x).item() == pytest.approx(penalty.value(wide).item(), rel=1e-5)


@every_and_whole
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 1, 4)])
def test_shapes_are_kept(penalty, shape):
    if shape == () and penalty in WHOLE and not isinstance(penalty, L1MinusL2):
        pytest.skip("a single number has no filters")
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


@every_and_whole
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_mu_agrees_with_a_float(penalty, dtype):
    torch.manual_seed(0)
    x = 2 * torch.randn(100, 5, dtype=dtype)
    for mu in MUS:
        as_tensor = torch.tensor(mu, dtype=torch.float64)
        for function in (penalty.threshold, penalty.mu_for_threshold):
            if function == penalty.mu_for_threshold and penalty not in with_inverse:
                continue
            assert isinstance(function(mu), float)
            tensor = function(as_tensor)
            assert tensor.shape == ()
            assert tensor.item() == pytest.approx(function(mu), rel=1e-12)
        # A float may take a shorter way, as transformed l1 does far from its critical mu.
        atol = 4 * torch.finfo(dtype).eps * float(x.abs().max())
        assert torch.allclose(penalty.prox(x, mu), penalty.prox(x, as_tensor), rtol=1e-6, atol=atol)


class NothingRead(TorchDispatchMode):
    """Fails where the host reads a tensor's value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@all_of_ours
def test_a_tensor_mu_is_never_read_by_the_host(penalty):
    mu, x = torch.tensor(0.1), torch.randn(3, 2)
    with NothingRead():
        penalty.prox(x, mu)
        penalty.value(x)
        penalty.threshold(mu)
        if penalty in with_inverse:
            penalty.mu_for_threshold(mu)
    with pytest.raises(AssertionError), NothingRead():
        mu.item()


@all_of_ours
@pytest.mark.parametrize("mu", [-1e-9, -1.0, math.nan])
def test_a_negative_or_missing_strength_is_refused(penalty, mu):
    with pytest.raises(RuleError, match="must be a number >= 0"):
        penalty.prox(torch.ones(3), mu)
    with pytest.raises(RuleError, match="mu must be"):
        penalty.threshold(mu)
    with pytest.raises(RuleError, match="t must be" if penalty in with_inverse else "no inverse"):
        penalty.mu_for_threshold(mu)


@each_of_ours
def test_special_values_pass_through(penalty):
    u = penalty.prox(torch.tensor([math.inf, -math.inf, math.nan]), 0.1)
    assert u[0] == math.inf
    assert u[1] == -math.inf
    assert u[2].isnan()


@each_of_ours
def test_a_mu_for_every_element(penalty):
    """What SparseGroup asks of its element penalty."""
    torch.manual_seed(0)
    x, mu = 2 * torch.randn(40, dtype=torch.float64), torch.rand(40, dtype=torch.float64)
    one_by_one = torch.stack([penalty.prox(*pair) for pair in zip(x, mu, strict=True)])
    assert torch.allclose(penalty.prox(x, mu), one_by_one, rtol=1e-12)


SMOOTH = [p for p in [*OURS, *WHOLE] if L0() not in vars(p).values()]


@pytest.mark.parametrize("penalty", SMOOTH, ids=str)
def test_values_are_differentiable_with_derivative_zero_at_zero(penalty):
    x = torch.tensor([0.0, 0.7, -0.2345], dtype=torch.float64, requires_grad=True)
    if penalty == L0():
        assert not penalty.value(x).requires_grad
        return
    (gradient,) = torch.autograd.grad(penalty.value(x), x)
    assert gradient[0] == 0
    for i in (1, 2):
        only = torch.zeros(3, dtype=torch.float64).index_fill_(0, torch.tensor(i), 1e-6)
        difference = penalty.value(x + only) - penalty.value(x - only)
        assert gradient[i].item() == pytest.approx(difference.item() / 2e-6, rel=1e-6, abs=1e-9)


@all_of_ours
def test_the_value_of_many_half_precision_weights_does_not_overflow(penalty):
    x = torch.ones(100_000, dtype=torch.float16)
    assert penalty.value(x).item() == pytest.approx(penalty.value(x.double()).item(), rel=1e-3)


@each_of_ours
@given(data=st.data(), dtype=st.sampled_from(FLOATS))
@settings(max_examples=20, deadline=None)
def test_no_nan_from_any_finite_numbers(penalty, data, dtype):
    width = {torch.float64: 64, torch.float32: 32}.get(dtype, 16)
    largest = 3e38 if dtype == torch.bfloat16 else torch.finfo(dtype).max
    floats = st.floats(width=max(width, 16), allow_nan=False, allow_infinity=False)
    x = torch.tensor(data.draw(st.lists(floats, max_size=8)), dtype=torch.float64)
    x = x.clamp(-largest, largest).to(dtype)
    mu = data.draw(st.floats(0, None, allow_nan=False))
    for strength in (mu, torch.tensor(mu, dtype=torch.float64), torch.tensor(mu)):
        u = penalty.prox(x, strength)
        assert u.isfinite().all()
        assert (u.abs() <= x.abs()).all()
    for function in (penalty.threshold, penalty.mu_for_threshold):
        assert not math.isnan(function(mu))
        assert not function(torch.tensor(mu, dtype=torch.float64)).isnan()


def test_every_exported_penalty_is_in_the_table():
    tested = {type(p).__name__ for p in [*OURS, *WHOLE]}
    assert set(rvsm.penalties.__all__) - {"Penalty"} | {"Grouped", "SparseGroup"} == tested


def test_the_page_shows_every_penalty_and_its_script_draws_them(tmp_path):
    page = PAGE.read_text("utf-8")
    script = runpy.run_path(str(PAGE.parent / "pictures" / "penalties.py"))
    drawn = {type(p).__name__ for p in script["PENALTIES"]}
    script["main"](tmp_path)
    for name in set(rvsm.penalties.__all__) - {"Penalty"}:
        assert f"| `{name}(" in page
        assert name in drawn
        for picture in ("penalties.svg", "thresholds.svg"):
            assert f">{name}(" in (tmp_path / picture).read_text("utf-8")
            assert f"pictures/{picture}" in page


@pytest.mark.parametrize("name", [n for n in rvsm.penalties.__all__ if n != "Penalty"])
def test_the_example_in_the_docstring(name):
    module = sys.modules[getattr(rvsm.penalties, name).__module__]
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
