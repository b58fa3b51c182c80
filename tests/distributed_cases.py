"""What two processes do beside one: the cases of test_fits_distributed, and their worker.

    python distributed_cases.py RANK FOLDER

runs every case on one of two ranks and writes what it found to FOLDER.
"""

from __future__ import annotations

import copy
import sys
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from optimizers import BASES
from rvsm.errors import RuleError, RunError
from rvsm.groups import NM, Blocks, Filters, Grouped, Heads, InputChannels, SparseGroup
from rvsm.optim import RVSM, Budget, Cubic, Rule
from rvsm.penalties import L0, L1, MCP, L1MinusL2, TransformedL1

RANKS = 2


def network() -> nn.Sequential:
    """No first axis divides by two, and the last layer's single row leaves a rank with none."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 7),
        nn.ReLU(),
        nn.Linear(7, 1),
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 4, 4, generator=generator)
    return x, x.mean(dim=(1, 2, 3))[:, None] * 5


ROUNDED_MU = 5e-6
"""Of targets under a penalty that shrinks: one process needs no mask, its mu is roundings off."""


@dataclass(frozen=True)
class Case:
    rules: list[Rule]
    options: dict[str, Any] = field(default_factory=dict)
    base: str = "momentum"
    """Of optimizers.BASES: momentum is Nesterov's, with weight decay."""
    ties: bool = False
    tolerance: float = 1e-6
    """Of the weights: RMSprop divides by gradients that differ in their last digits."""


CASES = {
    "l1 lam": Case([Rule("*.weight", L1(), lam=0.01)]),
    "tl1 lam decoupled": Case(
        [Rule("*.weight", TransformedL1(), lam=0.005)], {"coupling": "decoupled"}, "adam"
    ),
    "l0 lam at u": Case([Rule("*.weight", L0(), lam=0.0005)], {"grad_at": "u"}),
    "subgradient": Case(
        [Rule("*.weight", L1(), lam=0.01, subgradient=(TransformedL1(), 0.01))], {}, "adam"
    ),
    "exact": Case([Rule("*.weight", L0(), sparsity=0.6)], {}, "adam"),
    # Not of Adam: its first step is the same for all, and roundings then say which of the tied lie
    # lower.
    "exact with ties": Case([Rule("*.weight", L0(), sparsity=0.6)], ties=True),
    "exact global": Case(
        [Rule("0.*", L1(), sparsity=0.5), Rule("[35].weight", L0(), sparsity=0.7)],
        {"budget": "global"},
        tolerance=ROUNDED_MU,
    ),
    "exact global with ties": Case(
        [Rule("0.*", L1(), sparsity=0.5), Rule("[35].weight", L0(), sparsity=0.7)],
        {"budget": "global"},
        ties=True,
        tolerance=ROUNDED_MU,
    ),
    "no layer dies": Case(
        [Rule("*.weight", TransformedL1(), sparsity=0.97)], {"budget": "global"}, ties=True,
        tolerance=ROUNDED_MU,
    ),
    "exact at u": Case(
        [Rule("*.weight", TransformedL1(), sparsity=0.6)],
        {"grad_at": "u", "coupling": "decoupled"},
        tolerance=ROUNDED_MU,
    ),
    "channels lam": Case(
        [Rule("0.weight", L1(), lam=0.064, groups=InputChannels()),
         Rule("3.weight", L0(), lam=0.024, groups=InputChannels(4))]
    ),
    "channels exact": Case(
        [Rule("0.weight", L0(), sparsity=0.34, groups=InputChannels()),
         Rule("3.weight", TransformedL1(), sparsity=0.4, groups=InputChannels(4),
              subgradient=(L1(), 0.01))],
        {"grad_at": "u"},
    ),
    "channels and elements in one budget": Case(
        [Rule("3.weight", L0(), sparsity=0.4, groups=InputChannels(4)),
         Rule("[05].weight", L0(), sparsity=0.5)],
        {"budget": "global"}, "adam",
    ),
    "filters lam": Case(
        [Rule("0.weight", L0(), lam=0.016, groups=Filters()),
         Rule("3.weight", MCP(), lam=0.055, groups=Filters())], {}, "adamw-foreach"
    ),
    "filters exact": Case(
        [Rule("[03].weight", L0(), sparsity=0.5, groups=Filters())], {}, "rmsprop",
        tolerance=5e-6,
    ),
    "blocks": Case(
        [Rule("0.weight", L1(), lam=0.042, groups=Blocks(5, 3)),
         Rule("3.weight", L0(), sparsity=0.5, groups=Blocks(7, 2))],
    ),
    "n of m": Case(
        [Rule("0.weight", L1(), lam=0.01, groups=NM(1, 3)),
         Rule("3.weight", L0(), sparsity=0.5, groups=NM(2, 4))], {}, "adamw-foreach",
    ),
    "heads": Case(
        [Rule("0.weight", L0(), sparsity=0.4, groups=Heads(5)),
         Rule("3.weight", L1(), lam=0.055, groups=Heads(5, axis=1))], {"grad_at": "u"},
    ),
    "uniform": Case(
        [Rule("*.weight", L0(), sparsity=0.6)],
        {"budget": Budget("global", layout="uniform")}, "adamw-foreach",
    ),
    "erdos-renyi": Case(
        [Rule("*.weight", L0(), sparsity=0.6)],
        {"budget": Budget("global", layout="erk"), "grad_at": "u"}, "rmsprop", tolerance=5e-6,
    ),
    "each parameter": Case(
        [Rule("*.weight", MCP(), sparsity=0.6)], {"budget": "parameter"},
        tolerance=ROUNDED_MU,
    ),
    "grouped lam": Case(
        [Rule("0.weight", Grouped(L1(), InputChannels()), lam=0.07),
         Rule("3.weight", Grouped(L0(), Blocks(7, 2)), lam=0.0115)], {}, "sgd",
    ),
    "sparse group": Case(
        [Rule("0.weight", SparseGroup(L0(), Filters(), 8.0), lam=0.0003),
         Rule("3.weight", SparseGroup(L1(), InputChannels(4), 2.0), lam=0.008)], {"grad_at": "u"},
        tolerance=5e-6,  # a minimum found by bisection
    ),
    "l1 - l2": Case(
        [Rule("0.weight", L1MinusL2(), lam=0.01,
              subgradient=(Grouped(L1(), InputChannels()), 0.02)),
         Rule("3.weight", L1MinusL2(), sparsity=0.6)],
    ),
}  # fmt: skip


