"""Recipes: published methods as rules, each against what its authors wrote down."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from optimizers import MODES, each_mode, each_penalty, sgd
from problems import CONVOLUTIONAL, train, weights
from rvsm.errors import RuleError
from rvsm.groups import NM, Elements, Filters, Heads, InputChannels, Tied
from rvsm.optim import RVSM, Budget, Rule
from rvsm.penalties import L0, L1, TransformedL1


def test_rgsm_is_rvsm_with_a_group_penalty():
    """Group prox on input channels for u, lam2 times the group lasso by subgradient for w."""
    lr, lam, beta, lam2 = 0.05, 2e-2, 0.5, 1e-2
    model, loss_of = CONVOLUTIONAL.build()
    twin = copy.deepcopy(model)
    groups = InputChannels()
    rule = Rule("4.weight", L1(), groups=groups, lam=lam, beta=beta, subgradient=(L1(), lam2))
    optimizer = RVSM(sgd(model, lr=lr), [rule])
    train(model, loss_of, optimizer, 20)

    for _ in range(20):
        twin.zero_grad()
        loss_of(twin).backward()
        with torch.no_grad():
            for p in twin.parameters():
                if p is not twin[4].weight:
                    p.sub_(lr * p.grad)
            w = twin[4].weight
            norms = w.square().sum((0, 2, 3), keepdim=True).sqrt()
            u = w * (1 - lam / beta / norms).clamp(min=0)
            w.sub_(lr * (w.grad + lam2 * w / norms + beta * (w - u)))
    assert torch.allclose(model[4].weight, twin[4].weight, atol=1e-5)
    with optimizer.sparse_weights():
        dead = (model[4].weight == 0).all(0).flatten(1).all(1)
        assert (model[4].weight == 0).sum() == dead.sum() * model[4].weight[:, 0].numel()


def slimming_problem():
    torch.manual_seed(0)
    x = torch.randn(128, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    return model, lambda model: nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("penalty", [L1(), TransformedL1()], ids=str)
def test_slimming_by_subgradient_is_a_penalised_loss_on_the_scales(penalty):
    model, loss_of = slimming_problem()
    rule = Rule("1.weight", None, subgradient=(penalty, 0.05))
    train(model, loss_of, RVSM(sgd(model), [rule]), 30)
    twin, _ = slimming_problem()

    def penalised(model):
        return loss_of(model) + 0.05 * penalty.value(model[1].weight)

    train(twin, penalised, sgd(twin), 30)
    assert torch.allclose(weights(model), weights(twin), atol=1e-5)
    bare, _ = slimming_problem()
    train(bare, loss_of, sgd(bare), 30)
    assert model[1].weight.abs().mean() < bare[1].weight.abs().mean()


def test_proximal_slimming_zeroes_scales_exactly():
    model, loss_of = slimming_problem()
    rules = [Rule("1.weight", L1(), sparsity=0.5, beta=1.0)]
    optimizer = RVSM(sgd(model, momentum=0.9), rules)
    first = train(model, loss_of, optimizer, 80)[0]
    optimizer.finalize()
    assert (model[1].weight == 0).sum() == 6
    train(model, loss_of, optimizer, 40)
    assert (model[1].weight == 0).sum() == 6
    assert loss_of(model).item() < first / 2


@pytest.mark.parametrize("shape", ["linear", "convolution"])
@each_penalty
@each_mode
def test_two_of_four_along_the_input(shape, penalty, mode):
    torch.manual_seed(0)
    layer = nn.Linear(16, 6) if shape == "linear" else nn.Conv2d(8, 6, 3)
    x = torch.randn(32, 16) if shape == "linear" else torch.randn(8, 8, 6, 6)
    base = torch.optim.SGD(layer.named_parameters(), lr=0.1, momentum=0.9)
    optimizer = RVSM(base, [Rule("weight", penalty, groups=NM(2, 4), sparsity=0.5)], **mode)
    train(layer, lambda layer: (layer(x) - 1).square().mean(), optimizer, 10)
    optimizer.finalize()
    blocks = layer.weight.detach().movedim(1, -1).reshape(-1, 4)
    assert ((blocks == 0).sum(1) == 2).all()


class Attention(nn.Module):
    def __init__(self, packed):
        super().__init__()
        self.heads = nn.MultiheadAttention(12, 3, batch_first=True) if packed else None
        if not packed:
            self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        if self.heads is not None:
            return self.heads(x, x, x, need_weights=False)[0]
        parts = [part(x) for part in (self.q, self.k, self.v)]
        q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


PACKED = {
    "heads.in_proj_weight": Heads(3, parts=3),
    "heads.in_proj_bias": Heads(3, parts=3),
    "heads.out_proj.weight": Heads(3, axis=1),
}
SEPARATE = {
    **{f"{part}.{kind}": Heads(3) for part in "qkv" for kind in ("weight", "bias")},
    "out.weight": Heads(3, axis=1),
}


@pytest.mark.parametrize("packed", [True, False])
def test_a_head_dies_in_all_its_projections_and_gives_nothing(packed):
    torch.manual_seed(0)
    model = Attention(packed)
    tied = Tied(PACKED if packed else SEPARATE)
    optimizer = RVSM(sgd(model), [Rule("*", L0(), groups=tied, sparsity=1 / 3)])
    x = torch.randn(2, 5, 12)
    train(model, lambda model: (model(x) - x).square().mean(), optimizer, 5)
    optimizer.finalize()
    parameters = dict(model.named_parameters())
    dead = [
        (groups.norms(parameters[name].detach()) == 0).flatten()
        for name, groups in tied.members.items()
    ]
    assert dead[0].sum() == 1
    assert all(torch.equal(d, dead[0]) for d in dead)
    out = model.heads.out_proj if packed else model.out
    with torch.no_grad():
        y = model(x)
        # Nothing of the dead head arrives: its columns may read anything.
        values = parameters["heads.in_proj_weight" if packed else "v.weight"][-12:]
        assert torch.equal((values == 0).view(3, -1).all(1), dead[0])
        out.weight[:, dead[0].repeat_interleave(4)] = 7.0
        assert torch.allclose(model(x), y, atol=1e-6)


def tied_convolutions():
    model, loss_of = CONVOLUTIONAL.build()
    members = {
        "0.weight": Filters(), "0.bias": Filters(), "1.weight": Elements(),
        "1.bias": Elements(), "4.weight": InputChannels(),
    }  # fmt: skip
    return model, loss_of, members


@each_penalty
@each_mode
def test_a_tied_set_is_one_group_lasso_over_its_parameters(penalty, mode):
    """The slow twin: per group, gather the members' weights into one vector and scale it."""
    model, loss_of, members = tied_convolutions()
    lam, beta = 0.05, 0.5
    rules = [Rule("*", penalty, groups=Tied(members), lam=lam, beta=beta)]
    optimizer = RVSM(sgd(model), rules, **mode)
    train(model, loss_of, optimizer, 4)
    parameters = dict(model.named_parameters())
    stored = {name: optimizer.state[p].get("rvsm_w", p) if optimizer.state[p] else p
              for name, p in parameters.items()}  # fmt: skip
    w = {name: stored[name].detach().clone() for name in members}
    expected = {name: x.clone() for name, x in w.items()}
    joint = []
    for g in range(4):
        parts = {n: x[:, g] if n == "4.weight" else x[g] for n, x in expected.items()}
        vector = torch.cat([part.flatten() for part in parts.values()])
        norm = vector.norm()
        factor = penalty.prox(norm, lam / beta) / norm
        for part in parts.values():
            part.mul_(factor)
        joint.append(norm * factor)
    value = lam * penalty.value(torch.stack(joint))
    distance = sum((w[n] - expected[n]).square().sum() for n in members)
    assert optimizer.lagrangian().item() == pytest.approx(
        float(value + beta / 2 * distance), rel=1e-5
    )
    assert optimizer.gap().item() == pytest.approx(math.sqrt(distance), rel=1e-5, abs=1e-6)
    with optimizer.sparse_weights():
        for name in members:
            torch.testing.assert_close(parameters[name].detach(), expected[name])
    critical = optimizer.critical()
    assert len({critical[name] for name in members}) == 1
    numbers = optimizer.param_groups[0]["rvsm"]["rules"]["0"]
    numbers["lam"] = critical["0.weight"]
    assert all(zeros == n for zeros, n in optimizer.zeros().values())
    numbers["lam"] *= 0.999
    assert not all(zeros == n for zeros, n in optimizer.zeros().values())


