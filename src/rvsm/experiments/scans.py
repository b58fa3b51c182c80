"""Ask a trained network about scans: whole pages cut into words, or pictures of one word each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rvsm.errors import DataError
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.gather import UNSURE, WordAnswer, answer_of, check_band
from rvsm.experiments.predict import draw_evidence, files_in, plain_name, reading_of
from rvsm.experiments.probability import Calibration, calibration_of
from rvsm.experiments.runs import load_run
from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.letters import height_of_letters
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.readers import person_in, person_pattern
from rvsm.handwriting.scans.normalise import Normalised, normalise, to_network
from rvsm.handwriting.scans.pages import Page, read_pages
from rvsm.handwriting.scans.segment import Segments, segment
from rvsm.handwriting.scans.sideways import check_turn
from rvsm.handwriting.scans.verdict import judge
from rvsm.handwriting.views import view_logits

_MARGIN = 3
_LETTERS = 2.0
"""Heights of small letters that a word is wide at least for its own height to be believed."""


@dataclass(frozen=True)
class ScannedWord:
    """One word cut out of a page, at the size a network reads.

    `reason` says why there is none, `turned` by how many degrees clockwise the page, which lay
    sideways, was turned; boxes are of the turned page.
    """

    box: tuple[int, int, int, int] | None
    line: int
    place: int
    image: GreyImage | None
    reason: str = ""
    turned: int = 0


def words_of(
    page: Page, *, whole: bool = False, letters: bool = False, turn: int | None = None
) -> list[ScannedWord]:
    """Normalise a page and cut it into words.

    Parameters
    ----------
    page : Page
    whole : bool
        Take the picture for one word or drawing, and cut nothing.
    letters : bool
        Whether such a word's letters give the scale where nothing else does; else it is fitted.
    turn : {0, 90, 180, 270}, optional
        By how much to turn the page clockwise, degrees; by default one that lies sideways is
        turned, but not a `whole` picture.

    Returns
    -------
    list of ScannedWord
        In reading order; one without an image where the page holds no writing.
    """
    found = normalise(
        page.picture,
        deskew=True,
        rules=True,
        crop=whole,
        turn=0 if whole and turn is None else turn,
        pixels_per_mm=page.pixels_per_mm,
    )
    of_page = partial(ScannedWord, turned=found.quarters_deg)
    verdict = judge(found)
    if not verdict.writing:
        return [of_page(None, 0, 0, None, verdict.reason)]
    if whole:
        height = height_of_letters(found.ink) if letters else None
        return [of_page(found.box, 0, 0, to_network(found, x_height=height))]
    segments = segment(found.ink)
    if not segments.words:
        return [of_page(None, 0, 0, None, "there is nothing of the form of words")]
    height = _height(found, segments)
    return [
        of_page(word.box, word.line, word.place, _cut(found, height, word.box))
        for word in segments.words
    ]


def _height(found: Normalised, segments: Segments) -> float:
    """Height of the page's small letters, measured in every word as in those of training."""
    heights = [
        height_of_letters(found.ink[top:bottom, left:right])
        for left, top, right, bottom in (word.box for word in segments.words)
        if right - left >= _LETTERS * segments.x_height
    ]
    return float(np.median(heights)) if heights else segments.x_height


def _cut(found: Normalised, height_px: float, box: tuple[int, int, int, int]) -> GreyImage:
    height, width = found.grey.shape
    left, top, right, bottom = box
    rows = slice(max(0, top - _MARGIN), min(height, bottom + _MARGIN))
    columns = slice(max(0, left - _MARGIN), min(width, right + _MARGIN))
    part = replace(found, grey=found.grey[rows, columns], ink=found.ink[rows, columns], box=box)
    return to_network(part, x_height=height_px)


