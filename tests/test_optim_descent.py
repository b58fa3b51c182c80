"""SGD's step in C against torch's, to the bit, and when it is left to torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from descents import count_steps, model_of, rvsm_of, train
from rvsm import native
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM, Continuation, Cubic, MagnitudePruning, Rule, descent, passes
from rvsm.penalties import L0, L1, TransformedL1

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")

OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 2),
        "momentum": st.sampled_from([0.0, 0.9, 0.31]),
        "weight_decay": st.sampled_from([0.0, 1e-3, 0.7]),
    },
    optional={"dampening": st.floats(0, 1), "nesterov": st.just(True)},
).filter(lambda o: not o.get("nesterov") or (o["momentum"] > 0 and o.get("dampening", 0) == 0))
KINDS = ["alone", "stored", "hard", "soft", "held"]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bits, but for the sign of zeros in a soft threshold's coupling."""
    return torch.equal((a.detach() + 0).view(torch.int32), (b.detach() + 0).view(torch.int32))


def coupled(kind: str, p: torch.Tensor, w: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The gradient that torch's SGD takes at w."""
    if kind == "alone":
        return grad
    if kind == "held":
        return grad.masked_fill(w == 0, 0)
    u = {"stored": lambda: p, "hard": lambda: L0().prox(w, 0.5), "soft": lambda: L1().prox(w, 0.7)}
    sign = -1 if kind == "stored" else 1
    return grad.add(sign * (w - u[kind]()), alpha=0.3)


@given(OPTIONS, st.sampled_from(KINDS), st.integers(1, 3000), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_a_step_is_that_of_torch(options, kind, size, seed):
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> torch.Tensor:
        x = torch.randn(size, generator=generator)
        return torch.where(torch.rand(size, generator=generator) < 0.2, 0, x)

    p, w, twin = nn.Parameter(drawn()), drawn(), nn.Parameter(torch.zeros(size))
    stored = kind == "stored"
    start = w if stored else p.detach().clone()
    with torch.no_grad():
        twin.copy_(start)
    base, bare = (torch.optim.SGD([x], **options) for x in (p, twin))
    if options["momentum"]:
        base.state[p]["momentum_buffer"] = buffer = drawn()
        bare.state[twin]["momentum_buffer"] = buffer.clone()
    if stored:
        base.state[p]["w"] = w
    p.grad, shown = drawn(), p.detach().clone()
    twin.grad = coupled(kind, shown, start, p.grad).clone()
    move = {
        "alone": descent.Move(descent.ALONE),
        "stored": descent.Move(descent.STORED, factor=0.3),
        "hard": descent.Move.mapped(passes.Threshold.of(L0(), 0.5), 0.3),
        "soft": descent.Move.mapped(passes.Threshold.of(L1(), 0.7), 0.3),
        "held": descent.Move(descent.HELD),
    }[kind]
    plan = descent.Plan(base, {id(p): w} if stored else {}, "w")
    plan.prepare({id(p): move})
    assert plan.holds(base)
    assert plan.step()
    expected = twin.grad.clone()
    bare.step()
    stepped = w if stored else p
    if kind == "held":
        with torch.no_grad():
            twin.masked_fill_(start == 0, 0)
    assert same(stepped, twin)
    assert same(p.grad, expected)
    if stored:
        assert same(p, shown)
    if options["momentum"]:
        assert same(buffer, bare.state[twin]["momentum_buffer"])


@pytest.fixture
def taken(monkeypatch):
    return count_steps(monkeypatch)


RULES = {
    "l0 target": {"penalty": L0(), "sparsity": 0.8, "schedule": Cubic(0, 20)},
    "l1 target": {"penalty": L1(), "sparsity": 0.8, "schedule": Cubic(0, 20)},
    "l0 lam": {"penalty": L0(), "lam": 1e-3},
    "l1 lam": {"penalty": L1(), "lam": 1e-3},
    "tl1 target": {"penalty": TransformedL1(), "sparsity": 0.8},
    "beta grows": {"penalty": L0(), "sparsity": 0.8, "beta": Continuation(0.1, 1.5, 5, 2.0)},
}


@pytest.mark.parametrize("grad_at", ["w", "u"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels last"])
def test_training_is_the_same(grad_at, name, last, taken, monkeypatch):
    models = [model_of(), model_of()]
    found = []
    for i, model in enumerate(models):
        if last:
            model.to(memory_format=torch.channels_last)
        if i:
            monkeypatch.setattr(descent, "takes", lambda base: False)
        named = list(model.named_parameters())
        base = torch.optim.SGD(
            [
                {"params": [(n, p) for n, p in named if "weight" in n], "momentum": 0.9},
                {"params": [(n, p) for n, p in named if "bias" in n], "weight_decay": 0.01},
            ],
            lr=0.1,
        )  # fmt: skip
        rule = Rule("*.weight", **{"beta": 0.3, **RULES[name]})
        optimizer = RVSM(base, [rule], grad_at=grad_at, budget="global", heal_from=40)
        train(model, optimizer, 50)
        assert optimizer.frozen
        found.append(optimizer.state_dict()["state"])
        if not i:
            # A map that is no threshold is torch's at w; the first step makes the state.
            assert len(taken) == (10 if name == "tl1 target" and grad_at == "w" else 49)
            assert all(taken)
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
    for own, other in zip(*(state.values() for state in found), strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)


def test_healing_of_other_methods_is_in_c(taken):
    model = model_of()
    base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    rule = Rule("*.weight", L0(), sparsity=0.7, schedule=Cubic(0, 10))
    optimizer = MagnitudePruning(base, [rule], every=5, heal_from=20)
    train(model, optimizer, 20)
    zeros = [p == 0 for p in model.parameters()]
    assert not taken
    train(model, optimizer, 10)
    assert taken == [True] * 10
    for p, zero in zip(model.parameters(), zeros, strict=True):
        assert not p[zero].any()
    assert optimizer.zeros()["3.weight"][0] > 0.5 * 96 * 30


def listen_to_all(optimizer: RVSM) -> object:
    return register_optimizer_step_pre_hook(lambda *_: None)


LEFT = {
    "hook before": lambda o: o.base.register_step_pre_hook(lambda *_: None),
    "hook after": lambda o: o.base.register_step_post_hook(lambda *_: None),
    "hook of all": listen_to_all,
    "scheduler of the base": lambda o: torch.optim.lr_scheduler.ConstantLR(o.base, 1.0),
    "rate in a tensor": lambda o: o.param_groups[0].update(lr=torch.tensor(0.1)),
    "maximize": lambda o: o.param_groups[0].update(maximize=True),
    "nesterov in many": lambda o: o.param_groups[0].update(nesterov=True, foreach=True),
    "fused": lambda o: o.param_groups[0].update(fused=True),
}


@pytest.mark.parametrize("why", LEFT)
def test_who_listens_to_the_base_is_heard(why, taken):
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 2)
    assert taken == [True]
    handle = LEFT[why](optimizer)
    train(model, optimizer, 2)
    if hasattr(handle, "remove"):
        handle.remove()
    assert taken == [True]


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD])
def test_other_bases_and_types_are_torchs(base, taken):
    model = model_of(torch.float64 if base is torch.optim.SGD else torch.float32)
    optimizer = RVSM(base(model.named_parameters(), lr=0.01), [Rule("*.weight", L0(), lam=1e-4)])
    train(model, optimizer, 3)
    assert not taken


@pytest.mark.parametrize("penalty", [TransformedL1(), L0()], ids=str)
def test_levels_are_computed_once_a_step(penalty, monkeypatch):
    """Also where C cannot take the step."""
    model = model_of(torch.float64 if isinstance(penalty, L0) else torch.float32)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("*.weight", penalty, sparsity=0.5)])
    train(model, optimizer, 2)
    counts, levels = [], RVSM._levels
    monkeypatch.setattr(RVSM, "_levels", lambda *xs: counts.append(1) or levels(*xs))
    train(model, optimizer, 3)
    assert len(counts) == 3


