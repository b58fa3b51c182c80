"""RVSM in the training loops people have: schedulers, scalers, autocast, accumulation, clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import lr_scheduler

from problems import MLP, train, weights
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L0, L1, TransformedL1

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
    {"budget": "global"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)

KERNELS = {
    "momentum": lambda named: torch.optim.SGD(named, lr=0.05, momentum=0.9),
    "adam": lambda named: torch.optim.Adam(named, lr=0.01),
    "adamw-foreach": lambda named: torch.optim.AdamW(named, lr=0.01, foreach=True),
    "sgd-fused": lambda named: torch.optim.SGD(named, lr=0.05, momentum=0.9, fused=True),
    "adam-fused": lambda named: torch.optim.Adam(named, lr=0.01, fused=True),
}
each_kernel = pytest.mark.parametrize("base", KERNELS.values(), ids=KERNELS)

SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "warm-up from zero": lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1, step / 5)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)],
        [5],
    ),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=31, cycle_momentum=False),
}


def build(base=KERNELS["momentum"], mode=None, **options):
    """Every phase in 24 steps: warm-up to 4, sparsify to 16, heal."""
    model, loss_of = MLP.build()
    rules = [
        Rule("*.weight", TransformedL1(), sparsity=0.7, schedule=Cubic(4, 12)),
        Rule("2.weight", L1(), lam=1e-3),
    ]
    options = {"warmup": 4, "heal_from": 16, **(mode or {}), **options}
    return model, loss_of, RVSM(base(model.named_parameters()), rules, **options)


def everything(model, optimizer):
    """Return a deep copy of all that a step may change."""
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def assert_same(one, other):
    """Assert that two nests of tensors and numbers are the same bits."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@each_mode
def test_a_scheduler_sets_the_rate_of_coupling_and_base_alike(make, mode):
    """The same run as with the rates set by hand."""
    model, loss_of, optimizer = build(mode=mode)
    scheduler = make(optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        train(model, loss_of, optimizer, 1)
        scheduler.step()
    by_hand, loss_of, other = build(mode=mode)
    for rate in rates:
        other.param_groups[0]["lr"] = rate
        train(by_hand, loss_of, other, 1)
    assert len(set(rates)) > 3
    assert torch.equal(weights(model), weights(by_hand))


def test_a_plateau_scheduler_lowers_the_rate():
    model, loss_of, optimizer = build()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for _ in range(3):
        train(model, loss_of, optimizer, 1)
        scheduler.step(1.0)
    assert optimizer.base.param_groups[0]["lr"] == 0.05 / 4


@each_kernel
@pytest.mark.parametrize("at", [2, 9, 20])
def test_scheduler_and_scaler_resume_with_it_bit_for_bit(base, at):
    def parts():
        model, loss_of, optimizer = build(base)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 30)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        return model, loss_of, optimizer, scheduler, scaler

    def go(model, loss_of, optimizer, scheduler, scaler, *, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()

    first = parts()
    go(*first, steps=at)
    saved = copy.deepcopy([part.state_dict() for part in (first[0], *first[2:])])
    go(*first, steps=24 - at)
    again = parts()
    for part, state in zip((again[0], *again[2:]), saved, strict=True):
        part.load_state_dict(state)
    go(*again, steps=24 - at)
    assert_same(everything(first[0], first[2]), everything(again[0], again[2]))


@each_kernel
@each_mode
@pytest.mark.parametrize("at", [0, 2, 9, 15, 20])
@pytest.mark.parametrize("unscaled_by_hand", [False, True])
def test_a_step_the_scaler_skips_moves_nothing(base, mode, at, unscaled_by_hand):
    model, loss_of, optimizer = build(base, mode)
    train(model, loss_of, optimizer, at)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = everything(model, optimizer)
    optimizer.zero_grad()
    scaler.scale(loss_of(model)).backward()
    model[2].bias.grad[0] = float("inf")  # of no rule
    if unscaled_by_hand:
        scaler.unscale_(optimizer)
    assert scaler.step(optimizer) is None
    scaler.update()
    assert scaler.get_scale() == 512
    assert_same(before, everything(model, optimizer))


@each_kernel
@each_mode
def test_the_coupling_is_never_scaled(base, mode):
    """Powers of two scale without rounding, so the run is the same bits."""
    finals = []
    for scale in (1.0, 2.0**12):
        model, loss_of, optimizer = build(base, mode)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        for step in range(20):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            if step % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        finals.append(everything(model, optimizer))
    assert_same(*finals)


@each_mode
def test_accumulated_gradients_are_coupled_once(mode):
    finals = []
    for parts in (1, 4):
        model, _, optimizer = build(mode=mode)
        torch.manual_seed(5)
        x, labels = torch.randn(64, 10), torch.randint(2, (64,))
        for _ in range(20):
            optimizer.zero_grad()
            for inputs, wanted in zip(x.chunk(parts), labels.chunk(parts), strict=True):
                loss = torch.nn.functional.cross_entropy(model(inputs), wanted)
                (loss / parts).backward()
            optimizer.step()
        finals.append(weights(model))
    assert torch.equal(finals[0] == 0, finals[1] == 0)
    torch.testing.assert_close(*finals, rtol=0, atol=1e-5)


@each_mode
def test_clipping_bounds_the_gradient_of_the_loss_alone(mode):
    """A clip to zero leaves the coupling: w goes on towards u."""
    model, loss_of, optimizer = build(mode=mode, warmup=0, heal_from=None)
    train(model, loss_of, optimizer, 13)
    gap = optimizer.gap()
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-12)
        optimizer.step()
    assert 0 < optimizer.gap() < gap


@each_kernel
@each_mode
def test_bf16_autocast_trains_float32_weights(base, mode):
    model, loss_of, optimizer = build(base, mode)
    first = loss_of(model).item()
    for _ in range(24):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
    assert model[0].weight.dtype == torch.float32
    assert loss_of(model).item() < first
    zeros = optimizer.zeros()
    assert zeros["0.weight"][0] == round(0.7 * 160)


@each_mode
def test_bf16_weights_have_exact_zeros_too(mode):
    model, _ = MLP.build()
    model.to(torch.bfloat16)
    x = torch.randn(64, 10, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] > 0).long()
    optimizer = RVSM(
        torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9),
        [Rule("*.weight", L0(), sparsity=0.6)],
        **mode,
    )
    train(model, lambda net: torch.nn.functional.cross_entropy(net(x), labels), optimizer, 10)
    optimizer.finalize()
    assert model[0].weight.dtype == torch.bfloat16
    assert sum(z for z, _ in optimizer.zeros().values()) == round(0.6 * 192)
