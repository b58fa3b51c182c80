"""On a GPU: the same supports as on the CPU, and a step in which the host never waits."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from benchmarks.frontier.gradient import Gradient
from torch import nn
from torch.nn import functional

from optimizers import BASES, MODES
from penalty_table import OURS
from rvsm.deploy.semi_structured import to_dense, to_semi_structured
from rvsm.groups import NM, Blocks, Filters, InputChannels, Rows, SparseGroup, Tied
from rvsm.optim import ADMM, RVSM, Budget, Cubic, MagnitudePruning, ProximalGradient, Rule
from rvsm.penalties import L0, L1, MCP, TransformedL1

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16, 24), nn.ReLU(), nn.Linear(24, 4),
    )  # fmt: skip


@contextlib.contextmanager
def never_waiting():
    """Turn every wait of the host for the device into an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(model, count):
    """The same gradients on every device, as if of a smooth loss."""
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randn(p.shape, generator=generator) * 0.05 for p in model.parameters()]
        for _ in range(count)
    ]


def run(build, device, count=6, *, waits=False):
    """Return the optimizer after steps with given gradients, and its sparse weights."""
    model = network()
    given = gradients(model, count)
    model.to(device)
    optimizer = build(model)
    for number, grads in enumerate(given):
        for p, grad in zip(model.parameters(), grads, strict=True):
            p.grad = grad.to(device)
        # The first steps make the state, of which some bases look at the device.
        watched = device == "cuda" and number >= 2 and not waits
        with never_waiting() if watched else contextlib.nullcontext():
            optimizer.step()
    with optimizer.sparse_weights():
        us = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    return optimizer, us


def check_same(build, *, near=1e-6, waits=False):
    ours, us = run(build, "cuda", waits=waits)
    theirs, expected = run(build, "cpu")
    assert ours.zeros() == theirs.zeros()
    assert any(zeros for zeros, _ in ours.zeros().values())
    for name, u in expected.items():
        assert torch.equal(us[name] == 0, u == 0), name
        torch.testing.assert_close(us[name], u, rtol=1e-4, atol=near)


def momentum(model):
    return torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("strength", [{"lam": 0.02}, {"sparsity": 0.7}], ids=str)
@pytest.mark.parametrize("penalty", OURS, ids=str)
def test_every_penalty_steps_as_on_the_cpu_without_waiting(penalty, strength):
    def build(model):
        return RVSM(momentum(model), [Rule("*.weight", penalty, **strength)])

    if "lam" in strength:  # where a lam of all penalties zeroes some is no question here
        _, us = run(build, "cuda")
        _, expected = run(build, "cpu")
        for name, u in expected.items():
            torch.testing.assert_close(us[name], u, rtol=1e-4, atol=2e-5)
        return
    check_same(build, near=2e-5)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("base", [name for name in BASES if name != "sgd"])
def test_bases_and_modes(base, mode):
    def build(model):
        return RVSM(
            BASES[base](list(model.named_parameters())),
            [Rule("*.weight", L0(), sparsity=0.8, schedule=Cubic(0, 4))],
            warmup=1,
            **mode,
        )

    check_same(build, near=1e-4)


@pytest.mark.parametrize(
    "budget",
    ["rule", "global", "parameter", Budget("global", layout="uniform"),
     Budget("global", layout="erk"), Budget("global", scale="rms"), Budget("global", floor=0.1)],
    ids=str,
)  # fmt: skip
def test_budgets(budget):
    check_same(
        lambda model: RVSM(
            momentum(model),
            [Rule("*.weight", L1(), sparsity=0.5), Rule("[57].weight", L0(), sparsity=0.9)],
            budget=budget,
        ),
        near=1e-5,
    )


RULES = {
    "filters": Rule("[02].weight", L1(), sparsity=0.5, groups=Filters()),
    "filters lam": Rule("[02].weight", TransformedL1(), lam=0.05, groups=Filters()),
    "channels": Rule("2.weight", L0(), sparsity=0.5, groups=InputChannels()),
    "channels of maps": Rule("5.weight", L0(), sparsity=0.5, groups=InputChannels(16)),
    "rows": Rule("[57].weight", MCP(), sparsity=0.5, groups=Rows()),
    "blocks": Rule("5.weight", L0(), sparsity=0.5, groups=Blocks(4, 4)),
    "2:4": Rule("5.weight", L0(), sparsity=0.5, groups=NM(2, 4)),
    "subgradient": Rule("*.weight", L1(), lam=0.01, subgradient=(TransformedL1(), 0.01)),
}


@pytest.mark.parametrize("name", RULES)
def test_groups(name):
    # Groups of different size: how many reach the target is counted by the host.
    waits = name in ("filters", "rows")
    check_same(lambda model: RVSM(momentum(model), [RULES[name]]), near=1e-5, waits=waits)


