"""Phases: the bare base without strength, schedules, continuation of beta, zeros that stay."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from optimizers import BASES, MODES, each_base, each_mode, each_problem, each_strength, sgd
from problems import MLP, SMOOTH, train, weights
from rvsm.errors import RuleError
from rvsm.groups import NM, Blocks, Filters
from rvsm.optim import RVSM, Continuation, Cosine, Cubic, Linear, MagnitudePruning, Rule, Steps
from rvsm.penalties import L0, L1, TransformedL1


@each_base
@each_problem
@each_mode
def test_without_strength_it_is_the_base_bit_for_bit(problem, base, mode):
    model, loss_of = problem.build()
    bare = base(model.named_parameters())
    losses = train(model, loss_of, bare, 12)
    expected = weights(model)
    model, loss_of = problem.build()
    strength = {"lam": 0.0} if problem in SMOOTH else {"sparsity": 0.0}
    rules = [Rule(problem.weights, L0(), **strength)]
    if problem not in SMOOTH:
        rules.append(Rule("*.bias", L1(), lam=0.0))
    optimizer = RVSM(base(model.named_parameters()), rules, **mode)
    assert train(model, loss_of, optimizer, 12) == losses
    assert torch.equal(weights(model).view(torch.uint8), expected.view(torch.uint8))
    assert not any("rvsm_w" in state for state in optimizer.state.values())


@pytest.mark.parametrize("base", [BASES["momentum"], BASES["adam-fused"]])
@each_problem
@each_mode
@each_strength
def test_training_leaves_exact_zeros_and_they_stay(problem, base, mode, strength):
    model, loss_of = problem.build()
    optimizer = RVSM(
        base(model.named_parameters()), [Rule(problem.weights, L0(), beta=0.5, **strength)], **mode
    )
    losses = train(model, loss_of, optimizer, 30)
    assert min(losses) < losses[0]
    zeros = optimizer.zeros()
    total = sum(n for _, n in zeros.values())
    if "sparsity" in strength:
        assert sum(z for z, _ in zeros.values()) == round(0.6 * total)
    with optimizer.sparse_weights():
        shown = weights(model)
    optimizer.finalize()
    assert optimizer.frozen
    assert torch.equal(weights(model), shown)
    assert optimizer.zeros() == zeros
    dead = shown == 0
    train(model, loss_of, optimizer, 10)
    assert (weights(model)[dead] == 0).all()
    assert not torch.equal(weights(model), shown)
    assert optimizer.gap() == 0
    assert optimizer.lagrangian(1.5).item() == 1.5
    assert not any("rvsm_w" in state for state in optimizer.state.values())


@each_mode
def test_warmup_is_the_bare_base(mode):
    model, loss_of = MLP.build()
    train(model, loss_of, sgd(model, momentum=0.9), 10)
    expected = weights(model)
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.8)
    optimizer = RVSM(sgd(model, momentum=0.9), [rule], warmup=10, **mode)
    for _ in range(9):
        train(model, loss_of, optimizer, 1)
        assert sum(z for z, _ in optimizer.zeros().values()) == 0
    train(model, loss_of, optimizer, 1)
    w = weights(model)
    assert sum(z for z, _ in optimizer.zeros().values()) == round(0.8 * 192)
    if "grad_at" in mode:
        w[w == 0] = expected[w == 0]
    assert torch.equal(w, expected)


@each_mode
def test_healing_freezes_the_support_by_itself(mode):
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.5, schedule=Cubic(2, 8))
    base = torch.optim.Adam(model.named_parameters(), lr=0.01, weight_decay=0.1)
    optimizer = RVSM(base, [rule], warmup=2, heal_from=10, **mode)
    train(model, loss_of, optimizer, 9)
    assert not optimizer.frozen
    train(model, loss_of, optimizer, 1)
    assert optimizer.frozen
    dead = weights(model) == 0
    assert dead.sum() == 96
    train(model, loss_of, optimizer, 20)
    assert torch.equal(weights(model) == 0, dead)


def test_schedules_raise_the_target_and_the_strength():
    assert [Linear(2, 6)(s) for s in (0, 2, 3, 6, 9)] == [0, 0, 0.25, 1, 1]
    assert [Cubic(0, 2)(s) for s in (0, 1, 2)] == [0, 0.875, 1]
    model, loss_of = MLP.build()
    rules = [
        Rule("0.weight", L0(), sparsity=0.5, schedule=Linear(0, 10)),
        Rule("2.weight", L1(), lam=1.0, beta=1.0, schedule=Linear(5, 10)),
    ]
    optimizer = RVSM(sgd(model), rules)
    for step in range(12):
        zeros = optimizer.zeros()
        assert zeros["0.weight"][0] == round(0.5 * min(step / 10, 1) * 160)
        assert (zeros["2.weight"][0] > 0) == (step > 5)
        train(model, loss_of, optimizer, 1)


@pytest.mark.parametrize("schedule", [Linear, Cubic])
@pytest.mark.parametrize("span", [(3, 3), (5, 2), (-1, 4), ("a", 3), (0, 2.5), (None, 3)])
def test_a_schedule_needs_a_span(schedule, span):
    with pytest.raises(RuleError, match="0 <= start < end"):
        schedule(*span)


@pytest.mark.parametrize("schedule", [Cubic(0, 20), Linear(3, 10), Steps((5, 15))], ids=str)
def test_a_schedule_that_ends_before_the_warm_up_warns(schedule):
    def build(warmup):
        rule = Rule("*.weight", L0(), sparsity=0.5, schedule=schedule)
        return RVSM(sgd(MLP.build()[0]), [rule], warmup=warmup)

    with pytest.warns(
        UserWarning, match=r"ends at step \d+ and .* step 20, .* start at 20"
    ) as seen:
        build(20)
    assert seen[0].filename == __file__
    build(schedule.end - 1)
    build(0)


def test_schedules_count_from_the_first_step_whatever_the_warm_up():
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), sparsity=0.5, schedule=Linear(4, 8))
    optimizer = RVSM(sgd(model), [rule], warmup=4)
    for step in range(10):
        share = min(max(step - 4, 0) / 4, 1)
        assert sum(z for z, _ in optimizer.zeros().values()) == round(0.5 * share * 192)
        train(model, loss_of, optimizer, 1)


def test_a_zero_learning_rate_moves_nothing():
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model, lr=0.0, momentum=0.9), [Rule("*.weight", L0(), lam=1e-3)])
    before = weights(model)
    train(model, loss_of, optimizer, 3)
    assert torch.equal(weights(model), before)


def test_a_cosine_and_steps():
    assert [Cosine(0, 4)(s) for s in (0, 2, 4, 9)] == pytest.approx([0, 0.5, 1, 1], abs=1e-15)
    assert Cosine(0, 4)(1) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert [Steps((2, 5))(s) for s in (0, 1, 2, 4, 5, 99)] == [0, 0, 0.5, 0.5, 1, 1]
    assert [Steps([0, 5], [0.7, 0.9])(s) for s in (0, 4, 5)] == [0.7, 0.7, 0.9]
    assert Steps([1, 2]) == Steps((1, 2), (0.5, 1.0))
    assert hash(Steps([1, 2])) == hash(Steps((1, 2)))


@pytest.mark.parametrize(
    ("milestones", "shares", "message"),
    [
        ((), None, "milestones must be steps"),
        ((-1, 3), None, "milestones must be steps"),
        ((3, 3), None, "milestones must be steps"),
        ((1, 2), (0.5,), "one number from 0 to 1 for each"),
        ((1, 2), (0.5, 1.5), "one number from 0 to 1 for each"),
        ((1, 2), (0.5, "x"), "one number from 0 to 1 for each"),
        ((1, 2), 0.5, "one number from 0 to 1 for each"),
        ((1, "x"), None, "milestones must be steps"),
        (5, None, "milestones must be steps"),
    ],
)
def test_steps_need_milestones_and_shares(milestones, shares, message):
    with pytest.raises(RuleError, match=message):
        Steps(milestones, shares)


@pytest.mark.parametrize("share", [1.5, -0.1, math.nan])
def test_a_schedule_that_leaves_its_range_changes_nothing(share):
    for mode in MODES:
        model, loss_of = MLP.build()
        held = [1.0]
        rule = Rule("*.weight", L0(), sparsity=0.5, schedule=lambda step, held=held: held[-1])
        optimizer = RVSM(sgd(model, momentum=0.9), [rule], **mode)
        train(model, loss_of, optimizer, 1)
        before = weights(model)
        momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
        loss_of(model).backward()
        held.append(share)
        with pytest.raises(RuleError, match=r"Rule\('\*\.weight'\): the schedule gave"):
            optimizer.step()
        assert torch.equal(weights(model), before)
        assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], momentum)
        assert optimizer.steps == 1


def test_beta_grows_to_its_limit():
    beta = Continuation(0.5, 2.0, every=3, limit=3.0)
    assert [beta(step, 0.5) for step in (0, 2, 3, 6, 9, 10**9)] == [0.5, 0.5, 1, 2, 3, 3]
    assert Continuation(0.5, 1.0, 1, 0.5)(10**9, 0.5) == 0.5
    model, loss_of = MLP.build()
    rule = Rule("0.weight", L1(), lam=0.05, beta=beta)
    optimizer = RVSM(sgd(model, lr=0.0), [rule])
    w = model[0].weight.detach()
    for step in range(12):
        in_force = min(3.0, 0.5 * 2 ** (step // 3))
        assert optimizer.param_groups[0]["rvsm"]["rules"]["0"]["beta"] == 0.5
        u = L1().prox(w, 0.05 / in_force)
        assert optimizer.zeros()["0.weight"][0] == (u == 0).sum()
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        gradient = model[0].weight.grad.clone()
        expected = loss + 0.05 * u.abs().sum() + in_force / 2 * (w - u).square().sum()
        assert optimizer.lagrangian(loss).item() == pytest.approx(expected.item(), rel=1e-6)
        optimizer.step()
        torch.testing.assert_close(model[0].weight.grad, gradient + in_force * (w - u))


@pytest.mark.parametrize(
    "numbers",
    [
        (0.0, 2, 1, 1),
        (1, 0.5, 1, 2),
        (1, 2, 0, 2),
        (2, 2, 1, 1),
        (1, 2, 1, math.inf),
        ("a", 2, 1, 2),
        (1, None, 1, 2),
        (1, 2, 1.5, 2),
        (1, 2, "x", 2),
    ],
)
def test_a_continuation_needs_growth_and_a_limit(numbers):
    with pytest.raises(RuleError, match="0 < start <= limit"):
        Continuation(*numbers)


@each_mode
def test_a_layer_added_to_a_frozen_support_trains_from_zero(mode):
    """Only what was zero when the support was fixed stays so: a new layer may begin with zeros."""
    model, loss_of = MLP.build()
    base = torch.optim.SGD(model[0].named_parameters(prefix="0"), lr=0.05, momentum=0.9)
    optimizer = RVSM(base, [Rule("*.weight", L0(), sparsity=0.5)], **mode)
    train(model, loss_of, optimizer, 3)
    optimizer.finalize()
    dead = model[0].weight == 0
    torch.nn.init.zeros_(model[2].weight)
    optimizer.add_param_group({"params": list(model[2].named_parameters(prefix="2"))})
    train(model, loss_of, optimizer, 2)
    optimizer.finalize()  # again: nothing new is fixed
    again = copy.deepcopy((model, optimizer))
    again[1].load_state_dict(optimizer.state_dict())
    for its, ours in ((model, optimizer), again):
        train(its, loss_of, ours, 2)
        assert ours.frozen
        assert [group["rvsm"]["frozen"] for group in ours.param_groups] == [1, 0]
        assert (its[2].weight != 0).any()
        assert torch.equal(its[0].weight == 0, dead)


HEALING = {
    **BASES,
    "momentum-decay": lambda named: torch.optim.SGD(named, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam-decay": lambda named: torch.optim.Adam(named, lr=0.01, weight_decay=0.1),
    "adamw-decay": lambda named: torch.optim.AdamW(named, lr=0.01, weight_decay=0.1),
    "rmsprop-momentum": lambda named: torch.optim.RMSprop(
        named, lr=0.01, momentum=0.9, weight_decay=0.1, centered=True
    ),
}


@pytest.mark.parametrize("base", HEALING.values(), ids=HEALING)
@each_mode
def test_zeros_stay_zero_under_every_base_while_survivors_train(base, mode):
    """The base's momentum and decay of the time before must not revive what is dead."""
    model, loss_of = MLP.build()
    optimizer = RVSM(
        base(model.named_parameters()), [Rule("*.weight", L0(), sparsity=0.5)], heal_from=6, **mode
    )
    train(model, loss_of, optimizer, 6)
    shown = weights(model)
    for _ in range(10):
        train(model, loss_of, optimizer, 1)
        assert torch.equal(weights(model) == 0, shown == 0)
    # Not all of them: where a unit never fires, plain SGD has no gradient.
    assert (weights(model) != shown)[shown != 0].float().mean() > 0.5


