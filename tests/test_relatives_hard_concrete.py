"""HardConcrete against its loop: theta by SGD, log alpha by Adam, both by autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from problems import CONVOLUTIONAL, LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError
from rvsm.groups import InputChannels
from rvsm.optim import HardConcrete, Rule
from rvsm.penalties import L0, L1


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def gates(log_alpha, noise, temperature):
    s = torch.sigmoid((torch.log(noise) - torch.log(1 - noise) + log_alpha) / temperature)
    return torch.clamp(s * 1.2 - 0.1, 0, 1)


@pytest.mark.parametrize("groups", [None, InputChannels()], ids=["elements", "groups"])
def test_it_is_the_loop(groups):
    lr, gate_lr, lam, temperature, initial, steps = 0.05, 0.03, 0.01, 0.5, 0.8, 60
    model, loss_of = LEAST_SQUARES.build()
    rule = Rule("weight", L0(), lam=lam, **({} if groups is None else {"groups": groups}))
    options = {"gate_lr": gate_lr, "temperature": temperature, "initial": initial}
    optimizer = HardConcrete(sgd(model, lr), [rule], **options)
    (ruled,) = optimizer._ruled
    noises = []  # drawn as the optimizer will draw them, through log n - log(1 - n)
    for _ in range(steps):
        train(model, loss_of, optimizer, 1)
        log_alpha = optimizer.state[model.weight]["rvsm_log_alpha"]
        noises.append(torch.sigmoid(optimizer._noise(ruled, log_alpha)))
    assert log_alpha.shape == ((1, 20) if groups is None else (20,))
    assert 0 < (model.weight == 0).sum() < 20
    assert len({noise.flatten()[0].item() for noise in noises}) == steps

    slow, loss_of = LEAST_SQUARES.build()
    theta = slow.weight.detach().clone().requires_grad_()
    alpha = torch.full_like(log_alpha, math.log(initial / (1 - initial))).requires_grad_()
    bases = [torch.optim.SGD([theta], lr=lr), torch.optim.Adam([alpha], lr=gate_lr)]
    for step in range(steps):
        z = gates(alpha, noises[step - 1], temperature) if step else torch.ones_like(alpha)
        for base in bases:
            base.zero_grad()
        value = torch.func.functional_call(slow, {"weight": theta * z}, (_inputs(),))
        loss = (value.squeeze(1) - _targets()).square().mean() / 2
        if step:
            loss = loss + lam * torch.sigmoid(alpha - temperature * math.log(0.1 / 1.1)).sum()
        loss.backward()
        for base in bases:
            base.step()
    state = optimizer.state[model.weight]
    torch.testing.assert_close(state["rvsm_w"], theta.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(log_alpha, alpha.detach(), rtol=0, atol=1e-9)
    shown = (theta * gates(alpha, noises[-1], temperature)).detach()
    torch.testing.assert_close(model.weight.detach(), shown, rtol=0, atol=1e-9)
    optimizer.finalize()
    final = (theta * torch.clamp(torch.sigmoid(alpha) * 1.2 - 0.1, 0, 1)).detach()
    torch.testing.assert_close(model.weight.detach(), final, rtol=0, atol=1e-9)


def _inputs():
    from problems import _least_squares_data

    return _least_squares_data()[0]


def _targets():
    from problems import _least_squares_data

    return _least_squares_data()[1]


def test_the_gates_have_the_distribution_of_the_paper():
    """The share of open gates, drawn many times, is P(z != 0); both ends are reached."""
    p = torch.nn.Parameter(torch.ones(200_000))
    base = torch.optim.SGD([("w", p)], lr=0.1)
    optimizer = HardConcrete(base, [Rule("w", L0(), lam=0.0)], initial=0.4, gate_lr=0.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    expected = 1 / (1 + math.exp(-(math.log(0.4 / 0.6) - 2 / 3 * math.log(0.1 / 1.1))))
    assert (p != 0).double().mean().item() == pytest.approx(expected, abs=0.005)
    assert (p == 1).double().mean().item() > 0.05
    assert 0.2 < ((p > 0) & (p < 1)).double().mean().item() < 0.9
    first = p.detach().clone()
    optimizer.step()
    assert (p != first).double().mean().item() > 0.2


def test_another_seed_is_another_run_and_a_seed_is_one_run():
    finals = {}
    for seed in (1, 1, 2):
        model, loss_of = MLP.build()
        optimizer = HardConcrete(sgd(model), [Rule("*.weight", L0(), lam=1e-3)], seed=seed)
        torch.rand(seed)  # the global generator plays no part
        train(model, loss_of, optimizer, 5)
        if seed in finals:
            assert torch.equal(finals[seed], weights(model))
        finals[seed] = weights(model)
    assert not torch.equal(finals[1], finals[2])


def test_the_seed_travels_with_the_checkpoint():
    model, loss_of = MLP.build()
    optimizer = HardConcrete(sgd(model), [Rule("*.weight", L0(), lam=1e-3)], seed=7)
    train(model, loss_of, optimizer, 5)
    saved, start = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    again, _ = MLP.build()
    other = HardConcrete(sgd(again), [Rule("*.weight", L0(), lam=1e-3)], seed=8)
    again.load_state_dict(start)
    other.load_state_dict(saved)
    for pair in ((model, optimizer), (again, other)):
        train(pair[0], loss_of, pair[1], 3)
    assert torch.equal(weights(model), weights(again))


def test_shut_gates_leave_no_minus_zeros():
    model, loss_of = MLP.build()
    optimizer = HardConcrete(sgd(model), [Rule("*.weight", L0(), lam=1.0)], gate_lr=0.5)
    train(model, loss_of, optimizer, 20)
    for _ in range(2):
        zero = torch.cat([p.flatten() for p in model.parameters()]) == 0
        assert zero.sum() > 100
        assert not weights(model)[zero].signbit().any()
        optimizer.finalize()


def test_groups_share_a_gate():
    model, loss_of = CONVOLUTIONAL.build()
    rule = Rule("4.weight", L0(), lam=0.3, groups=InputChannels())
    optimizer = HardConcrete(sgd(model), [rule], gate_lr=0.2)
    train(model, loss_of, optimizer, 30)
    state = optimizer.state[model[4].weight]
    assert state["rvsm_log_alpha"].shape == (4,)
    optimizer.finalize()
    dead = (model[4].weight == 0).all(dim=(0, 2, 3))
    assert torch.equal((model[4].weight == 0).any(dim=(0, 2, 3)), dead)
    assert dead.sum() > 0


def test_what_it_cannot_do_it_says():
    model, _ = MLP.build()
    fine = Rule("*", L0(), lam=0.5)
    for rule, options, why in [
        (Rule("*", L0(), sparsity=0.5), {}, "takes no sparsity="),
        (Rule("*", L1(), lam=0.5), {}, r"give it L0\(\)"),
        (fine, {"gate_lr": -1.0}, "gate_lr must be"),
        (fine, {"gate_lr": math.nan}, "gate_lr must be"),
        (fine, {"temperature": 0.0}, "temperature must be"),
        (fine, {"initial": 1.0}, "initial must lie in"),
    ]:
        with pytest.raises(RuleError, match=why):
            HardConcrete(sgd(model), [rule], **options)
