"""What every relative of RVSM keeps to: phases, exact targets, supports, zeros."""

from __future__ import annotations

import pytest
import torch

from problems import CONVOLUTIONAL, LEAST_SQUARES, MLP, train, weights
from relatives import (
    BASES,
    METHODS,
    begun,
    build,
    each_base,
    each_method,
    exact_methods,
)
from rvsm.errors import RuleError
from rvsm.groups import NM, InputChannels
from rvsm.optim import (
    ADMM,
    Budget,
    Continuation,
    Cubic,
    HardConcrete,
    LinearizedBregman,
    MagnitudePruning,
    ProximalGradient,
    Rule,
)
from rvsm.penalties import L0, L1, TransformedL1


@each_base
@each_method
def test_warmup_is_the_bare_base_bit_for_bit(method, base):
    model, loss_of = MLP.build()
    losses = train(model, loss_of, base(model.named_parameters()), 4)
    expected = weights(model)
    model, loss_of, optimizer = build(method, base)
    assert train(model, loss_of, optimizer, 4) == losses
    # Magnitude pruning begins right after the last step of the warm-up.
    zeros = round(method[3].get("initial", 0.0) * 192)
    held = weights(model)
    assert (held == 0).sum() == zeros
    assert torch.equal(torch.where(held == 0, expected, held), expected)
    with optimizer.sparse_weights():
        assert (weights(model) == 0).sum() == zeros


@each_base
@each_method
def test_without_strength_it_is_the_base_bit_for_bit(method, base):
    if method[0] is HardConcrete:
        pytest.skip("its gates are open, not absent, when they cost nothing")
    problem = CONVOLUTIONAL
    model, loss_of = problem.build()
    losses = train(model, loss_of, base(model.named_parameters()), 12)
    expected = weights(model)
    make, penalty, strength, options = method
    none = dict.fromkeys(strength, 0.0)
    options = {k: v for k, v in options.items() if k not in ("initial", "delta")}
    model, loss_of = problem.build()
    optimizer = make(
        base(model.named_parameters()), [Rule(problem.weights, penalty, **none)], **options
    )
    assert train(model, loss_of, optimizer, 12) == losses
    assert torch.equal(weights(model), expected)


@each_base
@each_method
def test_the_result_is_sparse_and_its_zeros_stay(method, base):
    model, loss_of, optimizer = begun(method, base)
    losses = train(model, loss_of, optimizer, 60)
    assert min(losses) < losses[0]
    zeros = optimizer.zeros()
    with optimizer.sparse_weights():
        shown = weights(model)
    optimizer.finalize()
    assert optimizer.frozen
    assert torch.equal(weights(model), shown)
    assert optimizer.zeros() == zeros
    assert zeros.keys() == {"0.weight", "2.weight"}
    dead = shown == 0
    assert 0 < dead.sum() == sum(z for z, _ in zeros.values())
    assert not any(k.startswith("rvsm") for s in optimizer.state.values() for k in s)
    train(model, loss_of, optimizer, 10)
    assert (weights(model)[dead] == 0).all()
    assert not torch.equal(weights(model), shown)
    optimizer.finalize()
    assert (weights(model)[dead] == 0).all()


@each_method
def test_healing_freezes_the_support_by_itself(method):
    model, loss_of, optimizer = build(
        method, lambda named: torch.optim.AdamW(named, lr=0.01, weight_decay=0.1)
    )
    train(model, loss_of, optimizer, 15)
    assert not optimizer.frozen
    train(model, loss_of, optimizer, 1)
    assert optimizer.frozen
    dead = weights(model) == 0
    train(model, loss_of, optimizer, 20)
    assert (weights(model)[dead] == 0).all()
    if "sparsity" in method[2]:
        assert dead.sum() == round(0.7 * 192)


@exact_methods
@pytest.mark.parametrize("sparsity", [0.33, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1()], ids=str)
def test_exact_targets_with_ties(method, penalty, sparsity):
    make, _, _, options = method
    if make is MagnitudePruning:
        penalty, options = L0(), {**options, "initial": 0.0}
    model, loss_of = MLP.build()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 8).round() / 8 + 0.0625)  # many ties, no zeros
    rules = [
        Rule("0.weight", penalty, sparsity=sparsity),
        Rule("2.*", penalty, sparsity=sparsity / 2),
    ]
    optimizer = make(torch.optim.SGD(model.named_parameters(), lr=0.05), rules, **options)
    for steps in (0, 1, 5):
        train(model, loss_of, optimizer, steps)
        zeros = optimizer.zeros()
        targets = [sparsity * 160, sparsity / 2 * 34]
        counts = [zeros["0.weight"][0], zeros["2.weight"][0] + zeros["2.bias"][0]]
        if optimizer.budget.scope == "global":
            assert sum(counts) == round(sum(targets))
        else:
            assert counts == [round(target) for target in targets]


RECOVERY = {
    "admm-l1": (ADMM, L1(), {"lam": 0.1}, {}),
    "admm-l0": (ADMM, L0(), {"lam": 0.05}, {"every": 1}),
    "admm-exact": (ADMM, L0(), {"sparsity": 0.8}, {}),
    "proximal": (ProximalGradient, L1(), {"lam": 0.1}, {}),
    "aprox": (ProximalGradient, L1(), {"lam": 0.1}, {"aggregate": True}),
    "aprox-exact": (ProximalGradient, L0(), {"sparsity": 0.8}, {"aggregate": True}),
    "bregman": (LinearizedBregman, L1(), {"lam": 4.0}, {}),
    "magnitude": (MagnitudePruning, L0(), {"sparsity": 0.8, "schedule": Cubic(0, 400)}, {}),
    "hard-concrete": (HardConcrete, L0(), {"lam": 0.05}, {}),
}


