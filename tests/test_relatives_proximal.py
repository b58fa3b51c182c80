"""ProximalGradient and its aggregate form against their loops, written out."""

from __future__ import annotations

import pytest
import torch

from problems import LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError
from rvsm.optim import Cubic, ProximalGradient, Rule
from rvsm.penalties import L0, L1, TransformedL1


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def slow_proximal(model, loss_of, penalty, *, rates, lam, aggregate):
    w = u = model.weight.detach().clone()
    total = 0.0
    for lr in rates:
        with torch.no_grad():
            model.weight.copy_(u)
        (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
        if aggregate:
            w = w - lr * gradient
            total += lr
            u = penalty.prox(w, total * lam)
        else:
            u = penalty.prox(u - lr * gradient, lr * lam)
    return u


@pytest.mark.parametrize("aggregate", [False, True])
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1()], ids=str)
def test_it_is_the_loop_with_the_rate_of_each_step(penalty, aggregate):
    rates = [0.05 * 0.97**step for step in range(80)]
    model, loss_of = LEAST_SQUARES.build()
    options = {"lam": 0.02 if aggregate else 0.05, "aggregate": aggregate}
    u = slow_proximal(model, loss_of, penalty, rates=rates, **options)
    model, loss_of = LEAST_SQUARES.build()
    base = sgd(model)
    rule = Rule("weight", penalty, lam=options["lam"])
    optimizer = ProximalGradient(base, [rule], aggregate=aggregate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in rates:
        train(model, loss_of, optimizer, 1)
        scheduler.step()
    torch.testing.assert_close(model.weight.detach(), u, rtol=0, atol=1e-12)
    assert 0 < (u == 0).sum() < 20
    assert ("rvsm_w" in optimizer.state[model.weight]) == aggregate


def test_its_limit_solves_the_lasso():
    """grad f(u) is a subgradient of -lam |u|: no splitting, no bias but the penalty's own."""
    model, loss_of = LEAST_SQUARES.build()
    lam = 0.1
    optimizer = ProximalGradient(sgd(model, 0.3), [Rule("weight", L1(), lam=lam)])
    train(model, loss_of, optimizer, 1000)
    (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
    u = model.weight.detach()
    alive = u != 0
    assert torch.allclose(gradient[alive], -lam * u[alive].sign(), atol=1e-10)
    assert (gradient[~alive].abs() <= lam).all()


def test_an_exact_target_is_iterative_hard_thresholding():
    model, loss_of = LEAST_SQUARES.build()
    u = model.weight.detach().clone()
    for _ in range(30):
        with torch.no_grad():
            model.weight.copy_(u)
        (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
        u = u - 0.3 * gradient
        u[0, u[0].abs().argsort()[:16]] = 0
    model, loss_of = LEAST_SQUARES.build()
    optimizer = ProximalGradient(sgd(model, 0.3), [Rule("weight", L0(), sparsity=0.8)])
    train(model, loss_of, optimizer, 30)
    torch.testing.assert_close(model.weight.detach(), u, rtol=0, atol=1e-12)
    assert (u == 0).sum() == 16


@pytest.mark.parametrize("aggregate", [False, True])
def test_the_step_size_of_an_adaptive_base_is_its_rate(aggregate):
    """One step of Adam moves every weight by lr; what is taken off is lr lam, not lr lam / v."""
    p = torch.nn.Parameter(torch.full((4,), 3.0))
    base = torch.optim.Adam([("w", p)], lr=0.5)
    optimizer = ProximalGradient(base, [Rule("w", L1(), lam=0.1)], aggregate=aggregate)
    p.grad = torch.tensor([1e-3, 1.0, 10.0, 1e3])
    optimizer.step()
    assert torch.allclose(p, torch.full((4,), 3 - 0.5 - 0.5 * 0.1), atol=1e-4)


def test_the_sum_of_the_rates_is_saved_and_warm_up_adds_nothing():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L1(), lam=0.01, schedule=Cubic(0, 8))
    optimizer = ProximalGradient(sgd(model), [rule], aggregate=True, warmup=3)
    train(model, loss_of, optimizer, 10)
    assert optimizer.param_groups[0]["rvsm"]["rates"] == pytest.approx(7 * 0.05)
    w = optimizer.state[model[0].weight]["rvsm_w"]
    assert torch.equal(model[0].weight, L1().prox(w, optimizer._rate(optimizer._ruled[0]) * 0.01))


def test_the_parameters_hold_u_and_only_the_aggregate_form_stores():
    for aggregate in (False, True):
        model, loss_of = MLP.build()
        rule = Rule("*.weight", L0(), sparsity=0.5)
        optimizer = ProximalGradient(sgd(model), [rule], aggregate=aggregate)
        train(model, loss_of, optimizer, 5)
        u = weights(model)
        assert (u == 0).sum() == 96
        with optimizer.sparse_weights():
            assert torch.equal(weights(model), u)
        stored = [k for s in optimizer.state.values() for k in s if k.startswith("rvsm")]
        assert stored == ["rvsm_w"] * (2 * aggregate)


def test_a_base_without_a_rate_is_refused():
    class Rateless(torch.optim.Optimizer):
        def step(self, closure=None):
            return None

    model, _ = MLP.build()
    with pytest.raises(RuleError, match="a rate lr"):
        ProximalGradient(Rateless(model.named_parameters(), {}), [Rule("*", L1(), lam=1.0)])
