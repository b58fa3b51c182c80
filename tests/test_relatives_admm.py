"""ADMM against its loop, written out."""

from __future__ import annotations

import pytest
import torch

from problems import LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError
from rvsm.optim import ADMM, Linear, Rule
from rvsm.penalties import L0, L1, TransformedL1


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.named_parameters(), lr=lr, **options)


def slow_admm(model, loss_of, prox, *, lr, rho, every, steps):
    """Plain gradient descent on the augmented Lagrangian; return w, z and y."""
    w, z, y = model.weight.detach().clone(), None, None
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.copy_(w)
        (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
        if z is None:
            w = w - lr * gradient
            z, y = prox(w), torch.zeros_like(w)
            continue
        w = w - lr * (gradient + rho * (w - z + y))
        if step % every == 0:
            z = prox(w + y)
            y = y + w - z
    return w, z, y


def keep_largest(x, zeros):
    """Project on the tensors with that many zeros: the smallest magnitudes, whatever their sign."""
    kept = x.flatten().clone()
    kept[x.flatten().abs().argsort(stable=True)[:zeros]] = 0
    return kept.view(x.shape)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize(
    "penalty", [L0(), L1(), TransformedL1(), None], ids=lambda p: str(p or "projection")
)
def test_it_is_the_loop(penalty, every):
    lr, rho, lam, steps = 0.05, 0.4, 0.03, 100
    model, loss_of = LEAST_SQUARES.build()
    if penalty is None:
        rule = Rule("weight", L0(), sparsity=0.75, beta=rho)
        prox = lambda x: keep_largest(x, 15)  # noqa: E731
    else:
        rule = Rule("weight", penalty, lam=lam, beta=rho)
        prox = lambda x: penalty.prox(x, lam / rho)  # noqa: E731
    w, z, y = slow_admm(model, loss_of, prox, lr=lr, rho=rho, every=every, steps=steps)
    model, loss_of = LEAST_SQUARES.build()
    optimizer = ADMM(sgd(model, lr), [rule], every=every)
    train(model, loss_of, optimizer, steps)
    state = optimizer.state[model.weight]
    torch.testing.assert_close(model.weight.detach(), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(state["rvsm_z"], z, rtol=0, atol=1e-12)
    torch.testing.assert_close(state["rvsm_y"], y, rtol=0, atol=1e-12)
    assert y.abs().max() > 0.01
    optimizer.finalize()
    torch.testing.assert_close(model.weight.detach(), z, rtol=0, atol=1e-12)
    assert 0 < (model.weight == 0).sum() < 20


def test_at_rest_the_multiplier_is_the_gradient_and_w_is_z():
    """The optimality of the constrained problem: rho y = -grad f(w), a subgradient of lam P."""
    model, loss_of = LEAST_SQUARES.build()
    lam, rho = 0.1, 1.0
    optimizer = ADMM(sgd(model, 0.3), [Rule("weight", L1(), lam=lam, beta=rho)], every=1)
    train(model, loss_of, optimizer, 3000)
    (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
    state = optimizer.state[model.weight]
    assert torch.allclose(model.weight, state["rvsm_z"], atol=1e-8)
    assert torch.allclose(rho * state["rvsm_y"], -gradient, atol=1e-8)
    alive = state["rvsm_z"] != 0
    assert torch.allclose(gradient[alive], -lam * state["rvsm_z"][alive].sign(), atol=1e-8)
    assert (gradient[~alive].abs() <= lam).all()


def test_negative_weights_are_magnitudes_too():
    """Percentiles over signed weights would zero the negative ones first."""
    p = torch.nn.Parameter(torch.tensor([-5.0, -4.0, -3.0, 0.1, 0.2, 0.3]))
    optimizer = ADMM(torch.optim.SGD([("w", p)], lr=0.1), [Rule("w", L0(), sparsity=0.5)])
    p.grad = torch.zeros(6)
    optimizer.step()
    optimizer.finalize()
    assert p.tolist() == [-5.0, -4.0, -3.0, 0.0, 0.0, 0.0]


def test_a_rising_target_is_met_at_the_next_update():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.8, schedule=Linear(0, 10))
    optimizer = ADMM(sgd(model), [rule], every=4)
    seen = []
    for _ in range(14):
        train(model, loss_of, optimizer, 1)
        seen.append(sum(z for z, _ in optimizer.zeros().values()))
    at = {step: round(0.8 * min(step / 10, 1) * 192) for step in (1, 4, 8, 12)}
    assert seen == [at[1]] * 3 + [at[4]] * 4 + [at[8]] * 4 + [at[12]] * 3


def test_w_has_no_zeros_and_is_what_trains():
    model, loss_of = MLP.build()
    optimizer = ADMM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)])
    train(model, loss_of, optimizer, 12)
    before = weights(model)
    assert (before[:160] != 0).all()
    with optimizer.sparse_weights():
        assert (weights(model) == 0).sum() == 96
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("every", [0, -1])
def test_updates_need_a_distance(every):
    model, _ = MLP.build()
    with pytest.raises(RuleError, match="every must be a number of steps >= 1"):
        ADMM(sgd(model), [Rule("*.weight", L0(), lam=1.0)], every=every)
