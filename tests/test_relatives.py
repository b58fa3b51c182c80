"""What every relative of RVSM keeps to: phases, results, copies, resuming, refusals."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from problems import CONVOLUTIONAL, LEAST_SQUARES, MLP, train, weights
from rvsm.errors import RuleError, RunError
from rvsm.groups import NM, Filters, InputChannels, Tied
from rvsm.optim import (
    ADMM,
    RVSM,
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
from test_optim_state import BASES, through_a_file

EXACT = {"sparsity": 0.7}
METHODS = {
    "admm": (ADMM, TransformedL1(), {"lam": 0.01}, {"every": 3}),
    "admm-exact": (ADMM, L0(), EXACT, {"every": 1}),
    "proximal": (ProximalGradient, L1(), {"lam": 0.05}, {}),
    "proximal-exact": (ProximalGradient, TransformedL1(), EXACT, {"budget": "global"}),
    "aprox": (ProximalGradient, L1(), {"lam": 0.05}, {"aggregate": True}),
    "aprox-exact": (ProximalGradient, L1(), EXACT, {"aggregate": True}),
    "bregman": (LinearizedBregman, L1(), {"lam": 0.05}, {"delta": 1.5}),
    "magnitude": (MagnitudePruning, L0(), EXACT, {"every": 3, "initial": 0.1}),
    "magnitude-global": (MagnitudePruning, L0(), EXACT, {"every": 1, "budget": "global"}),
    "hard-concrete": (HardConcrete, L0(), {"lam": 0.01}, {"gate_lr": 0.1}),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
exact_methods = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m[2] == EXACT], ids=lambda m: m[0].__name__
)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def build(method, base=BASES["momentum"], problem=MLP, groups=None, **more):
    """Every phase in 24 steps: warm-up to 4, sparsify to 16, heal."""
    make, penalty, strength, options = method
    model, loss_of = problem.build()
    cut = {} if groups is None else {"groups": groups}
    rule = Rule("*.weight", penalty, schedule=Cubic(4, 12), beta=0.5, **strength, **cut)
    phases = {"warmup": 4, "heal_from": 16}
    return model, loss_of, make(base(model.named_parameters()), [rule], **phases, **options, **more)


def begun(method, base=BASES["momentum"], problem=MLP, groups=None, **strength):
    """In full strength from the first step, and without an end."""
    make, penalty, given, options = method
    model, loss_of = problem.build()
    cut = {} if groups is None else {"groups": groups}
    rule = Rule(problem.weights, penalty, beta=0.5, **(strength or given), **cut)
    return model, loss_of, make(base(model.named_parameters()), [rule], **options)


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def same(ours, theirs):
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert ours["state"][index].keys() == state.keys()
        for key, value in state.items():
            other = torch.as_tensor(ours["state"][index][key])
            assert other.dtype == torch.as_tensor(value).dtype
            assert torch.equal(other, torch.as_tensor(value)), key


@each_base
@each_method
@pytest.mark.parametrize(
    ("at", "model_first"), [(0, True), (2, False), (4, True), (9, False), (16, True), (20, False)]
)
def test_a_resumed_run_is_the_run_bit_for_bit(method, base, at, model_first):
    problem = CONVOLUTIONAL if model_first else MLP
    model, loss_of, optimizer = build(method, base, problem)
    train(model, loss_of, optimizer, at)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, loss_of, optimizer, 24 - at)

    resumed, loss_of, again = build(method, base, problem)
    train(resumed, loss_of, again, 7)  # whatever was there before must be gone
    loads = [
        lambda: resumed.load_state_dict(saved["model"]),
        lambda: again.load_state_dict(saved["optimizer"]),
    ]
    for load in loads if model_first else reversed(loads):
        load()
    assert again.steps == at
    assert again.frozen == (at >= 16)
    train(resumed, loss_of, again, 24 - at)
    assert torch.equal(weights(resumed), weights(model))
    assert again.zeros() == optimizer.zeros()
    same(again.state_dict(), optimizer.state_dict())


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


@each_method
def test_parameters_without_gradients_are_left_alone(method):
    model, loss_of, optimizer = begun(method, BASES["adamw"])
    for p in model[0].parameters():
        p.requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    train(model, loss_of, optimizer, 6)
    assert torch.equal(model[0].weight, frozen)
    assert not optimizer.state.get(model[0].weight)
    for p in model[0].parameters():
        p.requires_grad_(True)
    train(model, loss_of, optimizer, 6)
    assert not torch.equal(model[0].weight, frozen)
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


@each_method
def test_tied_groups_are_refused(method):
    make, penalty, strength, options = method
    model, _ = MLP.build()
    tied = Tied({"0.weight": Filters(), "2.weight": InputChannels()})
    rule = Rule("*.weight", penalty, groups=tied, **strength)
    with pytest.raises(RuleError, match="knows no tied groups"):
        make(BASES["momentum"](model.named_parameters()), [rule], **options)


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
