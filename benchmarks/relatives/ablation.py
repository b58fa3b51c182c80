"""Turn one knob of RVSM at a time: what docs/choosing.md advises, measured.

    OMP_NUM_THREADS=1 python benchmarks/relatives/ablation.py [--seeds 3]
    python benchmarks/relatives/ablation.py --table  # write the tables into docs/choosing.md

The digits, network, epochs and cuts of run.py. The start is L0, gradient at w, beta 0.1, a cubic
schedule over the first half, one global budget, healing in the last quarter; every row changes one
of them. What is told is accuracy on the VALIDATION split, since it is to choose by. Results go into
ablation.json beside this script run by run: what is there already is not run again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from methods import sgd
from tasks import HEAL, Runs, Task, digits
from torch import nn

import rvsm
from rvsm.experiments.runs import environment
from rvsm.optim import RVSM, Budget, Continuation, Cosine, Cubic, Linear
from rvsm.penalties import L0

TARGETS = (0.9, 0.95, 0.98)
HERE = Path(__file__).parent
ROW = {
    "the start of this page": {},
    "`grad_at=\"u\"`": {"grad_at": "u"},
    "`beta=0.01`": {"beta": 0.01},
    "`beta=1`": {"beta": 1.0},
    "`beta=Continuation(0.1, ..., limit=2)`": {"beta": "grows"},
    "no `schedule`": {"schedule": None},
    "`schedule=Linear`": {"schedule": Linear},
    "`schedule=Cosine`": {"schedule": Cosine},
    "no healing": {"heal": None},
    "healing from half": {"heal": 0.5},
    "healing from nine tenths": {"heal": 0.9},
    "`budget=\"parameter\"`": {"budget": "parameter"},
    "`layout=\"erk\"`": {"budget": Budget("global", layout="erk")},
    "`scale=\"max\"`": {"budget": Budget("global", scale="max")},
}  # fmt: skip
ADAM = [(beta, coupling) for beta in (0.1, 1.0, 10.0) for coupling in ("gradient", "decoupled")]
ADAM_RATE, ADAM_TARGET = 5e-3, 0.95
SHARES = (0.3, 0.1, 0.03, 0.01)
START, END = "<!-- ablation -->\n", "<!-- end of ablation -->"


def builder(
    task: Task, target: float, *, adam: bool = False, beta: Any = 0.1, schedule: Any = Cubic,
    budget: Any = "global", **options: Any,
) -> Callable[[nn.Module], RVSM]:  # fmt: skip
    """Return how to build the RVSM of a row."""
    if beta == "grows":
        beta = Continuation(0.1, 1.5, task.steps // 10, 2.0)
    span = None if schedule is None else schedule(0, task.steps // 2)
    rules = [rvsm.Rule("*.weight", L0(), sparsity=target, beta=beta, schedule=span)]

    def build(model: nn.Module) -> RVSM:
        named = model.named_parameters()
        base = torch.optim.Adam(named) if adam else sgd(named)
        return RVSM(base, rules, budget=budget, **options)

    return build


def fixed(share: float) -> Callable[[nn.Module], RVSM]:
    """Return how to build an RVSM whose lam is a share of each layer's critical one."""

    def build(model: nn.Module) -> RVSM:
        rules = [rvsm.Rule(name, L0(), lam=0.0) for name, p in model.named_parameters()
                 if p.dim() > 1]  # fmt: skip
        optimizer = RVSM(sgd(model.named_parameters()), rules)
        critical = optimizer.critical()
        rules = [rvsm.Rule(name, L0(), lam=share * lam) for name, lam in critical.items()]
        return RVSM(sgd(model.named_parameters()), rules)

    return build


def measure(task: Task, runs: Runs, seeds: int) -> None:
    """Train what is missing."""
    for seed in range(seeds):
        for target in TARGETS:
            for name, changed in ROW.items():
                heal = changed.get("heal", HEAL)
                rest = {key: value for key, value in changed.items() if key != "heal"}
                build = builder(task, target, **rest)
                runs(f"{name} | {target} | {seed}", task, build, seed, target, heal=heal)
        for beta, coupling in ADAM:
            build = builder(task, ADAM_TARGET, adam=True, beta=beta, coupling=coupling)
            name = f"Adam {beta:g} {coupling} | {seed}"
            runs(name, task, build, seed, ADAM_TARGET, lr=ADAM_RATE)
        for share in SHARES:
            # A target of next to nothing: what is told is the zeros that lam makes by itself.
            runs(f"critical | {share:g} | {seed}", task, fixed(share), seed, 1e-9)


def cell(runs: Runs, name: str, key: str = "validation") -> str:
    """Mean and standard deviation over the seeds there are, and how many if not three."""
    found = [100 * run[key] for k, run in runs.found.items() if k.rpartition(" | ")[0] == name]
    if len(found) < 2:
        return "-"
    few = "" if len(found) >= 3 else f" (n = {len(found)})"
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}{few}"


def tables(runs: Runs) -> str:
    """Three Markdown tables: one knob at a time, coupling under Adam, strengths."""
    heads = " | ".join(f"{100 * target:.0f} % zeros" for target in TARGETS)

    def line(title: str, names: list[str]) -> str:
        return f"| {title} | {' | '.join(cell(runs, name) for name in names)} |"

    lines = [f"| validation accuracy, % | {heads} |", "|---|---|---|---|"]
    lines += [line(name, [f"{name} | {target}" for target in TARGETS]) for name in ROW]
    lines += ["", f"| under Adam, {100 * ADAM_TARGET:.0f} % zeros | validation accuracy, % |"]
    lines += ["|---|---|"]
    lines += [
        line(f'`beta={beta:g}`, `"{coupling}"`', [f"Adam {beta:g} {coupling}"])
        for beta, coupling in ADAM
    ]
    lines += ["", "| `lam` / `critical()` | zeros, % | validation accuracy, % |", "|---|---|---|"]
    lines += [
        f"| {share:g} | {cell(runs, f'critical | {share:g}', 'zeros')} "
        f"| {cell(runs, f'critical | {share:g}')} |"
        for share in SHARES
    ]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and write the results, or under --table the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="write docs/choosing.md, train not")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs(HERE / "ablation.json", only_read=options.table)
    task = digits()
    if not options.table:
        measure(task, runs, options.seeds)
    settings = {"epochs": task.epochs, "batch": task.batch, "lr": task.lr, "momentum": 0.9}
    runs.write({
        "what": "validation accuracy on digits, one knob changed at a time",
        "settings": {**settings, "lr_of_adam": ADAM_RATE},
        "environment": environment(),
    })  # fmt: skip
    print(tables(runs))
    if options.table:
        page = HERE.parents[1] / "docs" / "choosing.md"
        before, _, rest = page.read_text("utf-8").partition(START)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{START}{tables(runs)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
