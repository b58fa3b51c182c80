"""Budgets: exact targets per rule, per parameter and over all, by scale, layout and floor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optimizers import each_mode, each_penalty, sgd
from penalty_table import PENALTIES, WHOLE
from problems import MLP, train, weights
from rvsm.errors import RuleError
from rvsm.groups import NM, Elements, Filters, InputChannels
from rvsm.optim import RVSM, Budget, Rule
from rvsm.optim.budget import apportion, choose
from rvsm.optim.clear import clear_thresholds
from rvsm.optim.nearest import groups_of
from rvsm.optim.units import Ruled, Unit
from rvsm.penalties import L0, L1, L1MinusL2, TransformedL1


@each_penalty
@each_mode
@pytest.mark.parametrize("budget", ["rule", "global", "parameter"])
@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.5, 0.9, 0.999])
def test_exact_targets_under_every_penalty_with_ties(penalty, mode, budget, sparsity):
    model, loss_of = MLP.build()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 8).round() / 8 + 0.0625)  # many ties, no zeros
    rules = [
        Rule("0.weight", penalty, sparsity=sparsity),
        Rule("2.*", penalty, sparsity=sparsity / 2),
    ]
    optimizer = RVSM(sgd(model), rules, budget=budget, **mode)
    for steps in (0, 1, 5):
        train(model, loss_of, optimizer, steps)
        zeros = optimizer.zeros()
        targets = [sparsity * 160, sparsity / 2 * 34]
        counts = [zeros["0.weight"][0], zeros["2.weight"][0] + zeros["2.bias"][0]]
        if budget == "global":
            assert sum(counts) == round(sum(targets))
        elif budget == "parameter":
            own = (sparsity * 160, sparsity / 2 * 32, sparsity / 2 * 2)
            assert [z for z, _ in zeros.values()] == [round(target) for target in own]
        else:
            assert counts == [round(target) for target in targets]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each_penalty
def test_exact_targets_in_every_type_are_the_smallest_first_positions_first(penalty, dtype):
    torch.manual_seed(0)
    p = torch.nn.Parameter((torch.randn(40, 25) * 4).round().add(0.5).div(7).to(dtype))
    w = p.detach().clone()
    base = torch.optim.SGD([("w", p)], lr=0.1)
    optimizer = RVSM(base, [Rule("w", penalty, sparsity=0.777)])
    optimizer.finalize()
    expected = w.flatten().abs().argsort(stable=True)[: round(0.777 * 1000)].sort().values
    assert torch.equal((p == 0).flatten().nonzero().squeeze(1), expected)


def units_of_sizes(counts, sizes=None, shapes=None):
    shapes = shapes or [
        (n, size) for n, size in zip(counts, sizes or [1] * len(counts), strict=True)
    ]
    return [
        Unit((Ruled(f"p{i}", 0, 0, i),), (Filters(),), (tuple(shape),), n, n)
        for i, (n, shape) in enumerate(zip(counts, shapes, strict=True))
    ]


def drawn_norms(data, counts):
    return [
        torch.tensor(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))).double()
        for n in counts
    ]


def chosen_by_loop(budget, units, norms, k):
    """Take the smallest quotients one after the other, first positions first, floors kept."""
    divisors = []
    for unit, norm in zip(units, norms, strict=True):
        found = {"none": 1.0, "rms": math.sqrt(unit.numel / unit.count),
                 "max": float(norm.max()), "mean": float(norm.mean())}[budget.scale]  # fmt: skip
        divisors.append(found or 1.0)
    order = sorted(
        (float(x / by), i, j)
        for i, (norm, by) in enumerate(zip(norms, divisors, strict=True))
        for j, x in enumerate(norm)
    )
    left = [unit.count - budget.least(unit) for unit in units]
    if budget.floor is None and sum(left) - k >= len(units):
        left = [n - bool(norm.max() > 0) for n, norm in zip(left, norms, strict=True)]
    zero = [torch.zeros(unit.count, dtype=torch.bool) for unit in units]
    for _, i, j in order:
        if k and left[i]:
            zero[i][j] = True
            left[i] -= 1
            k -= 1
    return zero


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_thresholds_without_masks_make_the_same_choice(data):
    counts = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    units = [
        Unit((Ruled(f"p{i}", 0, 0, i),), (Elements(),), ((n, 1),), n, n)
        for i, n in enumerate(counts)
    ]
    values = data.draw(st.permutations(range(1, sum(counts) + 1)))
    signs = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=sum(counts),
                                            max_size=sum(counts)))).double()  # fmt: skip
    ws = list((torch.tensor(values) * signs).split(counts))
    norms = [w.abs() for w in ws]
    layout = data.draw(st.sampled_from(["threshold", "uniform", "erk"]))
    budget = Budget(floor=data.draw(st.sampled_from([None, 0, 1, 3, 0.2])), layout=layout)
    near = {}
    for _ in range(2):  # the second time with what the first has left
        k = data.draw(st.integers(0, sum(counts)))
        assume(k <= sum(counts) - sum(map(budget.least, units)))
        found = clear_thresholds(budget, units, ws, k, 32, near)
        assert found is not None
        if layout == "threshold":
            expected = chosen_by_loop(budget, units, norms, k)
        else:
            chosen = choose(budget, units, norms, k)
            expected = [n < 0 if c is None else c[0] for c, n in zip(chosen, norms, strict=True)]
        for t, norm, zero in zip(found, norms, expected, strict=True):
            assert torch.equal(norm <= (0 if t is None else t), zero)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_groups_of_different_size_come_nearest_to_the_share_of_weights(data):
    counts = data.draw(st.lists(st.integers(1, 8), min_size=2, max_size=4))
    sizes = data.draw(st.permutations([1, 4, 9, 16]))[: len(counts)]
    units = units_of_sizes(counts, sizes)
    norms = drawn_norms(data, counts)
    budget = Budget(
        scale=data.draw(st.sampled_from(["none", "rms", "max", "mean"])),
        floor=data.draw(st.sampled_from([None, 0, 1, 0.2])),
    )
    shares = [data.draw(st.floats(0, 0.99)) for _ in counts]
    wanted = sum(share * n * size for share, n, size in zip(shares, counts, sizes, strict=True))
    most = sum(counts) - sum(map(budget.least, units))
    weights = [
        sum(int(zero.sum()) * size
            for zero, size in zip(chosen_by_loop(budget, units, norms, k), sizes, strict=True))
        for k in range(most + 1)
    ]  # fmt: skip
    assume(wanted <= weights[-1])
    found = groups_of(budget, units, norms, shares)
    assert abs(weights[found] - wanted) == min(abs(n - wanted) for n in weights)


def test_where_not_every_layer_can_keep_a_group_other_groups_come_nearer():
    """One of nine weights goes while all keep one; two then are the smallest, of four and one."""
    units = units_of_sizes([2, 1, 1, 1], [9, 4, 1, 16])
    norms = [torch.tensor(n).double() for n in ([2, 2], [1], [1], [1])]
    assert groups_of(Budget(), units, norms, [0, 0, 0, 0.5]) == 1
    assert groups_of(Budget(), units, norms, [0, 0, 0, 0.3]) == 2


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_filters_of_two_convolutions_share_a_target_of_weights(sparsity):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 40, 3), torch.nn.Conv2d(40, 20, 3))
    rule = Rule("*.weight", L0(), groups=Filters(), sparsity=sparsity)
    optimizer = RVSM(sgd(model), [rule], budget="global")
    found = sum(zeros for zeros, _ in optimizer.zeros().values())
    assert abs(found - sparsity * (360 + 7200)) <= 360 / 2  # half of the largest filter


def test_a_target_of_weights_that_groups_cannot_reach_is_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 3))
    rule = Rule("*.weight", L0(), groups=Filters(), sparsity=0.9)
    with pytest.raises(RuleError, match=r"97 zeros of 108 weights cannot be reached.* at most 63"):
        RVSM(sgd(model), [rule], budget=Budget("global", floor=1))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_choice_is_that_of_a_loop(data):
    counts = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    sizes = data.draw(st.lists(st.sampled_from([1, 4, 9]), min_size=len(counts),
                               max_size=len(counts)))  # fmt: skip
    units = units_of_sizes(counts, sizes)
    norms = drawn_norms(data, counts)
    budget = Budget(
        scale=data.draw(st.sampled_from(["none", "rms", "max", "mean"])),
        floor=data.draw(st.sampled_from([None, None, 0, 1, 3, 0.2, 0.75])),
    )
    most = sum(counts) - sum(map(budget.least, units))
    k = data.draw(st.integers(0, most))
    found = choose(budget, units, norms, k)
    expected = chosen_by_loop(budget, units, norms, k)
    for chosen, norm, zero in zip(found, norms, expected, strict=True):
        mask, t = chosen or (torch.zeros_like(zero), torch.zeros(()))
        assert torch.equal(mask, zero)
        # The parameter's own threshold: nothing that lives lies below it, but for rounding.
        assert (norm[~mask] >= t * (1 - 1e-12)).all()
    with pytest.raises(RuleError, match=f"leave at most {most}"):
        choose(budget, units, norms, most + 1)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_shares_are_exact_proportional_and_within_bounds(data):
    n = data.draw(st.integers(1, 6))
    draw = lambda values: tuple(data.draw(st.lists(values, min_size=n, max_size=n)))  # noqa: E731
    most = draw(st.integers(0, 50))
    least = tuple(data.draw(st.integers(0, high)) for high in most)
    weights = draw(st.floats(0.01, 100))
    total = data.draw(st.integers(sum(least), sum(most)))
    found = apportion(total, weights, least, most)
    assert sum(found) == total
    assert all(low <= x <= high for low, x, high in zip(least, found, most, strict=True))
    # Free of bounds, the quotients agree up to the rounding of one.
    free = [(x, w) for x, w, low, high in zip(found, weights, least, most, strict=True)
            if low < x < high]  # fmt: skip
    for x, w in free:
        for y, v in free:
            assert (x - 1) / w <= (y + 1) / v + 1e-9


def zeros_of(model, rules, budget, **mode):
    optimizer = RVSM(sgd(model), rules, budget=budget, **mode)
    return {name: z for name, (z, _) in optimizer.zeros().items()}


def test_uniform_and_erk_fix_the_share_of_every_layer():
    rules = [Rule("*.weight", L0(), sparsity=0.75)]
    uniform = zeros_of(MLP.build()[0], rules, Budget("global", layout="uniform"))
    assert uniform == {"0.weight": 120, "2.weight": 24}
    # 0.weight is 16 x 10 and 2.weight 2 x 16: 48 kept in the proportion 26 to 18.
    erk = zeros_of(MLP.build()[0], rules, Budget("global", layout="erk"))
    assert erk == {"0.weight": 160 - 28, "2.weight": 32 - 20}
    # Of 96 kept the smaller layer would get 39, more than it has: the other takes the rest.
    rules = [Rule("*.weight", L0(), sparsity=0.5)]
    erk = zeros_of(MLP.build()[0], rules, Budget("global", layout="erk"))
    assert erk == {"0.weight": 96, "2.weight": 0}


def test_a_floor_keeps_every_layer_alive_and_the_total_exact():
    model, _ = MLP.build()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    rules = [Rule("*.weight", L0(), sparsity=0.5)]
    assert zeros_of(model, rules, Budget("global", floor=0))["2.weight"] == 32
    for floor, kept in ((0.1, 4), (5, 5), (1, 1), (None, 1)):
        zeros = zeros_of(model, rules, Budget("global", floor=floor))
        assert zeros == {"0.weight": 96 - (32 - kept), "2.weight": 32 - kept}
    erk = Budget("global", layout="erk", floor=10)
    assert zeros_of(model, [Rule("*.weight", L0(), sparsity=0.8)], erk)["2.weight"] <= 22


@pytest.mark.parametrize("budget", ["rule", "global"])
@each_mode
def test_no_layer_dies_by_default_and_the_total_is_exact(budget, mode):
    model, loss_of = MLP.build()
    with torch.no_grad():
        model[2].weight.mul_(1e-2)
    rules = [Rule("*.weight", L0(), sparsity=0.8)]
    optimizer = RVSM(sgd(model, lr=1e-4), rules, budget=budget, **mode)
    for _ in range(3):
        zeros = {name: z for name, (z, _) in optimizer.zeros().items()}
        assert zeros == {"0.weight": 154 - 31, "2.weight": 31}
        train(model, loss_of, optimizer, 1)


def test_the_default_floor_gives_way_to_the_target():
    """The count is exact where fewer weights survive than there are layers, or a layer is zero."""
    rule = Rule("*.weight", L0(), sparsity=0.9949)
    assert sum(zeros_of(MLP.build()[0], [rule], "global").values()) == 191
    rule = Rule("0.weight", L0(), sparsity=0.999)
    assert zeros_of(MLP.build()[0], [rule], "rule") == {"0.weight": 160}
    model, _ = MLP.build()
    with torch.no_grad():
        model[2].weight.zero_()
    rule = Rule("*.weight", L0(), sparsity=0.5)
    assert zeros_of(model, [rule], "global") == {"0.weight": 64, "2.weight": 32}


@pytest.mark.parametrize("floor", [None, 1])
def test_a_floor_that_asks_for_nothing_selects_once(floor, monkeypatch):
    from rvsm.optim import budget as module
    from rvsm.optim import clear

    selections = []

    def spy(select):
        return lambda *given: selections.append(1) or select(*given)

    for where, name in ((module, "smallest_of"), (clear, "clear_threshold")):
        monkeypatch.setattr(where, name, spy(getattr(where, name)))
    rules = [Rule("*.weight", L0(), sparsity=0.8)]
    RVSM(sgd(MLP.build()[0]), rules, budget=Budget("global", floor=floor)).zeros()
    assert len(selections) == 1


@pytest.mark.parametrize("scale", ["none", "rms", "max", "mean"])
def test_a_parameter_without_elements_has_no_part_in_a_budget(scale):
    named = [("a", torch.nn.Parameter(torch.ones(0, 3))), ("b", torch.nn.Parameter(torch.ones(4)))]
    optimizer = RVSM(
        torch.optim.SGD(named, lr=0.1),
        [Rule("*", L0(), sparsity=0.5)],
        budget=Budget("global", scale=scale),
    )
    assert optimizer.zeros() == {"a": (0, 0), "b": (2, 4)}


@pytest.mark.parametrize("scale", ["none", "rms", "max", "mean"])
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1()], ids=str)
@each_mode
def test_every_scale_comes_nearest_and_maps_the_threshold_back(scale, penalty, mode):
    model, loss_of = MLP.build()
    rules = [
        Rule("0.weight", penalty, sparsity=0.6, groups=InputChannels()),
        Rule("2.weight", penalty, sparsity=0.6),
    ]
    optimizer = RVSM(sgd(model), rules, budget=Budget("global", scale=scale, floor=1), **mode)
    train(model, loss_of, optimizer, 4)
    optimizer.finalize()
    dead = (model[0].weight == 0).sum() + (model[2].weight == 0).sum()
    assert abs(dead - 0.6 * (160 + 32)) <= 16 / 2
    assert (model[0].weight == 0).all(0).sum() * 16 == (model[0].weight == 0).sum()


def test_one_threshold_of_the_quotients_holds_in_units_of_each_layer():
    model, _ = MLP.build()
    with torch.no_grad():
        model[2].weight.mul_(100)
    w = [model[i].weight.detach().clone() for i in (0, 2)]
    budget = Budget("global", scale="max")
    optimizer = RVSM(sgd(model), [Rule("*.weight", L1(), sparsity=0.5)], budget=budget)
    with optimizer.sparse_weights():
        u = [model[i].weight.detach().clone() for i in (0, 2)]
    shrunk = [
        float((a - b).abs()[b != 0].median() / a.abs().max()) for a, b in zip(w, u, strict=True)
    ]
    assert shrunk[0] == pytest.approx(shrunk[1], rel=1e-4)
    assert optimizer.zeros()["2.weight"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "layer"}, "budget must be 'rule' or 'global' or 'parameter'"),
        ({"scale": "l2"}, "Budget: scale must be"),
        ({"layout": "even"}, "Budget: layout must be"),
        ({"floor": -1}, "floor must be a share"),
        ({"floor": 1.0}, "floor must be a share"),
        ({"floor": math.nan}, "floor must be a share"),
        ({"floor": "x"}, "floor must be a share"),
        ({"floor": 1.5}, "floor must be a share"),
        ({"floor": True}, "floor must be a share"),
        ({"layout": "erk", "scale": "max"}, "fixes every parameter's share"),
    ],
)
def test_a_budget_refuses_what_cannot_work(options, message):
    with pytest.raises(RuleError, match=message):
        Budget(**options)


class NoInverse(L1):
    def mu_for_threshold(self, t):
        raise RuleError("this penalty has no inverse; give lam.")


class Bounded(L1):
    def mu_for_threshold(self, t):
        return math.inf


@pytest.mark.parametrize(
    ("rules", "budget", "message"),
    [
        ([Rule("0.weight", L0(), groups=NM(1, 2), sparsity=0.51)], "rule",
         "0.weight: 82 zeros of 160 cannot be reached.* leave at most 80; lower the sparsity to "
         "0.5"),
        ([Rule("*.weight", L0(), sparsity=0.95)], Budget("global", floor=0.2),
         r"0.weight, 2.weight: 182 zeros of 192 .* floor=0.2 leave at most 153"),
        ([Rule("*.weight", L0(), sparsity=0.95)], Budget("parameter", floor=0.2),
         "0.weight: 152 zeros of 160"),
        ([Rule("0.weight", NoInverse(), sparsity=0.5)], "rule",
         r"Rule\('0.weight'\): sparsity= cannot be reached: this penalty has no inverse"),
        ([Rule("0.weight", Bounded(), sparsity=0.5)], "rule",
         r"Rule\('0.weight'\): no strength of .* give lam= or another penalty"),
        ([Rule("*.weight", L0(), groups=InputChannels(3), lam=1.0)], "rule",
         r"0.weight: InputChannels\(positions=3\) does not divide"),
        ([Rule("2.weight", L1(), lam=1.0, subgradient=(L0(), 0.1))], "rule", "has no derivative"),
    ],
)  # fmt: skip
def test_what_cannot_be_reached_or_cut_is_refused_when_built_and_changes_nothing(
    rules, budget, message
):
    model, _ = MLP.build()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    groups = [dict(group) for group in base.param_groups]
    before = weights(model)
    with pytest.raises(RuleError, match=message):
        RVSM(base, rules, budget=budget, named_parameters=model.named_parameters())
    assert [dict(group) for group in base.param_groups] == groups
    assert torch.equal(weights(model), before)
    assert not base.state


@each_mode
def test_a_target_raised_out_of_reach_later_changes_nothing(mode):
    model, loss_of = MLP.build()
    rule = Rule("*.weight", L0(), groups=NM(1, 2), sparsity=0.5)
    optimizer = RVSM(sgd(model, momentum=0.9), [rule], **mode)
    train(model, loss_of, optimizer, 3)
    optimizer.param_groups[0]["rvsm"]["rules"]["0"]["sparsity"] = 0.6
    loss_of(model).backward()
    before = weights(model)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    for act in (optimizer.step, optimizer.finalize, optimizer.zeros):
        with pytest.raises(RuleError, match="115 zeros of 192 cannot be reached"):
            act()
        assert torch.equal(weights(model), before)
        assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], momentum)
        assert optimizer.steps == 3
        assert not optimizer.frozen


EVERYWHERE = [(p, g) for p in PENALTIES for g in (None, Filters(), InputChannels())]
WHOLE_TOO = [(p, None) for p in WHOLE] + [(p, Filters()) for p in WHOLE[:2]]


@pytest.mark.parametrize(("penalty", "groups"), EVERYWHERE + WHOLE_TOO, ids=str)
def test_the_critical_lam_is_the_least_that_zeroes_everything(penalty, groups):
    model, loss_of = MLP.build()
    options = {"groups": groups} if groups else {}
    optimizer = RVSM(sgd(model), [Rule("*.weight", penalty, lam=1e-3, beta=0.3, **options)])
    train(model, loss_of, optimizer, 3)
    found = optimizer.critical()
    assert found.keys() == {"0.weight", "2.weight"}
    numbers = optimizer.param_groups[0]["rvsm"]["rules"]["0"]
    for name, lam in found.items():
        if penalty == L1MinusL2():  # one survives any strength
            assert lam == math.inf
            continue
        for above in (1, 1.001):
            numbers["lam"] = above * lam
            zeros, size = optimizer.zeros()[name]
            assert zeros == size
        numbers["lam"] = lam * 0.999
        assert optimizer.zeros()[name][0] < size


def test_no_lam_zeroes_what_goes_free_and_any_what_is_zero():
    model, _ = MLP.build()
    with torch.no_grad():
        model[2].weight.zero_()
    rules = [Rule("0.weight", L0(), groups=NM(1, 2), lam=1.0), Rule("2.weight", L0(), lam=1.0)]
    assert RVSM(sgd(model), rules).critical() == {"0.weight": math.inf, "2.weight": 0.0}
