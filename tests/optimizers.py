"""What the tests of the optimizer share: penalties, modes, strengths and base optimizers."""

from __future__ import annotations

import io

import pytest
import torch

from problems import EVERY, train, weights
from rvsm.penalties import L0, L1, TransformedL1

PENALTIES = [L0(), L1(), TransformedL1(), TransformedL1(a=0.1)]
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
each_problem = pytest.mark.parametrize("problem", EVERY, ids=str)

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)

STRENGTHS = [{"lam": 1e-3}, {"sparsity": 0.6}]
each_strength = pytest.mark.parametrize("strength", STRENGTHS, ids=str)

BASES = {
    "sgd": lambda named: torch.optim.SGD(named, lr=0.05),
    "momentum": lambda named: torch.optim.SGD(
        named, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda named: torch.optim.Adam(named, lr=0.01),
    "adamw-foreach": lambda named: torch.optim.AdamW(named, lr=0.01, foreach=True),
    "adam-fused": lambda named: torch.optim.Adam(named, lr=0.01, fused=True),
    "rmsprop": lambda named: torch.optim.RMSprop(named, lr=0.01),
}
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def through_a_file(state):
    """Save and load as a checkpoint is: tensors and plain numbers only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(ours, theirs):
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert ours["state"][index].keys() == state.keys()
        for key, value in state.items():
            other = torch.as_tensor(ours["state"][index][key])
            assert other.dtype == torch.as_tensor(value).dtype
            assert torch.equal(other, torch.as_tensor(value)), key


def resumes_bit_for_bit(build, at, before, *, model_first):
    """Save a run of 24 steps after `at` and go on in another, which took `before` steps of its own.

    `build` returns a model, its loss and the optimizer; its support is frozen from step 16 on.
    """
    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, at)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, loss_of, optimizer, 24 - at)

    resumed, loss_of, again = build()
    train(resumed, loss_of, again, before)  # whatever was there before must be gone
    loads = [
        lambda: resumed.load_state_dict(saved["model"]),
        lambda: again.load_state_dict(saved["optimizer"]),
    ]
    for load in loads if model_first else reversed(loads):
        load()
    assert again.steps == at
    assert again.frozen == (at >= 16)
    train(resumed, loss_of, again, 24 - at)
    assert torch.equal(weights(resumed), weights(model))
    assert again.zeros() == optimizer.zeros()
    same(again.state_dict(), optimizer.state_dict())


def leaves_alone_what_has_no_gradient(model, loss_of, optimizer, steps):
    """Freeze the first layer for some steps, then let it learn."""
    for p in model[0].parameters():
        p.requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    train(model, loss_of, optimizer, steps)
    assert torch.equal(model[0].weight, frozen)
    assert not optimizer.state.get(model[0].weight)
    for p in model[0].parameters():
        p.requires_grad_(True)
    train(model, loss_of, optimizer, steps)
    assert not torch.equal(model[0].weight, frozen)
