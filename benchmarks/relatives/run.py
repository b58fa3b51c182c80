"""Compare RVSM with its relatives at equal zeros, data, epochs and base optimizer.

    OMP_NUM_THREADS=1 python benchmarks/relatives/run.py [--seeds 3] [--mnist FOLDER]
    python benchmarks/relatives/run.py --table       # write the table into docs/relatives.md

Trains a small convolutional network on scikit-learn's digits (a LeNet-5 on MNIST under --mnist,
from a folder with its four gzipped idx files) by SGD with momentum, dense and by every method at
90, 95 and 98 % zeros. After three quarters of the steps every support is fixed, the smallest
weights go where a method has left more than the target, and the survivors train alone. Each method
has three settings of its own strength; the one with the best mean validation accuracy is the one
whose test accuracy is told. Where the strength is lam, the three are the strongest of a grid that
do not zero more than the target with the first seed. torchao's PAT takes part where it is
installed. Results go into results.json (or results-mnist.json) beside this script run by run: what
is there already is not run again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
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


def candidates(task: Task, runs: Runs, method: Method, target: float) -> Sequence[float]:
    """Return three settings: the method's, or the strongest lams that do not overshoot."""
    if method.settings:
        return method.settings

    def own(lam: float) -> float:
        def build(model: nn.Module) -> Any:
            return method.build(model, task.steps, target, lam)

        name = f"{method.name} | {target if method.start_depends else 'any'} | {lam:g} | scan"
        return runs(name, task, build, 0, target, only_zeros=True)["own"]

    fitting = [lam for lam in LAMS if own(lam) <= target]
    return fitting[-3:]


def compare(task: Task, runs: Runs, seeds: int) -> list[dict[str, Any]]:
    """Train what is missing and return the rows of the table; those there are, if only reading."""

    def dense(model: nn.Module) -> Any:
        return sgd(model.named_parameters())

    made = [runs(f"dense | {seed}", task, dense, seed, 0.0) for seed in range(seeds)]
    rows = [row("dense", 0.0, "", made)]
    for target in TARGETS:
        for method in METHODS:
            tried = []
            try:
                for setting in candidates(task, runs, method, target):
                    made = several(task, runs, method, target, setting, range(seeds))
                    tried.append(row(method.name, target, f"{method.setting} {setting:g}", made))
            except (KeyError, ModuleNotFoundError):
                continue  # unfinished, or torchao is not installed
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
    dense, *rest = rows
    by_place = {(r["method"], r["target"]): r for r in rest}
    targets = [target for target in TARGETS if any(r["target"] == target for r in rest)]
    heads = " | ".join(f"{100 * target:.0f} % zeros" for target in targets)
    lines = [f"| test accuracy, % | {heads} | before the cut |", "|---" * (len(targets) + 2) + "|"]
    for name in dict.fromkeys(r["method"] for r in rest):
        own = [by_place.get((name, target)) for target in targets]
        cells = [f"{100 * r['test']:.1f} ± {100 * r['test_sd']:.1f}" if r else "-" for r in own]
        zeros = ", ".join(f"{100 * r['own']:.1f}" if r else "-" for r in own)
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
    runs = Runs(HERE / name, only_read=options.table)
    task = digits() if options.mnist is None else mnist(options.mnist)
    rows = compare(task, runs, options.seeds)
    settings = {"epochs": task.epochs, "batch": task.batch, "lr": task.lr, "momentum": 0.9}
    runs.write({
        "what": f"test accuracy on {task.name} at equal shares of zeros",
        "settings": settings,
        "environment": environment(),
        "rows": rows,
    })  # fmt: skip
    print(table(rows))
    if options.table:
        page = HERE.parents[1] / "docs" / "relatives.md"
        before, _, rest = page.read_text("utf-8").partition(START)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{START}{table(rows)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
