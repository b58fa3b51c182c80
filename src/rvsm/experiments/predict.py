"""Ask a trained network about images and strokes; one bad file spoils nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from rvsm.atomic import atomic_write, make_folder
from rvsm.errors import DataError, RunError
from rvsm.experiments.config import TrainConfig
from rvsm.experiments.data import check_size, reduce_image, to_float
from rvsm.experiments.gather import Answer, Gathered, WordAnswer, answer_of, band_of, gather
from rvsm.experiments.kept import is_beside_a_scan
from rvsm.experiments.probability import calibration_of
from rvsm.experiments.runs import load_run, network_size, read_result
from rvsm.handwriting.description import read_description, size_of
from rvsm.handwriting.images import SIZE, GreyImage
from rvsm.handwriting.manifest import SUFFIXES, files_below
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.readers import LAYOUTS, persons_of, read
from rvsm.handwriting.recorded.measure import TremorMeasure
from rvsm.handwriting.scans.normalise import Isolate
from rvsm.handwriting.scans.pages import check_dpi
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.ready import Asked, ready, rows_of
from rvsm.handwriting.scans.template import read_template
from rvsm.handwriting.views import view_logits

TASKS_OF_WORDS = frozenset(["fonts", "pen", "words"])
"""Their images have letters of one size."""


@dataclass(frozen=True)
class Prediction:
    """What the network says of one file.

    Parameters
    ----------
    file
        The file as given; of a recording in a set, the part of it behind a ``#``.
    label
        ``regular``, ``shaky`` or ``unsure``, by the calibrated probability, by the network's own
        where there is none; None where there is no answer.
    probability
        Of "shaky" as the network gives it, 0-1; None where there is no answer.
    error
        One sentence where the file could not be read, otherwise None.
    calibrated
        Probability of "shaky" after Platt's scaling on the run's validation split; None where that
        is not known (see `uncalibrated`).
    uncalibrated
        Why there is no calibrated probability, empty where there is one.
    reason
        Why a file that can be read has no answer, as it holds no writing, or why its answer is
        doubtful, as it looks like a page, or is a drawing and the network learned from words;
        otherwise empty.
    tremor
        What was measured on strokes over time; None of images, and of strokes too short.
    evidence
        The picture that `predict` drew, None where none was asked for.
    person
        Who wrote it, empty where unknown.
    """

    file: Path
    label: str | None
    probability: float | None
    error: str | None
    calibrated: float | None = None
    uncalibrated: str = ""
    reason: str = ""
    tremor: TremorMeasure | None = None
    evidence: Path | None = None
    person: str = ""


def predict(
    run_dir: Path,
    images: Iterable[Path],
    *,
    scan: bool = False,
    dpi: float | None = None,
    layout: str | None = None,
    evidence: Path | None = None,
    band: tuple[float, float] | None = None,
    drawing: bool = False,
    person: str | None = None,
    template: Path | None = None,
) -> list[Prediction]:
    """Classify image files, or strokes over time, with the network of a finished run.

    Parameters
    ----------
    run_dir
        Folder of the run.
    images
        Image files, or strokes in JSON (see `strokejson`); a folder stands for all files in it and
        below, hidden ones left out.
    scan
        Images are scans of one word or drawing each: they are normalised.
    dpi
        Pixels per inch of the scans; by default what their files state.
    layout
        Read each of `images` as a set in one of `readers.LAYOUTS`, such as tablet recordings.
    evidence
        Folder that receives a picture of each image with the ink that spoke for shaky (vermilion)
        and for regular (violet).
    band
        Probabilities that count as unsure; by default `gather.UNSURE` of scans, and none else.
    drawing
        Images are drawings, not words, which a run that learned from made figures and rows of a
        set that have a task know by themselves.
    person
        Regular expression with one group that finds the person in a file's path, in place of the
        one that the reader of a layout knows.
    template
        Picture of what is printed on every scan, which is taken away (see `read_template`).

    Returns
    -------
    list of Prediction
        One per file, in order; a file that cannot be read has its error in its place.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    DataError
        If there is no file to look at, no such layout or band, the person is found in no path, or
        the template cannot be read.
    """
    band = band_of(scan, band)
    config, net = load_run(run_dir)
    calibration = calibration_of(run_dir, config, net)
    how = reading_of(run_dir, config, scan, dpi, drawing, template)
    listed = all_asked(images, layout, person, forms(template))
    predictions = []
    for number, asked in enumerate(listed, start=1):
        found = ready(asked, how)
        if found.image is None:
            error, reason = (found.reason, "") if found.unreadable else (None, found.reason)
            predictions.append(
                Prediction(asked.file, None, None, error, reason=reason, person=asked.person)
            )
            continue
        shaky = _probability(net, found.image)
        calibrated = calibration(shaky)
        drawn = None
        if evidence is not None:
            drawn = evidence / evidence_name(number, asked.file)
            draw_evidence(net, found.image, drawn)
        predictions.append(
            Prediction(
                asked.file,
                answer_of(shaky, band, calibrated),
                shaky,
                None,
                calibrated,
                calibration.why,
                found.reason,
                found.tremor,
                drawn,
                asked.person,
            )
        )
    return predictions


def people_of(
    predictions: Iterable[Prediction], scan: bool, band: tuple[float, float] | None
) -> list[Gathered]:
    """The answers for people, as far as they are known; options as for `predict`."""
    words = [
        WordAnswer(
            str(found.file),
            found.person,
            None,
            0,
            0,
            found.probability,
            _answer(found),
            calibrated=found.calibrated,
        )
        for found in predictions
    ]
    return gather(words, lambda word: word.person, band_of(scan, band))


def _answer(found: Prediction) -> Answer:
    if found.error:
        return "unreadable"
    return cast("Answer", found.label) if found.label else "no writing here"


def reading_of(
    run_dir: Path,
    config: TrainConfig,
    scan: bool,
    dpi: float | None,
    drawing: bool = False,
    template: Path | None = None,
) -> Reading:
    """How a run's network reads: by the task that it learned, the size and scale of its images.

    Scans of letters come to their size where it learned from words; `drawing` says that they are
    drawings where the run does not. Of scans the print of `template` is taken away.

    Raises
    ------
    DataError
        No such resolution, or the template cannot be read.
    RunError
        The network reads images of another size than those of its task are.
    """
    check_dpi(dpi)
    task = _task_of(run_dir, config)
    size, reads = size_of(task), network_size(config)
    try:
        check_size(reads, size)
    except DataError:
        raise RunError(
            f"The network of {run_dir} reads {reads[0]}x{reads[1]} pixels, no whole fraction of "
            f"the {size[0]}x{size[1]} of its task ({task or 'not known'}): restore its result.json "
            "and the dataset.json of its data as they were when it was trained."
        ) from None
    words = True if task in TASKS_OF_WORDS else None if size == SIZE else False
    drawing = drawing or size != SIZE
    isolate: Isolate = "auto" if template is None else read_template(template)
    return Reading(scan, dpi, scan and bool(words), size, drawing, isolate, words)


def forms(template: Path | None) -> list[Path]:
    """The picture of what is printed, which nobody drew on, for `all_asked` to leave out."""
    return [] if template is None else [template.resolve()]


def _task_of(run_dir: Path, config: TrainConfig) -> str:
    with contextlib.suppress(RunError):  # a run whose scores are damaged answers all the same
        if (result := read_result(run_dir)) is not None:
            return str(result["task"])
    with contextlib.suppress(DataError):
        return str((read_description(config.data) or {}).get("task", ""))
    return ""


def all_asked(
    images: Iterable[Path],
    layout: str | None,
    person: str | None = None,
    but: Collection[Path] = (),
) -> list[Asked]:
    """What there is to look at: files and those in folders, or the rows of sets in a layout.

    Parameters
    ----------
    images, layout, person
        As for `predict`.
    but
        Files to leave out, resolved.

    Raises
    ------
    DataError
        There is no such layout, a set is not in it, nothing is there, or the person is found in no
        path.
    """
    if layout is None:
        listed = list(map(Asked, files_in(images)))
    elif layout not in LAYOUTS:
        raise DataError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    else:
        listed = [asked for root in images for asked in rows_of(read(root, layout))]
    if but:
        listed = [asked for asked in listed if asked.file.resolve() not in but]
    if not listed:
        raise DataError("There is no image to look at; name image files or a folder of them.")
    if person is None:
        return listed
    persons = persons_of([asked.file.as_posix() for asked in listed], person)
    return [replace(asked, person=who) for asked, who in zip(listed, persons, strict=True)]


def _probability(net: TremorNet, image: GreyImage) -> float:
    with torch.inference_mode():
        batch = to_float(torch.from_numpy(reduce_image(image, net.size)).unsqueeze(0))
        return float(view_logits(net, batch).double().mean(0).softmax(1)[0, 1])


def draw_evidence(net: TremorNet, image: GreyImage, path: Path) -> None:
    """Write the image with what its places speak for, by occlusion, as a PNG file.

    Parameters
    ----------
    net
        In evaluation mode.
    image
        Grey, dark on light.
    path
        Its folder is made.
    """
    import numpy as np

    from rvsm.experiments.report import pictures
    from rvsm.experiments.report.evidence import occlusion

    _, found = occlusion(net, image)
    limit = max(float(np.abs(found).max()), 0.5)
    make_folder(path.parent)
    with atomic_write(path) as stream:
        pictures.explained(image, found, limit).save(stream, format="PNG")


def evidence_name(number: int, file: Path) -> str:
    """File name of the picture drawn of what is the `number`-th, from 1."""
    return f"{number:04d}-{plain_name(file)}.png"


def plain_name(file: Path) -> str:
    """The name of a file as part of another's: 80 letters, digits, dashes and dots at most."""
    name = file.stem if file.suffix.lower() in SUFFIXES else file.name.replace("#", "-")
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]


def files_in(images: Iterable[Path]) -> Iterable[Path]:
    """Files given, and all in the folders given and below.

    Hidden ones there are left out, and answers that the page of ``rvsm serve`` keeps beside scans.
    """
    for path in map(Path, images):
        if path.is_dir():
            yield from (file for file in files_below(path) if not is_beside_a_scan(file))
        else:
            yield path
