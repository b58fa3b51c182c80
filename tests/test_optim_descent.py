"""SGD's step in C against torch's, to the bit, and when it is left to torch."""

from __future__ import annotations

import copy
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rvsm import native
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM, Budget, Continuation, Cubic, MagnitudePruning, Rule, descent, passes
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


@pytest.fixture
def taken(monkeypatch):
    """Counts the steps that are taken in C."""
    counts = []
    step = descent.Plan.step

    def counted(plan: descent.Plan) -> bool:
        took = step(plan)
        counts.append(took)
        return took

    monkeypatch.setattr(descent.Plan, "step", counted)
    return counts


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


def rvsm_of(model: nn.Module, grad_at: str = "u", **options: object) -> RVSM:
    base = torch.optim.SGD(model.named_parameters(), **{"lr": 0.1, "momentum": 0.9, **options})
    return RVSM(base, [Rule("*.weight", L0(), sparsity=0.8, beta=0.3)], grad_at=grad_at)


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


def other_memory(model: nn.Module, optimizer: RVSM) -> None:
    p = model[3].weight
    p.data = p.data.clone()


def other_layout(model: nn.Module, optimizer: RVSM) -> None:
    model.to(memory_format=torch.channels_last)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def loaded(model: nn.Module, optimizer: RVSM) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def other_momentum(model: nn.Module, optimizer: RVSM) -> None:
    for state in optimizer.state.values():
        state["momentum_buffer"] = -2 * state["momentum_buffer"]


def emptied(model: nn.Module, optimizer: RVSM) -> None:
    for state in optimizer.state.values():
        state.clear()


def stronger(model: nn.Module, optimizer: RVSM) -> None:
    numbers = optimizer.param_groups[0]["rvsm"]["rules"]["0"]
    numbers["beta"], numbers["sparsity"] = 0.7, 0.6


def decoupled(model: nn.Module, optimizer: RVSM) -> None:
    optimizer.coupling = "decoupled"


def other_budget(model: nn.Module, optimizer: RVSM) -> None:
    optimizer.budget = Budget("parameter")


def no_momentum(model: nn.Module, optimizer: RVSM) -> None:
    optimizer.param_groups[0]["momentum"] = 0.0


def nesterov(model: nn.Module, optimizer: RVSM) -> None:
    optimizer.param_groups[0].update(nesterov=True, dampening=np.float32(0), lr=np.float32(0.05))


