"""RVSM on every base optimizer: one trajectory whichever kernel runs it, and never a NaN."""

from __future__ import annotations

import copy

import pytest
import torch

from problems import MLP, train, weights
from rvsm.groups import Elements, InputChannels
from rvsm.optim import RVSM, Rule
from rvsm.penalties import L0, L1, TransformedL1

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)

BASES = {
    "sgd": lambda named, **options: torch.optim.SGD(named, lr=0.05, **options),
    "momentum": lambda named, **options: torch.optim.SGD(
        named, lr=0.05, momentum=0.9, **{"weight_decay": 1e-3, **options}
    ),
    "nesterov": lambda named, **options: torch.optim.SGD(
        named, lr=0.05, momentum=0.9, nesterov=True, **options
    ),
    "adam": lambda named, **options: torch.optim.Adam(named, lr=0.01, **options),
    "adamw": lambda named, **options: torch.optim.AdamW(named, lr=0.01, **options),
    "rmsprop": lambda named, **options: torch.optim.RMSprop(named, lr=0.01, **options),
}
each_base = pytest.mark.parametrize("base", BASES)
STRENGTHS = [{"lam": 2e-3}, {"sparsity": 0.6}]
each_strength = pytest.mark.parametrize("strength", STRENGTHS, ids=str)


def trained(base, mode, strength, steps=25, **options):
    model, loss_of = MLP.build()
    rule = Rule("*.weight", TransformedL1(), beta=0.5, **strength)
    optimizer = RVSM(BASES[base](model.named_parameters(), **options), [rule], **mode)
    train(model, loss_of, optimizer, steps)
    optimizer.finalize()
    return weights(model)


@pytest.mark.parametrize(
    ("base", "kernel"),
    [(base, kernel) for base in BASES for kernel in ("foreach", "fused")
     if (base, kernel) != ("rmsprop", "fused")],  # which torch does not have
)  # fmt: skip
@each_mode
@each_strength
def test_every_kernel_takes_the_same_steps(base, mode, strength, kernel):
    expected = trained(base, mode, strength, foreach=False)
    found = trained(base, mode, strength, **{kernel: True})
    assert torch.equal(found == 0, expected == 0)
    assert 0 < (expected == 0).sum() < expected.numel()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@each_base
@each_mode
@each_strength
def test_a_rate_of_zero_moves_w_nowhere(base, mode, strength):
    model, loss_of = MLP.build()
    optimizer = RVSM(
        BASES[base](model.named_parameters()), [Rule("*.weight", L1(), **strength)], **mode
    )
    start = weights(model)
    with optimizer.sparse_weights():
        u = weights(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, loss_of, optimizer, 3)
    assert torch.equal(weights(model), u if "grad_at" in mode else start)
    optimizer.finalize()
    assert torch.equal(weights(model), u)


@pytest.mark.parametrize("base", ["momentum", "adam", "rmsprop"])
@pytest.mark.parametrize("mode", [MODES[0], MODES[3]], ids=str)
@each_strength
@pytest.mark.parametrize("groups", [Elements(), InputChannels()], ids=str)
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1()], ids=str)
@pytest.mark.parametrize("lr", [0.0, None])
def test_never_a_nan_from_zero_weights_groups_and_rates(base, mode, strength, groups, penalty, lr):
    model, loss_of = MLP.build()
    with torch.no_grad():
        model[0].weight[:, :4] = 0  # whole groups
        model[2].weight.zero_()  # a whole layer
    optimizer = RVSM(
        BASES[base](model.named_parameters()),
        [Rule("*.weight", penalty, groups=groups, subgradient=(L1(), 1e-3), **strength)],
        **mode,
    )
    if lr is not None:
        optimizer.param_groups[0]["lr"] = lr
    train(model, loss_of, optimizer, 3)
    assert weights(model).isfinite().all()
    assert optimizer.gap().isfinite()
    assert optimizer.lagrangian(1.0).isfinite()
    optimizer.finalize()
    train(model, loss_of, optimizer, 2)
    assert weights(model).isfinite().all()


@each_base
@each_mode
def test_after_finalize_the_survivors_train_and_the_zeros_stay(base, mode):
    """Neither momentum from before, nor weight decay, nor Adam's noise moves a zero."""
    model, loss_of = MLP.build()
    optimizer = RVSM(
        BASES[base](model.named_parameters(), weight_decay=0.1),
        [Rule("*.weight", L1(), sparsity=0.6, subgradient=(L1(), 1e-2))],
        **mode,
    )
    train(model, loss_of, optimizer, 10)
    optimizer.finalize()
    after, steps = weights(model), optimizer.steps
    twin, again = copy.deepcopy((model, optimizer))
    again.finalize()  # once more changes nothing
    assert torch.equal(weights(twin), after)
    train(model, loss_of, optimizer, 10)
    train(twin, loss_of, again, 10)
    assert torch.equal(weights(model), weights(twin))
    named = dict(zip(["0.weight", "2.weight"], [model[0].weight, model[2].weight], strict=True))
    dead = sum(int((p == 0).sum()) for p in named.values())
    assert dead == round(0.6 * 192)
    assert ((weights(model) == 0) == (after == 0)).all()
    assert (weights(model) != after)[after != 0].all()
    assert optimizer.steps == steps + 10
    with optimizer.sparse_weights():
        assert torch.equal(weights(model), weights(twin))


def test_after_finalize_the_rules_press_no_more():
    """Coupling, lam and lam2 are gone: the survivors take the masked base's own steps."""
    model, loss_of = MLP.build()
    optimizer = RVSM(
        BASES["adamw"](model.named_parameters()),
        [Rule("*.weight", L1(), lam=1e-2, subgradient=(L1(), 1e-2))],
    )
    optimizer.finalize()
    bare = copy.deepcopy(model)
    masks = [p == 0 for p in bare.parameters()]
    base = BASES["adamw"](bare.named_parameters())
    for _ in range(5):
        base.zero_grad()
        loss_of(bare).backward()
        for p, mask in zip(bare.parameters(), masks, strict=True):
            p.grad.masked_fill_(mask, 0)
        base.step()
    train(model, loss_of, optimizer, 5)
    assert sum(int(mask.sum()) for mask in masks) > 20
    assert torch.equal(weights(model), weights(bare))


def test_a_checkpoint_from_before_finalize_undoes_it():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L1(), sparsity=0.6)
    optimizer = RVSM(BASES["momentum"](model.named_parameters()), [rule])
    train(model, loss_of, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    w = weights(model)
    optimizer.finalize()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert not optimizer.frozen
    assert torch.equal(weights(model), w)
    train(model, loss_of, optimizer, 1)
    assert (weights(model) != 0).all()