@each_mode
def test_a_target_counts_tied_groups_and_they_stay_dead(mode):
    model, loss_of, members = tied_convolutions()
    rule = Rule("*", L1(), groups=Tied(members), sparsity=0.5, subgradient=(L1(), 1e-3))
    optimizer = RVSM(sgd(model, momentum=0.9, weight_decay=0.01), [rule], heal_from=6, **mode)
    train(model, loss_of, optimizer, 12)
    filters = (model[0].weight == 0).flatten(1).all(1)
    assert filters.sum() == 2
    assert torch.equal((model[4].weight == 0).transpose(0, 1).flatten(1).all(1), filters)
    for p in (model[0].bias, model[1].weight, model[1].bias):
        assert torch.equal(p == 0, filters)
    assert not any("rvsm_w" in state for state in optimizer.state.values())


def test_the_subgradient_of_a_tied_set_is_that_of_its_joint_norms():
    model, loss_of, members = tied_convolutions()
    twin = copy.deepcopy(model)
    rule = Rule("*", None, groups=Tied(members), subgradient=(L1(), 0.02))
    train(model, loss_of, RVSM(sgd(model), [rule]), 10)

    def penalised(model):
        parameters = dict(model.named_parameters())
        squares = [groups.norms(parameters[n]).square() for n, groups in members.items()]
        return loss_of(model) + 0.02 * torch.stack(squares).sum(0).sqrt().sum()

    train(twin, penalised, sgd(twin), 10)
    assert torch.allclose(weights(model), weights(twin), atol=1e-5)


