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
from rvsm.errors import RuleError, RunError
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


def test_layouts_are_told_apart():
    last = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)
    assert passes.covers(last)
    assert passes.covers(last, last.clone())
    assert not passes.covers(last, last.contiguous())
    single = torch.randn(8, 1, 5, 5)  # of one channel: both layouts are one
    assert passes.covers(single, single.clone().to(memory_format=torch.channels_last))
    square = torch.randn(4, 4)
    assert not passes.are_one(square, square.t())
    zero = last > 0
    for mask in (zero, zero.contiguous()):
        x = last.clone()
        passes.clear(x, mask)
        assert torch.equal(x, last.masked_fill(zero, 0))


@pytest.mark.parametrize("grad_at", ["w", "u"])
def test_a_layout_changes_no_step(grad_at, monkeypatch):
    """The steps are those of weights that lie in rows; the gradients are handed in, not computed:
    a convolution rounds otherwise in another layout."""
    models = [nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(memory_format=torch.channels_last)
    optimizers = [optimizer_of(model, grad_at) for model in models]
    seen = []
    covers = passes.covers
    monkeypatch.setattr(passes, "covers", lambda *ts: seen.append(covers(*ts)) or seen[-1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        for a, b in zip(*(m.parameters() for m in models), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = torch.empty_like(b).copy_(a.grad)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)
    assert models[1][1].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(seen)


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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("other", ["plain", "transposed", "none"])
def test_after_a_gradient_that_is_not_finite_all_is_as_before(bad, other):
    """Also where another parameter's w is copied, not lent."""
    model = model_of()
    optimizer = optimizer_of(model, "u")
    train(model, optimizer, 5)
    before = [p.clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    places = [p.data_ptr() for p in model.parameters()]
    optimizer.zero_grad()
    model(torch.ones(1, 20)).sum().backward()
    if other == "transposed":
        model[0].weight.grad = model[0].weight.grad.t().contiguous().t()
    if other == "none":
        model[0].weight.grad = None
    model[2].weight.grad[0, 0] = bad
    with pytest.raises(RunError, match=r"2.weight is not finite at step 5"):
        optimizer.step()
    assert places == [p.data_ptr() for p in model.parameters()]
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)
    for own, held in zip(optimizer.state_dict()["state"].values(), state.values(), strict=True):
        assert all(torch.equal(own[key], held[key]) for key in held)


def test_a_layer_without_gradients_changes_nothing_for_the_others():
    """The coupling of those that show u is added once, whatever else is under the rules."""
    found = []
    for more in (False, True):
        model = model_of()
        named = [("0.weight", model[0].weight)] + ([("2.weight", model[2].weight)] if more else [])
        base = torch.optim.SGD(named, lr=0.1)
        optimizer = RVSM(base, [Rule("*.weight", L1(), lam=0.05, beta=0.1)], grad_at="u")
        for step in range(4):
            optimizer.zero_grad()
            model[0].weight.grad = torch.full_like(model[0].weight, 0.1 * step)
            optimizer.step()
        found.append(model[0].weight.grad.clone())
    assert torch.equal(*found)


def test_a_state_of_another_shape_is_refused_by_torch_not_written_past():
    model, other = model_of(), model_of()
    optimizer = optimizer_of(model, "u")
    train(model, optimizer, 3)
    state = optimizer.state_dict()
    fresh = optimizer_of(other, "u")
    for held in state["state"].values():
        if "rvsm_w" in held:
            held["rvsm_w"] = torch.zeros(2 * held["rvsm_w"].shape[0], held["rvsm_w"].shape[1])
    fresh.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size"):
        train(other, fresh, 1)


def test_masks_are_made_where_the_tensor_is():
    p = torch.tensor([0.0, 1.0])
    with torch.device("meta"):
        zero = passes.zeros_of(p)
    assert zero.tolist() == [True, False]


class Flat(torch.optim.Optimizer):
    """SGD on one buffer that the parameters were views of when it was built."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.parts = [p for group in self.param_groups for p in group["params"]]
        self.buffer = torch.cat([p.detach().flatten() for p in self.parts])
        for p, piece in zip(
            self.parts, self.buffer.split([p.numel() for p in self.parts]), strict=True
        ):
            p.data = piece.view_as(p)

    @torch.no_grad()
    def step(self, closure=None):
        gradients = torch.cat([p.grad.flatten() for p in self.parts])
        self.buffer.sub_(gradients, alpha=self.param_groups[0]["lr"])


def test_a_base_with_references_to_the_memory_steps_on_it():
    found = []
    for make in (torch.optim.SGD, Flat):
        model = model_of()
        base = make(model.named_parameters(), lr=0.1)
        rules = [Rule("*.weight", L0(), sparsity=0.8)]
        optimizer = RVSM(base, rules, grad_at="u", budget="global")
        train(model, optimizer, 5)
        found.append([p.clone() for p in model.parameters()])
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


class Twice(torch.optim.SGD):
    """Moves the weights, asks again and moves them back, as SAM does."""

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.05)
        closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(0.05)
        super().step()
        return loss


@pytest.mark.parametrize("grad_at", ["w", "u"])
def test_a_closure_called_twice_is_refused_where_w_is_stored(grad_at):
    model = model_of()
    base = Twice(model.named_parameters(), lr=0.0)
    optimizer = RVSM(base, [Rule("*.weight", L1(), lam=0.01)], grad_at=grad_at)
    before = model[0].weight.clone()
    x = torch.randn(4, 20)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    if grad_at == "u":
        with pytest.raises(RuleError, match=r"Twice calls its closure more than once.*grad_at"):
            optimizer.step(closure)
    else:
        optimizer.step(closure)
        torch.testing.assert_close(model[0].weight, before)


def test_a_base_that_fails_leaves_the_sparse_weights_in_the_parameters(monkeypatch):
    model = model_of()
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("*.weight", L0(), sparsity=0.8)], grad_at="u", budget="global")
    train(model, optimizer, 3)
    before = [p.clone() for p in model.parameters()]

    def fail():
        with torch.no_grad():
            model[0].weight.add_(1)
        raise RuntimeError("no step")

    monkeypatch.setattr(base, "step", fail)
    with pytest.raises(RuntimeError, match="no step"):
        train(model, optimizer, 1)
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_a_base_may_give_the_parameters_other_memory(monkeypatch):
    plain, renewing = model_of(), model_of()
    for model, renews in ((plain, False), (renewing, True)):
        base = torch.optim.SGD(model.named_parameters(), lr=0.1)
        step = base.step

        def renew(step=step, model=model):
            step()
            for p in model.parameters():
                p.data = p.data.clone()

        if renews:
            monkeypatch.setattr(base, "step", renew)
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


def test_a_user_without_a_home_trains_all_the_same():
    """As in a container that runs under a number without an entry in passwd."""
    code = (
        "import pathlib, torch, rvsm\n"
        "def expanduser(self): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.expanduser = expanduser\n"
        "from rvsm.optim import passes\n"
        "assert not passes.covers(torch.ones(3))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RVSM_CACHE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
