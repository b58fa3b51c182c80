"""Ask a trained network about scans of whole pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rvsm.errors import DataError
from rvsm.experiments.data import reduce_image
from rvsm.experiments.gather import UNSURE, WordAnswer, answer_of, check_band
from rvsm.experiments.predict import draw_evidence, files_in, plain_name, reading_of
from rvsm.experiments.probability import calibration_of
from rvsm.experiments.runs import load_run
from rvsm.experiments.stream import Network, fastest, probabilities
from rvsm.handwriting.readers import person_in, person_pattern, persons_of
from rvsm.handwriting.scans.pool import in_order
from rvsm.handwriting.scans.sideways import check_turn
from rvsm.handwriting.scans.words import CutPage, ScannedWord, cut_page, pages_in

_WORDS = 50
"""Of a page, about, to tell whether compiling pays."""


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
    workers: int = 1,
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
    workers : int
        Processes that read and cut pages.

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
        run_dir,
        dpi=dpi,
        person=person,
        band=band,
        whole=whole,
        evidence=evidence,
        turn=turn,
        drawing=drawing,
    )
    for answers in reader.answers(reader.files(scans), workers):
        yield from answers


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
        self._run_dir = run_dir
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
        if self._person is not None:
            persons_of([file.as_posix() for file in files], self._person)
        return files

    def _who(self, file: Path) -> str:
        return "" if self._pattern is None else person_in(self._pattern, file.as_posix())

    def answers(
        self, files: Sequence[Path], workers: int, done: int = 0, drawn: int = 0
    ) -> Iterator[list[WordAnswer]]:
        """Answer about every word of each file in turn.

        Parameters
        ----------
        files : sequence of Path
            All that are asked about: what computes is chosen by their number.
        workers : int
            Processes that read and cut pages, see `in_order`.
        done : int
            Files that were asked about before, and are left out.
        drawn : int
            Pictures of evidence that were drawn of those.
        """
        pages = {file: pages_in(file) for file in files}
        count = _WORDS * sum(map(len, pages.values()))
        cut = partial(cut_page, how=self.how, whole=self.whole, turn=self.turn)
        left = [page for file in files[done:] for page in pages[file]]
        read = in_order(cut, left, workers)  # pages are read while the compiler is at work
        network, _ = fastest(self._run_dir, self._net, count)
        for _, group in itertools.groupby(read, key=lambda page: page.asked.file):
            found: list[WordAnswer] = []
            for page in group:
                for answer in self._about(page, network, drawn):
                    drawn += bool(answer.evidence)
                    found.append(answer)
                if page.error:
                    break  # nothing is said of the pages behind
            yield found

    def _about(self, page: CutPage, network: Network, drawn: int) -> Iterator[WordAnswer]:
        file = page.asked.file
        who = self._who(file)
        if page.error:
            yield WordAnswer(page.name, who, None, 0, 0, None, "unreadable", page.error)
            return
        images = [word.image for word in page.words if word.image is not None]
        reduced = [reduce_image(image, self._net.size) for image in images]
        shaky = iter(probabilities(network, np.stack(reduced)) if reduced else ())
        for word in page.words:
            probability = None if word.image is None else next(shaky)
            answer = self._answer(page.name, who, word, probability)
            if self.evidence is not None and word.image is not None:
                drawn += 1
                name = f"{drawn:04d}-{plain_name(file)}-page{page.asked.number}"
                picture = self.evidence / f"{name}-line{word.line + 1}-word{word.place + 1}.png"
                draw_evidence(self._net, word.image, picture)
                answer = replace(answer, evidence=str(picture))
            yield answer

    def _answer(
        self, page: str, who: str, word: ScannedWord, probability: float | None
    ) -> WordAnswer:
        scaled = None if probability is None else self.calibration(probability)
        return WordAnswer(
            page,
            who,
            word.box,
            word.line,
            word.place,
            probability,
            answer_of(probability, self.band, scaled),
            word.reason,
            scaled,
            "" if probability is None else self.calibration.why,
            turned=word.turned,
        )
