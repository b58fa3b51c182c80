"""Saving, loading and copying RVSM; schedulers, scalers and hooks around it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from optimizers import resumes_bit_for_bit, through_a_file
from problems import CONVOLUTIONAL, MLP, train, weights
from rvsm.errors import RuleError, RunError
from rvsm.groups import Filters
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L0, L1, Elastic, TransformedL1

MODES = {
    "w": {},
    "decoupled": {"coupling": "decoupled"},
    "u": {"grad_at": "u"},
    "global": {"budget": "global"},
}
BASES = {
    "momentum": lambda named: torch.optim.SGD(named, lr=0.05, momentum=0.9),
    "adamw": lambda named: torch.optim.AdamW(named, lr=0.01, weight_decay=0.1, amsgrad=True),
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def build(base=BASES["momentum"], mode=None, problem=MLP):
    """Every phase in 24 steps: warm-up to 4, sparsify to 16, heal."""
    model, loss_of = problem.build()
    rules = [
        Rule("*.weight", TransformedL1(), sparsity=0.7, schedule=Cubic(4, 12)),
        Rule("0.*", L1(), lam=1e-3, subgradient=(L1(), 1e-4)),
    ]
    options = {"warmup": 4, "heal_from": 16, **(mode or {})}
    return model, loss_of, RVSM(base(model.named_parameters()), rules, **options)


@each_base
@each_mode
@pytest.mark.parametrize("problem", [MLP, CONVOLUTIONAL], ids=str)
@pytest.mark.parametrize(
    ("at", "model_first"), [(0, True), (2, False), (4, True), (9, False), (16, True), (20, False)]
)
def test_a_resumed_run_is_the_run_bit_for_bit(problem, base, mode, at, model_first):
    resumes_bit_for_bit(lambda: build(base, mode, problem), at, 3, model_first=model_first)


def test_loading_restores_the_momentum_the_base_uses():
    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, 6)
    saved = optimizer.state_dict()
    _, _, again = build()
    again.load_state_dict(saved)
    assert again.state is again.base.state
    assert again.param_groups is again.base.param_groups
    for p, q in zip(
        optimizer.param_groups[0]["params"], again.param_groups[0]["params"], strict=True
    ):
        buffer = again.base.state[q]["momentum_buffer"]
        assert torch.equal(buffer, optimizer.state[p]["momentum_buffer"])
        assert buffer.abs().sum() > 0
    again.param_groups[0]["lr"] = 0.123
    assert again.base.param_groups[0]["lr"] == 0.123


def test_only_numbers_and_names_are_added_to_the_state_dict():
    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, 6)
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    assert state["param_groups"][0]["rvsm"] == {
        "step": 6,
        "frozen": 0,
        "rules": {
            "0": {"sparsity": 0.7, "beta": 0.1},
            "1": {"lam": 1e-3, "beta": 0.1, "lam2": 1e-4},
        },
        "made": {
            "0": "Rule('*.weight', TransformedL1(a=1.0), groups=Elements())",
            "1": "Rule('0.*', L1(), groups=Elements(), subgradient=L1())",
        },
        "mode": {"grad_at": "w", "coupling": "gradient"},
    }


def test_strengths_in_the_groups_are_in_force():
    model, loss_of, optimizer = build(mode={"warmup": 0})
    optimizer.param_groups[0]["rvsm"]["rules"]["1"]["lam"] = 1e6
    train(model, loss_of, optimizer, 1)
    assert optimizer.zeros()["0.weight"] == (160, 160)


def test_a_checkpoint_of_the_bare_base_loads():
    model, loss_of = MLP.build()
    base = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train(model, loss_of, base, 3)
    _, _, optimizer = build()
    optimizer.load_state_dict(through_a_file(base.state_dict()))
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.steps == 0
    assert "momentum_buffer" in optimizer.state[optimizer.param_groups[0]["params"][0]]


def test_a_checkpoint_of_other_rules_is_refused_whole():
    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, 2)
    saved = optimizer.state_dict()
    model, _ = MLP.build()
    other = RVSM(BASES["momentum"](model.named_parameters()), [Rule("*.weight", L0(), lam=1.0)])
    with pytest.raises(RuleError, match="made under other rules"):
        other.load_state_dict(saved)
    assert other.steps == 0
    assert not other.state


class Named(L1):
    """A penalty of a user's own whose repr is an address."""

    __repr__ = object.__repr__


