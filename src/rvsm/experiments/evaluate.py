"""Score a network on images it has not seen, and count its zeros."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rvsm.atomic import atomic_text
from rvsm.errors import DataError
from rvsm.experiments.data import Batches, Split, listed_rows, load_split, read_rows
from rvsm.experiments.runs import load_run
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.views import view_logits

AMPLITUDE_EDGES_MM = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.8, 1.2, 1.5)
"""Edges of the amplitude bands in which accuracy is reported, RMS millimetres."""

_BATCH = 500
_SKIPPED_LISTED = 100


@dataclass(frozen=True)
class Score:
    """What a network made of a split.

    Parameters
    ----------
    probabilities
        float64 ``(N,)``: the network's probability of "shaky", from the mean of its logits over the
        views of each image (:mod:`rvsm.handwriting.views`).
    one_view
        float64 ``(N,)``: the same from the image as it is.
    labels
        int64 ``(N,)``.
    amplitudes
        float64 ``(N,)``: the amplitude in mm each image was matched at, NaN where unknown.
    """

    probabilities: NDArray[np.float64]
    one_view: NDArray[np.float64]
    labels: NDArray[np.int64]
    amplitudes: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified rightly at the threshold 1/2."""
        return self._right(self.probabilities)

    def _right(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = (probabilities > 0.5) == (self.labels == 1)
        return right

    def summary(self) -> dict[str, Any]:
        """Return accuracy, balanced accuracy, ROC AUC (shares 0-1) and the amplitude bands.

        `accuracy_one_view` is what a single look at each image reaches. AUC and balanced accuracy
        are None where only one class is present.
        """
        from sklearn.metrics import balanced_accuracy_score, roc_auc_score

        both = len(np.unique(self.labels)) == 2
        predicted = (self.probabilities > 0.5).astype(int)
        return {
            "images": len(self.labels),
            "accuracy": float(self.correct.mean()),
            "accuracy_one_view": float(self._right(self.one_view).mean()),
            "balanced_accuracy": (
                float(balanced_accuracy_score(self.labels, predicted)) if both else None
            ),
            "auc": float(roc_auc_score(self.labels, self.probabilities)) if both else None,
            "bands": self.bands(),
        }

    def bands(self) -> list[dict[str, float | int | None]]:
        """Return accuracy per band of tremor amplitude.

        Regular images count in the band of the amplitude they were matched at (the manifest's
        ``virtual_amplitude_mm``): each band is balanced wherever the split is.
        """
        rows: list[dict[str, float | int | None]] = []
        for low, high in itertools.pairwise(AMPLITUDE_EDGES_MM):
            inside = (self.amplitudes >= low) & (self.amplitudes < high)
            if not inside.any():
                continue
            shaky = inside & (self.labels == 1)
            regular = inside & (self.labels == 0)
            rows.append(
                {
                    "low_mm": low,
                    "high_mm": high,
                    "images": int(inside.sum()),
                    "accuracy": float(self.correct[inside].mean()),
                    "shaky_found": float(self.correct[shaky].mean()) if shaky.any() else None,
                    "regular_found": float(self.correct[regular].mean()) if regular.any() else None,
                }
            )
        return rows


def evaluate(
    run_dir: Path,
    data: Path,
    splits: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score the network of a finished run on a data folder, be it another than its own.

    Parameters
    ----------
    run_dir
        Folder of the run.
    data
        Data folder, with or without a manifest.
    splits
        Which splits; by default all but ``train`` and ``val``, or everything where another folder
        has nothing else.
    progress
        Told (what, images read, images in all).

    Returns
    -------
    dict
        ``scores``: for each split what :meth:`Score.summary` returns; and what
        :func:`describe_skipped` and :func:`count_zeros` return.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    DataError
        If the data cannot be used, or are the run's own without a test split.
    """
    config, net = load_run(run_dir)
    data = Path(data)
    # Of the run's own images those it was trained on are no test, be they named so or not.
    own = data.resolve() == Path(config.data).resolve()
    rows = read_rows(data) if own else listed_rows(data)
    names = sorted({row.split for row in rows})
    tests = [name for name in names if name not in ("train", "val")]
    if own and not splits and not tests:
        raise DataError(
            f"{data} has no test split: the run was trained on its images or its model was chosen "
            "by them; name another folder, or ask for one of its splits (--split val)."
        )
    chosen = splits or tests or names
    scores, loaded = {}, {}
    for name in chosen:
        told = None if progress is None else functools.partial(progress, f"reading {name}")
        split = load_split(data, name, net.size, rows=rows, progress=told)
        scores[name] = evaluate_network(net, split).summary()
        loaded[name] = split
    return {"scores": scores, **describe_skipped(loaded), **count_zeros(net)}


def evaluate_network(net: nn.Module, split: Split) -> Score:
    """Run a network, in evaluation mode and as its weights are now, over a split."""
    probabilities, one_view = shaky_probabilities(net, split)
    return Score(
        probabilities=probabilities,
        one_view=one_view,
        labels=split.labels.numpy(),
        amplitudes=np.array([_amplitude(row) for row in split.rows]),
    )


@torch.inference_mode()
def accuracy_of_one_view(net: nn.Module, split: Split) -> float:
    """Return the share of a split that one look at each image gets right: a fifth of the work.

    The network is put in evaluation mode.
    """
    net.eval()
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in Batches(split, _BATCH))
    return right / len(split)


@torch.inference_mode()
def shaky_probabilities(
    net: nn.Module, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of "shaky" for every image of a split, by all views and by one."""
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device.type
    try:
        logits = torch.cat(
            [view_logits(net, x).double() for x, _ in Batches(split, _BATCH, device=device)], dim=1
        ).cpu()
    finally:
        net.train(was_training)
    mean, first = logits.mean(0).softmax(1)[:, 1], logits[0].softmax(1)[:, 1]
    return mean.numpy(), first.numpy()


def count_zeros(net: nn.Module) -> dict[str, Any]:
    """Count exact zeros, ``(w == 0)``, over all weights (biases are never penalised).

    Returns
    -------
    dict
        ``zeros`` and ``fc_zeros`` as shares 0-1 of the weights, ``nonzeros`` and ``weights`` as
        numbers, ``nonzeros_with_biases``, and ``layers`` with the same for each layer.
    """
    layers = {}
    for name, parameter in net.named_parameters():
        if name.endswith(".weight"):
            zeros = int((parameter == 0).sum())
            layers[name.removesuffix(".weight")] = {
                "weights": parameter.numel(),
                "nonzeros": parameter.numel() - zeros,
                "zeros": zeros / parameter.numel(),
            }
    weights = sum(int(layer["weights"]) for layer in layers.values())
    nonzeros = sum(int(layer["nonzeros"]) for layer in layers.values())
    return {
        "zeros": 1 - nonzeros / weights,
        "fc_zeros": layers["fc"]["zeros"] if "fc" in layers else None,
        "nonzeros": nonzeros,
        "nonzeros_with_biases": sum(int((p != 0).sum()) for p in net.parameters()),
        "weights": weights,
        "layers": layers,
    }


def describe_skipped(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Say which files could not be read.

    Returns
    -------
    dict
        ``skipped_images``: their number in each split that has any; ``skipped_files``: in the same
        splits the reason under the name of each file, of the first hundred of them.
    """
    skipped = {name: split.skipped for name, split in splits.items() if split.skipped}
    return {
        "skipped_images": {name: len(rows) for name, rows in skipped.items()},
        "skipped_files": {
            name: {row.file: row.error for row in rows[:_SKIPPED_LISTED]}
            for name, rows in skipped.items()
        },
    }


def write_skipped(path: Path, splits: Mapping[str, Split]) -> None:
    """Write one line per file that could not be read: split, file, reason; none, no file."""
    skipped = [row for split in splits.values() for row in split.skipped]
    if skipped:
        _write_csv(
            path,
            ("split", "file", "error"),
            ((row.split, row.file, row.error) for row in skipped),
        )


def write_predictions(path: Path, splits: Mapping[str, Split], scores: Mapping[str, Score]) -> None:
    """Write one line per image: split, file, label, probability of "shaky", amplitudes in mm."""

    def amplitudes(row: Row) -> tuple[float | None, float | None]:
        return row.tremor_amplitude_mm, row.virtual_amplitude_mm

    heading = ("split", "file", "label", "probability")
    _write_csv(
        path,
        (*heading, "tremor_amplitude_mm", "virtual_amplitude_mm"),
        (
            (name, row.file, row.label, f"{probability:.6f}", *amplitudes(row))
            for name, split in splits.items()
            for row, probability in zip(split.rows, scores[name].probabilities, strict=True)
        ),
    )


def _write_csv(path: Path, heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(lines)
    atomic_text(path, text.getvalue())


def _amplitude(row: Row) -> float:
    known = row.virtual_amplitude_mm or row.tremor_amplitude_mm
    return math.nan if known is None else known
