"""Ask a trained network about single image files; one bad file spoils nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from rvsm.errors import DataError
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.runs import load_run
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.manifest import LABELS
from rvsm.handwriting.views import view_logits


@dataclass(frozen=True)
class Prediction:
    """What the network says of one file.

    Parameters
    ----------
    file
        The file as given.
    label
        ``regular`` or ``shaky``; None where the file could not be read.
    probability
        Of "shaky", 0-1; None where the file could not be read.
    error
        One sentence where the file could not be read, otherwise None.
    """

    file: Path
    label: str | None
    probability: float | None
    error: str | None


def predict(run_dir: Path, images: Iterable[Path]) -> list[Prediction]:
    """Classify image files with the network of a finished run.

    Parameters
    ----------
    run_dir
        Folder of the run.
    images
        Image files; a folder stands for all files in it and below, hidden ones left out.

    Returns
    -------
    list of Prediction
        One per file, in order; a file that cannot be read has its error in its place.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    DataError
        If there is no file to look at.
    """
    config, net = load_run(run_dir)
    size = config.network.size
    predictions = []
    with torch.inference_mode():
        for file in files_in(images):
            try:
                image = torch.from_numpy(reduce_image(read_grey(file), size))
            except DataError as error:
                predictions.append(Prediction(file, None, None, str(error)))
                continue
            logits = view_logits(net, to_float(image.unsqueeze(0))).double().mean(0)
            shaky = float(logits.softmax(1)[0, 1])
            predictions.append(Prediction(file, LABELS[shaky > 0.5], shaky, None))
    if not predictions:
        raise DataError("There is no image to look at; name image files or a folder of them.")
    return predictions


def files_in(images: Iterable[Path]) -> Iterable[Path]:
    """Files given, and all in the folders given and below, hidden ones left out."""
    for path in map(Path, images):
        if path.is_dir():
            inside = (entry for entry in path.rglob("*") if entry.is_file())
            yield from sorted(
                entry
                for entry in inside
                if not any(part.startswith(".") for part in entry.relative_to(path).parts)
            )
        else:
            yield path
