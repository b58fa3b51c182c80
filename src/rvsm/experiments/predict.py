"""Ask a trained network about images and strokes; one bad file spoils nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from rvsm.atomic import atomic_write, make_folder
from rvsm.errors import DataError
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.gather import answer_of, band_of
from rvsm.experiments.probability import calibration_of
from rvsm.experiments.runs import load_run
from rvsm.handwriting.images import GreyImage, fit, grey_of
from rvsm.handwriting.manifest import SUFFIXES, files_below
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.readers import LAYOUTS, read, redraw
from rvsm.handwriting.recorded.measure import TremorMeasure, measure_tremor
from rvsm.handwriting.render import PIXELS_PER_MM
from rvsm.handwriting.scans.normalise import normalise, to_network
from rvsm.handwriting.scans.ready import ready
from rvsm.handwriting.strokejson import read_strokes
from rvsm.handwriting.timed import TimedStrokes
from rvsm.handwriting.views import view_logits

STROKES = ".json"


@dataclass(frozen=True)
class Prediction:
    """What the network says of one file.

    Parameters
    ----------
    file
        The file as given; of a recording in a set, the part of it behind a ``#``.
    label
        ``regular`` or ``shaky``, by the network's own probability, or ``unsure``; None where there
        is no answer.
    probability
        Of "shaky", 0-1; None where there is no answer.
    error
        One sentence where the file could not be read, otherwise None.
    calibrated
        Probability of "shaky" after Platt's scaling on the run's validation split; None where that
        is not known (see `uncalibrated`).
    uncalibrated
        Why there is no calibrated probability, empty where there is one.
    reason
        Why a file that can be read has no answer, as it holds no writing; otherwise empty.
    tremor
        What was measured on strokes over time; None of images, and of strokes too short.
    evidence
        The picture that `predict` drew, None where none was asked for.
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


def predict(
    run_dir: Path,
    images: Iterable[Path],
    *,
    scan: bool = False,
    layout: str | None = None,
    evidence: Path | None = None,
    band: tuple[float, float] | None = None,
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
    layout
        Read each of `images` as a set in one of `readers.LAYOUTS`, such as tablet recordings.
    evidence
        Folder that receives a picture of each image with the ink that spoke for shaky (vermilion)
        and for regular (violet).
    band
        Probabilities that count as unsure; by default `gather.UNSURE` of scans, and none else.

    Returns
    -------
    list of Prediction
        One per file, in order; a file that cannot be read has its error in its place.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    DataError
        If there is no file to look at, no such layout, or no such band.
    """
    band = band_of(scan, band)
    config, net = load_run(run_dir)
    calibration = calibration_of(run_dir, config, net)
    size = config.network.size
    predictions = []
    for file, look in _all(images, scan, layout):
        try:
            image, reason, strokes = look()
        except DataError as error:
            predictions.append(Prediction(file, None, None, str(error)))
            continue
        tremor = None if strokes is None else measure_tremor(strokes)
        if image is None:
            predictions.append(Prediction(file, None, None, None, reason=reason, tremor=tremor))
            continue
        shaky = _probability(net, image, size)
        drawn = None
        if evidence is not None:
            drawn = evidence / f"{len(predictions) + 1:04d}-{plain_name(file)}.png"
            draw_evidence(net, image, drawn)
        predictions.append(
            Prediction(
                file,
                answer_of(shaky, band),
                shaky,
                None,
                calibration(shaky),
                calibration.why,
                "",
                tremor,
                drawn,
            )
        )
    if not predictions:
        raise DataError("There is no image to look at; name image files or a folder of them.")
    return predictions


Look = Callable[[], tuple[GreyImage | None, str, TimedStrokes | None]]


def _all(images: Iterable[Path], scan: bool, layout: str | None) -> Iterator[tuple[Path, Look]]:
    if layout is None:
        for file in files_in(images):
            yield file, _strokes(file) if file.suffix.lower() == STROKES else _image(file, scan)
        return
    if layout not in LAYOUTS:
        raise DataError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    for root in images:
        collection = read(root, layout)
        for row in collection.rows:
            strokes = collection.strokes(row)
            file = collection.root / row.file
            yield file, _image(file, scan) if strokes is None else _known(strokes)


def _image(file: Path, scan: bool) -> Look:
    def look() -> tuple[GreyImage | None, str, None]:
        found = ready(file, scan)
        if found.unreadable:
            raise DataError(found.reason)
        return found.image, found.reason, None

    return look


def _strokes(file: Path) -> Look:
    return lambda: _known(read_strokes(file))()


def _known(strokes: TimedStrokes) -> Look:
    return lambda: (drawn_for_network(strokes), "", strokes)


def drawn_for_network(strokes: TimedStrokes) -> GreyImage:
    """Strokes as the network reads them: at 8 pixels a mm where they fit, else scaled to fit."""
    picture = redraw(strokes, PIXELS_PER_MM)
    if not strokes.in_mm:
        return fit(grey_of(picture))
    return to_network(normalise(picture, pixels_per_mm=PIXELS_PER_MM))


def _probability(net: TremorNet, image: GreyImage, size: tuple[int, int]) -> float:
    with torch.inference_mode():
        batch = to_float(torch.from_numpy(reduce_image(image, size)).unsqueeze(0))
        return float(view_logits(net, batch).double().mean(0).softmax(1)[0, 1])


def draw_evidence(net: TremorNet, image: GreyImage, path: Path) -> None:
    """Write the image with what its places speak for, by occlusion, as a PNG file.

    Parameters
    ----------
    net
        In evaluation mode.
    image
        Grey (64, 256), dark on light.
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


def plain_name(file: Path) -> str:
    """The name of a file as part of another's: 80 letters, digits, dashes and dots at most."""
    name = file.stem if file.suffix.lower() in SUFFIXES else file.name.replace("#", "-")
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]


def files_in(images: Iterable[Path]) -> Iterable[Path]:
    """Files given, and all in the folders given and below, hidden ones left out."""
    for path in map(Path, images):
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path