def predict_scans(
    run_dir: Path,
    scans: Iterable[Path],
    *,
    dpi: float | None = None,
    person: str | None = None,
    band: tuple[float, float] = UNSURE,
    whole: bool = False,
    evidence: Path | None = None,
    turn: int | None = None,
) -> Iterator[WordAnswer]:
    """Ask the network of a run about every word of scans, page by page.

    Parameters
    ----------
    run_dir : Path
        A finished run.
    scans : iterable of Path
        PDFs, TIFFs of several pages, pictures; a folder stands for all files in it.
    dpi : float, optional
        Pixels per inch; without it the files' own, and else letters' heights give the scale.
    person : str, optional
        Regular expression with one group that finds the person in a file's path.
    band : (float, float)
        Probabilities that count as unsure.
    whole : bool
        Each page is one word or drawing.
    evidence : Path, optional
        Folder that receives a picture of each word, as `predict.predict` draws them.
    turn : {0, 90, 180, 270}, optional
        By how much to turn every page clockwise, degrees; by default those that lie sideways are.

    Yields
    ------
    WordAnswer
        A page that cannot be read, or holds no writing, is one answer that says why.

    Raises
    ------
    RunError, DataError
        No finished run, no file to look at, or options that cannot work.
    """
    reader = PageReader(
        run_dir, dpi=dpi, person=person, band=band, whole=whole, evidence=evidence, turn=turn
    )
    drawn = 0
    for file in reader.files(scans):
        for answer in reader.about(file, drawn):
            drawn += bool(answer.evidence)
            yield answer


class PageReader:
    """A run's network and how it is asked about pages; parameters as for `predict_scans`."""

    def __init__(
        self,
        run_dir: Path,
        *,
        dpi: float | None = None,
        person: str | None = None,
        band: tuple[float, float] = UNSURE,
        whole: bool = False,
        evidence: Path | None = None,
        turn: int | None = None,
    ) -> None:
        check_band(band)
        check_turn(turn)
        self.dpi, self.band, self.whole, self.evidence = dpi, band, whole, evidence
        self.turn = turn
        self.letters = reading_of(run_dir, True, dpi).letters
        self._person = person
        self._pattern = None if person is None else person_pattern(person)
        config, self._net = load_run(run_dir)
        self.calibration = calibration_of(run_dir, config, self._net)

    def files(self, scans: Iterable[Path]) -> list[Path]:
        """The files to look at, each once.

        Raises
        ------
        DataError
            There are none, or the person is found in no path.
        """
        files = list(dict.fromkeys(files_in(scans)))
        if not files:
            raise DataError("There is no scan to look at; name files or a folder of them.")
        if self._pattern is not None and not any(map(self._who, files)):
            raise DataError(
                f"--person '{self._person}' is found in none of {len(files)} paths: correct it."
            )
        return files

    def _who(self, file: Path) -> str:
        return "" if self._pattern is None else person_in(self._pattern, file.as_posix())

    def about(self, file: Path, drawn: int) -> Iterator[WordAnswer]:
        """Answer about every word of a file, of which `drawn` pictures of evidence were before."""
        who = self._who(file)
        pages = read_pages(file, self.dpi)
        while True:
            try:
                page = next(pages, None)
            except DataError as error:
                yield WordAnswer(str(file), who, None, 0, 0, None, "unreadable", str(error))
                return
            if page is None:
                return
            words = words_of(page, whole=self.whole, letters=self.letters, turn=self.turn)
            answers = _answers(self._net, self.calibration, page, words, who, self.band)
            for word, answer in zip(words, answers, strict=True):
                if self.evidence is None or word.image is None:
                    yield answer
                    continue
                drawn += 1
                name = f"{drawn:04d}-{plain_name(file)}-page{page.number}"
                picture = self.evidence / f"{name}-line{word.line + 1}-word{word.place + 1}.png"
                draw_evidence(self._net, word.image, picture)
                yield replace(answer, evidence=str(picture))


def _answers(
    net: TremorNet,
    calibration: Calibration,
    page: Page,
    words: list[ScannedWord],
    person: str,
    band: tuple[float, float],
) -> list[WordAnswer]:
    images = [reduce_image(word.image, net.size) for word in words if word.image is not None]
    probabilities = iter(_probabilities(net, images))
    out = []
    for word in words:
        probability = None if word.image is None else next(probabilities)
        answer = answer_of(probability, band)
        place = (word.box, word.line, word.place)
        scaled = None if probability is None else calibration(probability)
        why = calibration.why if probability is not None else ""
        told = WordAnswer(
            page.name,
            person,
            *place,
            probability,
            answer,
            word.reason,
            scaled,
            why,
            turned=word.turned,
        )
        out.append(told)
    return out


def _probabilities(net: torch.nn.Module, images: list[GreyImage]) -> list[float]:
    if not images:
        return []
    with torch.inference_mode():
        batch = to_float(torch.from_numpy(np.stack(images)))
        shaky = view_logits(net, batch).double().mean(0).softmax(1)[:, 1]
    return [float(value) for value in shaky]
