"""RVSM on the models people have: tied, frozen, pretrained, growing, on another device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import rvsm
from problems import MLP, train, weights
from rvsm.errors import RuleError
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L0, L1

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
    {"budget": "global"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)


def sgd(model, **options):
    return torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9, **options)


class Tied(nn.Module):
    """Writes what it reads with the transpose of the same matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.read = nn.Embedding(12, 6)
        self.write = nn.Linear(6, 12)
        self.write.weight = self.read.weight

    def loss(self):
        tokens = torch.arange(12)
        return nn.functional.cross_entropy(self.write(self.read(tokens)), (tokens + 1) % 12)


@each_mode
def test_tied_weights_are_one_parameter_with_one_u(mode):
    model = Tied()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], **mode)
    assert optimizer.ruled_names() == ["read.weight"]
    losses = train(model, Tied.loss, optimizer, 40)
    assert losses[-1] < losses[0]
    assert optimizer.zeros() == {"read.weight": (36, 72)}
    with optimizer.sparse_weights():
        assert model.write.weight is model.read.weight
        assert (model.write.weight == 0).sum() == 36
    twin, again = copy.deepcopy((model, optimizer))
    assert twin.write.weight is twin.read.weight
    for tied, its in ((model, optimizer), (twin, again)):
        train(tied, Tied.loss, its, 3)
        its.finalize()
    assert torch.equal(model.write.weight, twin.write.weight)
    assert rvsm.report(model).nonzeros == 36 + 12


def test_a_rule_by_a_tied_weights_other_name_is_refused():
    model = Tied()
    with pytest.raises(RuleError, match=r"'write\.weight'\) matches no parameter; .*read\.weight"):
        RVSM(sgd(model), [Rule("write.weight", L0(), sparsity=0.5)])


@each_mode
def test_a_frozen_layer_never_trains_and_its_u_obeys_its_rule(mode):
    model, loss_of = MLP.build()
    model[0].requires_grad_(False)
    start = model[0].weight.clone()
    rules = [Rule("0.weight", L0(), sparsity=0.25), Rule("2.weight", L0(), sparsity=0.5)]
    if "budget" in mode:
        rules = [Rule("2.weight", L0(), sparsity=0.5)]
    optimizer = RVSM(sgd(model), rules, **mode)
    train(model, loss_of, optimizer, 5)
    assert torch.equal(model[0].weight, start)
    assert model[0].weight.grad is None
    with optimizer.sparse_weights():
        assert (model[0].weight == 0).sum() == (0 if "budget" in mode else 40)
        assert (model[2].weight == 0).sum() == 16
    assert torch.equal(model[0].weight, start)
    optimizer.finalize()
    assert (model[0].weight == 0).sum() == (0 if "budget" in mode else 40)
    train(model, loss_of, optimizer, 2)
    assert (model[2].weight == 0).sum() == 16


@each_mode
def test_a_layer_unfrozen_later_joins(mode):
    """Its momentum, and with grad_at="u" its w, begin with its first gradient."""
    model, loss_of = MLP.build()
    model[0].requires_grad_(False)
    optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], **mode)
    train(model, loss_of, optimizer, 3)
    frozen = model[0].weight.clone()
    model[0].requires_grad_(True)
    train(model, loss_of, optimizer, 3)
    assert not torch.equal(model[0].weight, frozen)
    assert sum(z for z, _ in optimizer.zeros().values()) == 96


@each_mode
@pytest.mark.parametrize("at", [2, 6, 12])
def test_a_layer_added_later_is_in_the_phase_of_the_others_and_resumes(mode, at):
    def build(grown):
        model, loss_of = MLP.build()
        base = torch.optim.SGD(model[0].named_parameters(prefix="0"), lr=0.05, momentum=0.9)
        rule = Rule("*.weight", L0(), sparsity=0.5, schedule=Cubic(2, 8))
        optimizer = RVSM(base, [rule], warmup=2, heal_from=10, **mode)
        if not grown:
            train(model, loss_of, optimizer, at)
        optimizer.add_param_group({"params": list(model[2].named_parameters(prefix="2"))})
        return model, loss_of, optimizer

    model, loss_of, optimizer = build(grown=False)
    assert optimizer.param_groups[1]["rvsm"]["step"] == at
    assert optimizer.frozen == (at >= 10)
    assert optimizer.param_groups[1]["rvsm"]["frozen"] == 0
    train(model, loss_of, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, loss_of, optimizer, 8)
    again, loss_of, resumed = build(grown=True)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(again, loss_of, resumed, 8)
    assert torch.equal(weights(model), weights(again))
    if at < 10:
        assert sum(int((model[i].weight == 0).sum()) for i in (0, 2)) == 96
    else:  # the support was fixed before it came
        assert (model[2].weight != 0).all()


