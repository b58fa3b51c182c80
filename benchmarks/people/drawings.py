"""Drawings of people never seen: what docs/crossval.md says of parkinsons-drawings and UCI 395.

python -m benchmarks.people.drawings --drawings DIR --uci DIR --work DIR

Makes the spirals to start from, trains on them, dense and sparse, puts random filters beside those
learned, and runs the three studies, each resumable; three quarters of an hour of one core. Last
layers from every start, pool and way of changing images are averaged, by what the inner folds say
of them. What the docs hold is in drawings.json beside this file; the table of the docs is `table`
of it.
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
    "amplitude": "tremor amplitude alone",
    "dense": "dense",
    "dense, from scratch": "dense, not pretrained",
    "dense, not augmented": "dense, not augmented",
    "sparse": "sparse",
}
SPARSE = ("sparse-wide", "few", "sparse-random")
"""Runs that sparse networks start from."""

_CHANNELS = (8, 48, 160)
_ZEROS = 0.95
"""Of the random filters: with those that have learned, nine tenths of all weights are zero."""

_FEW = 0.94
"""Of learned filters alone: of all weights the same share."""

_COUNTS = {"train": 6000, "val": 600, "test-paper": 0, "test-unseen": 600, "curve": 0}


def commands(drawings: Path, uci: Path, work: Path) -> list[list[str]]:
    """Every command of `rvsm`, in order; `starts` comes between those of training and the rest."""
    made, runs = work / "data/spiral", work / "runs"
    counts = " ".join(f"--count {split}={n}" for split, n in _COUNTS.items())
    starts = f"--start {runs}/spiral-wide --start {runs}/spiral --start none"
    starts += "".join(f" --sparse-start {runs}/{name}" for name in SPARSE)
    how = f"{starts} --last-layer --choose-augment --ablate --method l0"
    how += " --sparsity 0.5 --sparsity 0.9 --pool 4 --pool 16 --least-zeros 0.9 --average"
    arms = "--arm majority --arm hog --arm amplitude --arm dense --arm sparse"
    sparse = f"train {made} --config {HERE}/pretrain/sparse.toml --start {runs}/spiral"
    lines = [
        f"data make {made} --task spiral --set wide {counts}",
        f"train {made} --config {HERE}/pretrain/spiral.toml --out {runs}/spiral",
        f"{sparse} --out {runs}/sparse",
        f"{sparse} --sparsity conv[23].weight={_FEW} --out {runs}/few",
        f"crossval {drawings}/spiral --size 128x128 {how} --out {work}/cv/spiral",
        f"crossval {uci} --size 128x128 {arms} {how} --out {work}/cv/uci",
        f"crossval {drawings}/wave --size 128x256 {how} --out {work}/cv/wave",
    ]
    return [shlex.split(line) for line in lines]


def starts(work: Path) -> None:
    """What the studies start from beside the runs trained: random filters with theirs, and alone.

    Drawn at random with none of them zero is ``--start none``.
    """
    runs = work / "runs"
    with_filters(runs / "spiral", runs / "spiral-wide", _CHANNELS)
    with_filters(runs / "sparse", runs / "sparse-wide", _CHANNELS, _ZEROS)
    with_filters(runs / "sparse", runs / "sparse-random", _CHANNELS, _ZEROS, learned=False)


def trimmed(results: dict[str, Any]) -> dict[str, Any]:
    """What the tables need of a study's results.json, and what it was asked.

    Of people only those are named who were wrong in most repetitions.
    """
    rows = [
        row
        | {
            "calibration": {name: row["calibration"][name] for name in ("error", "brier")},
            "people": [told["person"] for told in row["people"] if told["wrong"] > 0.5],
        }
        for row in results["rows"]
    ]
    data = {key: results["data"][key] for key in ("classes", "images", "people", "reading")}
    kept = ("differences", "people_draws", "network_size", "environment")
    found = {"data": data, "rows": rows, "settings": results["settings"]}
    text = json.dumps(found | {key: results[key] for key in kept})
    for start in (*results["settings"]["start"], *results["settings"]["sparse_start"]):
        text = text.replace(start, "/".join(Path(start).parts[-2:]))
    return dict(json.loads(text))


def table(found: dict[str, Any]) -> str:
    """The table of docs/crossval.md: a line for each classifier, intervals over people."""
    lines = [
        "| drawings | classifier | right, % | AUC, % | people right, % | AUC of people, % "
        "| off by, % | Brier | zeros, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for study, name in STUDIES.items():
        for row in found[study]["rows"]:
            cells = [
                cell(row[level][measure])
                for level in ("image", "person")
                for measure in ("accuracy", "auc")
            ]
            told = row.get("calibration")
            cells += [f"{100 * told['error']:.1f}", f"{told['brier']:.3f}"] if told else ["", ""]
            cells.append("" if row.get("zeros") is None else f"{100 * row['zeros']:.1f}")
            lines.append(f"| {name} | {ARMS[row['arm']]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def wrong(found: dict[str, Any]) -> str:
    """A line for each classifier: the people who are wrong in most of its repetitions."""
    return "\n".join(
        f"{name}, {ARMS[row['arm']]}: {', '.join(row['people']) or 'nobody'}"
        for study, name in STUDIES.items()
        for row in found[study]["rows"]
        if row["arm"] != "majority" and "people" in row
    )


def differences(found: dict[str, Any]) -> str:
    """What pretraining, augmentation and zeros bought, in points of balanced accuracy."""
    lines = ["| drawings | difference | points | points of people |", "|---|---|---|---|"]
    asked = (
        ("dense", "dense, from scratch", "pretraining"),
        ("dense", "dense, not augmented", "augmentation"),
        ("sparse", "dense", "sparse against dense"),
        ("sparse", "hog", "sparse against HOG"),
        ("sparse", "amplitude", "sparse against the amplitude"),
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
            if cells:
                lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(difference: dict[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"


def cell(figure: dict[str, Any]) -> str:
    """A share in % with its interval."""
    (low, high), value = figure["interval"], figure["value"]
    return f"{100 * value:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def run(command: Sequence[str]) -> None:
    """A command of `rvsm`, in a process of its own."""
    subprocess.run(
        [sys.executable, "-c", "from rvsm.cli import main; main()", *command], check=True
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("drawings", "uci", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(words)
    for command in commands(given.drawings, given.uci, given.work):
        if command[0] == "crossval":
            starts(given.work)
        run(command)
    found = {
        study: trimmed(json.loads((given.work / "cv" / study / "results.json").read_text("utf-8")))
        for study in STUDIES
    }
    atomic_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(table(found), differences(found), wrong(found), sep="\n\n")


if __name__ == "__main__":
    main()