def one_rule(penalty=L0(), pattern="*.weight", strength=None, **options):  # noqa: B008
    model, loss_of = MLP.build()
    parts = {key: options.pop(key) for key in ("groups", "subgradient") if key in options}
    rule = Rule(pattern, penalty, **(strength or {"sparsity": 0.5}), **parts)
    return model, loss_of, RVSM(BASES["momentum"](model.named_parameters()), [rule], **options)


OTHERS = [
    ({"penalty": TransformedL1()}, r"rule 0 is Rule\('\*\.weight', L0\(\), .* TransformedL1\(a=1"),
    ({"pattern": "[02].weight"}, r"rule 0 is Rule\('\*\.weight', .*'\[02\]\.weight', .* here"),
    ({"groups": Filters()}, r"groups=Elements\(\)\) there and .*groups=Filters\(\)\) here"),
    ({"subgradient": (L1(), 0.1)}, r"rule 0 is .* here"),
    ({"grad_at": "u"}, "grad_at is w there and u here"),
    ({"coupling": "decoupled"}, "coupling is gradient there and decoupled here"),
    ({"strength": {"lam": 0.1}}, "rule 0 has beta, sparsity there and beta, lam here"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_a_checkpoint_says_what_differs(other, message):
    model, loss_of, optimizer = one_rule()
    train(model, loss_of, optimizer, 2)
    saved = through_a_file(optimizer.state_dict())
    _, _, again = one_rule(**other)
    before = copy.deepcopy(again.state_dict())
    with pytest.raises(RuleError, match=rf"made under other rules \(.*{message}"):
        again.load_state_dict(saved)
    assert again.state_dict() == before


@pytest.mark.parametrize(
    ("penalty", "same"),
    [
        (TransformedL1(a=1.0), TransformedL1(a=1)),
        (Named(), Named()),
        (Elastic(L1(), 0.5), Elastic(L1(), 0.5)),
    ],
)
def test_a_checkpoint_of_equal_rules_loads(penalty, same):
    model, loss_of, optimizer = one_rule(penalty)
    train(model, loss_of, optimizer, 2)
    _, _, again = one_rule(same)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    assert again.steps == 2


def test_the_strengths_of_the_checkpoint_hold():
    model, loss_of, optimizer = one_rule()
    train(model, loss_of, optimizer, 2)
    _, _, again = one_rule(strength={"sparsity": 0.9})
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    assert sum(z for z, _ in again.zeros().values()) == 96
    again.param_groups[0]["rvsm"]["rules"]["0"]["sparsity"] = 0.9
    assert sum(z for z, _ in again.zeros().values()) == round(0.9 * 192)


def test_a_checkpoint_from_before_rules_were_told_loads():
    model, loss_of, optimizer = one_rule()
    train(model, loss_of, optimizer, 2)
    saved = through_a_file(optimizer.state_dict())
    for key in ("made", "mode"):
        del saved["param_groups"][0]["rvsm"][key]
    _, _, again = one_rule(TransformedL1())
    again.load_state_dict(saved)
    assert again.steps == 2
    assert again.state_dict()["param_groups"][0]["rvsm"]["mode"]["grad_at"] == "w"


@pytest.mark.parametrize("grad_at", ["w", "u"])
def test_a_second_optimizer_on_a_base_begins_anew(grad_at):
    model, loss_of, first = one_rule(grad_at=grad_at)
    train(model, loss_of, first, 3)
    first.finalize()
    rules = [Rule("0.weight", L1(), lam=1.0), Rule("2.weight", L0(), sparsity=0.9)]
    second = RVSM(first.base, rules)
    assert second.steps == 0
    assert not second.frozen
    assert second.param_groups[0]["rvsm"]["rules"] == {
        "0": {"lam": 1.0, "beta": 0.1},
        "1": {"sparsity": 0.9, "beta": 0.1},
    }
    train(model, loss_of, second, 2)
    assert second.zeros()["2.weight"] == (29, 32)


def test_a_second_optimizer_drops_what_the_first_kept_unless_it_is_refused():
    model, loss_of, first = one_rule(grad_at="u")
    train(model, loss_of, first, 3)
    numbers = copy.deepcopy(first.param_groups[0]["rvsm"])
    with pytest.raises(RuleError, match="matches no parameter"):
        RVSM(first.base, [Rule("x", L0(), lam=1.0)])
    assert first.param_groups[0]["rvsm"] == numbers
    assert "rvsm_w" in first.state[model[0].weight]
    second = RVSM(first.base, [Rule("*.weight", L0(), lam=1e-4)])
    assert not any("rvsm_w" in state for state in second.state.values())
    assert "momentum_buffer" in second.state[model[0].weight]


@each_mode
@pytest.mark.parametrize("at", [2, 9, 20])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))]
)
def test_copies_go_on_alike_and_apart(mode, at, duplicate):
    model, loss_of, optimizer = build(mode=mode)
    train(model, loss_of, optimizer, at)
    twin, again = duplicate((model, optimizer))
    assert again.param_groups[0]["params"][0] is next(iter(twin.parameters()))
    train(model, loss_of, optimizer, 5)
    assert not torch.equal(weights(model), weights(twin))
    train(twin, loss_of, again, 5)
    assert torch.equal(weights(model), weights(twin))
    with again.sparse_weights():
        pass
    again.register_step_post_hook(lambda *_: None)
    again.step()


