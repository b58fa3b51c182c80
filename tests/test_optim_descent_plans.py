"""Plans of steps in C: what changes between steps is seen, and nothing is kept of what went."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from descents import count_steps, model_of, rvsm_of, train
from rvsm import native
from rvsm.optim import RVSM, Budget, Rule, descent
from rvsm.penalties import L0

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")


@pytest.fixture
def taken(monkeypatch):
    return count_steps(monkeypatch)


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
    second = ("a", a) if alias == "twice" else ("b", b)
    base = torch.optim.SGD([("a", a), second], lr=0.1)
    if alias == "memory":
        b.data = a.data
    optimizer = RVSM(base, [Rule("*", L0(), lam=0.1)])
    for _ in range(3):
        a.grad = torch.ones(6)
        b.grad = a.grad if alias == "gradient" else torch.ones(6)
        optimizer.step()
    assert not any(taken)


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