def optimizer_of(model: nn.Module, case: Case) -> RVSM:
    base = BASES[case.base](list(model.named_parameters()))
    return RVSM(base, case.rules, **case.options)


def full(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole weights by their plain names."""
    return {
        name.removeprefix("module."): getattr(p, "full_tensor", lambda p=p: p)().detach().clone()
        for name, p in model.named_parameters()
    }


def steps(model: nn.Module, optimizer: RVSM, count: int) -> None:
    """Take full-batch steps, each rank on its share of the batch."""
    x, y = data()
    if distributed.is_initialized():
        rank, share = distributed.get_rank(), len(x) // RANKS
        x, y = (t[rank * share : (rank + 1) * share] for t in (x, y))
    for _ in range(count):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def run_case(case: Case, wrap: Any = nn.Sequential) -> dict[str, Any]:
    """Train, look at u, train on, finalize, train on; return all that can be seen."""
    model = network()
    if case.ties:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_((p * 16).round() / 16 + 1 / 32)
    if wrap is not nn.Sequential:
        model = wrap(model)
    optimizer = optimizer_of(model, case)
    found: dict[str, Any] = {}

    def look(when: str) -> None:
        found[f"w {when}"] = full(model)
        found[f"numbers {when}"] = (float(optimizer.gap()), float(optimizer.lagrangian(1.0)))
        found[f"zeros {when}"] = optimizer.zeros()
        with optimizer.sparse_weights():
            found[f"u {when}"] = full(model)
            with torch.no_grad():
                found[f"outputs {when}"] = model(data()[0])
        with torch.no_grad():
            found[f"outputs at w {when}"] = model(data()[0])

    look("at the start")
    steps(model, optimizer, 8)
    look("in training")
    steps(model, optimizer, 4)
    with torch.no_grad():
        model(data()[0])
    optimizer.finalize()
    look("at the end")
    steps(model, optimizer, 3)
    look("afterwards")
    return found


def fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[3])
    return fully_shard(model)


def fsdp_normed(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def hsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (1, RANKS), mesh_dim_names=("r", "s")))


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


WRAPS = {"ddp": ddp, "fsdp": fsdp, "hsdp": hsdp}

BOTH_WAYS = ("exact global with ties", "channels exact")
"""The cases that run over a mesh of replicas and shards too."""

RESUMES = {"w": {}, "u": {"grad_at": "u"}}
PHASES = {"fresh": 0, "warm-up": 2, "sparsify": 6, "heal": 12}
RESUMED = [
    ("files", mode, phase, first) for mode in RESUMES for phase in PHASES for first in (True, False)
] + [(how, mode, "sparsify", True) for how in ("sharded", "full") for mode in RESUMES]
"""(through what, grad_at, phase, whether the model is loaded before the optimizer)."""


def phased(model: nn.Module, options: dict[str, Any]) -> RVSM:
    rule = Rule("*.weight", TransformedL1(), sparsity=0.6, schedule=Cubic(3, 8))
    return RVSM(
        torch.optim.Adam(model.named_parameters(), lr=0.01), [rule],
        warmup=3, heal_from=10, **options,
    )  # fmt: skip


def resume(mode: str, phase: str, how: str, model_first: bool, folder: Path) -> str:
    """Return "" if a run resumed under FSDP2 is the run bit for bit, else what differs."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict as dcp

    at = PHASES[phase]
    options = dcp.StateDictOptions(full_state_dict=how == "full")
    model = fsdp(network())
    optimizer = phased(model, RESUMES[mode])
    steps(model, optimizer, at)
    state = {
        "model": dcp.get_model_state_dict(model, options=options),
        "optimizer": dcp.get_optimizer_state_dict(model, optimizer, options=options),
    }
    if how == "files":
        checkpoint.save(state, checkpoint_id=folder)
    else:
        state = copy.deepcopy(state)
    steps(model, optimizer, 14 - at)

    again = fsdp(network())
    resumed = phased(again, RESUMES[mode])
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1)
    if how == "files":
        state = {
            "model": dcp.get_model_state_dict(again),
            "optimizer": dcp.get_optimizer_state_dict(again, resumed),
        }
        # What a fresh optimizer could store need not be in the file: w, outside its phase.
        planner = checkpoint.DefaultLoadPlanner(allow_partial_load=mode == "u")
        checkpoint.load(state, checkpoint_id=folder, planner=planner)
    loads = [
        lambda: dcp.set_model_state_dict(again, state["model"], options=options),
        lambda: dcp.set_optimizer_state_dict(again, resumed, state["optimizer"], options=options),
    ]
    for load in loads if model_first else reversed(loads):
        load()
    if resumed.steps != at:
        return f"{resumed.steps} steps, not {at}"
    steps(again, resumed, 14 - at)
    ours, theirs = full(again), full(model)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if resumed.zeros() != optimizer.zeros():
        different.append("zeros")
    return ", ".join(different)