def test_a_scheduler_drives_it_as_it_drives_the_base():
    finals = []
    for wrap in (False, True):
        model, loss_of = MLP.build()
        optimizer = BASES["momentum"](model.named_parameters())
        if wrap:
            optimizer = RVSM(optimizer, [Rule("*.weight", L0(), lam=0.0)])
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
        for _ in range(20):
            train(model, loss_of, optimizer, 1)
            scheduler.step()
        copy.deepcopy(optimizer)  # the scheduler has patched its step
        finals.append(weights(model))
    assert torch.equal(*finals)


def test_a_scheduler_of_the_base_works_too():
    model, loss_of, optimizer = build()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.base, step_size=1, gamma=0.5)
    train(model, loss_of, optimizer, 1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_unscales_before_the_coupling_and_skips(fused):
    finals = []
    for scale in (None, 1024.0):
        model, loss_of = MLP.build()
        base = torch.optim.Adam(model.named_parameters(), lr=0.01, fused=fused)
        optimizer = RVSM(base, [Rule("*.weight", L1(), lam=1e-3)], heal_from=6)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(8):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            if step == 3 and scale:
                model[0].weight.grad[0, 0] = float("inf")
                before, taken = weights(model), optimizer.steps
                scaler.step(optimizer)
                assert torch.equal(weights(model), before)
                assert optimizer.steps == taken
                scaler.update()
                optimizer.zero_grad()
                scaler.scale(loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
        finals.append(weights(model))
    assert torch.allclose(*finals, atol=1e-6)


def test_its_own_hooks_run():
    model, loss_of, optimizer = build()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {**state, "seen": 1})
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    train(model, loss_of, optimizer, 1)
    state = optimizer.state_dict()
    assert state["extra"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["before", "after", "saving", "loaded"]


def test_a_group_added_later_is_ruled_and_counted():
    model, loss_of = MLP.build()
    base = torch.optim.SGD(model[0].named_parameters(prefix="0"), lr=0.05)
    optimizer = RVSM(base, [Rule("*.weight", L0(), sparsity=0.5)])
    train(model, loss_of, optimizer, 3)
    late = {"params": list(model[2].named_parameters(prefix="2")), "lr": 0.01}
    optimizer.add_param_group(late)
    assert optimizer.ruled_names() == ["0.weight", "2.weight"]
    assert optimizer.param_groups[1]["rvsm"]["step"] == 3
    train(model, loss_of, optimizer, 3)
    assert sum(z for z, _ in optimizer.zeros().values()) == 96
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert optimizer.steps == 6


LOOKS = {
    "step": lambda optimizer: optimizer.step(),
    "zeros": lambda optimizer: optimizer.zeros(),
    "finalize": lambda optimizer: optimizer.finalize(),
    "state_dict": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "sparse_weights": lambda optimizer: optimizer.sparse_weights().__enter__(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_group_added_to_the_base_itself_is_ruled_too(look):
    model, loss_of = MLP.build()
    base = torch.optim.SGD(model[0].named_parameters(prefix="0"), lr=0.05)
    optimizer = RVSM(base, [Rule("*.weight", L0(), sparsity=0.5)])
    train(model, loss_of, optimizer, 3)
    base.add_param_group({"params": list(model[2].named_parameters(prefix="2"))})
    look(optimizer)
    assert optimizer.ruled_names() == ["0.weight", "2.weight"]
    assert optimizer.param_groups[1]["rvsm"]["step"] == optimizer.steps
    assert sum(z for z, _ in optimizer.zeros().values()) == 96


@each_mode
def test_a_group_added_to_the_base_that_cannot_be_ruled_moves_nothing(mode):
    model, loss_of, optimizer = build(mode=mode)
    train(model, loss_of, optimizer, 6)
    late = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    optimizer.base.add_param_group({"params": [("z.weight", late)]})
    before = weights(model)
    for look in LOOKS.values():
        with pytest.raises(RuleError, match="only real weights"):
            look(optimizer)
    assert torch.equal(weights(model), before)
    optimizer.base.param_groups.pop()
    train(model, loss_of, optimizer, 1)
    assert optimizer.steps == 7


REFUSED = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "load_state_dict": lambda optimizer: optimizer.load_state_dict({}),
}


@pytest.mark.parametrize("act", REFUSED.values(), ids=REFUSED)
def test_nothing_is_kept_of_an_optimizer_whose_parameters_show_u(act):
    model, loss_of, optimizer = build()
    train(model, loss_of, optimizer, 6)
    before = weights(model)
    with optimizer.sparse_weights():
        with pytest.raises(RuleError, match=r"inside sparse_weights\(\) would .*; leave it first"):
            act(optimizer)
        copy.deepcopy(model)
    assert torch.equal(weights(model), before)
    copy.deepcopy(optimizer)
    # Where the parameters hold u anyway, a copy misses nothing.
    model, loss_of, optimizer = build(mode={"grad_at": "u"})
    train(model, loss_of, optimizer, 6)
    with optimizer.sparse_weights():
        twin, again = copy.deepcopy((model, optimizer))
    for its, ours in ((model, optimizer), (twin, again)):
        train(its, loss_of, ours, 3)
    assert torch.equal(weights(model), weights(twin))


def test_a_group_it_cannot_rule_is_not_added():
    _, _, optimizer = build()
    with pytest.raises(RuleError, match="only real weights"):
        optimizer.add_param_group(
            {"params": [("z.weight", torch.zeros(2, dtype=torch.complex64, requires_grad=True))]}
        )
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.base.param_groups) == 1


def test_distributed_checkpoints_flatten_and_restore_it(tmp_path):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    for mode in MODES.values():
        model, loss_of, optimizer = build(mode=mode)
        train(model, loss_of, optimizer, 6)
        saved = through_a_file(copy.deepcopy(get_optimizer_state_dict(model, optimizer)))
        start = through_a_file(model.state_dict())
        resumed, loss_of, again = build(mode=mode)
        set_optimizer_state_dict(resumed, again, saved)
        resumed.load_state_dict(start)
        for pair in ((model, optimizer), (resumed, again)):
            train(pair[0], loss_of, pair[1], 6)
        assert torch.equal(weights(model), weights(resumed))
        told = optimizer.state_dict()["param_groups"][0]["rvsm"]
        assert again.state_dict()["param_groups"][0]["rvsm"] == told
        saved["param_groups"][0]["rvsm"]["mode"]["grad_at"] = "v"
        with pytest.raises(RuleError, match="grad_at is v there and"):
            set_optimizer_state_dict(resumed, again, saved)


def test_a_pickle_of_before_there_was_a_list_of_the_others_still_works():
    model = torch.nn.Linear(4, 3)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("weight", L0(), lam=0.1)])
    state = optimizer.__getstate__()
    del state["_free"]
    old = RVSM.__new__(RVSM)
    old.__setstate__(state)
    model(torch.ones(1, 4)).sum().backward()
    model.bias.grad[0] = float("nan")
    with pytest.raises(RunError, match="bias is not finite"):
        old.step()
