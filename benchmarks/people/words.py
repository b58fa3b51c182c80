"""What docs/tremor.md says of tremor in real words: detection against its RMS amplitude.

python -m benchmarks.people.words FOLDER --words DHSD --mnist MNIST --tremor LIB --start RUN

Two data sets from one seed, so with the same writers and words on each side: words of DHSD made
shaky by recorded tremor (LIB, of `rvsm data tremor`) and by modelled of 3 to 8 Hz. On each a dense
network is trained that starts from RUN, a dense run of the task pen (`rvsm reproduce --full --task
pen --method dense`), which saw drawn words and modelled tremor alone, its kernels widened by zeros;
then whole maps and then single weights become zero. A network learns DHSD's twenty writers of
training by heart; so it learns from as many numbers of MNIST's digits (`digits.py`) too, shaken by
the same people. All are tested at exact amplitudes, with the tremor they learned from and with the
other, on words, writers and (recorded) patients they have not seen. Sets to learn from are matched,
so that no ink or box goes with the class; each word of a test is there twice, regular and shaky,
none chosen. Intervals are those of drawing the test's writers anew. Recipes were chosen on the
writers of validation, and so is each network's threshold, by pairs with the tremor that it learned
from; `balanced_at_half` is what one half would give.

FOLDER keeps data, runs and scores: stopped at any moment, the same command goes on. Results go to
words.json beside this file and, as a picture, to docs/pictures/words.svg.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import rvsm
from benchmarks.people.digits import write_numbers
from benchmarks.people.recipes import (
    ABSENT,
    FEW,
    GOALS,
    KERNEL,
    KINDS,
    LEARNED_FROM,
    METHODS,
    MODELLED_HZ,
    SEED,
    TESTED,
    TRAINED,
    VALIDATED,
    recipe,
)
from benchmarks.people.starts import with_kernels
from benchmarks.people.words_shown import draw
from rvsm.atomic import atomic_text
from rvsm.experiments.crossval.bootstrap import interval, person_weights
from rvsm.experiments.data import Split, load_split
from rvsm.experiments.evaluate import count_zeros
from rvsm.experiments.runs import environment, load_run
from rvsm.experiments.stream import probabilities
from rvsm.experiments.train import train
from rvsm.handwriting.datasets import make
from rvsm.handwriting.description import read_description

HERE = Path(__file__).parent
RESULTS = HERE / "words.json"
PICTURE = HERE.parent.parent / "docs" / "pictures" / "words.svg"
DRAWS = 4000
_BATCH = 200


@dataclass(frozen=True)
class Given:
    """What the command line names."""

    folder: Path
    words: Path
    mnist: Path
    tremor: Path
    start: Path
    workers: int

    def data(self, kind: str, mm: float | None = None) -> Path:
        """The set to learn from, or the test at one amplitude; made where it is not yet there."""
        path = self.folder / (kind if mm is None else f"{kind}-{mm:g}")
        counts = TRAINED
        if mm is not None:
            counts = {"val": VALIDATED if mm in GOALS else 0, "test-unseen": TESTED[mm]}
        self._make(
            path,
            kind,
            set=LEARNED_FROM if mm is None else f"{mm:g}-{mm:g}",
            counts=ABSENT | counts,
            words_dir=self.words,
            pairs=mm is not None,
        )
        return path

    def numbers(self, kind: str) -> Path:
        """The numbers to learn from too, shaken as the words; made where they are not yet there."""
        source, path = self.folder / "numbers", self.folder / f"{kind}-numbers"
        write_numbers(self.mnist, source)
        counts = ABSENT | TRAINED | {"val": FEW}
        self._make(path, kind, set=LEARNED_FROM, counts=counts, words_dir=source)
        return path

    def _make(self, path: Path, kind: str, **options: Any) -> None:
        shaken = {"tremor": self.tremor} if kind == "recorded" else {"tremor_hz": MODELLED_HZ}
        make(path, seed=SEED, workers=self.workers, **shaken, **options)

    def run(self, kind: str, method: str) -> Path:
        """Folder of a run."""
        return self.folder / f"{kind}-{method}"


def train_all(given: Given) -> None:
    """Every network of both kinds of tremor, one from another."""
    first = with_kernels(given.start, given.folder / "start", KERNEL)
    for kind in KINDS:
        data, numbers = given.data(kind), given.numbers(kind)
        for method in METHODS:
            before = METHODS[method].after
            start = first if before is None else given.run(kind, before)
            print(f"{kind}, {method}", flush=True)
            config = recipe(method, data=data, more=[numbers], start=start)
            train(config, given.run(kind, method))


def tested(given: Given) -> Iterator[dict[str, Any]]:
    """A row for each network, kind of tremor and amplitude; of dense ones those of the goals."""
    for learned in KINDS:
        for method in METHODS:
            if not METHODS[method].tested:
                continue
            asked = Asked(given.run(learned, method))
            threshold = asked.threshold({mm: given.data(learned, mm) for mm in GOALS})
            for kind in KINDS:
                for mm in GOALS if method == "dense" else TESTED:
                    shaky, split = asked.about(given.data(kind, mm), "test-unseen")
                    labels = split.labels.numpy()
                    writers = np.unique([r.carrier for r in split.rows], return_inverse=True)[1]
                    yield {
                        "learned": learned,
                        "method": method,
                        "tested": kind,
                        "mm": mm,
                        "threshold": threshold,
                        **rates(shaky > threshold, labels, writers),
                        "balanced_at_half": round(balanced(shaky > 0.5, labels), 5),
                        "auc": auc(shaky, labels),
                    }


class Asked:
    """A run's network in machine code."""

    def __init__(self, run: Path) -> None:
        config, net = load_run(run)
        self.size = config.network.size
        self.net = rvsm.compile(net, torch.zeros(1, 1, *self.size), tune=False)

    def about(self, data: Path, name: str) -> tuple[npt.NDArray[np.float64], Split]:
        """Probability of shaky of each image of a split, and the split."""
        split = load_split(data, name, self.size)
        images = split.images.numpy()
        parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        return np.concatenate([probabilities(self.net, part) for part in parts]), split

    def threshold(self, sets: dict[float, Path]) -> float:
        """Where, on validation, the goal that is met worst is met best."""
        scored = {mm: self.about(path, "val") for mm, path in sets.items()}
        tried = np.arange(0.02, 0.99, 0.02).round(2)
        slack = [
            min(
                balanced(shaky > at, split.labels.numpy()) - GOALS[mm] / 100
                for mm, (shaky, split) in scored.items()
            )
            for at in tried
        ]
        return float(tried[int(np.argmax(slack))])