def not_finite(wrap: Any) -> str:
    """Return how a NaN that lies on one rank alone ends the step."""
    model = wrap(network())
    optimizer = optimizer_of(model, CASES["exact"])
    steps(model, optimizer, 1)
    before = full(model)
    steps_before = optimizer.steps
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    grad = next(p for name, p in model.named_parameters() if name.endswith("3.weight")).grad
    local = grad.to_local() if hasattr(grad, "to_local") else grad
    if distributed.get_rank() == 1 or local is grad:
        local[-1, -1] = float("nan")
    try:
        optimizer.step()
    except RunError as error:
        after = full(model)
        same = all(torch.equal(before[name], after[name]) for name in before)
        return str(error) if same and optimizer.steps == steps_before else "something moved"
    return "no error"


def columns() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a layer split by columns (tensor parallel) found, and what it should."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    found = []
    mesh = init_device_mesh("cpu", (RANKS,))
    for spread in (True, False):
        torch.manual_seed(7)
        p = torch.randn(5, 7)
        if spread:
            p = distribute_tensor(p, mesh, [Shard(1)])
        p = nn.Parameter(p)
        optimizer = RVSM(
            torch.optim.SGD([("w", p)], lr=0.1),
            [Rule("w", TransformedL1(), sparsity=0.4, subgradient=(L1(), 0.1))],
        )
        for _ in range(4):
            p.grad = p.detach() * 0.5
            optimizer.step()
        zeros = optimizer.zeros()
        optimizer.finalize()
        found.append({"w": p.full_tensor() if spread else p.detach(), "zeros": zeros})
    return found[0], found[1]