@pytest.mark.parametrize("groups", [None, Filters(), Blocks(2, 2), NM(1, 2)], ids=str)
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1()], ids=str)
@each_mode
def test_zero_weights_groups_rates_and_strengths_give_no_nan(groups, penalty, mode):
    for lr in (0.0, 0.05):
        for strength in ({"lam": 0.0}, {"lam": 1e-2}, {"sparsity": 0.0}, {"sparsity": 0.5}):
            for init in (0.0, 1.0):
                model, loss_of = MLP.build()
                with torch.no_grad():
                    model[0].weight.mul_(init)
                    model[2].weight[0] = 0
                options = strength if groups is None else {**strength, "groups": groups}
                rule = Rule("*.weight", penalty, subgradient=(L1(), 1e-3), **options)
                optimizer = RVSM(sgd(model, lr=lr, momentum=0.9), [rule], **mode)
                train(model, loss_of, optimizer, 2)
                assert weights(model).isfinite().all()
                assert optimizer.lagrangian().isfinite()
                assert optimizer.gap().isfinite()
                assert all(math.isfinite(lam) or groups == NM(1, 2)
                           for lam in optimizer.critical().values())  # fmt: skip
                optimizer.finalize()
                train(model, loss_of, optimizer, 1)
                assert weights(model).isfinite().all()


