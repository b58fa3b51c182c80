"""Rules: what they accept, which parameters they take, what they say when they cannot."""

from __future__ import annotations

import math

import pytest
import torch

from problems import MLP
from rvsm.errors import RuleError
from rvsm.optim import RVSM, Constant, Rule
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
    with pytest.raises(RuleError, match="share must lie between 0 and 1"):
        Constant(1.5)


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
    for rules in ([], ["fc.weight"]):
        with pytest.raises(RuleError, match=r"at least one rvsm\.Rule"):
            optimizer(rules)


def test_a_sparse_gradient_is_refused_by_name():
    table = torch.nn.Embedding(10, 3, sparse=True)
    base = torch.optim.SGD(table.named_parameters(), lr=0.1)
    ours = RVSM(base, [Rule("weight", L0(), lam=1)])
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuleError, match="weight has a sparse gradient"):
        ours.step()
