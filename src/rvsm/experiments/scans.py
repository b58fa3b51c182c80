"""Ask a trained network about scans of whole pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
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
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.readers import person_in, person_pattern
from rvsm.handwriting.scans.pages import Page, read_pages
from rvsm.handwriting.scans.sideways import check_turn
from rvsm.handwriting.scans.words import ScannedWord, words_of
from rvsm.handwriting.views import view_logits


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
    drawing: bool = False,
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
        Each page is one word.
    evidence : Path, optional
        Folder that receives a picture of each word, as `predict.predict` draws them.
    turn : {0, 90, 180, 270}, optional
        By how much to turn every page clockwise, degrees; by default those that lie sideways are.
    drawing : bool
        Each page is one drawing, as it always is for a run that learned from made figures.

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
        drawing: bool = False,
    ) -> None:
        check_band(band)
        check_turn(turn)
        self.band, self.whole, self.evidence = band, whole, evidence
        self.turn = turn
        self._person = person
        self._pattern = None if person is None else person_pattern(person)
        config, self._net = load_run(run_dir)
        self.how = reading_of(run_dir, config, True, dpi, drawing)
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
        pages = read_pages(file, self.how.dpi)
        while True:
            try:
                page = next(pages, None)
            except DataError as error:
                yield WordAnswer(str(file), who, None, 0, 0, None, "unreadable", str(error))
                return
            if page is None:
                return
            words = words_of(page, self.how, whole=self.whole, turn=self.turn)
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
