"""The passes in C against their twins in torch, to the bit, and what a step lends."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rvsm import native
from rvsm.errors import RunError
from rvsm.groups import Elements
from rvsm.optim import RVSM, Cubic, Rule, passes
from rvsm.optim.level import Level
from rvsm.penalties import L0, L1, TransformedL1

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")

NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, -3e38, math.inf, -math.inf, math.nan, 0.1, -0.1]
) | st.floats(width=32)
TENSORS = st.lists(NUMBERS, min_size=0, max_size=70).map(torch.tensor).map(Tensor.float)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits, but that one NaN is as good as another."""
    nan = a.isnan()
    bits, others = (torch.where(nan, 0, x.view(torch.int32)) for x in (a, b))
    return torch.equal(nan, b.isnan()) and torch.equal(bits, others)


@given(TENSORS, st.sampled_from([L0(), L1()]), st.floats(0, 3) | st.just(math.inf), st.booleans())
@settings(max_examples=150, deadline=None)
def test_maps_are_those_of_the_penalties(w, penalty, mu, inplace):
    map_ = passes.Threshold.of(penalty, mu)
    assert map_ is not None
    expected = torch.add(penalty.prox(w, mu), 0)
    w = w.clone()
    target = w if inplace else torch.full_like(w, 7.0)
    map_.show(target, w)
    assert same(target, expected)


@given(TENSORS, st.sampled_from([L0(), L1()]), st.floats(0, 3), st.floats(-2, 2), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_added_to_gradients_is_what_torch_adds(w, penalty, mu, factor, data):
    g = torch.tensor(data.draw(st.lists(NUMBERS, min_size=len(w), max_size=len(w)))).float()
    u = penalty.prox(w, mu)
    expected = g.add(w - u, alpha=factor)
    found = g.clone()
    assert passes.Threshold.of(penalty, mu).pull(found, w, factor) == bool(found.isfinite().all())
    assert same(found + 0, expected + 0)  # torch's soft threshold makes negative zeros
    found, expected = g.clone(), g.add(u - w, alpha=factor)
    assert passes.push(found, u, w, factor) == bool(found.isfinite().all())
    assert same(found + 0, expected + 0)


@given(TENSORS, st.floats(0, 3, width=32))
@settings(max_examples=100, deadline=None)
def test_counts_and_zeros(x, t):
    assert passes.finite(x) == bool(x.isfinite().all())
    assert passes.count_above(x, t) == int((x.abs() > t).sum())
    zero = passes.zeros_of(x)
    assert torch.equal(zero, x == 0)
    y = torch.randn(len(x))
    expected = y.masked_fill(zero, 0)
    passes.clear(y, zero)
    assert torch.equal(y, expected)


@pytest.mark.parametrize(
    "odd",
    [
        torch.randn(6, 4).t(),
        torch.randn(6).double(),
        torch.randn(6).bfloat16(),
        torch.randn(12)[::2],
    ],
    ids=["transposed", "float64", "bfloat16", "strided"],
)
def test_what_is_laid_out_otherwise_goes_to_torch(odd):
    assert not passes.covers(odd)
    zero = passes.zeros_of(odd.relu())
    passes.clear(odd, zero)
    assert torch.equal(odd == 0, zero)


def test_a_penalty_of_the_users_own_goes_to_torch():
    class Shifted(L0):
        def prox(self, x, mu):
            return super().prox(x, mu) + 1

    assert passes.Threshold.of(Shifted(), 0.1) is None
    assert passes.Threshold.of(TransformedL1(), 0.1) is None
    assert passes.Threshold.of(L0(), torch.tensor(0.1)) is None
    target = torch.zeros(3)
    Level(Shifted(), Elements(), 0.5).show(target, torch.tensor([0.0, 2.0, 3.0]))
    assert target.tolist() == [1.0, 3.0, 4.0]


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))


def train(model: nn.Module, optimizer: RVSM, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 20, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :5]).square().mean().backward()
        optimizer.step()


def optimizer_of(model: nn.Module, grad_at: str, penalty: object = L0(), **more: object) -> RVSM:
    base = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    strength = more or {"sparsity": 0.8, "schedule": Cubic(0, 20)}
    rule = Rule("*.weight", penalty, beta=0.3, **strength)
    return RVSM(base, [rule], grad_at=grad_at, budget="global", heal_from=40)