def normed() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 1)
    )  # fmt: skip


def recalibration(wrap: Any = None, counts: tuple[int, int] = (4, 2)) -> dict[str, Any]:
    """Return the statistics of batch norm at u from 4 batches for one rank and 2 for the other."""
    batches = list(data()[0].split(4))[: sum(counts)]
    if wrap is not None:
        batches = batches[: counts[0]] if distributed.get_rank() == 0 else batches[counts[0] :]
    model = normed() if wrap is None else wrap(normed())
    optimizer = RVSM(
        BASES["momentum"](list(model.named_parameters())),
        [Rule("0.weight", L0(), sparsity=0.5)],
        model=model,
    )
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    found = {}

    def look(when: str) -> None:
        found[when] = [
            x.clone() for x in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        ]

    with optimizer.sparse_weights(recalibrate=batches):
        look("inside")
    look("after")
    if wrap is not fsdp_normed:  # whose forward pass would wait for a rank that gives up
        for name, wrong in {"text": ["text"], "none": []}.items():
            mine = batches if wrap is not None and distributed.get_rank() == 0 else wrong
            try:
                optimizer.finalize(recalibrate=mine if name == "text" else [])
            except (RuleError, RunError) as error:
                found[name] = str(error)
    look("refused")
    optimizer.finalize(recalibrate=batches)
    look("final")
    return found


def different_models() -> str:
    from rvsm.optim import recalibrate

    model = normed()
    with torch.no_grad():
        model[0].weight.mul_(1 + distributed.get_rank())
    try:
        recalibrate(model, [data()[0]])
    except RuleError as error:
        return str(error)
    return "no error"


def refusals() -> dict[str, str]:
    """Return what the environments outside the matrix answer."""
    import warnings

    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.distributed.tensor import Shard, distribute_tensor

    found = {}

    def attempt(name: str, action: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except RuleError as error:
            found[name] = str(error)
        else:
            found[name] = "no error"

    rules = [Rule("*weight", L0(), sparsity=0.5)]

    def zero() -> None:
        model = network()
        base = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        RVSM(base, rules, named_parameters=model.named_parameters())

    def two_groups() -> None:
        mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("a", "b"))
        named = [
            (f"{dim}.weight", nn.Parameter(distribute_tensor(torch.ones(4), mesh[dim], [Shard(0)])))
            for dim in ("a", "b")
        ]
        RVSM(torch.optim.SGD(named, lr=0.1), rules, budget="global").zeros()

    attempt("ZeroRedundancyOptimizer", zero)
    attempt("two process groups", two_groups)
    return found


def main(rank: int, folder: Path) -> None:
    """Run every case on one rank."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    found: dict[str, Any] = {}

    def attempt(name: str, action: Any) -> None:
        try:
            found[name] = action()
        except Exception:
            found[name] = traceback.format_exc()
            torch.save(found, folder / f"{rank}.pt")
            raise  # the other rank would wait for this one

    for name, wrap in WRAPS.items():
        for case_name, case in CASES.items():
            if name != "hsdp" or case_name in BOTH_WAYS:
                attempt(f"{name}: {case_name}", lambda w=wrap, c=case: run_case(c, w))
    for how, mode, phase, first in RESUMED:
        where = folder / f"{mode}-{phase}-{first}"
        attempt(
            f"resume: {how}, {mode}, {phase}, {first}",
            lambda m=mode, p=phase, h=how, f=first, w=where: resume(m, p, h, f, w),
        )
    attempt("not finite: ddp", lambda: not_finite(ddp))
    attempt("not finite: fsdp", lambda: not_finite(fsdp))
    attempt("columns", columns)
    attempt("recalibration: ddp", lambda: recalibration(ddp))
    attempt("recalibration: fsdp", lambda: recalibration(fsdp_normed, (3, 3)))
    attempt("recalibration: different models", different_models)
    attempt("refusals", refusals)
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
