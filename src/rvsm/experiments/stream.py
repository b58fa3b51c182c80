"""Answers about thousands of image files, written to a CSV file as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from rvsm.errors import FileFormatError, RvsmError
from rvsm.experiments.csvfile import growing_csv, name_of
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.gather import Answer, Gathered, WordAnswer, answer_of, band_of, gather
from rvsm.experiments.places import MODEL_FILE
from rvsm.experiments.predict import all_asked, draw_evidence, evidence_name, forms, reading_of
from rvsm.experiments.probability import Calibration, calibration_of, model_digest
from rvsm.experiments.runs import load_run
from rvsm.experiments.summaries import own_files, write_summaries
from rvsm.handwriting.scans.ready import Ready, all_ready
from rvsm.handwriting.views import view_logits

if TYPE_CHECKING:
    from rvsm.handwriting.network import TremorNet

COLUMNS = (
    "file",
    "person",
    "answer",
    "probability",
    "calibrated",
    "tremor_hz",
    "tremor_mm",
    "tremor_of_size",
    "tremor_reason",
    "reason",
)
EVIDENCE = "evidence"
_WORTH_COMPILING = 1000
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Streamed:
    """What became of the files.

    Attributes
    ----------
    out : Path
    files : int
    unreadable, no_writing : int
        Files without an answer.
    went_on : int
        Files that an earlier, stopped command had answered.
    compiled : bool
        Whether machine code computed, else PyTorch.
    uncalibrated : str
        Why there are no calibrated probabilities; empty where there are.
    people : list of Gathered
        The answers for people, where any is known.
    nobodys : list of str
        Files in whose path `person` was not found.
    """

    out: Path
    files: int
    unreadable: int
    no_writing: int
    went_on: int
    compiled: bool
    uncalibrated: str
    people: list[Gathered]
    nobodys: list[str]


def predict_to_csv(
    run_dir: Path,
    images: Iterable[Path],
    out: Path,
    *,
    scan: bool = False,
    dpi: float | None = None,
    layout: str | None = None,
    evidence: Path | None = None,
    workers: int = 2,
    band: tuple[float, float] | None = None,
    drawing: bool = False,
    person: str | None = None,
    template: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Streamed:
    """Classify many image files with the network of a run, a line of a CSV file for each.

    Lines are in the order of the files and go, as they come, to a hidden file beside `out`, which
    becomes `out` when it is whole. Where people are known, what the files say of them stands in one
    beside it (see `summaries`), which is there when it is. Stopped at any moment, even by kill -9,
    the same command goes on after the last whole line; another run or other options begin anew.

    Parameters
    ----------
    run_dir : Path
        A finished run.
    images : iterable of Path
        Files and folders, as `predict.files_in` takes them.
    out : Path
        Columns `COLUMNS`: the file, who wrote it, the answer (``regular``, ``shaky``, ``unsure``,
        ``no writing here`` or ``unreadable``), the network's probability of shaky, the calibrated
        one where it is known, of strokes over time their tremor (Hz, RMS in mm where the scale is
        known, and as a part of the height or width of all strokes, and why no frequency is told),
        and why there is no answer.
    scan, dpi, layout, person, template
        As for `predict.predict`.
    evidence : Path, optional
        Folder that receives a picture of each, as `predict.predict` draws them, named in a further
        column. It takes far longer than the answer.
    workers : int
        Processes that read.
    band : (float, float), optional
        Probabilities that count as unsure; by default `gather.UNSURE` of scans, and none else.
    drawing : bool
        As for `predict.predict`.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Raises
    ------
    RvsmError
        No finished run, no file to look at, or `out` cannot be written.
    """
    band = band_of(scan, band)
    config, net = load_run(run_dir)
    how = reading_of(run_dir, config, scan, dpi, drawing, template)
    everything = all_asked(images, layout, person, [*own_files(out), *forms(template)])
    calibration = calibration_of(run_dir, config, net)
    columns = COLUMNS if evidence is None else (*COLUMNS, EVIDENCE)
    scaled = None if calibration.platt is None else str(calibration)
    told = [model_digest(run_dir), how.told(), scaled, band, evidence and str(evidence)]
    told += [layout, person]
    counts = {"unreadable": 0, "no writing here": 0}
    of_people: list[WordAnswer] = []
    with growing_csv(out, columns, told) as file:
        pairs = zip(file.rows, everything, strict=False)
        same = itertools.takewhile(lambda pair: pair[0][0] == name_of(pair[1].file), pairs)
        done = went_on = sum(1 for _ in same)
        file.keep(done)
        for kept in file.rows:
            _count(kept, counts, of_people)
        batches = all_ready(everything[done:], how, workers)  # read while the compiler is at work
        network, compiled = fastest(run_dir, net, len(everything) - done)
        if progress is not None:
            progress(done, len(everything))
        for batch in batches:
            people = [asked.person for asked in everything[done : done + len(batch)]]
            rows = _rows(batch, people, network, net.size, calibration, band)
            if evidence is not None:
                rows = [
                    (*row, _drawn(net, entry, evidence, number))
                    for number, (row, entry) in enumerate(zip(rows, batch, strict=True), done + 1)
                ]
            for row in rows:
                _count(row, counts, of_people)
            file.write(rows)
            done += len(batch)
            if progress is not None:
                progress(done, len(everything))
        gathered = gather(of_people, lambda word: word.person, band)
        write_summaries(out, "files", {"people": gathered})
    return Streamed(
        out,
        len(everything),
        counts["unreadable"],
        counts["no writing here"],
        went_on,
        compiled,
        calibration.why,
        gathered,
        [] if person is None else [name_of(asked.file) for asked in everything if not asked.person],
    )


def _count(row: Sequence[str], counts: dict[str, int], of_people: list[WordAnswer]) -> None:
    """Count what is in a row of the file, and keep what it says of a person."""
    file, person, answer, *numbers = row[:5]
    if answer in counts:
        counts[answer] += 1
    if person:
        probability, calibrated = (float(text) if text else None for text in numbers)
        told = cast("Answer", answer)
        of_people.append(
            WordAnswer(file, person, None, 0, 0, probability, told, calibrated=calibrated)
        )


def _drawn(net: TremorNet, entry: Ready, folder: Path, number: int) -> str:
    if entry.image is None:
        return ""
    path = folder / evidence_name(number, entry.file)
    draw_evidence(net, entry.image, path)
    return name_of(path)


def fastest(run_dir: Path, net: TremorNet, count: int) -> tuple[Network, bool]:
    """The network of a run in machine code where there is a compiler and enough to compute."""
    from rvsm import compile as to_machine_code
    from rvsm import load_network
    from rvsm.native import find_compiler

    if count < _WORTH_COMPILING or find_compiler() is None:
        return net, False
    try:
        # Tracing the module, as for runs of earlier versions, takes two seconds to import alone.
        described: nn.Module = load_network(run_dir / MODEL_FILE)
    except FileFormatError:
        described = net
    try:
        return to_machine_code(described, torch.zeros(1, 1, *net.size), tune=False), True
    except RvsmError:
        return net, False


def _rows(
    batch: Sequence[Ready],
    people: Sequence[str],
    network: Network,
    size: tuple[int, int],
    calibration: Calibration,
    band: tuple[float, float],
) -> list[tuple[str, ...]]:
    images = [reduce_image(entry.image, size) for entry in batch if entry.image is not None]
    shaky = iter(probabilities(network, np.stack(images)) if images else ())
    rows: list[tuple[str, ...]] = []
    for entry, person in zip(batch, people, strict=True):
        who = (name_of(entry.file), person)
        if entry.image is None:
            answer = "unreadable" if entry.unreadable else "no writing here"
            rows.append((*who, answer, "", "", "", "", "", "", entry.reason))
            continue
        probability = next(shaky)
        calibrated = calibration(probability)
        numbers = (probability, calibrated, *_tremor(entry))
        told = ("" if value is None else f"{value:.6f}" for value in numbers)
        why = "" if entry.tremor is None else entry.tremor.reason
        rows.append((*who, answer_of(probability, band, calibrated), *told, why, entry.reason))
    return rows


def _tremor(entry: Ready) -> tuple[float | None, float | None, float | None]:
    found = entry.tremor
    if found is None:
        return None, None, None
    return found.frequency_hz, found.rms_mm, found.relative


def probabilities(network: Network, images: np.ndarray) -> list[float]:
    """Probability of shaky of each image (n, h, w) of uint8, the mean over its views."""
    with torch.inference_mode():
        logits = view_logits(network, to_float(torch.from_numpy(images))).double().mean(0)
        return [float(value) for value in logits.softmax(1)[:, 1]]