@each_mode
@pytest.mark.parametrize("first", ["model", "optimizer"])
def test_a_pretrained_model_is_the_start_whenever_it_is_loaded(mode, first):
    source, loss_of = MLP.build()
    train(source, loss_of, sgd(source), 20)
    trained = copy.deepcopy(source.state_dict())
    finals = []
    for order in ("model", first):
        model, loss_of = MLP.build()
        if order == "model":
            model.load_state_dict(trained)
        optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], **mode)
        if order == "optimizer":
            model.load_state_dict(trained)
        with optimizer.sparse_weights():
            kept = weights(model)
        assert (kept == 0).sum() == 96
        assert torch.equal(kept[kept != 0], weights(source)[kept != 0])
        train(model, loss_of, optimizer, 5)
        finals.append(weights(model))
    assert torch.equal(*finals)


@each_mode
def test_a_sparse_file_can_be_trained_on(mode, tmp_path):
    model, loss_of = MLP.build()
    optimizer = RVSM(sgd(model), [Rule("*.weight", L0(), sparsity=0.5)], **mode)
    train(model, loss_of, optimizer, 10)
    optimizer.finalize()
    rvsm.save(model, tmp_path / "model.safetensors")

    restored = rvsm.load(tmp_path / "model.safetensors", MLP.build()[0])
    optimizer = RVSM(sgd(restored), [Rule("*.weight", L1(), sparsity=0.7)], **mode)
    train(restored, loss_of, optimizer, 10)
    assert sum(z for z, _ in optimizer.zeros().values()) == round(0.7 * 192)
    assert weights(restored).isfinite().all()

    kept = rvsm.load(tmp_path / "model.safetensors", MLP.build()[0])
    support = weights(kept) == 0
    optimizer = RVSM(sgd(kept), [Rule("*.weight", L0(), lam=0.0)], **mode)
    optimizer.finalize()  # at once: train the survivors of the file alone
    train(kept, loss_of, optimizer, 10)
    assert torch.equal(weights(kept) == 0, support)


def devices():
    reason = "no CUDA device"
    return [
        pytest.param("meta", marks=()),
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=reason)
        ),
    ]


@each_mode
@pytest.mark.parametrize("at", [2, 9, 20])
@pytest.mark.parametrize("device", devices())
def test_a_checkpoint_loads_onto_another_device(mode, at, device):
    """State goes where the parameters are; the strengths stay numbers."""

    def build(device="cpu"):
        model, loss_of = MLP.build()
        model.to(device)
        rule = Rule("*.weight", L1(), sparsity=0.7, schedule=Cubic(4, 12))
        base = torch.optim.Adam(model.named_parameters(), lr=0.01)
        return model, loss_of, RVSM(base, [rule], warmup=4, heal_from=16, **mode)

    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, at)
    elsewhere, _, moved = build(device)
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in elsewhere.parameters():
        tensors = {k: v for k, v in moved.state[p].items() if k != "step"}
        assert {"exp_avg", "exp_avg_sq"} <= tensors.keys()
        assert all(v.device.type == device for v in tensors.values())
    assert moved.param_groups[0]["rvsm"] == optimizer.param_groups[0]["rvsm"]
    stored = sum("rvsm_w" in state for state in moved.state.values())
    assert stored == (2 if "grad_at" in mode and at == 9 else 0)
    if device == "meta":
        return
    elsewhere.load_state_dict(model.state_dict())
    assert moved.zeros() == optimizer.zeros()
    with moved.sparse_weights(), optimizer.sparse_weights():
        torch.testing.assert_close(weights(elsewhere).cpu(), weights(model))
    back = build()
    back[0].load_state_dict(elsewhere.state_dict())
    back[2].load_state_dict(moved.state_dict())
    for pair in ((model, optimizer), (back[0], back[2])):
        train(pair[0], loss_of, pair[1], 3)
    assert torch.equal(weights(model), weights(back[0]))
