"""Drawings of people never seen: what docs/crossval.md says of parkinsons-drawings and UCI 395.

python -m benchmarks.people.drawings --drawings DIR --uci DIR --work DIR

Makes the spirals to start from, trains on them, dense and sparse, puts random filters beside those
learned, and runs the three studies, each resumable; a quarter of an hour of one core. What the docs
hold is in drawings.json beside this file; the table of the docs is `table` of it.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.people.starts import with_filters
from rvsm.atomic import atomic_text

HERE = Path(__file__).parent
RESULTS = HERE / "drawings.json"
STUDIES = {
    "spiral": "spirals on paper",
    "wave": "waves on paper",
    "uci": "spirals on a tablet",
}
ARMS = {
    "majority": "majority class",
    "hog": "HOG",
    "dense": "dense",
    "dense, from scratch": "dense, not pretrained",
    "dense, not augmented": "dense, not augmented",
    "sparse": "sparse",
}
_CHANNELS = (8, 48, 160)
_ZEROS = 0.95
"""Of the random filters: with those that have learned, nine tenths of all weights are zero."""

_COUNTS = {"train": 6000, "val": 600, "test-paper": 0, "test-unseen": 600, "curve": 0}


def commands(drawings: Path, uci: Path, work: Path) -> list[list[str]]:
    """Every command of `rvsm`, in order; `starts` comes between those of training and the rest."""
    made, dense, sparse = work / "data/spiral", work / "runs/spiral", work / "runs/sparse"
    counts = " ".join(f"--count {split}={n}" for split, n in _COUNTS.items())
    how = f"--start {dense}-wide --sparse-start {sparse}-wide --last-layer --ablate --method l0"
    how += " --sparsity 0.5 --sparsity 0.7 --sparsity 0.9 --pool 16"
    lines = [
        f"data make {made} --task spiral --set wide {counts}",
        f"train {made} --config {HERE}/pretrain/spiral.toml --out {dense}",
        f"train {made} --config {HERE}/pretrain/sparse.toml --start {dense} --out {sparse}",
        f"crossval {drawings}/spiral --size 128x128 {how} --out {work}/cv/spiral",
        f"crossval {uci} --size 128x128 {how} --out {work}/cv/uci",
        f"crossval {drawings}/wave --size 128x256 {how} --out {work}/cv/wave",
    ]
    return [shlex.split(line) for line in lines]


def starts(work: Path) -> None:
    """What the studies start from: the runs trained, with random filters beside theirs."""
    for name, zeros in (("spiral", 0.0), ("sparse", _ZEROS)):
        with_filters(work / "runs" / name, work / "runs" / f"{name}-wide", _CHANNELS, zeros)


def trimmed(results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a study's results.json, and what it was asked."""
    rows = [
        {k: v for k, v in r.items() if k not in {"people", "calibration"}} for r in results["rows"]
    ]
    data = {key: results["data"][key] for key in ("classes", "images", "people", "reading")}
    kept = ("differences", "people_draws", "network_size", "environment")
    settings = dict(results["settings"])
    for key in ("start", "sparse_start"):
        settings[key] = "/".join(Path(settings[key]).parts[-2:])
    found = {"data": data, "rows": rows, "settings": settings}
    return found | {key: results[key] for key in kept}


def table(found: dict[str, Any]) -> str:
    """The table of docs/crossval.md: a line for each classifier, intervals over people."""
    lines = [
        "| drawings | classifier | right, % | AUC, % | people right, % | AUC of people, % "
        "| zeros, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for study, name in STUDIES.items():
        for row in found[study]["rows"]:
            cells = [
                _cell(row[level][measure])
                for level in ("image", "person")
                for measure in ("accuracy", "auc")
            ]
            zeros = "" if row.get("zeros") is None else f"{100 * row['zeros']:.1f}"
            lines.append(f"| {name} | {ARMS[row['arm']]} | {' | '.join(cells)} | {zeros} |")
    return "\n".join(lines)


def differences(found: dict[str, Any]) -> str:
    """What pretraining, augmentation and zeros bought, in points of balanced accuracy."""
    lines = ["| drawings | difference | points | points of people |", "|---|---|---|---|"]
    asked = (
        ("dense", "dense, from scratch", "pretraining"),
        ("dense", "dense, not augmented", "augmentation"),
        ("sparse", "dense", "sparse against dense"),
        ("sparse", "hog", "sparse against HOG"),
    )
    for study, name in STUDIES.items():
        for of, against, told in asked:
            cells = [
                _points(d)
                for level in ("image", "person")
                for d in found[study]["differences"]
                if (d["of"], d["against"], d["level"], d["measure"])
                == (of, against, level, "balanced_accuracy")
            ]
            lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(difference: dict[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"


def _cell(figure: dict[str, Any]) -> str:
    (low, high), value = figure["interval"], figure["value"]
    return f"{100 * value:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("drawings", "uci", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(words)
    for command in commands(given.drawings, given.uci, given.work):
        if command[0] == "crossval":
            starts(given.work)
        subprocess.run(
            [sys.executable, "-c", "from rvsm.cli import main; main()", *command], check=True
        )
    found = {
        study: trimmed(json.loads((given.work / "cv" / study / "results.json").read_text("utf-8")))
        for study in STUDIES
    }
    atomic_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(table(found), differences(found), sep="\n\n")


if __name__ == "__main__":
    main()
