"""torch.compile of the model, of a training step and of the optimizer's own part."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from problems import CONVOLUTIONAL, MLP, train, weights
from rvsm import native
from rvsm.groups import Filters, InputChannels, Tied
from rvsm.optim import RVSM, Cubic, Linear, Rule, passes
from rvsm.penalties import L0, L1, TransformedL1

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*isinstance.*")

MODES = [
    {},
    {"coupling": "decoupled"},
    {"grad_at": "u"},
    {"grad_at": "u", "coupling": "decoupled"},
]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)

RULES = {
    "l0": [Rule("*.weight", L0(), lam=1e-3, schedule=Cubic(0, 40))],
    "l1": [Rule("*.weight", L1(), lam=1e-3, schedule=Linear(0, 40))],
    "tl1": [Rule("*.weight", TransformedL1(), lam=1e-3, schedule=Cubic(0, 40))],
    "exact": [Rule("*.weight", TransformedL1(), sparsity=0.6, schedule=Cubic(0, 40))],
    "channels": [
        Rule("*.weight", L1(), lam=0.02, groups=InputChannels(), schedule=Cubic(0, 40))
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def build(rules, mode, problem=MLP):
    model, loss_of = problem.build()
    base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    optimizer = RVSM(base, RULES[rules], **mode)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    return model, loss_of, optimizer, scheduler


def go(model, loss_of, optimizer, scheduler, steps):
    for _ in range(steps):
        train(model, loss_of, optimizer, 1)
        scheduler.step()


@each_mode
@pytest.mark.parametrize("rules", RULES)
def test_changing_strengths_and_rates_compile_nothing_again(rules, mode, monkeypatch):
    monkeypatch.setattr(passes, "covers", lambda *_: False)
    run = build(rules, mode)
    run[2].compile(backend="eager")
    go(*run, 4)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 4  # of one shape, then of any; to couple and to show u
    go(*run, 12)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    plain = build(rules, mode)
    go(*plain, 16)
    torch.testing.assert_close(weights(run[0]), weights(plain[0]), rtol=0, atol=2e-6)
    assert run[2].zeros() == plain[2].zeros()


@pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("rules", ["l0", "l1"])
def test_what_c_does_is_not_compiled_by_torch(rules):
    run, plain = build(rules, {}), build(rules, {})
    run[2].compile(backend="eager")
    for each in (run, plain):
        go(*each, 6)
    assert counters["stats"]["unique_graphs"] == 0
    assert torch.equal(weights(run[0]), weights(plain[0]))


@each_mode
def test_tied_sets_stay_uncompiled_and_right(mode):
    """The factor of a group reaches across tensors; no kernel for one tensor has it."""
    tied = Tied({"0.weight": Filters(), "2.weight": InputChannels()})

    def build(model, loss_of):
        base = torch.optim.SGD(model.named_parameters(), lr=0.05)
        return model, loss_of, RVSM(base, [Rule("*.weight", L1(), lam=0.1, groups=tied)], **mode)

    run, plain = build(*MLP.build()), build(*MLP.build())
    run[2].compile(backend="eager")
    assert train(*run, 6) == train(*plain, 6)
    assert torch.equal(weights(run[0]), weights(plain[0]))
    assert run[2].gap() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "mode"), [("tl1", MODES[0]), ("exact", MODES[3])], ids=str)
def test_the_compiled_kernel_takes_the_same_steps(rules, mode):
    run = build(rules, mode, CONVOLUTIONAL)
    run[2].compile()
    go(*run, 10)
    plain = build(rules, mode, CONVOLUTIONAL)
    go(*plain, 10)
    torch.testing.assert_close(weights(run[0]), weights(plain[0]), rtol=0, atol=1e-5)
    run[2].finalize()
    plain[2].finalize()
    assert torch.equal(weights(run[0]) == 0, weights(plain[0]) == 0)


@each_mode
def test_a_compiled_training_step_calls_the_optimizer_as_it_is(mode):
    """Nothing of the optimizer is traced: the same bits, and no new graph for a new strength."""
    run = build("exact", mode)
    model, loss_of, optimizer, _ = run

    @torch.compile(backend="eager")
    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    compiled = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        step()
    graphs = counters["stats"]["unique_graphs"]
    for _ in range(3):
        step()
    assert counters["stats"]["unique_graphs"] == graphs
    optimizer.zero_grad()
    loss_of(model).backward()
    compiled()
    plain = build("exact", mode)
    train(plain[0], plain[1], plain[2], 7)
    assert torch.equal(weights(model), weights(plain[0]))


@each_mode
def test_a_compiled_model_sees_u(mode):
    model, loss_of, optimizer, _ = build("exact", mode)
    optimizer = RVSM(
        torch.optim.SGD(torch.compile(model, backend="eager").named_parameters(), lr=0.05),
        [Rule("*.weight", L0(), sparsity=0.5)],
        **mode,
    )
    assert optimizer.ruled_names() == ["0.weight", "2.weight"]
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(4, 10)
    train(compiled, loss_of, optimizer, 5)
    dense = compiled(x)
    with optimizer.sparse_weights():
        sparse = compiled(x)
        assert torch.equal(sparse, model(x))
    assert torch.equal(compiled(x), dense)
    optimizer.finalize()
    assert torch.equal(compiled(x), sparse)


def test_a_copy_of_a_compiled_one_goes_on_uncompiled():
    run = build("tl1", {})
    run[2].compile(backend="eager")
    go(*run, 3)
    model, optimizer = copy.deepcopy(run[:3:2])
    train(model, run[1], optimizer, 1)
    train(run[0], run[1], run[2], 1)
    torch.testing.assert_close(weights(model), weights(run[0]), rtol=0, atol=1e-6)