class Extra(nn.Module):
    """Adds a parameter to what comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((5,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight


def other_group(model: nn.Module, optimizer: RVSM) -> None:
    model.append(Extra())
    optimizer.add_param_group({"params": [("6.bias", model[6].weight)], "lr": 0.01})


def replaced(model: nn.Module, optimizer: RVSM) -> None:
    old, model[5].bias = model[5].bias, nn.Parameter(torch.full((5,), 0.3))
    optimizer.param_groups[0]["params"][-1] = model[5].bias
    del optimizer.state[old]


def shorter(model: nn.Module, optimizer: RVSM) -> None:
    """Cut in its own memory."""
    state = optimizer.state[model[3].weight]
    model[3].weight.data, model[3].bias.data = model[3].weight[:20].data, model[3].bias[:20].data
    model[5].weight.data = model[5].weight[:, :20].contiguous().data
    for p in (model[3].weight, model[3].bias, model[5].weight):
        state = optimizer.state[p]
        for key, held in state.items():
            state[key] = held[:, :20].contiguous() if p is model[5].weight else held[:20]
    optimizer._match_rules()


def idle(model: nn.Module, optimizer: RVSM) -> None:
    model[5].bias.requires_grad_(False)
    model[5].bias.grad = None


def idle_no_more(model: nn.Module, optimizer: RVSM) -> None:
    idle(model, optimizer)
    train(model, optimizer, 2, seed=3)
    model[5].bias.requires_grad_(True)


CHANGES = [
    other_memory, other_layout, loaded, other_momentum, emptied, stronger, decoupled, other_budget,
    no_momentum, nesterov, other_group, replaced, shorter, idle, idle_no_more,
]  # fmt: skip
TORCHS = (other_layout, decoupled)  # momentum keeps its layout


@pytest.mark.parametrize("grad_at", ["w", "u"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps_is_seen(change, grad_at, taken, monkeypatch):
    models, seen, states = [model_of(), model_of()], [], []
    for i, model in enumerate(models):
        if i:
            monkeypatch.setattr(descent, "takes", lambda base: False)
        optimizer = rvsm_of(model, grad_at)
        train(model, optimizer, 5)
        change(model, optimizer)
        train(model, optimizer, 5, seed=2)
        seen.append(len(taken))
        states.append(optimizer.state_dict()["state"])
    assert seen[0] >= (4 if change in TORCHS else 8)
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(p, q)
    for own, other in zip(*(state.values() for state in states), strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)


def test_what_is_cut_short_is_not_stepped_beyond(taken):
    arena, grads = torch.zeros(400), torch.ones(400)
    p, w = nn.Parameter(arena[:]), nn.Parameter(torch.randn(6))
    base = torch.optim.SGD([("p", p), ("w", w)], lr=0.1)
    optimizer = RVSM(base, [Rule("w", L0(), sparsity=0.4)])
    for _ in range(2):
        p.grad, w.grad = grads, torch.randn(6)
        optimizer.step()
    assert taken
    p.grad, p.data, w.grad = None, p.data[:5], torch.randn(6)
    p.grad = grads[:5]
    before = arena.clone()
    optimizer.step()
    assert not torch.equal(arena[:5], before[:5])
    assert torch.equal(arena[5:], before[5:])


def test_a_gradient_whose_memory_has_the_other_sign():
    found = []
    for allowed in (True, False):
        b, w = nn.Parameter(torch.tensor([0.7])), nn.Parameter(torch.ones(6))
        base = torch.optim.SGD([("b", b), ("w", w)], lr=0.1)
        optimizer = RVSM(base, [Rule("w", L0(), sparsity=0.4)])
        with pytest.MonkeyPatch.context() as patch:
            if not allowed:
                patch.setattr(descent, "takes", lambda base: False)
            for _ in range(3):
                optimizer.zero_grad()
                (torch.complex(torch.ones(1), b).conj() * (1 + 2j)).imag.sum().backward()
                assert b.grad.is_neg()
                w.grad = torch.ones(6)
                optimizer.step()
        found.append(b.item())
    assert found[0] == found[1] > 0.7


@pytest.mark.parametrize("alias", ["memory", "gradient", "twice"])
@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
def test_what_stands_twice_is_torchs(alias, taken):
    a, b = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
    base = torch.optim.SGD(
        [("a", a), ("a" if alias == "twice" else "b", a if alias == "twice" else b)], lr=0.1
    )
    if alias == "memory":
        b.data = a.data
    optimizer = RVSM(base, [Rule("*", L0(), lam=0.1)])
    for _ in range(3):
        a.grad = torch.ones(6)
        b.grad = a.grad if alias == "gradient" else torch.ones(6)
        optimizer.step()
    assert not any(taken)


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


def test_nothing_is_kept_of_tensors_that_went():
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 3)
    w = weakref.ref(optimizer.state[model[3].weight]["rvsm_w"])
    optimizer.finalize()
    assert w() is None
    train(model, optimizer, 3)
    grad = weakref.ref(model[3].weight.grad)
    optimizer.zero_grad()
    assert grad() is None


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


def test_a_copy_steps_by_itself(taken):
    model = model_of()
    optimizer = rvsm_of(model)
    train(model, optimizer, 3)
    other, copied = copy.deepcopy((model, optimizer))
    train(other, copied, 3, seed=2)
    before = [p.clone() for p in model.parameters()]
    train(model, optimizer, 3, seed=2)
    assert len(taken) == 8
    for p, q, old in zip(model.parameters(), other.parameters(), before, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, old)