@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["splitting", "magnitude"])
def test_what_cannot_move_is_forgotten_by_the_base(base, kind):
    """Its momentum would stay at the least denormal number, where arithmetic is slow."""
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 40)
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adam": torch.optim.Adam}
    rules = [Rule("weight", L0(), sparsity=0.9)]
    inner = make[base](model.named_parameters())
    if kind == "splitting":
        optimizer = RVSM(inner, rules, grad_at="u", heal_from=5)
    else:
        optimizer = MagnitudePruning(inner, rules, every=5)
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(8, 50)).square().mean().backward()
        optimizer.step()
    dead = model.weight == 0
    assert dead.sum() == round(0.9 * dead.numel())
    held = [t for t in inner.state[model.weight].values() if t.shape == dead.shape]
    moments = [t for t in held if t.is_floating_point()]
    assert moments
    for moment in moments:
        assert (moment[dead] == 0).all()
        assert (moment[~dead] != 0).any()


def test_what_a_base_of_ones_own_keeps_is_left_alone_when_the_support_is_frozen():
    """It may be a preconditioner of the parameter's shape, which must stay positive."""

    class Preconditioned(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.dim() == 2:
                        self.state[p].setdefault("preconditioner", torch.eye(len(p)))
            return super().step(closure)

    torch.manual_seed(0)
    model = torch.nn.Linear(6, 6)
    base = Preconditioned(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("weight", L0(), sparsity=0.9)], heal_from=2)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    assert optimizer.frozen
    assert torch.equal(base.state[model.weight]["preconditioner"], torch.eye(6))


def test_a_step_count_is_no_moment():
    p = torch.nn.Parameter(torch.tensor(1e-3))
    q = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    base = torch.optim.Adam([("p", p), ("q", q)], lr=1e-3)
    optimizer = RVSM(base, [Rule("p", L0(), lam=1.0)], heal_from=3)
    for _ in range(5):
        p.grad, q.grad = torch.tensor(0.1), torch.ones(3)
        optimizer.step()
    assert p == 0
    assert base.state[p]["step"] == 5
