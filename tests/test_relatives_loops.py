"""The loops that the relatives of RVSM fit into, and what they refuse."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from optimizers import leaves_alone_what_has_no_gradient, same, through_a_file
from problems import MLP, train, weights
from relatives import (
    BASES,
    METHODS,
    begun,
    each_method,
    snapshot,
)
from rvsm.errors import RuleError, RunError
from rvsm.groups import Filters, InputChannels, Tied
from rvsm.optim import (
    ADMM,
    LinearizedBregman,
    Rule,
)
from rvsm.penalties import L0, L1


@each_method
def test_parameters_without_gradients_are_left_alone(method):
    model, loss_of, optimizer = begun(method, BASES["adamw"])
    leaves_alone_what_has_no_gradient(model, loss_of, optimizer, 6)
    if "sparsity" in method[2]:
        assert sum(z for z, _ in optimizer.zeros().values()) == round(0.7 * 192)


@each_method
def test_a_gradient_that_goes_missing_later_does_no_harm(method):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 6)
    for p in model[0].parameters():
        p.requires_grad_(False)
    train(model, loss_of, optimizer, 4)
    for p in model[0].parameters():
        p.requires_grad_(True)
    train(model, loss_of, optimizer, 4)
    assert weights(model).isfinite().all()
    optimizer.finalize()
    if "sparsity" in method[2]:
        assert sum(z for z, _ in optimizer.zeros().values()) == round(0.7 * 192)


@each_method
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("steps", [0, 7])
def test_a_gradient_that_is_not_finite_stops_before_anything_changes(method, bad, steps):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, steps)
    before, state = weights(model), snapshot(optimizer)
    optimizer.zero_grad()
    loss_of(model).backward()
    model[2].weight.grad[0, 0] = bad
    with pytest.raises(RunError, match=rf"gradient of 2\.weight is not finite at step {steps}"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    same(optimizer.state_dict(), state)


@each_method
def test_closures_reach_the_base(method):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 7)
    expected = weights(model)
    model, loss_of, optimizer = begun(method)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    before = loss_of(model).item()
    assert optimizer.step(closure).item() == before
    for _ in range(6):
        optimizer.step(closure)
    assert torch.equal(weights(model), expected)


@each_method
def test_maximizing_the_negative_is_the_same(method):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 8)
    expected = weights(model)
    model, loss_of, optimizer = begun(
        method, lambda named: torch.optim.SGD(named, lr=0.05, momentum=0.9, maximize=True)
    )
    train(model, lambda model: -loss_of(model), optimizer, 8)
    assert torch.allclose(weights(model), expected, atol=1e-6)


@each_method
def test_a_skipped_step_of_a_grad_scaler_leaves_everything(method):
    model, loss_of, optimizer = begun(method)
    train(model, loss_of, optimizer, 7)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before, state = weights(model), snapshot(optimizer)
    optimizer.zero_grad()
    scaler.scale(loss_of(model)).backward()
    model[0].weight.grad[0, 0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weights(model), before)
    same(optimizer.state_dict(), state)
    optimizer.zero_grad()
    scaler.scale(loss_of(model)).backward()
    scaler.step(optimizer)
    assert optimizer.steps == 8


@each_method
def test_strengths_in_the_groups_are_in_force(method):
    if "lam" not in method[2]:
        pytest.skip("its strength is a target")
    model, loss_of, optimizer = begun(method)
    optimizer.param_groups[0]["rvsm"]["rules"]["0"]["lam"] = 0.0
    train(model, loss_of, optimizer, 9)
    model, loss_of, other = begun(method)
    other.param_groups[0]["rvsm"]["rules"]["0"]["lam"] = 1e4
    train(model, loss_of, other, 60)
    few, many = (sum(z for z, _ in o.zeros().values()) for o in (optimizer, other))
    assert few < 10
    assert many > few or method[0] is LinearizedBregman  # which starts where the weights are


@each_method
def test_a_group_added_later_is_ruled(method):
    make, penalty, strength, options = method
    model, loss_of = MLP.build()
    base = torch.optim.SGD(model[0].named_parameters(prefix="0"), lr=0.05, momentum=0.9)
    optimizer = make(base, [Rule("*.weight", penalty, **strength)], **options)
    train(model, loss_of, optimizer, 3)
    late = {"params": list(model[2].named_parameters(prefix="2")), "lr": 0.01}
    optimizer.add_param_group(late)
    train(model, loss_of, optimizer, 3)
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    train(model, loss_of, optimizer, 3)
    assert optimizer.zeros().keys() == {"0.weight", "2.weight"}
    half = {"params": [("h.weight", torch.zeros(2, dtype=torch.bfloat16, requires_grad=True))]}
    with pytest.raises(RuleError, match="float32 or float64"):
        optimizer.add_param_group(half)
    assert len(optimizer.param_groups) == 2


@each_method
def test_what_is_outside_the_support_matrix_raises(method, monkeypatch):
    make, penalty, strength, options = method
    fine = Rule("*.weight", penalty, **strength)

    def attempt(model=None, rule=fine, base=BASES["momentum"]):
        model = MLP.build()[0] if model is None else model
        before = weights(model)
        bottom = base(model.named_parameters())
        groups = copy.deepcopy(bottom.state_dict()["param_groups"])
        try:
            make(bottom, [rule], **options)
        finally:
            assert torch.equal(weights(model), before)
            assert bottom.state_dict()["param_groups"] == groups

    attempt_fine = make(BASES["momentum"](MLP.build()[0].named_parameters()), [fine], **options)
    assert attempt_fine.ruled_names() == ["0.weight", "2.weight"]
    with pytest.raises(RuleError, match="float32 or float64"):
        attempt(MLP.build()[0].to(torch.bfloat16))
    with pytest.raises(RuleError, match="takes no subgradient"):
        attempt(rule=Rule("*.weight", penalty, subgradient=(L1(), 0.1), **strength))
    with pytest.raises(RuleError, match="takes no subgradient"):
        attempt(rule=Rule("*.weight", None, subgradient=(L1(), 0.1)))
    with pytest.raises(RuleError, match="LBFGS"):
        attempt(base=torch.optim.LBFGS)
    with pytest.raises(RuleError, match="matches no parameter"):
        attempt(rule=Rule("absent", penalty, **strength))
    with monkeypatch.context() as patched:
        patched.setattr(torch.distributed, "is_initialized", lambda: True)
        patched.setattr(torch.distributed, "get_world_size", lambda: 2)
        with pytest.raises(RuleError, match="single process"):
            attempt()
    for phases, why in [
        ({"warmup": -1}, "warmup must be a number of steps >= 0"),
        ({"warmup": 5, "heal_from": 5}, "heal_from must be a step after warmup=5"),
    ]:
        model, _ = MLP.build()
        with pytest.raises(RuleError, match=why):
            make(BASES["momentum"](model.named_parameters()), [fine], **options, **phases)


def test_distributed_tensors_raise():
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        p = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh))
        base = torch.optim.SGD([("w", p)], lr=0.1)
        with pytest.raises(RuleError, match="single process"):
            ADMM(base, [Rule("w", L0(), lam=0.1)])
        plain = torch.optim.SGD([("w", torch.nn.Parameter(torch.ones(4)))], lr=0.1)
        ADMM(plain, [Rule("w", L0(), lam=0.1)])  # one process with a group is one process
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_raises_and_a_compiled_model_does_not():
    model, loss_of, optimizer = begun(METHODS["admm"])
    before = weights(model)
    loss_of(model).backward()
    with pytest.raises(RuleError, match="cannot be compiled"):
        torch.compile(optimizer.step, backend="eager")()
    assert torch.equal(weights(model), before)
    assert optimizer.steps == 0
    train(torch.compile(model, backend="eager"), loss_of, optimizer, 2)
    assert optimizer.steps == 2


@each_method
def test_its_own_hooks_run_once(method):
    model, loss_of, optimizer = begun(method)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(model, loss_of, optimizer, 2)
    assert seen == ["before", "after"] * 2


@each_method
def test_autocast_accumulation_and_clipping_go_on_as_ever(method):
    model, loss_of, optimizer = begun(method)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model) / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(2 * loss.item())
    assert min(losses) < losses[0]
    assert optimizer.steps == 60
    optimizer.finalize()
    assert model[0].weight.dtype == torch.float32
    assert (weights(model) == 0).sum() == sum(z for z, _ in optimizer.zeros().values()) > 0


@each_method
def test_tied_groups_are_refused(method):
    make, penalty, strength, options = method
    model, _ = MLP.build()
    tied = Tied({"0.weight": Filters(), "2.weight": InputChannels()})
    rule = Rule("*.weight", penalty, groups=tied, **strength)
    with pytest.raises(RuleError, match="knows no tied groups"):
        make(BASES["momentum"](model.named_parameters()), [rule], **options)
