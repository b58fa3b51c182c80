"""Penalties on groups: brute force on small groups, and the strength that zeroes everything."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rvsm import RVSM, Rule
from rvsm.errors import RuleError
from rvsm.groups import (
    NM,
    Blocks,
    Elements,
    Filters,
    Grouped,
    Heads,
    InputChannels,
    Rows,
    SparseGroup,
    Tied,
    critical_mu,
)
from rvsm.optim.level import Level
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
    Penalty,
    TransformedL1,
)

CHANNELS = InputChannels()
ELEMENTS = [
    L0(), L1(), TransformedL1(a=0.3), LHalf(), MCP(gamma=0.3), MCP(gamma=3.0), SCAD(knee=0.2),
    LogSum(eps=0.2), CappedL1(theta=0.4), Elastic(L0(), ridge=0.5),
]  # fmt: skip


def least_cost(penalty: Penalty, x: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """Minimise mu P(u) + |u - x|^2 / 2 over one group x >= 0: grids, each finer than the last."""
    kept = torch.cartesian_prod(*[torch.arange(2.0, dtype=x.dtype)] * len(x))
    starts, span = torch.zeros(1, len(x), dtype=x.dtype), x.clone()
    for n in [21] + 12 * [7]:
        axis = torch.linspace(0, 1, n, dtype=x.dtype)
        grid = torch.cartesian_prod(*[axis * side for side in span])
        u = (starts[:, None] + grid).clamp(max=x).flatten(0, 1)
        # Zeros are isolated minima: every point competes with its projections on the axes.
        u = (u[:, None] * kept).flatten(0, 1)
        values = torch.vmap(lambda u_g: penalty.value(u_g[:, None]))(u)
        cost = mu * values + (u - x).square().sum(1) / 2
        span = span * (2.4 / (n - 1))
        starts = (u[cost.topk(8, largest=False).indices] - span / 2).clamp(min=0)
    return u[cost.argmin()], cost.min()


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_sparse_group_map_against_brute_force(element: Penalty, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for mu, ratio in [(0.1, 0.5), (0.4, 1.0), (0.3, 0.1), (0.05, 8.0)]:
        penalty = SparseGroup(element, CHANNELS, ratio)
        x = 2 * torch.rand(size, 4, dtype=torch.float64, generator=generator)
        u = penalty.prox(x, mu)
        for g in range(x.shape[1]):
            _, expected = least_cost(penalty, x[:, g], mu)
            own = mu * penalty.value(u[:, g : g + 1]) + (u[:, g] - x[:, g]).square().sum() / 2
            assert own <= expected + 1e-9
        signs = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)[:size, None]
        torch.testing.assert_close(penalty.prox(x * signs, mu), u * signs)


@pytest.mark.parametrize("size", [9, 40])
def test_sparse_group_of_l0_against_every_support(size: int) -> None:
    """Which weights survive is settled by magnitude, so the best of `size` supports is exact."""
    torch.manual_seed(size)
    for mu, ratio in [(0.02, 3.0), (0.1, 1.0), (0.5, 0.3)]:
        x = torch.randn(size, 30, dtype=torch.float64) * torch.rand(1, 30, dtype=torch.float64) * 2
        norms = x.abs().sort(0, descending=True).values.square().cumsum(0).sqrt()
        left = (norms - mu * ratio).clamp(min=0)
        count = torch.arange(1, size + 1)[:, None] * (left > 0)
        costs = mu * count + mu * ratio * left + left * left / 2 - left * norms
        expected = costs.min(0).values.clamp(max=0)
        penalty = SparseGroup(L0(), CHANNELS, ratio)
        u = penalty.prox(x, mu)
        own = mu * (u != 0).sum(0) + mu * ratio * u.norm(dim=0) + (u * (u / 2 - x)).sum(0)
        assert (own <= expected + 1e-10).all()


def test_sparse_group_of_l1_is_the_group_map_of_the_soft_threshold() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 30, dtype=torch.float64)
    closed = SparseGroup(L1(), CHANNELS, 0.7).prox(x, 0.6)
    # The general search, which an elastic net of hardly any ridge takes.
    searched = SparseGroup(Elastic(L1(), ridge=1e-12), CHANNELS, 0.7).prox(x, 0.6)
    assert ((closed != 0).any(0) & (closed == 0).any(0)).any()
    assert (closed == 0).all(0).any()
    torch.testing.assert_close(searched, closed, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_sparse_group_is_a_penalty(element: Penalty) -> None:
    penalty = SparseGroup(element, CHANNELS, 0.5)
    assert isinstance(penalty, Penalty)
    assert penalty.threshold(0.3) == element.threshold(0.3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.tensor([[0.0, 1.0, -3.0], [0.0, 0.2, 2.0]], dtype=dtype)
        assert torch.equal(penalty.prox(x, 0.0), x)
        for mu in (0.3, torch.tensor(0.3)):
            u = penalty.prox(x, mu)
            assert u.dtype == dtype
            assert (u[:, 0] == 0).all()
            assert (u.abs() <= x.abs()).all()
        assert (penalty.prox(x, 1e30) == 0).all()
    with pytest.raises(RuleError, match="lam instead of sparsity"):
        penalty.mu_for_threshold(0.1)


@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1(), MCP(gamma=0.2), LHalf()], ids=str)
def test_grouped_is_the_penalty_of_the_norms(penalty: Penalty) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, dtype=torch.float64)
    x[:, 0] = 0
    grouped = Grouped(penalty, CHANNELS)
    assert isinstance(grouped, Penalty)
    assert grouped.value(x) == penalty.value(x.norm(dim=0))
    u = grouped.prox(x, 1.2)
    assert (u[:, 0] == 0).all()
    torch.testing.assert_close(u.norm(dim=0), penalty.prox(x.norm(dim=0), 1.2))
    for g in range(1, 6):
        directions = torch.randn(200, 3, dtype=torch.float64) * x.norm(dim=0).max()
        others = torch.cat([directions, x[:, g] * torch.linspace(0, 1, 501)[:, None]])
        costs = [1.2 * penalty.value(o.norm()) + (o - x[:, g]).square().sum() / 2 for o in others]
        own = 1.2 * penalty.value(u[:, g].norm()) + (u[:, g] - x[:, g]).square().sum() / 2
        assert own <= min(costs) + 1e-9
    assert grouped.threshold(0.3) == penalty.threshold(0.3)
    assert grouped.mu_for_threshold(0.3) == penalty.mu_for_threshold(0.3)


def test_the_sparse_group_recipe_has_no_nan_from_a_zero_group() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    with torch.no_grad():
        model.weight[:, 0] = 0
    recipe = Rule("weight", TransformedL1(), lam=1e-3, subgradient=(Grouped(L1(), CHANNELS), 0.1))
    optimizer = RVSM(torch.optim.SGD(model.named_parameters(), lr=0.1), [recipe])
    model(torch.zeros(4, 6)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert (model.weight[:, 0] == 0).all()
    pull = 0.1 * 0.1 * before[:, 1:] / before[:, 1:].norm(dim=0)
    coupling = 0.01 * (before - TransformedL1().prox(before, 1e-2))[:, 1:]
    torch.testing.assert_close(model.weight[:, 1:], before[:, 1:] - pull - coupling)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("penalty", [p for p in ELEMENTS if p != L1()], ids=str)
@pytest.mark.parametrize("groups", [Elements(), CHANNELS], ids=str)
def test_critical_mu_is_the_first_that_zeroes_everything(penalty, groups, dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 7, dtype=dtype)
    mu = critical_mu(penalty, x, groups)
    assert (groups.prox(penalty, x, mu) == 0).all()
    assert (groups.prox(penalty, x, 1.3 * mu) == 0).all()
    assert (groups.prox(penalty, x, mu * (1 - 1e-5)) != 0).any()
    assert critical_mu(penalty, torch.zeros(3, 2), groups) == 0


def test_critical_mu_of_penalties_on_whole_tensors() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 7, dtype=torch.float64)
    largest = float(x.abs().max())
    assert critical_mu(L1MinusL2(alpha=0.5), x) == pytest.approx(2 * largest)
    assert critical_mu(L1MinusL2(), x) == math.inf
    group_lasso = critical_mu(Grouped(L1(), CHANNELS), x)
    assert group_lasso == pytest.approx(critical_mu(L1(), x, CHANNELS)) == x.norm(dim=0).max()
    joint = SparseGroup(L0(), CHANNELS, 0.5)
    mu = critical_mu(joint, x)
    assert (joint.prox(x, mu) == 0).all()
    assert (joint.prox(x, mu * (1 - 1e-6)) != 0).any()
    assert critical_mu(L0(), torch.zeros(0)) == 0


def test_a_penalty_on_a_whole_tensor_is_never_cut() -> None:
    torch.manual_seed(0)
    w = torch.randn(70_000, 2)
    for penalty in (L1MinusL2(), Grouped(MCP(gamma=30.0), InputChannels())):
        expected = penalty.prox(w, 0.5)
        u = torch.empty_like(w)
        Level(penalty, Elements(), 0.5).show(u, w)
        assert torch.equal(u, expected)


WHOLE_CUTS = [Grouped(L0(), NM(2, 5)), SparseGroup(L1(), Blocks(1, 5), 0.1),
              Elastic(Grouped(L1(), Heads(2)), ridge=1.0), SparseGroup(L0(), Rows())]  # fmt: skip


@pytest.mark.parametrize("penalty", WHOLE_CUTS, ids=str)
def test_groups_within_a_penalty_that_cannot_cut_are_refused_at_once(penalty) -> None:
    model = torch.nn.Conv2d(7, 3, 1)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(RuleError, match=r"^weight: .*(cut|divide)"):
        RVSM(base, [Rule("weight", penalty, lam=0.1)])
    with pytest.raises(RuleError, match=r"^weight: .*(cut|divide)"):
        RVSM(base, [Rule("weight", None, subgradient=(penalty, 0.1))])
    assert "rvsm" not in base.param_groups[0]


def test_a_target_of_single_weights_under_a_penalty_on_groups_is_refused() -> None:
    remedy = r"give L0\(\) as penalty and groups=Filters\(\), or lam"
    for penalty in (Grouped(L0(), Filters()), Elastic(Grouped(L0(), Filters()), ridge=1.0)):
        with pytest.raises(RuleError, match=remedy):
            Rule("weight", penalty, sparsity=0.5)
        Rule("weight", penalty, lam=0.5)
        Rule("weight", L0(), sparsity=0.5, subgradient=(Grouped(L1(), Filters()), 0.1))


def test_grouped_is_the_rule_with_groups() -> None:
    found = []
    for rule in (
        Rule("weight", Grouped(L0(), Filters()), lam=0.02),
        Rule("weight", L0(), groups=Filters(), lam=0.02),
    ):
        torch.manual_seed(0)
        model = torch.nn.Linear(12, 9)
        optimizer = RVSM(torch.optim.SGD(model.named_parameters(), lr=0.1), [rule])
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(4, 12) / 4).square().mean().backward()
            optimizer.step()
        optimizer.finalize()
        found.append(model.weight.detach())
    assert torch.equal(*found)
    assert 0 < (found[0] == 0).all(1).sum() < 9


def test_tied_and_free_weights_have_no_place_within_a_penalty() -> None:
    tied = Tied({"a": Filters(), "b": Filters()})
    for make in (Grouped, SparseGroup):
        with pytest.raises(RuleError, match=r"a scalar penalty and groups=Tied"):
            make(L0(), tied)
    with pytest.raises(RuleError, match="leaves weights free"):
        SparseGroup(L0(), NM(2, 4))
    for call in (NM(2, 4).prox, lambda *a: NM(2, 4).value(*a[:2])):
        with pytest.raises(RuleError, match="penalised by itself"):
            call(L1MinusL2(), torch.ones(2, 4), 0.1)


@pytest.mark.parametrize("make", [Grouped, SparseGroup])
def test_parts_that_are_none_are_refused(make) -> None:
    with pytest.raises(RuleError, match="must be a penalty such as"):
        make(L1, CHANNELS)
    with pytest.raises(RuleError, match="groups must be an object"):
        make(L1(), InputChannels)
    with pytest.raises(RuleError, match="separable"):
        SparseGroup(L1MinusL2(), CHANNELS)
    with pytest.raises(RuleError, match="ratio must be"):
        SparseGroup(L0(), CHANNELS, 0.0)
