"""The library's own recipe: what it builds, ends with and refuses; and that the suite uses it."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.frontier import plan
from benchmarks.frontier.methods import METHODS, Frame
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.units import whole_units
from torch import nn
from torch.nn import functional as F

import rvsm
from rvsm import recipes
from rvsm.errors import RuleError
from rvsm.penalties import TransformedL1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)


def test_it_ends_with_the_share_asked_for_and_keeps_it():
    model = network()
    optimizer = recipes.sparse(sgd(model), sparsity=0.9, steps=40, model=model)
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    zeros = []
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        zeros.append(sum(int((p == 0).sum()) for p in (model[0].weight, model[4].weight)))
    total = model[0].weight.numel() + model[4].weight.numel()
    assert optimizer.frozen
    assert zeros[-1] == round(0.9 * total)
    assert zeros[:20] == sorted(zeros[:20])  # it rises over the first half
    assert zeros[0] < 0.2 * total < zeros[10]
    assert set(zeros[20:]) == {round(0.9 * total)}
    assert (model[1].weight != 0).all()


def test_weights_are_those_of_two_axes_and_more():
    model = network()
    assert recipes.sparse(sgd(model), sparsity=0.5, steps=10).ruled_names() == [
        "0.weight", "4.weight",
    ]  # fmt: skip
    only = recipes.sparse(sgd(network()), sparsity=0.5, steps=10, only="4.*")
    assert only.ruled_names() == ["4.weight"]


def test_names_come_from_the_base_the_model_or_the_caller():
    model = network()
    bare = torch.optim.SGD(model.parameters(), lr=0.1)
    assert recipes.sparse(bare, sparsity=0.5, steps=10, model=model).ruled_names() == [
        "0.weight", "4.weight",
    ]  # fmt: skip
    bare = torch.optim.SGD(model.parameters(), lr=0.1)
    named = iter([(f"net[{name}]", p) for name, p in model.named_parameters()])
    optimizer = recipes.sparse(bare, sparsity=0.5, steps=10, named_parameters=named)
    assert optimizer.ruled_names() == ["net[0.weight]", "net[4.weight]"]
    head = torch.optim.SGD(model[4].parameters(), lr=0.1)
    optimizer = recipes.sparse(head, sparsity=0.5, steps=10, model=model)
    assert optimizer.ruled_names() == ["4.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "conv*"}, r'only="conv\*" means none of the weights \(0.weight, 4.weight\)'),
        ({"steps": 3}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": math.nan}, "sparsity"),
    ],
)
def test_bad_input_is_told(options, message):
    with pytest.raises(RuleError, match=message):
        recipes.sparse(sgd(network()), **{"sparsity": 0.5, "steps": 10, **options})


def test_a_base_without_names_is_told():
    bare = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(RuleError, match=r"holds no named weights.*named_parameters"):
        recipes.sparse(bare, sparsity=0.5, steps=10)


def test_whole_units_go_and_the_rest_is_cut_out():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 40), nn.ReLU(),
        nn.Linear(40, 10),
    )  # fmt: skip
    optimizer = recipes.units(sgd(model), sparsity=0.8, steps=20, model=model)
    assert optimizer.ruled_names() == ["0.weight", "3.weight"]
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.finalize()
    rows = [p.flatten(1) for p in (model[0].weight, model[3].weight)]
    gone = [(w == 0).all(1) for w in rows]
    for w, dead in zip(rows, gone, strict=True):
        assert (w[~dead] != 0).all()
    weights = sum(int(dead.sum()) * w.shape[1] for w, dead in zip(rows, gone, strict=True))
    assert abs(weights - 0.8 * (72 + 288 * 40)) <= 144  # half of the largest unit
    assert not gone[0].all()
    assert not gone[1].all()
    small = rvsm.shrink(model, x[:1])
    torch.testing.assert_close(small(x), model(x))
    assert small.get_parameter("3.weight").shape[0] == int((~gone[1]).sum())
    assert recipes.sparse(sgd(small), sparsity=0.5, steps=10).ruled_names() == [
        "0.weight", "3.weight", "5.weight",
    ]  # fmt: skip


def test_units_go_by_the_share_of_each_layer():
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(4)))
    optimizer = recipes.units(sgd(model), sparsity={"0.*": 0.5, "[12].*": 0.8}, steps=8)
    x = torch.randn(64, 20)
    for _ in range(8):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    optimizer.finalize()
    assert [int((layer.weight == 0).all(1).sum()) for layer in model] == [10, 16, 16, 0]
    with pytest.raises(RuleError, match=r'"9\.\*" means none of 0.weight, 1.weight, 2.weight, of'):
        recipes.units(sgd(model), sparsity={"9.*": 0.5}, steps=8)


def test_units_of_the_last_layer_are_the_answers():
    with pytest.raises(RuleError, match="means the last layer alone, whose rows are the answers"):
        recipes.units(sgd(network()), sparsity=0.5, steps=10, only="4.*")
    for options in ({"sparsity": 1.0}, {"steps": 1}, {"only": "x"}):
        with pytest.raises(RuleError):
            recipes.units(sgd(network()), **{"sparsity": 0.5, "steps": 10, **options})


def test_units_of_the_frontier_are_the_recipes():
    place = next(place for place in plan.TIERS["core"] if place.network == "lenet-5")
    options = place.options(plan.OURS, 0.9967)
    frame = Frame(NETWORKS["lenet-5"].build(), 1000, 0.9967, options)
    measured = whole_units(frame, 250)
    shares = {"conv1.weight": 0.5, "conv2.weight": 0.7, "fc1.weight": 0.9}
    assert {r.pattern: r.sparsity for r in measured.rules} == shares
    assert all(r.penalty == TransformedL1() for r in measured.rules)
    assert place.options(plan.TAUGHT, 0.9967) == options


def test_distillation_is_its_formula():
    torch.manual_seed(0)
    logits, taught, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    p, q = (taught / 4).softmax(1), (logits / 4).softmax(1)
    distance = (p * (p / q).log()).sum(1).mean()
    expected = 0.5 * F.cross_entropy(logits, labels) + 0.5 * 16 * distance
    torch.testing.assert_close(recipes.distilled(logits, labels, taught), expected)
    torch.testing.assert_close(
        recipes.distilled(logits, labels, taught, share=0.0), F.cross_entropy(logits, labels)
    )


def test_what_the_frontier_measures_as_ours_is_the_recipe():
    place = plan.TIERS["core"][0]
    options = place.options(plan.OURS, 0.95)
    frame = Frame(NETWORKS["small"].build(), 1000, 0.95, options)
    measured = METHODS[plan.OURS.method].build(frame, recipes.BETA)
    model = NETWORKS["small"].build()
    built = recipes.sparse(sgd(model), sparsity=0.95, steps=1000, scale=options.budget)
    for name in ("grad_at", "coupling", "budget", "warmup"):
        assert getattr(measured, name) == getattr(built, name)
    for ours, rule in zip(built.rules, measured.rules, strict=True):
        for name in ("penalty", "groups", "sparsity", "beta", "schedule", "lam", "subgradient"):
            assert getattr(ours, name) == getattr(rule, name)
    assert built.heal_from == frame.heal
    assert (options.distill, options.temperature) == (recipes.DISTILL, recipes.TEMPERATURE)
    assert isinstance(built, rvsm.RVSM)
