"""MagnitudePruning against its loop, written out."""

from __future__ import annotations

import pytest
import torch

from problems import LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError
from rvsm.optim import Cubic, MagnitudePruning, Rule
from rvsm.penalties import L0, L1


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def test_it_is_the_loop():
    """Momentum sees masked gradients; the mask follows Zhu and Gupta's formula."""
    start, end, first, final, every, steps, lr = 10, 50, 0.2, 0.8, 5, 70, 0.05
    model, loss_of = LEAST_SQUARES.build()
    w = model.weight.detach().clone()
    velocity, keep = torch.zeros_like(w), torch.ones_like(w)
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.copy_(w)
        (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
        velocity = 0.9 * velocity + gradient * keep
        w = (w - lr * velocity) * keep
        if step >= start and (step - start) % every == 0:
            left = 1 - min((step - start) / (end - start), 1)
            share = final + (first - final) * left**3
            keep = torch.ones_like(w)
            keep[0, w[0].abs().argsort()[: round(share * 20)]] = 0
            w = w * keep
    model, loss_of = LEAST_SQUARES.build()
    rule = Rule("weight", L0(), sparsity=final, schedule=Cubic(start, end))
    optimizer = MagnitudePruning(
        sgd(model, lr, momentum=0.9), [rule], initial=first, every=every, warmup=start
    )
    train(model, loss_of, optimizer, steps)
    torch.testing.assert_close(model.weight.detach(), w, rtol=0, atol=1e-12)
    assert (w == 0).sum() == 16
    assert torch.equal(optimizer.state[model.weight]["rvsm_mask"], keep == 0)


def test_zeros_only_grow_and_only_at_updates():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.9, schedule=Cubic(0, 20))
    base = torch.optim.AdamW(model.named_parameters(), lr=0.02, weight_decay=0.1)
    optimizer = MagnitudePruning(base, [rule], every=6)
    dead = weights(model) == 0
    for step in range(1, 31):
        train(model, loss_of, optimizer, 1)
        now = weights(model) == 0
        assert (now | ~dead).all()
        assert (now.sum() > dead.sum()) == (step in (6, 12, 18)), step
        if step % 6 == 0:
            share = 0.9 * (1 - (1 - min(step / 20, 1)) ** 3)
            assert now.sum() == round(share * 192)
        dead = now


@pytest.mark.parametrize("budget", ["rule", "global"])
def test_the_budget_is_each_rules_or_everybodys(budget):
    model, loss_of = MLP.build()
    with torch.no_grad():
        model[0].weight.add_(100)
    rules = [Rule("0.weight", L0(), sparsity=0.1), Rule("2.weight", L0(), sparsity=0.1)]
    optimizer = MagnitudePruning(sgd(model, lr=0.0), rules, every=1, budget=budget)
    train(model, loss_of, optimizer, 2)
    counts = [z for z, _ in optimizer.zeros().values()]
    assert counts == ([16, 3] if budget == "rule" else [0, 19])


def test_between_updates_the_result_meets_the_target_in_force():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.9, schedule=Cubic(0, 10))
    optimizer = MagnitudePruning(sgd(model), [rule], every=8)
    train(model, loss_of, optimizer, 11)
    assert (weights(model) == 0).sum() == round(0.9 * (1 - 0.2**3) * 192)
    optimizer.finalize()
    assert (weights(model) == 0).sum() == round(0.9 * 192)


def test_weights_that_happen_to_be_zero_may_grow():
    """The mask says what is pruned, not the value."""
    p = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 3.0]))
    optimizer = MagnitudePruning(
        torch.optim.SGD([("w", p)], lr=0.1), [Rule("w", L0(), sparsity=0.25)], every=1
    )
    for _ in range(2):
        p.grad = torch.tensor([-1.0, -1.0, -1.0, 0.0])
        p.grad[0] = 0
        optimizer.step()
    assert p.detach().tolist() == pytest.approx([0.0, 0.2, 0.2, 3.0])


def test_what_it_cannot_do_it_says():
    model, _ = MLP.build()
    for rule, options, why in [
        (Rule("*", L0(), lam=0.5), {}, "takes no lam="),
        (Rule("*", L1(), sparsity=0.5), {}, r"give it L0\(\)"),
        (Rule("*", L0(), sparsity=0.5), {"initial": 0.6}, "below initial=0.6"),
        (Rule("*", L0(), sparsity=0.5), {"initial": -0.1}, "initial must lie in"),
        (Rule("*", L0(), sparsity=0.5), {"every": 0}, "every must be a number of steps >= 1"),
        (Rule("*", L0(), sparsity=0.5), {"budget": "none"}, "budget must be"),
    ]:
        with pytest.raises(RuleError, match=why):
            MagnitudePruning(sgd(model), [rule], **options)
