"""Answers about every word of many scanned pages, written to a CSV file as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast, get_args

from rvsm.experiments.csvfile import growing_csv, name_of
from rvsm.experiments.gather import UNSURE, Answer, WordAnswer, gather
from rvsm.experiments.probability import model_digest
from rvsm.experiments.scans import PageReader
from rvsm.experiments.summaries import own_files, write_summaries

COLUMNS = (
    "page",
    "person",
    "line",
    "word",
    "left",
    "top",
    "right",
    "bottom",
    "answer",
    "probability",
    "calibrated",
    "reason",
    "evidence",
    "turned",
)
_ANSWERS = frozenset(get_args(Answer))


def predict_pages_to_csv(
    run_dir: Path,
    scans: Iterable[Path],
    out: Path,
    *,
    dpi: float | None = None,
    person: str | None = None,
    band: tuple[float, float] = UNSURE,
    evidence: Path | None = None,
    turn: int | None = None,
    drawing: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[WordAnswer]:
    """Ask the network of a run about every word of scans, a line of a CSV file for each.

    What the words say of pages, and of people where `person` finds any, stands in files beside it
    (see `summaries`), which are there when it is. Stopped at any moment, even by kill -9, the same
    command goes on with the file that it was at; another run or other options begin anew.

    Parameters
    ----------
    run_dir, scans, dpi, person, band, evidence, turn, drawing
        As for `scans.predict_scans`; no file is asked about twice.
    out : Path
        Columns `COLUMNS`: page (file, and page where there are several), person, line and word from
        1, the box in pixels of the page as turned level, answer, probability of shaky, calibrated
        probability, why there is no answer, the picture of the evidence, by how many degrees
        clockwise the page was turned before.
    workers : int
        Processes that read and cut pages; no more than three pages wait for each.
    progress : callable, optional
        Called as ``progress(files done, files)``.

    Returns
    -------
    list of WordAnswer
        All of them, those of an earlier, stopped command among them.

    Raises
    ------
    RvsmError
        No finished run, no file to look at, options that cannot work, or `out` cannot be written.
    """
    reader = PageReader(
        run_dir,
        dpi=dpi,
        person=person,
        band=band,
        evidence=evidence,
        turn=turn,
        drawing=drawing,
    )
    own = own_files(out)
    files = [file for file in reader.files(scans) if file.resolve() not in own]
    scaled = None if reader.calibration.platt is None else str(reader.calibration)
    told = [model_digest(run_dir), reader.how.told(), person, scaled, band]
    with growing_csv(out, COLUMNS, [*told, evidence and str(evidence), turn]) as csv:
        done, kept = _whole_files(csv.rows, files)
        csv.keep(kept)
        answers = [_answer(row, reader.calibration.why) for row in csv.rows]
        drawn = sum(bool(answer.evidence) for answer in answers)
        if progress is not None:
            progress(done, len(files))
        asked = reader.answers(files, workers, done, drawn)
        for number, found in enumerate(asked, start=done + 1):
            rows = [_row(answer) for answer in found]
            csv.write(rows)
            # As they are in the file, so that a command that went on gathers the same.
            answers += [_answer(row, reader.calibration.why) for row in rows]
            if progress is not None:
                progress(number, len(files))
        pages = gather(answers, lambda word: word.page, band)
        people = gather(answers, lambda word: word.person, band)
        write_summaries(out, "words", {"pages": pages, "people": people})
    return answers


def _whole_files(rows: Sequence[Sequence[str]], files: Sequence[Path]) -> tuple[int, int]:
    """Of how many files all rows are there, and how many rows those are.

    Whether a file has more than what is there shows only when the next one has begun.
    """
    done = kept = 0
    names = [name_of(file) for file in files]
    for number, row in enumerate(rows):
        if row[8] not in _ANSWERS:
            break
        if done < len(names) and _is_of(row[0], names[done]):
            continue
        if done + 1 < len(names) and _is_of(row[0], names[done + 1]):
            done, kept = done + 1, number
            continue
        break
    return done, kept


def _is_of(page: str, name: str) -> bool:
    return page == name or page.startswith(f"{name} page ")


def _row(answer: WordAnswer) -> tuple[str, ...]:
    numbers = (answer.probability, answer.calibrated)
    return (
        answer.page.encode("utf-8", "replace").decode(),
        answer.person,
        *("" if number is None else str(number) for number in answer.numbers),
        *(map(str, answer.box) if answer.box is not None else ("",) * 4),
        answer.answer,
        *("" if value is None else f"{value:.6f}" for value in numbers),
        answer.reason,
        answer.evidence.encode("utf-8", "replace").decode(),
        str(answer.turned),
    )


def _answer(row: Sequence[str], uncalibrated: str) -> WordAnswer:
    """What `_row` wrote."""
    page, person, line, word = row[:4]
    answer, probability, calibrated, reason, evidence, turned = row[8:]
    box = tuple(map(int, row[4:8])) if all(row[4:8]) else None
    return WordAnswer(
        page,
        person,
        cast("tuple[int, int, int, int] | None", box),
        int(line or 1) - 1,
        int(word or 1) - 1,
        float(probability) if probability else None,
        cast("Answer", answer),
        reason,
        float(calibrated) if calibrated else None,
        uncalibrated if probability else "",
        evidence,
        int(turned or 0),
    )
