"""What docs/tremor.md and docs/crossval.md say of published sets of people.

python benchmarks/people/run.py --uci DIR --drawings DIR

Writes results.json beside this file: sizes and frequencies of the tremor in UCI 395; and, for the
spirals and waves of Zham et al., the accuracy of HOG and logistic regression on the split they come
with and on people it has not seen (5 folds, 5 times; no setting is chosen, the strength is 1).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rvsm.atomic import atomic_text
from rvsm.experiments.crossval.baselines import DRAWING, WRITING, fit_line, hog_features
from rvsm.experiments.crossval.cases import load_ink, read_cases
from rvsm.experiments.crossval.folds import repeated
from rvsm.handwriting.recorded.library import Tremor, extract

REPEATS = 5


def tremor(folder: Path) -> dict[str, Any]:
    """Quantiles of RMS (mm) and peak frequency (Hz), 10th, 50th and 90th percentile."""
    found = extract(folder)
    groups = sorted({(t.task, t.group) for t in found.library.tremors})
    told = {}
    for task, group in groups:
        mine = [t for t in found.library.tremors if (t.task, t.group) == (task, group)]
        told[f"{task}, {group}"] = spread(mine)
    shaking = found.library.trembling()
    left_out = {name: why for name, why in found.left_out.items() if "stability" not in why}
    return {
        "groups": told,
        "left_out": left_out,
        "patients_who_shake": len(shaking.people()),
        "their_recordings": spread(shaking.tremors),
    }


def spread(tremors: Sequence[Tremor]) -> dict[str, Any]:
    """How many there are, and what nine in ten of them have at least, at the median and at most."""
    told: dict[str, Any] = {"recordings": len(tremors)}
    for name in ("rms_mm", "peak_hz", "speed_mm_s"):
        values = [getattr(tremor, name) for tremor in tremors]
        told[name] = np.quantile(values, (0.1, 0.5, 0.9)).round(4).tolist()
    return told


def baseline(folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Accuracy per image on the split of the folders, and by person."""
    cases, ink = load_ink(read_cases(folder, pattern=r"V\d+[HP]"), size)
    features, labels = hog_features(ink), cases.labels
    trained = np.array(["training/" in case.file for case in cases.cases])
    line = fit_line(features[trained], labels[trained], 1.0)
    published = (line(features[~trained]) > 0) == (labels[~trained] == 1)
    right = np.zeros((REPEATS, len(labels)))
    for repeat, _, train, test in repeated(labels, cases.people, 5, REPEATS, 0):
        fitted = fit_line(features[train], labels[train], 1.0)
        right[repeat, test] = (fitted(features[test]) > 0) == (labels[test] == 1)
    by_repeat = right.mean(axis=1)
    return {
        "images": len(labels),
        "people": len(cases.names),
        "published_split": float(published.mean()),
        "by_person": float(by_repeat.mean()),
        "by_person_sd": float(by_repeat.std(ddof=1)),
    }


def main() -> None:
    """Measure what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uci", type=Path, required=True)
    parser.add_argument("--drawings", type=Path, required=True)
    given = parser.parse_args()
    results = {
        "tremor": tremor(given.uci),
        "baseline": {
            "spiral": baseline(given.drawings / "spiral", DRAWING),
            "wave": baseline(given.drawings / "wave", WRITING),
        },
    }
    atomic_text(Path(__file__).with_name("results.json"), json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