@pytest.mark.parametrize("method", RECOVERY.values(), ids=RECOVERY)
def test_it_recovers_the_true_support(method):
    make, penalty, strength, options = method
    model, loss_of = LEAST_SQUARES.build()
    if make is LinearizedBregman:
        with torch.no_grad():
            model.weight.zero_()
    base = torch.optim.SGD(model.named_parameters(), lr=0.05)
    optimizer = make(base, [Rule("weight", penalty, beta=0.5, **strength)], **options)
    train(model, loss_of, optimizer, 1500 if make is HardConcrete else 800)
    optimizer.finalize()
    assert (model.weight[0] != 0).nonzero().flatten().tolist() == [0, 1, 2, 3]
    train(model, loss_of, optimizer, 500)  # healed, the survivors are the least-squares fit
    truth = torch.tensor([2.0, -1.5, 1.0, 0.7], dtype=torch.float64)
    assert torch.allclose(model.weight[0, :4], truth, atol=0.03)


@each_method
def test_whole_channels_die_under_groups(method):
    strength = {"lam": 0.3} if "lam" in method[2] else {"sparsity": 0.5}
    rule = Rule("4.weight", method[1], groups=InputChannels(), **strength)
    model, loss_of = CONVOLUTIONAL.build()
    base = torch.optim.SGD(model.named_parameters(), lr=0.02)
    optimizer = method[0](base, [rule], **method[3])
    train(model, loss_of, optimizer, 40)
    optimizer.finalize()
    dead = (model[4].weight == 0).all(dim=(0, 2, 3))
    assert torch.equal((model[4].weight == 0).any(dim=(0, 2, 3)), dead)
    if "sparsity" in strength:
        assert dead.sum() == 2
    assert model[4].weight.is_contiguous(memory_format=torch.channels_last)


@each_base
@each_method
@pytest.mark.parametrize("lr", [0.0, 0.05])
def test_zero_weights_zero_groups_and_zero_rates_make_no_nan(method, base, lr):
    for groups in (None, InputChannels()):
        model, loss_of, optimizer = begun(method, base, CONVOLUTIONAL, groups)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            model[0].weight.zero_()
            model[4].weight[:, 1].zero_()
        train(model, loss_of, optimizer, 8)
        assert weights(model).isfinite().all()
        for state in optimizer.state.values():
            assert all(v is None or v.isfinite().all() for v in state.values())
        optimizer.finalize()
        train(model, loss_of, optimizer, 2)
        assert weights(model).isfinite().all()


@pytest.mark.parametrize("name", ["proximal", "aprox", "bregman", "admm"])
def test_a_zero_rate_moves_nothing_that_its_formula_does_not(name):
    model, loss_of, optimizer = begun(METHODS[name])
    optimizer.param_groups[0]["lr"] = 0.0
    before = weights(model)
    train(model, loss_of, optimizer, 3)
    assert torch.allclose(weights(model), before, atol=1e-6)


@exact_methods
def test_n_of_m_and_floors_hold(method):
    make, penalty, _, options = method
    options = {k: v for k, v in options.items() if k not in ("budget", "initial")}
    model, loss_of = MLP.build()
    rule = Rule("2.weight", penalty, groups=NM(2, 4), sparsity=0.5)
    optimizer = make(BASES["momentum"](model.named_parameters()), [rule], **options)
    train(model, loss_of, optimizer, 9)
    optimizer.finalize()
    assert ((model[2].weight == 0).view(2, 4, 4).sum(-1) == 2).all()
    model, loss_of = MLP.build()
    beyond = Rule("2.weight", penalty, groups=NM(2, 4), sparsity=0.7)
    with pytest.raises(RuleError, match="cannot be reached"):
        make(BASES["momentum"](model.named_parameters()), [beyond], **options)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    budget = Budget("global", floor=5)
    rule = Rule("*.weight", penalty, sparsity=0.5)
    optimizer = make(
        torch.optim.SGD(model.named_parameters(), lr=0.0), [rule], **options, budget=budget
    )
    train(model, loss_of, optimizer, 3)
    assert optimizer.zeros() == {"0.weight": (69, 160), "2.weight": (27, 32)}


def test_gates_know_no_free_weights():
    model, _ = MLP.build()
    rule = Rule("2.weight", L0(), groups=NM(2, 4), lam=0.1)
    with pytest.raises(RuleError, match="leaves groups free"):
        HardConcrete(BASES["momentum"](model.named_parameters()), [rule])


def test_the_rho_of_admm_may_grow():
    p = torch.nn.Parameter(torch.tensor([1.0, 0.1]))
    rule = Rule("w", L0(), sparsity=0.5, beta=Continuation(0.1, 2.0, 1, 0.4))
    optimizer = ADMM(torch.optim.SGD([("w", p)], lr=0.0), [rule], every=100)
    pulls = []
    for _ in range(5):
        p.grad = torch.tensor([0.0, 1e-30])  # not the all-zero first look of a checkpoint
        optimizer.step()
        pulls.append(p.grad[1].item())
    assert pulls == pytest.approx([0.0, 0.02, 0.04, 0.04, 0.04])