def test_a_mask_found_in_c_is_not_looked_for_again(taken, monkeypatch):
    """Ties need a mask: the levels that were found are those of torch's step."""
    w = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 3.0]))
    optimizer = RVSM(torch.optim.SGD([("w", w)], lr=1e-30), [Rule("w", L0(), sparsity=0.3)])
    counts, levels = [], RVSM._levels
    monkeypatch.setattr(RVSM, "_levels", lambda *xs: counts.append(1) or levels(*xs))
    for _ in range(3):
        w.grad = torch.zeros(6)
        optimizer.step()
    assert len(counts) == 3
    assert not taken


def test_gradients_that_nothing_happens_to_are_not_written():
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 3)
    bias = model[3].bias
    factor = torch.ones(30, requires_grad=True)
    later = (factor * bias.grad).sum()
    optimizer.step()
    later.backward()
    assert torch.equal(factor.grad, bias.grad)


def test_steps_that_somebody_replaced_are_theirs(monkeypatch, taken):
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 2)
    calls = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: calls.append(1) or step(self))
    train(model, optimizer, 2)
    assert (len(taken), len(calls)) == (1, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_that_is_not_finite_leaves_all_as_it_was(bad, frozen):
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 4)
    if frozen:
        optimizer.finalize()
    before = [p.clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    model[5].bias.grad[1] = bad
    with pytest.raises(RunError, match=r"5\.bias is not finite at step 4"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    for own, held in zip(optimizer.state_dict()["state"].values(), state.values(), strict=True):
        assert all(torch.equal(own[key], held[key]) for key in held)


def test_a_huge_gradient_that_is_finite_is_taken_by_torch(taken):
    model = model_of()
    optimizer = rvsm_of(model, lr=1e-30)
    train(model, optimizer, 2)
    model[5].bias.grad[1] = 3e38
    optimizer.step()
    assert taken == [True, False]
    assert optimizer.steps == 3


@pytest.mark.parametrize("grad_at", ["w", "u"])
def test_a_coupling_that_overflows_is_told(grad_at):
    model = model_of()
    optimizer = rvsm_of(model, grad_at)
    train(model, optimizer, 3)
    w = optimizer.state[model[3].weight]["rvsm_w"] if grad_at == "u" else model[3].weight.data
    w *= 1e32
    optimizer.param_groups[0]["rvsm"]["rules"]["0"]["beta"] = 1e8
    with pytest.raises(RunError, match=r"coupling of 3\.weight is not finite at step 3; lower its"):
        optimizer.step()


def test_a_beta_that_may_overflow_anything_is_torchs():
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 3)
    optimizer.param_groups[0]["rvsm"]["rules"]["0"]["beta"] = 1e39
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RunError, match=r"weight is not finite at step 3"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_target_out_of_reach_is_refused_before_anything_changes():
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 3)
    before = [p.clone() for p in model.parameters()]
    optimizer.param_groups[0]["rvsm"]["rules"]["0"]["sparsity"] = 1.5
    with pytest.raises(RuleError, match="sparsity"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
