"""Answers about thousands of image files, written to a CSV file as they come."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rvsm.atomic import explain
from rvsm.errors import DataError, RvsmError
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.gather import answer_of, band_of
from rvsm.experiments.predict import files_in
from rvsm.experiments.probability import Calibration, calibration_of, model_digest
from rvsm.experiments.runs import load_run, locked_file
from rvsm.handwriting.scans.ready import Ready, all_ready
from rvsm.handwriting.views import view_logits

if TYPE_CHECKING:
    from rvsm.handwriting.network import TremorNet

COLUMNS = ("file", "answer", "probability", "calibrated", "reason")
_WORTH_COMPILING = 200
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
    """

    out: Path
    files: int
    unreadable: int
    no_writing: int
    went_on: int
    compiled: bool
    uncalibrated: str


def predict_to_csv(
    run_dir: Path,
    images: Iterable[Path],
    out: Path,
    *,
    scan: bool = False,
    workers: int = 2,
    band: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Streamed:
    """Classify many image files with the network of a run, a line of a CSV file for each.

    Lines are in the order of the files and go, as they come, to a hidden file beside `out`, which
    becomes `out` when it is whole. Stopped at any moment, even by kill -9, the same command goes on
    after the last whole line; another run or other options begin anew.

    Parameters
    ----------
    run_dir : Path
        A finished run.
    images : iterable of Path
        Files and folders, as `predict.files_in` takes them.
    out : Path
        Columns `COLUMNS`: the answer (``regular``, ``shaky``, ``unsure``, ``no writing here`` or
        ``unreadable``), the network's probability of shaky, the calibrated one where it is known,
        and why there is no answer.
    scan : bool
        Each file is a scan of one word or drawing: it is normalised.
    workers : int
        Processes that read.
    band : (float, float), optional
        Probabilities that count as unsure; by default `gather.UNSURE` of scans, and none else.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Raises
    ------
    RvsmError
        No finished run, no file to look at, or `out` cannot be written.
    """
    if out.is_dir():
        raise DataError(f"--out {out} is a folder: give the name of a CSV file.")
    band = band_of(scan, band)
    config, net = load_run(run_dir)
    files = [file for file in files_in(images) if file.resolve() != out.resolve()]
    if not files:
        raise DataError("There is no image to look at; name image files or a folder of them.")
    calibration = calibration_of(run_dir, config, net)
    # What an answer depends on is in the name: of another run nothing is gone on with.
    scaled = None if calibration.platt is None else str(calibration)
    told = [model_digest(run_dir), scan, scaled, band]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
    part = out.with_name(f".{out.name[:100]}.{key}.part")
    counts = {"unreadable": 0, "no writing here": 0}
    try:
        with part.open("a+b") as stream, locked_file(stream, out):
            done = _whole_lines(stream, files, counts)
            network, compiled = _network(net, config.network.size, len(files) - done)
            if progress is not None:
                progress(done, len(files))
            went_on = done
            for batch in all_ready(files[done:], scan, workers):
                rows = _rows(batch, network, config.network.size, calibration, band)
                for row in rows:
                    if row[1] in counts:
                        counts[row[1]] += 1
                stream.write(_text(rows))
                stream.flush()
                done += len(batch)
                if progress is not None:
                    progress(done, len(files))
            os.fsync(stream.fileno())
            part.replace(out)
    except OSError as error:
        raise RvsmError(explain(error, out)) from error
    return Streamed(
        out,
        len(files),
        counts["unreadable"],
        counts["no writing here"],
        went_on,
        compiled,
        calibration.why,
    )


def _whole_lines(stream: io.BufferedRandom, files: Sequence[Path], counts: dict[str, int]) -> int:
    """How many of the files have their line; what comes after the last such line is cut off."""
    stream.seek(0)
    content = stream.read()
    header = _text([COLUMNS])
    end, done = 0, 0
    if content.startswith(header):
        end = len(header)
        # A name may hold a line feed: whole rows are told by the file that each must be of.
        reader = csv.reader(io.StringIO(content[end:].decode("utf-8", "replace"), newline=""))
        for row, file in zip(reader, files, strict=False):
            line = _text([row])
            if (
                len(row) != len(COLUMNS)
                or row[0] != _name(file)
                or content[end:][: len(line)] != line
            ):
                break
            end, done = end + len(line), done + 1
            if row[1] in counts:
                counts[row[1]] += 1
    stream.truncate(end)
    stream.seek(0, os.SEEK_END)
    if not end:
        stream.write(header)
        stream.flush()
    return done


def _name(file: Path) -> str:
    return str(file).encode("utf-8", "replace").decode()


def _text(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _network(net: TremorNet, size: tuple[int, int], count: int) -> tuple[Network, bool]:
    """The network in machine code where there is a compiler and enough to compute."""
    from rvsm import compile as to_machine_code
    from rvsm.native import find_compiler

    if count < _WORTH_COMPILING or find_compiler() is None:
        return net, False
    try:
        return to_machine_code(net, torch.zeros(1, 1, *size), tune=False), True
    except RvsmError:
        return net, False


def _rows(
    batch: Sequence[Ready],
    network: Network,
    size: tuple[int, int],
    calibration: Calibration,
    band: tuple[float, float],
) -> list[tuple[str, ...]]:
    images = [reduce_image(entry.image, size) for entry in batch if entry.image is not None]
    shaky = iter(probabilities(network, np.stack(images)) if images else ())
    rows: list[tuple[str, ...]] = []
    for entry in batch:
        if entry.image is None:
            answer = "unreadable" if entry.unreadable else "no writing here"
            rows.append((_name(entry.file), answer, "", "", entry.reason))
            continue
        probability = next(shaky)
        known = calibration(probability)
        rows.append(
            (
                _name(entry.file),
                answer_of(probability, band),
                f"{probability:.6f}",
                "" if known is None else f"{known:.6f}",
                "",
            )
        )
    return rows


def probabilities(network: Network, images: np.ndarray) -> list[float]:
    """Probability of shaky of each image (n, h, w) of uint8, the mean over its views."""
    with torch.inference_mode():
        logits = view_logits(network, to_float(torch.from_numpy(images))).double().mean(0)
        return [float(value) for value in logits.softmax(1)[:, 1]]