def test_one_rule_ties_the_same_layers_of_many_blocks():
    torch.manual_seed(0)
    model = nn.ModuleList(Attention(packed=False) for _ in range(3))
    tied = Tied({f"*.{name}": groups for name, groups in SEPARATE.items()})
    rule = Rule("*", L0(), groups=tied, sparsity=4 / 9)
    optimizer = RVSM(sgd(model), [rule], budget=Budget("global", scale="rms", floor=1))
    optimizer = copy.deepcopy(pickle.loads(pickle.dumps(optimizer)))
    zeros = optimizer.zeros()
    dead = [zeros[f"{i}.q.weight"][0] // 48 for i in range(3)]
    assert sum(dead) == 4
    assert max(dead) < 3
    assert all(zeros[f"{i}.out.weight"][0] == 48 * n for i, n in enumerate(dead))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (lambda m: [Rule("[01].*", L0(), groups=Tied(m), lam=1.0)],
         r"Rule\('\[01\]\.\*'\) ties 0\.weight to 4\.weight, which it does not hold"),
        (lambda m: [Rule("*", L0(), groups=Tied(m), lam=1.0), Rule("1.bias", L1(), lam=1.0)],
         "to 1.bias, which it does not hold"),
        (lambda m: [Rule("*", L0(), groups=Tied({**m, "9.weight": Filters()}), lam=1.0)],
         "to 9.weight"),
        (lambda m: [Rule("*", L0(), groups=Tied({**m, "4.weight": Filters()}), lam=1.0)],
         r"different numbers of groups \(0.weight 4, .*4.weight 6\)"),
        (lambda m: [Rule("*", L0(), groups=Tied({"a": Filters(), "b": Filters()}), lam=1.0)],
         "matches no parameter"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_tied_is_refused_when_built(rules, message):
    model, _, members = tied_convolutions()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuleError, match=message):
        RVSM(base, rules(members), named_parameters=model.named_parameters())
    assert "param_names" not in base.param_groups[0]
    assert "rvsm" not in base.param_groups[0]


def test_a_tied_set_on_parameters_without_gradients():
    for mode in MODES:
        model, loss_of, members = tied_convolutions()
        optimizer = RVSM(sgd(model), [Rule("*", L0(), groups=Tied(members), sparsity=0.5)], **mode)
        model[0].weight.requires_grad_(False)
        frozen = model[0].weight.detach().clone()
        train(model, loss_of, optimizer, 3)
        assert torch.equal(model[0].weight, frozen)
