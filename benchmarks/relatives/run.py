"""Compare RVSM with its relatives at equal zeros, data, epochs and base optimizer.

    OMP_NUM_THREADS=1 python benchmarks/relatives/run.py [--seeds 3] [--mnist FOLDER]
    python benchmarks/relatives/run.py --table       # write the table into docs/relatives.md

Trains a small convolutional network on scikit-learn's digits (a LeNet-5 on MNIST under --mnist,
from a folder with its four gzipped idx files) by SGD with momentum, dense and by every method at
90, 95 and 98 % zeros. After three quarters of the steps every support is fixed, the smallest
weights go where a method has left more than the target, and the survivors train alone. Each method
has three settings of its own strength; the one with the best mean validation accuracy is the one
whose test accuracy is told. Where the strength is lam, the three are those of a grid that, with
the first seed, leave nearest to as many weights as the target. torchao's PAT takes part where it
is installed. Results go into results.json (or results-mnist.json) beside this script run by run:
what is there already is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from methods import LAMS, METHODS, Method, sgd
from tasks import Runs, Task, digits, mnist
from torch import nn

from rvsm.experiments.runs import environment

TARGETS = (0.9, 0.95, 0.98)
HERE = Path(__file__).parent
START, END = "<!-- comparison -->\n", "<!-- end of comparison -->"


def several(
    task: Task, runs: Runs, method: Method, target: float, setting: float, seeds: Iterable[int]
) -> list[dict[str, float]]:
    """Train once a seed."""

    def build(model: nn.Module) -> Any:
        return method.build(model, task.steps, target, setting)

    name = f"{method.name} | {target} | {setting:g}"
    return [runs(f"{name} | {seed}", task, build, seed, target) for seed in seeds]


def candidates(task: Task, runs: Runs, method: Method, target: float) -> list[float]:
    """Return three settings: the method's, or the lams that come nearest to the target."""
    if method.settings:
        return list(method.settings)

    def own(lam: float) -> float:
        def build(model: nn.Module) -> Any:
            return method.build(model, task.steps, target, lam)

        name = f"{method.name} | {target if method.start_depends else 'any'} | {lam:g} | scan"
        return runs(name, task, build, 0, target, only_zeros=True)["own"]

    def distance(lam: float) -> float:
        return abs(math.log(max(1 - own(lam), 1e-4) / (1 - target)))

    found = list(LAMS)
    for low, high in itertools.pairwise(LAMS):
        if own(low) < target <= own(high):
            found += [float(f"{low * (high / low) ** (i / 5):.3g}") for i in range(1, 5)]
    return sorted(sorted(found, key=distance)[:3])


def compare(task: Task, runs: Runs, seeds: int) -> list[dict[str, Any]]:
    """Train what is missing and return the rows of the table."""

    def dense(model: nn.Module) -> Any:
        return sgd(model.named_parameters())

    made = [runs(f"dense | {seed}", task, dense, seed, 0.0) for seed in range(seeds)]
    rows = [row("dense", 0.0, "", made)]
    for target in TARGETS:
        for method in METHODS:
            tried = []
            for setting in candidates(task, runs, method, target):
                made = several(task, runs, method, target, setting, range(seeds))
                tried.append(row(method.name, target, f"{method.setting} {setting:g}", made))
            rows.append(max(tried, key=lambda r: float(r["validation"])))
    return rows


def row(name: str, target: float, setting: str, made: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise runs that differ by their seed alone."""
    return {
        "method": name,
        "target": target,
        "setting": setting,
        "validation": round(statistics.mean(run["validation"] for run in made), 5),
        "test": round(statistics.mean(run["test"] for run in made), 5),
        "test_sd": round(statistics.stdev(run["test"] for run in made), 5),
        "zeros": round(statistics.mean(run["zeros"] for run in made), 5),
        "own": round(statistics.mean(run["own"] for run in made), 5),
        "n": len(made),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: a line per method, test accuracy by share of zeros."""
    dense = next(r for r in rows if r["method"] == "dense")
    heads = " | ".join(f"{100 * target:.0f} % zeros" for target in TARGETS)
    lines = [f"| test accuracy, % | {heads} | before the cut |", "|---|" + "---|" * 4]
    for name in dict.fromkeys(r["method"] for r in rows if r["target"]):
        own = [next(r for r in rows if (r["method"], r["target"]) == (name, t)) for t in TARGETS]
        cells = [f"{100 * r['test']:.1f} ± {100 * r['test_sd']:.1f}" for r in own]
        zeros = ", ".join(f"{100 * r['own']:.1f}" for r in own)
        lines.append(f"| {name} | {' | '.join(cells)} | {zeros} |")
    lines.append(
        f"\nMean ± standard deviation over n = {dense['n']} seeds; the dense network, trained "
        f"alike: {100 * dense['test']:.1f} ± {100 * dense['test_sd']:.1f}."
    )
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, write the results and, under --table, the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mnist", type=Path, help="folder of the four gzipped idx files")
    parser.add_argument("--table", action="store_true", help="write docs/relatives.md, train not")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = "results.json" if options.mnist is None else "results-mnist.json"
    runs = Runs(HERE / name)
    if options.table:
        page = HERE.parents[1] / "docs" / "relatives.md"
        before, _, rest = page.read_text("utf-8").partition(START)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{START}{table(runs.told['rows'])}\n{END}{after}", "utf-8")
        return
    task = digits() if options.mnist is None else mnist(options.mnist)
    started = time.process_time()
    rows = compare(task, runs, options.seeds)
    settings = {"epochs": task.epochs, "batch": task.batch, "lr": task.lr, "momentum": 0.9}
    runs.write({
        "what": f"test accuracy on {task.name} at equal shares of zeros",
        "settings": settings,
        "environment": environment(),
        "processor_seconds_of_the_last_call": round(time.process_time() - started),
        "rows": rows,
    })  # fmt: skip
    print(table(rows))


if __name__ == "__main__":
    main()