def test_sparse_groups():
    check_same(
        lambda model: RVSM(
            momentum(model), [Rule("[02].weight", SparseGroup(L0(), Filters(), 4.0), lam=5e-4)]
        ),
        near=1e-5,
        waits=True,  # a minimum found by bisection looks where it is
    )


def test_tied_groups():
    groups = Tied({"0.weight": Filters(), "2.weight": InputChannels()})
    check_same(
        lambda model: RVSM(momentum(model), [Rule("[02].weight", L1(), lam=0.13, groups=groups)]),
        near=1e-5,
    )


def test_healing_does_not_wait():
    def build(model):
        rules = [Rule("*.weight", L0(), sparsity=0.8)]
        return RVSM(momentum(model), rules, heal_from=2)

    check_same(build)


RELATIVES = {
    "magnitude": lambda base, rules: MagnitudePruning(base, rules),
    "proximal": lambda base, rules: ProximalGradient(base, rules),
    "admm": lambda base, rules: ADMM(base, rules, every=2),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives(name):
    check_same(
        lambda model: RELATIVES[name](momentum(model), [Rule("*.weight", L0(), sparsity=0.7)]),
        waits=True,
    )


@pytest.mark.parametrize("strength", [{"lam": 0.02}, {"sparsity": 0.7}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_compiled_step(mode, strength):
    """One kernel for each kind of rule, whose strengths are tensors: no wait, the same zeros."""

    def build(model):
        optimizer = RVSM(momentum(model), [Rule("*.weight", TransformedL1(), **strength)], **mode)
        optimizer.compile()
        return optimizer

    check_same(build, near=1e-5)


def test_autocast_and_grad_scaler():
    model = network().cuda()
    optimizer = RVSM(momentum(model), [Rule("*.weight", L0(), sparsity=0.7)])
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    x, y = torch.randn(16, 1, 8, 8, device="cuda"), torch.randint(4, (16,), device="cuda")
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert 0 < optimizer.steps < 30  # the first scales overflow, and those steps are left out
    assert all(p.isfinite().all() for p in model.parameters())
    share = sum(z for z, _ in optimizer.zeros().values()) / sum(
        p.numel() for name, p in model.named_parameters() if name.endswith("weight")
    )
    assert share == pytest.approx(0.7, abs=1e-3)


def test_a_copy_goes_on_alike():
    def build(model):
        return RVSM(momentum(model), [Rule("*.weight", L0(), sparsity=0.7)], grad_at="u")

    optimizer, _ = run(build, "cuda")
    twin = copy.deepcopy(optimizer)
    for one in (optimizer, twin):
        for group in one.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p) * 0.01
        one.step()
    for ours, theirs in zip(
        optimizer.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_semi_structured_weights_compute_what_dense_ones_do(dtype):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no sparse tensor cores")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, 10))
    model.cuda()
    rules = [Rule("[02].weight", L0(), groups=NM(2, 4), sparsity=0.5, beta=0.1)]
    optimizer = RVSM(momentum(model), rules)
    model(torch.randn(8, 128, device="cuda")).square().mean().backward()
    optimizer.step()
    optimizer.finalize()
    model.to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # Batches that are no multiple of 8 are padded inside.
    inputs = [
        torch.randn(*shape, 128, device="cuda", dtype=dtype) for shape in ((1,), (3, 5), (64,))
    ]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
        account = to_semi_structured(model)
        assert account.converted == ("0.weight", "2.weight")
        assert list(account.left) == ["3.weight"]
        found = [model(x) for x in inputs]
    for ours, theirs in zip(found, expected, strict=True):
        close = 8 * torch.finfo(dtype).eps * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=close)
    assert to_dense(model) == account.converted
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_recorded_gradients_are_the_eager_ones():
    model = network().cuda()
    other = copy.deepcopy(model)
    draws = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(size, 1, 8, 8, generator=draws).cuda(),
            torch.randint(4, (size,), generator=draws).cuda(),
            torch.randn(size, 4, generator=draws).cuda(),
        )
        for size in [10] * 8 + [7] + [10] * 3
    ]

    def loss(logits, labels, taught):
        return functional.cross_entropy(logits, labels) + (logits - taught).square().mean()

    recorded = Gradient(model, loss, record=True)
    eager = Gradient(other, loss, record=False)
    for step, batch in enumerate(batches):
        for gradient, net in ((recorded, model), (eager, other)):
            gradient(*batch)
            torch.optim.SGD(net.parameters(), lr=0.1).step()
        if step == 6:  # what moves is recorded anew
            for p in model.parameters():
                p.data = p.data.clone()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert recorded.steps == len(batches)
