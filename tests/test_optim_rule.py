"""Rules: what they accept, which parameters they take, what they say when they cannot."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from problems import MLP, train, weights
from rvsm.errors import RuleError, RunError
from rvsm.groups import Filters
from rvsm.optim import ADMM, RVSM, Budget, Constant, Cubic, LinearizedBregman, Rule
from rvsm.optim.rule import assign, clean_name
from rvsm.penalties import L0, L1


def optimizer(rules, *, base=None, **options):
    model, _ = MLP.build()
    return RVSM(base or torch.optim.SGD(model.named_parameters(), lr=0.1), rules, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of lam and sparsity"),
        ({"lam": 0.1, "sparsity": 0.5}, "exactly one of lam and sparsity"),
        ({"lam": -1e-9}, "lam must be a finite number >= 0"),
        ({"lam": math.nan}, "lam must be a finite number >= 0"),
        ({"lam": math.inf}, "lam must be a finite number >= 0"),
        ({"lam": 1, "beta": 0.0}, "beta must be a finite number > 0"),
        ({"lam": 1, "beta": -1.0}, "beta must be a finite number > 0"),
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity must lie in \[0, 1\)"),
        ({"sparsity": math.nan}, r"sparsity must lie in \[0, 1\)"),
        ({"lam": 1, "subgradient": L1()}, r"must be a pair \(penalty, lam2\)"),
        ({"lam": 1, "subgradient": (L1(), -1.0)}, "lam2 must be a finite number >= 0"),
        ({"lam": 1, "subgradient": ("l1", 1.0)}, "'l1' is no penalty"),
        ({"lam": 1, "groups": "rows"}, "groups must be"),
        ({"lam": 1, "schedule": 3}, "schedule must be"),
        ({"lam": "0.1"}, "lam must be a finite number >= 0, not '0.1'"),
        ({"lam": True}, "lam must be a finite number >= 0, not True"),
        ({"lam": torch.tensor(0.1)}, "lam must be a finite number >= 0"),
        ({"sparsity": "0.9"}, r"sparsity must lie in \[0, 1\)"),
        ({"lam": 1, "beta": None}, "beta must be a finite number > 0, not None"),
        ({"lam": 1, "subgradient": (L1(), "x")}, "lam2 must be a finite number >= 0"),
        ({"lam": 1, "groups": Filters}, "groups must be an object"),
        ({"lam": 1, "schedule": Cubic}, r"schedule must be .* such as Cubic\(0, 1000\), not"),
    ],
)
def test_a_rule_refuses_what_cannot_work(options, message):
    with pytest.raises(RuleError, match=rf"Rule\('fc'\): .*{message}"):
        Rule("fc", L0(), **options)


@pytest.mark.parametrize("penalty", [L0, "l0", 3])
def test_a_rule_needs_a_penalty_object(penalty):
    with pytest.raises(RuleError, match=r"is no penalty; pass an object .* such as L0\(\)"):
        Rule("fc", penalty, lam=1.0)


def test_a_rule_without_penalty_needs_a_subgradient_alone():
    with pytest.raises(RuleError, match="give a penalty, or a subgradient"):
        Rule("fc", None)
    with pytest.raises(RuleError, match="lam and sparsity need a penalty"):
        Rule("fc", None, lam=1.0, subgradient=(L1(), 1.0))


@pytest.mark.parametrize("pattern", ["", None, 3])
def test_a_rule_needs_a_pattern(pattern):
    with pytest.raises(RuleError, match="pattern must be"):
        Rule(pattern, L0(), lam=1.0)


def test_a_share_outside_0_to_1_is_refused():
    for share in (1.5, -0.1, math.nan, "1", None):
        with pytest.raises(RuleError, match=r"Constant: share must lie in \[0, 1\]"):
            Constant(share)


def test_the_last_matching_rule_wins():
    rules = [Rule("*", L0(), lam=1), Rule("*.weight", L1(), lam=1), Rule("fc.*", L0(), lam=2)]
    names = ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]
    assert assign(names, rules) == [1, 0, 2, 2]
    assert assign([*names, "norm"], rules[1:]) == [0, None, 1, 1, None]


@pytest.mark.parametrize(
    "name",
    ["fc.weight", "module.fc.weight", "_orig_mod.fc.weight", "module._orig_mod.fc.weight",
     "_orig_mod.module.fc.weight", "fc._orig_mod.weight"],
)  # fmt: skip
def test_marks_of_wrappers_are_stripped(name):
    assert clean_name(name) == "fc.weight"
    assert assign([name], [Rule("fc.weight", L0(), lam=1)]) == [0]
    assert assign([name], [Rule(name, L0(), lam=1)]) == [0]


def test_a_rule_for_a_compiled_model():
    model, _ = MLP.build()
    compiled = torch.compile(model, backend="eager")
    base = torch.optim.SGD(compiled.named_parameters(), lr=0.1)
    assert RVSM(base, [Rule("0.weight", L0(), lam=1)]).ruled_names() == ["0.weight"]


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(
        RuleError,
        match=r"Rule\('2\.wieght'\) matches no parameter; .* names are 2\.weight",
    ):
        optimizer([Rule("2.wieght", L0(), lam=1)])


def test_a_hidden_rule_warns():
    with pytest.warns(UserWarning, match=r"Rule\('0\.weight'\) has no effect"):
        optimizer([Rule("0.weight", L0(), lam=1), Rule("*.weight", L1(), lam=1)])


def test_names_come_from_named_parameters_where_the_base_has_none():
    model, _ = MLP.build()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    rules = [Rule("2.weight", L0(), lam=1)]
    with pytest.raises(RuleError, match=r"build it from model\.named_parameters"):
        RVSM(base, rules)
    with pytest.raises(RuleError, match="named_parameters lacks 2"):
        RVSM(base, rules, named_parameters=model[0].named_parameters(prefix="0"))
    ours = RVSM(base, rules, named_parameters=model.named_parameters())
    assert ours.ruled_names() == ["2.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_at": "v"}, "grad_at must be 'w' or 'u'"),
        ({"coupling": "both"}, "coupling must be 'gradient' or 'decoupled'"),
        ({"budget": "layer"}, "budget must be 'rule' or 'global' or 'parameter'"),
        ({"warmup": -1}, "warmup must be a number of steps >= 0"),
        ({"heal_from": 0}, "heal_from must be a step after warmup=0"),
        ({"warmup": 5, "heal_from": 5}, "heal_from must be a step after warmup=5"),
        ({"warmup": "a"}, "warmup must be a number of steps >= 0, a whole one, not 'a'"),
        ({"warmup": 1.5}, "warmup must be .*, not 1.5; round it"),
        ({"warmup": None}, "warmup must be a number of steps >= 0"),
        ({"heal_from": "x"}, "heal_from must be a number of steps >= 0"),
        ({"heal_from": 2.5}, "heal_from must be .*, not 2.5; round it"),
        ({"model": 5}, r"model must be a torch\.nn\.Module, not 5"),
        ({"named_parameters": 5}, "named_parameters must be pairs"),
        ({"named_parameters": [torch.ones(2)]}, "named_parameters must be pairs"),
        ({"budget": Budget}, "budget must be"),
    ],
)
def test_the_optimizer_refuses_what_cannot_work(options, message):
    with pytest.raises(RuleError, match=message):
        optimizer([Rule("*", L0(), lam=1)], **options)


def test_the_optimizer_needs_a_base_and_rules():
    inner = optimizer([Rule("*", L0(), lam=1)])
    for base in (inner, "sgd"):
        with pytest.raises(RuleError, match="needs a torch optimizer to stand on"):
            RVSM(base, [Rule("*", L0(), lam=1)])
    for rules in ([], ["fc.weight"], Rule("*", L0(), lam=1), None, 3):
        with pytest.raises(RuleError, match=r"at least one rvsm\.Rule"):
            optimizer(rules)


def test_a_sparse_gradient_is_refused_by_name():
    table = torch.nn.Embedding(10, 3, sparse=True)
    base = torch.optim.SGD(table.named_parameters(), lr=0.1)
    ours = RVSM(base, [Rule("weight", L0(), lam=1)])
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuleError, match="weight has a sparse gradient"):
        ours.step()


@pytest.mark.parametrize("every", [0, 1.5, "a", None])
def test_steps_between_two_updates_are_whole(every):
    model, _ = MLP.build()
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(RuleError, match="every must be a number of steps >= 1"):
        ADMM(base, [Rule("*", L0(), lam=1)], every=every)
    with pytest.raises(RuleError, match="delta must be a finite number > 0"):
        LinearizedBregman(base, [Rule("*", L1(), lam=1)], delta="a")


def test_whole_numbers_of_numpy_are_steps_and_numbers():
    rule = Rule("*", L0(), lam=np.float32(0.5), schedule=Cubic(np.int64(3), np.int64(5)))
    ours = optimizer([rule], warmup=np.int64(2), heal_from=np.int64(9))
    assert type(ours.param_groups[0]["rvsm"]["rules"]["0"]["lam"]) is float


def test_a_gradient_outside_the_rules_that_is_not_finite_is_refused_by_name():
    for options in ({}, {"grad_at": "u"}, {"coupling": "decoupled"}):
        model, loss_of = MLP.build()
        ours = optimizer(
            [Rule("*.weight", L0(), lam=1e-3)],
            base=torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9),
            **options,
        )
        train(model, loss_of, ours, 1)
        loss_of(model).backward()
        model[2].bias.grad[0] = math.nan
        before = copy.deepcopy((weights(model), ours.state_dict(), model[2].weight.grad))
        with pytest.raises(RunError, match=r"gradient of 2\.bias is not finite at step 1; lower"):
            ours.step()
        assert torch.equal(weights(model), before[0])
        assert torch.equal(model[2].weight.grad, before[2])
        after = ours.state_dict()
        assert after["param_groups"] == before[1]["param_groups"]
        for index, state in after["state"].items():
            assert all(torch.equal(v, before[1]["state"][index][k]) for k, v in state.items())


def test_gradients_outside_the_rules_may_be_sparse_or_complex():
    table = torch.nn.Embedding(10, 3, sparse=True)
    turn = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    head = torch.nn.Linear(3, 1)
    named = [("turn", turn), *table.named_parameters("table"), *head.named_parameters("head")]
    ours = RVSM(torch.optim.SGD(named, lr=0.1), [Rule("head.weight", L0(), lam=1e-3)])
    loss = head((table(torch.tensor([1, 2])) * turn).real).sum()
    loss.backward()
    ours.step()
    for p, name in ((table.weight, "table.weight"), (turn, "turn")):
        for q in (table.weight, turn):
            q.grad = None
        head((table(torch.tensor([1, 2])) * turn).real).sum().backward()
        p.grad = p.grad * math.inf
        with pytest.raises(RunError, match=rf"gradient of {name} is not finite"):
            ours.step()
