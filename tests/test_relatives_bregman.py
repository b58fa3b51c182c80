"""LinearizedBregman against its loop, and the sparse start."""

from __future__ import annotations

import math

import pytest
import torch

from problems import CONVOLUTIONAL, LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError
from rvsm.groups import InputChannels
from rvsm.optim import Linear, LinearizedBregman, Rule, sparse_start
from rvsm.penalties import L0, L1, TransformedL1


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def adam(model, lr=0.02):
    return torch.optim.Adam(model.named_parameters(), lr=lr, betas=(0.9, 0.99), eps=1e-8)


def slow_bregman(model, loss_of, *, lr, lam, delta, steps, moments=None):
    """Run LinBreg, or AdaBreg with the moments of Adam, on l1, soft threshold and all."""
    u = model.weight.detach().clone()
    v = u / delta + lam(0) * u.sign()
    mean = square = torch.zeros_like(v)
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.copy_(u)
        (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
        if moments is None:
            v = v - lr * gradient
        else:
            b1, b2 = moments
            mean = b1 * mean + (1 - b1) * gradient
            square = b2 * square + (1 - b2) * gradient**2
            v = v - lr * mean / (1 - b1**step) / ((square / (1 - b2**step)).sqrt() + 1e-8)
        u = delta * v.sign() * (v.abs() - lam(step)).clamp(min=0)
    return u, v


@pytest.mark.parametrize("start", ["dense", "sparse", "zero"])
@pytest.mark.parametrize("delta", [1.0, 2.5])
@pytest.mark.parametrize("moments", [None, (0.9, 0.99)], ids=["LinBreg", "AdaBreg"])
def test_it_is_the_loop(moments, delta, start):
    def build():
        model, loss_of = LEAST_SQUARES.build()
        with torch.no_grad():
            if start == "zero":
                model.weight.zero_()
            elif start == "sparse":
                model.weight[0, 2::3] = 0
        return model, loss_of

    steps, lr = 60, 0.02
    schedule = Linear(0, 200)
    lam = lambda step: 0.3 * schedule(step)  # noqa: E731
    options = {"lr": lr, "lam": lam, "delta": delta, "steps": steps, "moments": moments}
    u, v = slow_bregman(*build(), **options)
    model, loss_of = build()
    rules = [Rule("weight", L1(), lam=0.3, schedule=schedule)]
    base = sgd(model, lr) if moments is None else adam(model, lr)
    optimizer = LinearizedBregman(base, rules, delta=delta)
    train(model, loss_of, optimizer, steps)
    torch.testing.assert_close(model.weight.detach(), u, rtol=0, atol=1e-9)
    torch.testing.assert_close(optimizer.state[model.weight]["rvsm_v"], v, rtol=0, atol=1e-9)
    assert (u == 0).any()
    assert (u != 0).any()


@pytest.mark.parametrize("groups", [None, InputChannels()], ids=["l1", "group"])
def test_v_starts_where_it_maps_to_the_weights(groups):
    """A step with no gradient leaves the weights: v = u / delta + lam P'(u / delta)."""
    model, _ = CONVOLUTIONAL.build()
    with torch.no_grad():
        model[4].weight[:, 1] = 0
    rule = Rule("4.weight", L1(), lam=0.7, **({} if groups is None else {"groups": groups}))
    optimizer = LinearizedBregman(sgd(model), [rule], delta=2.0)
    before = model[4].weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model[4].weight.detach(), before, rtol=1e-5, atol=1e-6)
    assert (model[4].weight[:, 1] == 0).all()


def test_weights_are_born_one_after_the_other():
    model, loss_of = LEAST_SQUARES.build()
    with torch.no_grad():
        model.weight.zero_()
    optimizer = LinearizedBregman(sgd(model, 0.1), [Rule("weight", L1(), lam=4.0)])
    counts = []
    for _ in range(300):
        train(model, loss_of, optimizer, 1)
        counts.append(int(torch.count_nonzero(model.weight)))
    assert counts[0] == 0
    assert sorted(set(counts)) == [0, 1, 2, 3, 4]
    assert counts[-1] == 4
    assert [abs(x) > 0.5 for x in model.weight[0].tolist()] == [True] * 4 + [False] * 16


def test_the_sparse_start_keeps_a_share_and_the_variance():
    torch.manual_seed(0)
    layer = torch.nn.Linear(400, 300)
    whole, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    rules = [Rule("weight", L1(), lam=0.1)]
    sparse_start(layer.named_parameters(), rules, 0.2, torch.Generator().manual_seed(3))
    alive = layer.weight != 0
    assert alive.double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert torch.allclose(layer.weight[alive], whole[alive] / math.sqrt(0.2))
    assert torch.equal(layer.bias, bias)
    assert layer.weight.var().item() == pytest.approx(whole.var().item(), rel=0.03)
    again = torch.nn.Parameter(whole.clone())
    sparse_start([("weight", again)], rules, 0.2, torch.Generator().manual_seed(3))
    assert torch.equal(again, layer.weight)


def test_the_sparse_start_takes_whole_groups():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 8, 3)
    rules = [Rule("weight", L1(), lam=0.1, groups=InputChannels())]
    sparse_start(layer.named_parameters(), rules, 0.5)
    dead = (layer.weight == 0).all(dim=(0, 2, 3))
    assert torch.equal((layer.weight == 0).any(dim=(0, 2, 3)), dead)
    assert 10 < dead.sum() < 54


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, math.nan])
def test_a_density_is_a_share(density):
    model, _ = MLP.build()
    before = weights(model)
    with pytest.raises(RuleError, match="density must lie in"):
        sparse_start(model.named_parameters(), [Rule("*", L1(), lam=1.0)], density)
    assert torch.equal(weights(model), before)


def test_what_it_cannot_do_it_says():
    model, _ = MLP.build()
    for rule, why in [
        (Rule("*.weight", L1(), sparsity=0.5), "takes no sparsity="),
        (Rule("*.weight", L0(), lam=0.5), "needs a penalty with a derivative"),
    ]:
        with pytest.raises(RuleError, match=why):
            LinearizedBregman(sgd(model), [rule])
    for delta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(RuleError, match="delta must be a finite number > 0"):
            LinearizedBregman(sgd(model), [Rule("*", TransformedL1(), lam=0.5)], delta=delta)
