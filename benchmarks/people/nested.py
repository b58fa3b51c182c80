"""Networks trained in full on drawings of people, with penalty, lambda and epochs chosen inside.

python -m benchmarks.people.nested --drawings DIR --work DIR

On the spirals of parkinsons-drawings, five folds twice, from scratch; a quarter of an hour of one
core, resumable. What came out is in nested.json beside this file, as `table` of it in
docs/crossval.md. Strengths are given as lambda, one for all layers (from that at which l0 leaves a
tenth of the weights to that at which transformed l1 does), and as a share of zeros, for which each
layer finds its own.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.people.drawings import ARMS, cell, run, trimmed
from rvsm.atomic import atomic_text

RESULTS = Path(__file__).parent / "nested.json"


def command(drawings: Path, work: Path) -> list[str]:
    """The command of `rvsm`."""
    strengths = " ".join(f"--lam {lam:g}" for lam in (1.5e-4, 3e-4, 7e-4))
    strengths += " --sparsity 0.92 --sparsity 0.96"
    return shlex.split(
        f"crossval {drawings}/spiral --size 64x64 --repeats 2 --epochs 20 --epochs 40 "
        f"--method l0 --method transformed-l1 {strengths} --least-zeros 0.9 --out {work}/cv/nested"
    )


def table(found: dict[str, Any]) -> str:
    """A line for each classifier: figures with intervals over people, and what was chosen."""
    lines = [
        "| classifier | right, % | people right, % | AUC of people, % | zeros, % | chosen |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        figures = (row["image"]["accuracy"], row["person"]["accuracy"], row["person"]["auc"])
        zeros = "" if row.get("zeros") is None else f"{100 * row['zeros']:.1f}"
        chosen = "; ".join(f"{name} ({times})" for name, times in row["chosen"].items())
        cells = " | ".join(cell(figure) for figure in figures)
        lines.append(f"| {ARMS[row['arm']]} | {cells} | {zeros} | {chosen} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("drawings", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(words)
    run(command(given.drawings, given.work))
    results = given.work / "cv" / "nested" / "results.json"
    found = trimmed(json.loads(results.read_text("utf-8")))
    atomic_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
