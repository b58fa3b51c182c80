"""What the page answers: probability, evidence and tremor of a drawing or a scan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rvsm.errors import DataError
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.gather import NOTICE, UNSURE, answer_of, mean_probability
from rvsm.experiments.predict import reading_of
from rvsm.experiments.probability import calibration_of
from rvsm.experiments.report import pictures
from rvsm.experiments.report.evidence import occlusion
from rvsm.experiments.runs import load_run
from rvsm.experiments.serve.drawing import Drawing, is_dot, percent, render
from rvsm.experiments.serve.measure import measure
from rvsm.handwriting.images import GreyImage, describe, is_pdf
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.scans.pages import Page, read_pages
from rvsm.handwriting.scans.words import words_of
from rvsm.handwriting.views import view_logits

MAX_SCAN_PIXELS = 30_000_000
MAX_PAGES = 4
MAX_WORDS = 200
MOST_EXPLAINED = 8
"""Words of a scan that get evidence: it takes a thousand passes of the network each."""

LEAST_LIMIT = 0.5
"""Evidence of so many log odds, or of the strongest place if that is more, is opaque."""

_NO_PICTURE = "data:,"
_FORWARD = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Forward:
    """The network as evidence and views take it, whoever computes it."""

    forward: _FORWARD
    size: tuple[int, int]

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images)


class Oracle:
    """A run's network, asked about drawings and scans; one thread at a time.

    Parameters
    ----------
    run_dir
        A finished run.
    drawing
        Scans are drawings, not words, as they always are for a run that learned from made figures.

    Raises
    ------
    RunError
        If the folder holds no finished run, or nothing tells how large the images are that its
        network learned from.
    """

    def __init__(self, run_dir: Path, *, drawing: bool = False) -> None:
        self.run_dir = Path(run_dir)
        config, net = load_run(self.run_dir)
        self.method = config.method
        self.size = net.size
        self.how = reading_of(self.run_dir, config, True, None, drawing)
        weights = [w for name, w in net.named_parameters() if name.endswith(".weight")]
        self.zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        self._net = _Forward(net, self.size)
        self.calibration = calibration_of(self.run_dir, config, net)
        self.compiled = False

    def use(self, network: _FORWARD) -> None:
        """Answer with another form of the same network from now on, such as a compiled one."""
        self._net = _Forward(network, self.size)
        self.compiled = True

    def probability(self, image: GreyImage) -> float:
        """P(shaky) of an image, the mean over its views, as ``rvsm predict`` has it."""
        batch = to_float(torch.from_numpy(reduce_image(image, self.size)[None]))
        with torch.inference_mode():
            logits = view_logits(cast(torch.nn.Module, self._net), batch).double().mean(0)
        return float(logits.softmax(1)[0, 1])

    def evidence(self, image: GreyImage) -> str:
        """The evidence for an image as a translucent picture, as in ``rvsm report``."""
        _, found = occlusion(cast(TremorNet, self._net), image)
        return pictures.evidence(found, max(float(np.abs(found).max()), LEAST_LIMIT))

    def drawing(self, drawing: Drawing, *, explain: bool = True) -> dict[str, Any]:
        """Answer about timed strokes.

        Parameters
        ----------
        drawing
        explain
            Whether to compute the evidence, by far the longest part.

        Returns
        -------
        dict
            Ready for JSON: see docs/serve.md.
        """
        tremor = measure(drawing)
        told: dict[str, Any] = {
            "tremor": {
                "rms_mm": tremor.rms_mm,
                "frequency_hz": tremor.frequency_hz,
                "seconds": tremor.seconds,
                "of_seconds": drawing.seconds,
                "reason": tremor.reason,
            },
            "px_per_mm": drawing.px_per_mm,
        }
        if is_dot(drawing):
            return self._summary([], "there is less than 2 mm of it") | told
        rendered = render(drawing, self.how)
        told |= {"scale": rendered.scale, "x_height_mm": rendered.x_height_mm}
        word = self._word(rendered.image, explain)
        return self._summary([word], "") | told

    def scan(self, data: bytes, *, whole: bool = False, dpi: float | None = None) -> dict[str, Any]:
        """Answer about a picture or PDF.

        Parameters
        ----------
        data
            The file's bytes.
        whole
            Take each page for one word or drawing, and cut nothing, as ``rvsm predict --scan``; a
            network for drawings always does.
        dpi
            Pixels per inch; without it the file's own, and else letters' heights give the scale.

        Returns
        -------
        dict
            Ready for JSON.

        Raises
        ------
        DataError
            It cannot be read, or is too large.
        """
        words: list[dict[str, Any]] = []
        notes: list[str] = []
        with tempfile.TemporaryDirectory(prefix="rvsm-serve-") as folder:
            file = Path(folder) / "scan"
            file.write_bytes(data)
            try:
                for page in _pages(file, dpi):
                    if page.number > MAX_PAGES:
                        notes.append(f"Only the first {MAX_PAGES} of {page.of} pages were read.")
                        break
                    found = self._words(page, whole)
                    if found and (degrees := found[0].get("turned")):
                        notes.append(f"Page {page.number} lay sideways: turned by {degrees}°.")
                    words += found
            except DataError as error:
                raise DataError(_for_the_page(str(error), file)) from None
        told = [word for word in words if word["probability"] is not None]
        told.sort(key=lambda word: -abs(_deciding(word) - 0.5))
        for word in told[:MOST_EXPLAINED]:
            word["evidence"] = self.evidence(word["grey"])
        if len(told) > MOST_EXPLAINED:
            notes.append(f"Evidence is shown for the {MOST_EXPLAINED} words with surest answers.")
        for word in words:
            word.pop("grey", None)
        reason = next((word["reason"] for word in words if word["reason"]), "")
        shown = [word for word in words if word["probability"] is not None]
        return self._summary(shown, reason) | {"notes": notes}

    def _words(self, page: Page, whole: bool) -> list[dict[str, Any]]:
        found = words_of(page, self.how, whole=whole)
        if len(found) > MAX_WORDS:
            raise DataError(
                f"The scan has {len(found)} pieces that look like words on a page, beyond "
                f"{MAX_WORDS}: cut it into parts, or look at it as one drawing."
            )
        out = []
        for word in found:
            if word.image is None:
                nothing = {"probability": None, "reason": word.reason, "turned": word.turned}
                out.append(nothing)
                continue
            entry = self._word(word.image, explain=False)
            place = {"page": page.number, "line": word.line + 1, "place": word.place + 1}
            told = {"grey": word.image, "reason": "", "turned": word.turned}
            out.append(entry | place | told)
        return out

    def _word(self, image: GreyImage, explain: bool) -> dict[str, Any]:
        probability = self.probability(image)
        return {
            **self._answered(probability),
            "picture": pictures.paper(image),
            "evidence": self.evidence(image) if explain else None,
        }

    def _summary(self, words: list[dict[str, Any]], reason: str) -> dict[str, Any]:
        probability = mean_probability([word["probability"] for word in words])
        return {
            **self._answered(probability),
            "reason": reason if probability is None else "",
            "unsure": list(UNSURE),
            "words": words,
            "notes": [],
            "notice": NOTICE,
        }

    def _answered(self, probability: float | None) -> dict[str, Any]:
        calibrated = None if probability is None else self.calibration(probability)
        return {
            "answer": answer_of(probability, calibrated=calibrated),
            "probability": probability,
            "percent": None if probability is None else percent(probability),
            "calibrated": calibrated,
            "calibrated_percent": None if calibrated is None else percent(calibrated),
        }


def _deciding(word: dict[str, Any]) -> float:
    return float(word["probability"] if word["calibrated"] is None else word["calibrated"])


def _pages(file: Path, dpi: float | None) -> Any:
    if not is_pdf(file):
        try:
            _, size = describe(file)
        except DataError:
            size = (0, 0)  # said better by read_pages
        _check(size)
    for page in read_pages(file, dpi):
        _check(page.picture.size)
        yield page


def _check(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_SCAN_PIXELS:
        raise DataError(
            f"The scan is {width}x{height} pixels, beyond {MAX_SCAN_PIXELS // 1_000_000} million: "
            "scale it down or cut out the writing."
        )


def _for_the_page(sentence: str, file: Path) -> str:
    """A sentence about a file in a folder, said to somebody who chose it on a page."""
    sentence = sentence.replace(str(file), "The scan").replace("--dpi", "dots per inch")
    for remedy in ("replace it or take it out", "take it out of the folder", "take it out"):
        sentence = sentence.replace(remedy, "choose another")
    return sentence