def balanced(called: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> float:
    """Balanced accuracy."""
    return float(called[labels == 1].mean() + (~called)[labels == 0].mean()) / 2


def rates(
    called: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], writers: npt.NDArray[np.intp]
) -> dict[str, Any]:
    """Balanced accuracy and its parts, with 95 % intervals over writers drawn anew."""
    weights = person_weights(writers, labels, DRAWS, np.random.default_rng(0xB007))
    right = called == (labels == 1)

    def share(label: int, drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        mine = labels == label
        return np.asarray((drawn[:, mine] @ right[mine]) / drawn[:, mine].sum(axis=1))

    found: dict[str, Any] = {}
    for drawn in (np.ones((1, len(labels))), weights):
        regular, shaky = share(0, drawn), share(1, drawn)
        parts = {"balanced": (regular + shaky) / 2, "shaky": shaky, "regular": regular}
        for name, values in parts.items():
            if len(values) == 1:
                found[name] = round(float(values[0]), 5)
            else:
                found[f"{name}_95"] = [round(end, 5) for end in interval(values)]
    return {"images": len(labels), "writers": len(np.unique(writers)), **found}


def auc(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(labels, scores)), 5)


def networks(given: Given) -> dict[str, Any]:
    """Zeros, validation and training of every run."""
    told = {}
    for kind in KINDS:
        for method in METHODS:
            folder = given.run(kind, method)
            config, net = load_run(folder)
            result = json.loads((folder / "result.json").read_text("utf-8"))
            zeros = count_zeros(net)
            told[f"{kind}, {method}"] = {
                "weights": zeros["weights"],
                "nonzeros": zeros["nonzeros"],
                "zeros": round(zeros["zeros"], 5),
                "fc_zeros": round(zeros["fc_zeros"], 5),
                "epochs": config.epochs,
                "val_accuracy": round(result["val_accuracy"], 5),
                "seconds": round(result["seconds"]),
            }
    return told


def sides(given: Given) -> dict[str, Any]:
    """Who and what stands where."""
    told: dict[str, Any] = {}
    for kind in KINDS:
        learned = read_description(given.data(kind)) or {}
        first = read_description(given.data(kind, next(iter(TESTED)))) or {}
        told[kind] = {
            "writers": {**learned["carriers"], **first["carriers"]},
            "texts": {**learned["texts"], **first["texts"]},
            "tremor_people": {
                split: people
                for found in (learned, first)
                for split, people in found.get("tremor_people", {}).items()
            },
        }
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not yet done, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--tremor", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = Given(**vars(parser.parse_args(arguments)))
    train_all(given)
    results = {
        "seed": SEED,
        "learned_from_mm": LEARNED_FROM,
        "modelled_hz": MODELLED_HZ,
        "sides": sides(given),
        "networks": networks(given),
        "rows": list(tested(given)),
        "environment": environment(),
    }
    atomic_text(RESULTS, json.dumps(results, indent=1) + "\n")
    draw(results, PICTURE)


if __name__ == "__main__":
    main()
