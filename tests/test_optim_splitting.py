"""RVSM against the paper's iteration, the theorem, and every way to be called."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import pytest
import torch

import rvsm
from optimizers import MODES, each_mode, each_penalty, leaves_alone_what_has_no_gradient, sgd
from problems import CONVOLUTIONAL, LEAST_SQUARES, LOGISTIC, MLP, SMOOTH, train, weights
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM, Rule
from rvsm.penalties import L0, L1, TransformedL1


def papers_iteration(w, gradient, penalty, *, lr, lam, beta, steps, as_printed=False):
    """Run the paper's loop: w-step by gradient descent, u-step by thresholding.

    As printed u comes from the previous w; in the authors' code from the new one.
    """
    mu = lam / beta
    u = penalty.prox(w, mu)
    for _ in range(steps):
        previous = w
        w = w - lr * (gradient(w) + beta * (w - u))
        u = penalty.prox(previous if as_printed else w, mu)
    return w, u


def gradient_of(problem):
    """Return the gradient of a one-layer problem as a function of its weights."""
    model, loss_of = problem.build()

    def gradient(w):
        with torch.no_grad():
            model.weight.copy_(w)
        return torch.autograd.grad(loss_of(model), model.weight)[0]

    return gradient


@each_penalty
@pytest.mark.parametrize("coupling", ["gradient", "decoupled"])
def test_plain_sgd_is_the_papers_iteration(penalty, coupling):
    model, loss_of = LEAST_SQUARES.build()
    w = model.weight.detach().clone()
    gradient = gradient_of(LEAST_SQUARES)
    strengths = {"lam": 0.02, "beta": 0.5}
    w, u = papers_iteration(w, gradient, penalty, lr=0.05, steps=100, **strengths)
    optimizer = RVSM(sgd(model), [Rule("weight", penalty, **strengths)], coupling=coupling)
    train(model, loss_of, optimizer, 100)
    # The optimizer's fused multiply-adds round a few last bits otherwise.
    torch.testing.assert_close(model.weight.detach(), w, rtol=0, atol=1e-14)
    optimizer.finalize()
    torch.testing.assert_close(model.weight.detach(), u, rtol=0, atol=1e-14)
    assert 0 < (u == 0).sum() < u.numel()


def test_the_order_as_printed_reaches_the_same_support():
    start = LEAST_SQUARES.build()[0].weight.detach()
    gradient = gradient_of(LEAST_SQUARES)
    options = {"lr": 0.3, "lam": 0.02, "beta": 0.5, "steps": 600}
    _, ours = papers_iteration(start, gradient, L0(), **options)
    _, printed = papers_iteration(start, gradient, L0(), as_printed=True, **options)
    assert torch.equal(ours == 0, printed == 0)
    assert torch.allclose(ours, printed, atol=1e-6)


@each_penalty
@pytest.mark.parametrize("problem", SMOOTH, ids=str)
@pytest.mark.parametrize("share_of_limit", [0.3, 0.99])
def test_the_lagrangian_decreases_monotonically(problem, penalty, share_of_limit):
    """Theorem 1: with eta < 2 / (beta + L) every step lowers L(w, u)."""
    model, loss_of = problem.build()
    beta = 0.5
    lr = share_of_limit * 2 / (beta + problem.lipschitz)
    optimizer = RVSM(sgd(model, lr=lr), [Rule("weight", penalty, lam=0.02, beta=beta)])
    values = []
    for _ in range(150):
        with torch.no_grad():
            values.append(optimizer.lagrangian(loss_of(model)).item())
        train(model, loss_of, optimizer, 1)
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_the_lagrangian_is_its_definition():
    model, loss_of = MLP.build()
    lam, beta, lam2 = 2e-3, 0.3, 0.01
    rule = Rule("0.weight", TransformedL1(), lam=lam, beta=beta, subgradient=(L1(), lam2))
    optimizer = RVSM(sgd(model), [rule])
    train(model, loss_of, optimizer, 20)
    loss = loss_of(model)
    w = model[0].weight.detach()
    u = TransformedL1().prox(w, lam / beta)
    assert optimizer.gap().item() == pytest.approx((w - u).norm().item(), rel=1e-6)
    expected = loss.item() + lam * TransformedL1().value(u) + beta / 2 * (w - u).square().sum()
    expected = expected + lam2 * w.abs().sum()
    value = optimizer.lagrangian(loss)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not value.requires_grad
    assert optimizer.lagrangian() == pytest.approx(expected.item() - loss.item(), rel=1e-5)
    with optimizer.sparse_weights():
        assert optimizer.lagrangian(loss).item() == value.item()
        assert optimizer.gap().item() > 0


def test_a_large_layer_in_pieces_equals_the_whole():
    torch.manual_seed(0)
    n = 3 * 131072 + 17
    for strength in ({"lam": 0.05}, {"sparsity": 0.5}):
        for mode in MODES:
            p = torch.nn.Parameter(torch.randn(n))
            q = torch.nn.Parameter(p.detach().view(n, 1).expand(n, 2).clone()[:, :1])
            assert not q.is_contiguous()
            for parameter in (p, q):
                base = torch.optim.SGD([("w", parameter)], lr=0.1, momentum=0.9)
                optimizer = RVSM(base, [Rule("w", L1(), **strength)], **mode)
                for _ in range(3):
                    parameter.grad = torch.sin(parameter.detach())
                    optimizer.step()
            assert torch.equal(p, q.squeeze(1))


def test_u_is_what_the_parameters_hold_with_grad_at_u():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], grad_at="u")
    start = weights(model)
    with optimizer.sparse_weights():
        assert (weights(model) == 0).sum() == round(0.5 * 192)
    assert torch.equal(weights(model), start)
    train(model, loss_of, optimizer, 3)
    u = weights(model)
    assert (u == 0).sum() == round(0.5 * 192)
    with optimizer.sparse_weights():
        assert torch.equal(weights(model), u)
    stored = [state for state in optimizer.state.values() if "rvsm_w" in state]
    assert len(stored) == 2
    assert optimizer.gap() > 0


def test_grad_at_u_is_its_definition():
    model, loss_of = LEAST_SQUARES.build()
    lam, beta, lr = 0.02, 0.5, 0.05
    w = model.weight.detach().clone()
    gradient = gradient_of(LEAST_SQUARES)
    at = w.clone()  # the first gradient is taken at the start itself
    for _ in range(30):
        w = w - lr * (gradient(at) + beta * (w - L0().prox(w, lam / beta)))
        at = L0().prox(w, lam / beta)
    optimizer = RVSM(sgd(model), [Rule("weight", L0(), lam=lam, beta=beta)], grad_at="u")
    train(model, loss_of, optimizer, 30)
    assert torch.allclose(model.weight, at, atol=1e-14)
    assert torch.allclose(optimizer.state[model.weight]["rvsm_w"], w, atol=1e-14)


def test_the_default_mode_stores_nothing():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)])
    train(model, loss_of, optimizer, 5)
    with optimizer.sparse_weights():
        loss_of(model)
    assert all(value is None for state in optimizer.state.values() for value in state.values())
    attributes = {k: v for k, v in vars(optimizer).items() if k != "base"}
    assert not any(isinstance(v, torch.Tensor) for v in attributes.values())
    assert not optimizer._held


def test_sparse_weights_nest_and_survive_exceptions():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), lam=0.01)])
    train(model, loss_of, optimizer, 5)
    w = weights(model)
    with optimizer.sparse_weights():
        u = weights(model)
        with optimizer.sparse_weights():
            assert torch.equal(weights(model), u)  # l1 shrinks: thresholding twice would differ
        with pytest.raises(KeyError), optimizer.sparse_weights():
            raise KeyError
        assert torch.equal(weights(model), u)
        with pytest.raises(RuleError, match="leave it first"):
            optimizer.step()
        with pytest.raises(RuleError, match="leave it first"):
            optimizer.finalize()
    assert torch.equal(weights(model), w)
    with pytest.raises(KeyError), optimizer.sparse_weights():
        raise KeyError
    assert torch.equal(weights(model), w)
    with torch.inference_mode(), optimizer.sparse_weights():
        assert torch.equal(weights(model), u)
    assert torch.equal(weights(model), w)
    train(model, loss_of, optimizer, 1)


def test_sparse_weights_restore_when_a_penalty_fails_half_way():
    @dataclass
    class Failing:
        fail: bool = False

        def value(self, x):
            return x.abs().sum()

        def prox(self, x, mu):
            if self.fail and x.shape == (2, 16):
                raise ArithmeticError
            return L1().prox(x, mu)

        def threshold(self, mu):
            return mu

        def mu_for_threshold(self, t):
            return t

    model, loss_of = MLP.build()
    penalty = Failing()
    optimizer = RVSM(sgd(model), [Rule("*.weight", penalty, lam=0.01)])
    train(model, loss_of, optimizer, 2)
    w = weights(model)
    penalty.fail = True
    with pytest.raises(ArithmeticError), optimizer.sparse_weights():
        pass
    assert torch.equal(weights(model), w)
    penalty.fail = False
    train(model, loss_of, optimizer, 1)


def test_closures_reach_the_base():
    for mode in MODES:
        model, loss_of = MLP.build()
        optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), lam=0.01)], **mode)
        train(model, loss_of, optimizer, 5)
        expected = weights(model)
        model, loss_of = MLP.build()
        optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), lam=0.01)], **mode)

        def closure(model=model, loss_of=loss_of, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        before = loss_of(model).item()
        assert optimizer.step(closure).item() == before
        for _ in range(4):
            optimizer.step(closure)
        assert torch.equal(weights(model), expected)


def test_lbfgs_solves_the_relaxed_problem():
    model, loss_of = LOGISTIC.build()
    base = torch.optim.LBFGS(model.named_parameters(), max_iter=50, line_search_fn="strong_wolfe")
    optimizer = RVSM(base, [Rule("weight", L1(), lam=0.02, beta=0.5)])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    (gradient,) = torch.autograd.grad(loss_of(model), model.weight)
    w = model.weight.detach()
    coupling = 0.5 * (w - L1().prox(w, 0.04))
    assert (gradient + coupling).abs().max() < 1e-5
    with pytest.raises(RuleError, match="LBFGS"):
        RVSM(base, [Rule("weight", L1(), lam=0.02)], grad_at="u")


def test_maximize_couples_in_the_right_direction():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), lam=0.01)])
    train(model, loss_of, optimizer, 5)
    expected = weights(model)
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model, maximize=True), [Rule("*.weight", L1(), lam=0.01)])
    train(model, lambda model: -loss_of(model), optimizer, 5)
    assert torch.allclose(weights(model), expected)


def test_a_subgradient_alone_is_a_penalised_loss():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", None, subgradient=(TransformedL1(), 0.01))])
    train(model, loss_of, optimizer, 10)
    assert optimizer.zeros() == {}
    assert optimizer.gap() == 0
    with optimizer.sparse_weights():
        ours = weights(model)
    model, _ = MLP.build()

    def penalised(model):
        value = sum(TransformedL1().value(model[i].weight) for i in (0, 2))
        return loss_of(model) + 0.01 * value

    train(model, penalised, sgd(model), 10)
    assert torch.allclose(weights(model), ours, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@each_mode
def test_a_gradient_that_is_not_finite_stops_before_anything_changes(bad, mode):
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), lam=1e-3)
    optimizer = RVSM(sgd(model, momentum=0.9), [rule], **mode)
    train(model, loss_of, optimizer, 3)
    before, steps = weights(model), optimizer.steps
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    loss_of(model).backward()
    model[2].weight.grad[0, 0] = bad
    with pytest.raises(RunError, match=r"gradient of 2\.weight is not finite at step 3"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], momentum)
    assert optimizer.steps == steps


@each_mode
@pytest.mark.parametrize(("name", "number"), [("lam", -1.0), ("lam", math.nan), ("beta", 0.0)])
def test_a_strength_set_to_nonsense_stops_before_anything_changes(mode, name, number):
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model, momentum=0.9), [Rule("*.weight", L0(), lam=1e-3)], **mode)
    train(model, loss_of, optimizer, 3)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["rvsm"]["rules"]["0"][name] = number
    loss_of(model).backward()
    with pytest.raises(RuleError, match=rf"weight in param_groups: {name} must be"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@each_mode
def test_a_penalty_that_fails_leaves_the_model_as_it_was_when_made_final(mode):
    class Fails(L0):
        broken = False

        def prox(self, x, mu):
            if self.broken and x.shape == model[2].weight.shape:
                raise ValueError("no")
            return super().prox(x, mu)

    model, loss_of = MLP.build()
    rule = Rule("*.weight", Fails(), lam=1e-2)
    optimizer = RVSM(sgd(model), [rule], **mode)
    train(model, loss_of, optimizer, 3)
    before = weights(model)
    Fails.broken = True
    with pytest.raises(ValueError, match="no"):
        optimizer.finalize()
    assert torch.equal(weights(model), before)
    assert not optimizer.frozen


def test_a_gradient_whose_sum_overflows_is_fine():
    p = torch.nn.Parameter(torch.ones(100))
    optimizer = RVSM(torch.optim.SGD([("w", p)], lr=1e-38), [Rule("w", L0(), lam=0.001)])
    p.grad = torch.full((100,), 1e38)
    optimizer.step()
    assert p.isfinite().all()


def test_parameters_without_gradients_are_left_alone():
    for mode in MODES:
        model, loss_of = MLP.build()
        base = torch.optim.Adam(model.named_parameters())
        optimizer = RVSM(base, [Rule("*", L0(), lam=1e-3)], **mode)
        leaves_alone_what_has_no_gradient(model, loss_of, optimizer, 3)


def test_a_convolution_in_channels_last_keeps_its_layout():
    for mode in MODES:
        model, loss_of = CONVOLUTIONAL.build()
        optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], **mode)
        train(model, loss_of, optimizer, 3)
        optimizer.finalize()
        assert model[4].weight.is_contiguous(memory_format=torch.channels_last)


@each_mode
def test_zeros_have_no_sign(mode):
    """A zero with a sign is stored as a value; torch's soft threshold gives some."""
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), lam=0.02, beta=0.3)], **mode)
    train(model, loss_of, optimizer, 3)
    with optimizer.sparse_weights():
        shown = weights(model)
        assert (shown == 0).any()
        assert not shown[shown == 0].signbit().any()
    optimizer.finalize()
    assert not weights(model)[weights(model) == 0].signbit().any()


def test_the_top_level_names_are_the_same_objects():
    assert rvsm.RVSM is RVSM
    assert rvsm.Rule is Rule
    assert "RVSM" in dir(rvsm)
    with pytest.raises(AttributeError, match="no attribute 'Rvsm'"):
        _ = rvsm.Rvsm
