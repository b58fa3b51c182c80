"""Check the generator for short cuts, on data sets of the size of `make demo`.

python benchmarks/shortcuts/run.py [--task fonts] [--set headline] [--share 1] [--workers 2]

Makes a data set of each task and set, of the data seed of `rvsm reproduce`, in a temporary folder
and writes results.json beside this file: what `rvsm data check` finds over all amplitudes and in
every band; the same for a linear model on the columns of the manifest (x-height, pen, speed, slant,
letters, words), which no network sees; and how the classes differ in every column. Exits with 1
where a check failed.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rvsm.atomic import atomic_text
from rvsm.experiments.recipes import DATA_SEED, QUICK_COUNTS, SETS, TASKS
from rvsm.handwriting.check import check
from rvsm.handwriting.datasets import make
from rvsm.handwriting.differences import numbers
from rvsm.handwriting.linear import linear_scores
from rvsm.handwriting.manifest import read_manifest


def examine(folder: Path, task: str, set_: str, counts: dict[str, int], workers: int) -> Any:
    """Make one data set and return what is found in it."""
    made = make(folder, task=task, set=set_, seed=DATA_SEED, counts=counts, workers=workers)
    report = check(folder)
    rows = read_manifest(folder)
    columns = numbers(rows)
    scores, small = linear_scores(rows, np.column_stack(list(columns.values())))
    return {
        "generator": made.description["generator"],
        "matching": made.description["matching"],
        "check": {k: v for k, v in report.to_dict().items() if k not in {"path", "noted"}},
        "columns": {
            "names": list(columns),
            "linear": [{**asdict(score), "decided": score.decided} for score in scores],
            "small": [asdict(band) for band in small],
        },
    }


def main() -> None:
    """Examine the tasks and sets asked for, write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="default: both")
    parser.add_argument("--set", action="append", choices=SETS, help="default: both")
    parser.add_argument("--share", type=float, default=1.0, help="of the demo's images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    counts = {name: 2 * round(options.share * n / 2) for name, n in QUICK_COUNTS.items()}
    results: dict[str, Any] = {"data_seed": DATA_SEED, "counts": counts, "sets": {}}
    sound = True
    for task in options.task or TASKS:
        for set_ in options.set or SETS:
            with tempfile.TemporaryDirectory() as scratch:
                found = examine(Path(scratch, "data"), task, set_, counts, options.workers)
            results["sets"][f"{task}-{set_}"] = found
            sound &= found["check"]["ok"]
            for finding in found["check"]["findings"]:
                print(f"{task} {set_}: {finding['level']}: {finding['name']}: {finding['text']}")
            for score in found["columns"]["linear"]:
                if score["band_mm"] is None:
                    print(
                        f"{task} {set_}: manifest columns on {score['split']}: "
                        f"{score['accuracy']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
                    )
            atomic_text(options.out, json.dumps(results, indent=1) + "\n")
    sys.exit(not sound)


if __name__ == "__main__":
    main()