@pytest.mark.parametrize("grad_at", ["w", "u"])
@pytest.mark.parametrize("penalty", [L0(), L1()], ids=str)
@pytest.mark.parametrize("strength", [{}, {"lam": 1e-3}], ids=["target", "lam"])
def test_training_takes_the_same_steps_without_c(grad_at, penalty, strength, monkeypatch):
    with_c, without = model_of(), model_of()
    first = optimizer_of(with_c, grad_at, penalty, **strength)
    train(with_c, first, 50)
    monkeypatch.setattr(passes, "covers", lambda *_: False)
    second = optimizer_of(without, grad_at, penalty, **strength)
    train(without, second, 50)
    assert first.frozen
    for p, q in zip(with_c.parameters(), without.parameters(), strict=True):
        assert torch.equal(p, q)
    assert (with_c[0].weight == 0).any()


def test_the_parameters_keep_their_memory():
    """Also where they are pieces of one block, as optimizers and processes share it."""
    model = model_of()
    block = torch.zeros(20 * 30 + 30 * 5)
    with torch.no_grad():
        for p, piece in zip(
            [model[0].weight, model[2].weight], block.split([600, 150]), strict=True
        ):
            piece.copy_(p.flatten())
            p.data = piece.view_as(p)
    optimizer = optimizer_of(model, "u")
    train(model, optimizer, 10)
    assert torch.equal(block[:600].view(30, 20), model[0].weight)
    assert torch.equal(block[600:].view(5, 30), model[2].weight)
    w = optimizer.state[model[0].weight]["rvsm_w"]
    assert w.data_ptr() != model[0].weight.data_ptr()
    assert ((w == model[0].weight) | (model[0].weight == 0)).all()


class Failing(torch.optim.SGD):
    """Fails once in the middle of a step, or gives the parameters new memory."""

    fails, renews = False, False

    def step(self, closure=None):
        if self.fails:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1)
            raise RuntimeError("no step")
        found = super().step(closure)
        if self.renews:
            for p in self.param_groups[0]["params"]:
                p.data = p.data.clone()
        return found


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_after_a_gradient_that_is_not_finite_all_is_as_before(bad):
    model = model_of()
    optimizer = optimizer_of(model, "u")
    train(model, optimizer, 5)
    before = [p.clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    places = [p.data_ptr() for p in model.parameters()]
    optimizer.zero_grad()
    model(torch.ones(1, 20)).sum().backward()
    model[2].weight.grad[0, 0] = bad
    with pytest.raises(RunError, match=r"2.weight is not finite at step 5"):
        optimizer.step()
    assert places == [p.data_ptr() for p in model.parameters()]
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)
    for own, held in zip(optimizer.state_dict()["state"].values(), state.values(), strict=True):
        assert all(torch.equal(own[key], held[key]) for key in held)


def test_a_base_that_fails_leaves_the_sparse_weights_in_the_parameters():
    model = model_of()
    base = Failing(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("*.weight", L0(), sparsity=0.8)], grad_at="u", budget="global")
    train(model, optimizer, 3)
    before = [p.clone() for p in model.parameters()]
    base.fails = True
    with pytest.raises(RuntimeError, match="no step"):
        train(model, optimizer, 1)
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_a_base_may_give_the_parameters_other_memory():
    plain, renewing = model_of(), model_of()
    for model, renews in ((plain, False), (renewing, True)):
        base = Failing(model.named_parameters(), lr=0.1)
        base.renews = renews
        rules = [Rule("*.weight", L0(), sparsity=0.8)]
        train(model, RVSM(base, rules, grad_at="u", budget="global"), 5)
    for p, q in zip(plain.parameters(), renewing.parameters(), strict=True):
        assert torch.equal(p, q)


def test_torch_sees_that_a_tensor_has_changed():
    w = torch.randn(5)
    root = torch.randn(5, requires_grad=True)
    product = root * w
    passes.Threshold.of(L0(), 0.5).show(w, w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_without_a_compiler_torch_does_it_all():
    code = (
        "import torch, rvsm\n"
        "from rvsm.optim import passes\n"
        "from rvsm.penalties import L0\n"
        "assert not passes.covers(torch.ones(3))\n"
        "p = torch.nn.Parameter(torch.tensor([0.1, 2.0]))\n"
        "base = torch.optim.SGD([('p', p)], lr=0.1)\n"
        "o = rvsm.RVSM(base, [rvsm.Rule('p', L0(), sparsity=0.5)], grad_at='u')\n"
        "for _ in range(3):\n"
        "    p.grad = torch.ones(2); o.step()\n"
        "assert p.tolist()[0] == 0 and p.tolist()[1] > 1, p\n"
    )
    environment = {**os.environ, "CC": "/nowhere/cc"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
