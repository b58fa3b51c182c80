"""What the relatives of RVSM store, show and resume."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from optimizers import resumes_bit_for_bit, same, through_a_file
from problems import CONVOLUTIONAL, MLP, train, weights
from relatives import (
    BASES,
    METHODS,
    begun,
    build,
    each_base,
    each_method,
)
from rvsm.errors import RuleError
from rvsm.optim import (
    ADMM,
    RVSM,
    HardConcrete,
    Rule,
)
from rvsm.penalties import L0


@each_base
@each_method
@pytest.mark.parametrize(
    ("at", "model_first"), [(0, True), (2, False), (4, True), (9, False), (16, True), (20, False)]
)
def test_a_resumed_run_is_the_run_bit_for_bit(method, base, at, model_first):
    problem = CONVOLUTIONAL if model_first else MLP
    resumes_bit_for_bit(lambda: build(method, base, problem), at, 7, model_first=model_first)


@each_method
@pytest.mark.parametrize("at", [2, 9, 20])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))]
)
def test_copies_go_on_alike_and_apart(method, at, duplicate):
    model, loss_of, optimizer = build(method)
    train(model, loss_of, optimizer, at)
    twin, again = duplicate((model, optimizer))
    train(model, loss_of, optimizer, 9)
    assert not torch.equal(weights(model), weights(twin))
    train(twin, loss_of, again, 9)
    assert torch.equal(weights(model), weights(twin))
    same(again.state_dict(), optimizer.state_dict())
    assert again.zeros() == optimizer.zeros()


@each_method
def test_only_tensors_numbers_and_names_are_saved(method):
    model, loss_of, optimizer = build(method)
    train(model, loss_of, optimizer, 9)
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    ours = state["param_groups"][0]["rvsm"]
    assert ours["method"] == method[0].__name__
    assert {"step", "frozen", "rules"} <= ours.keys()
    for number in ours.values():
        assert type(number) in (int, float, str, dict)
    for key, value in state["state"][0].items():
        assert value is None or isinstance(value, torch.Tensor), key


@each_method
@pytest.mark.parametrize("steps", [0, 7])
def test_sparse_weights_nest_and_survive_exceptions(method, steps):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, steps)
    held = weights(model)
    with optimizer.sparse_weights():
        shown = weights(model)
        with optimizer.sparse_weights():
            assert torch.equal(weights(model), shown)
        with pytest.raises(KeyError), optimizer.sparse_weights():
            raise KeyError
        assert torch.equal(weights(model), shown)
        with pytest.raises(RuleError, match="leave it first"):
            optimizer.step()
        with pytest.raises(RuleError, match="leave it first"):
            optimizer.finalize()
    assert torch.equal(weights(model), held)
    with pytest.raises(KeyError), optimizer.sparse_weights():
        raise KeyError
    assert torch.equal(weights(model), held)
    with torch.inference_mode(), optimizer.sparse_weights():
        assert torch.equal(weights(model), shown)
    assert torch.equal(weights(model), held)
    train(model, loss_of, optimizer, 1)


@each_method
def test_batch_norm_is_estimated_anew_at_the_result(method):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    make, penalty, strength, options = method
    rule = Rule("0.weight", penalty, **strength)
    base = torch.optim.SGD(model.parameters(), lr=0.05)  # its names come from the model
    optimizer = make(base, [rule], model=model, **options)
    x = torch.randn(32, 6)
    train(model, lambda network: network(x).square().sum(), optimizer, 4)
    before = model[1].running_var.clone()

    def right():
        return torch.allclose(model[1].running_var, model[0](x).var(0), rtol=1e-4)

    with optimizer.sparse_weights(recalibrate=[x]):
        assert right()
    assert torch.equal(model[1].running_var, before)
    with pytest.raises(RuleError, match="gave no batch"):
        optimizer.finalize(recalibrate=[])
    assert not optimizer.frozen
    optimizer.finalize(recalibrate=[x])
    assert right()
    assert copy.deepcopy(optimizer).model is None
    optimizer.model = None
    with pytest.raises(RuleError, match=f"pass model= to {make.__name__}"):
        optimizer.finalize(recalibrate=[x])


@each_method
def test_counting_zeros_touches_no_weight(method):
    """Not even to put it back: a graph from before must still go backward."""
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 4)
    loss = loss_of(model)
    counts = optimizer.zeros()
    loss.backward()
    with optimizer.sparse_weights():
        assert optimizer.zeros() == counts
        for name, p in model.named_parameters():
            if name in counts:
                assert counts[name] == ((p == 0).sum(), p.numel())


@each_method
def test_checkpoints_of_others_are_refused_and_those_of_the_base_load(method):
    _, _, optimizer = begun(method)
    rule = Rule("*.weight", method[1], beta=0.5, **method[2])
    makers = {
        "RVSM": RVSM,
        "ADMM": ADMM,
        "HardConcrete": HardConcrete,
    }
    for name, make in makers.items():
        if make is method[0] or (make is HardConcrete and method[1:3] != (L0(), {"lam": 0.01})):
            continue
        model, loss_of = MLP.build()
        other = make(BASES["momentum"](model.named_parameters()), [rule])
        train(model, loss_of, other, 2)
        with pytest.raises(RuleError, match=f"made by {name}"):
            optimizer.load_state_dict(other.state_dict())
        assert optimizer.steps == 0
        assert not optimizer.state
    model, loss_of = MLP.build()
    bare = BASES["momentum"](model.named_parameters())
    train(model, loss_of, bare, 2)
    optimizer.load_state_dict(through_a_file(bare.state_dict()))
    assert optimizer.steps == 0
    model, loss_of, fresh = begun(method)
    fresh.load_state_dict(through_a_file(bare.state_dict()))
    train(model, loss_of, fresh, 3)


@each_method
def test_distributed_checkpoints_are_refused_and_change_no_weight(method):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 3)
    saved = get_optimizer_state_dict(model, optimizer)
    model, _, fresh = begun(method)
    before = weights(model)
    with pytest.raises(RuleError, match="no part in torch's distributed checkpoints"):
        set_optimizer_state_dict(model, fresh, saved)
    assert torch.equal(weights(model), before)
    assert not fresh.state


@pytest.mark.parametrize(
    ("name", "per_weight"),
    [("admm", 8), ("proximal", 0), ("aprox", 4), ("bregman", 4), ("magnitude", 1),
     ("hard-concrete", 4 + 3 * 4)],
)  # fmt: skip
def test_what_is_stored_is_what_the_documents_say(name, per_weight):
    model, loss_of, optimizer = begun(METHODS[name])
    train(model, loss_of, optimizer, 7)
    stored = sum(
        value.nbytes
        for state in optimizer.state.values()
        for key, value in state.items()
        if key.startswith("rvsm_") and value.dim()
    )
    assert stored == per_weight * 192
    attributes = {k: v for k, v in vars(optimizer).items() if k != "base"}
    assert not any(isinstance(v, torch.Tensor) for v in attributes.values())
    assert not optimizer._held
