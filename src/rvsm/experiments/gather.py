"""Answers about words gathered into answers about pages and people; when to give none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.manifest import LABELS

Answer = Literal["regular", "shaky", "unsure", "no writing here", "unreadable"]

UNSURE = (0.35, 0.65)
"""Probabilities of shaky from the first to the second count as unsure."""

NOTICE = "Research use, not a diagnosis."
"""Stands in every report about people."""


@dataclass(frozen=True, slots=True)
class WordAnswer:
    """What is known of one word or drawing.

    Attributes
    ----------
    page : str
        The page it stands on.
    person : str
        Who wrote it; empty where unknown.
    box : (int, int, int, int) or None
        Left, top, right, lower edge on the page as turned level; None for a whole picture.
    line, place : int
        Line of the page and place in the line, from 0.
    probability : float or None
        Of shaky, as the network gives it; None where there is no answer.
    answer : str
        ``regular``, ``shaky``, ``unsure``, ``no writing here`` or ``unreadable``; see `answer_of`.
    reason : str
        Why there is no answer; empty otherwise.
    calibrated : float or None
        The probability after the run's scaling; None where that is not known (see `uncalibrated`).
    uncalibrated : str
        Why there is no calibrated probability; empty where there is one.
    evidence : str
        The picture drawn of what spoke for the answer; empty where none was.
    turned : int
        By how many degrees clockwise the page was turned, since it lay sideways or as asked for.
    """

    page: str
    person: str
    box: tuple[int, int, int, int] | None
    line: int
    place: int
    probability: float | None
    answer: Answer
    reason: str = ""
    calibrated: float | None = None
    uncalibrated: str = ""
    evidence: str = ""
    turned: int = 0

    @property
    def numbers(self) -> tuple[int, int] | tuple[None, None]:
        """Line and place as files tell them, from 1; None of a whole picture."""
        return (None, None) if self.box is None else (self.line + 1, self.place + 1)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The answer for a page or a person.

    `probability` is the mean in log odds over its `answered` words, `calibrated` that of their
    calibrated ones, which is the scaling of the mean; None where there are none;
    `words` counts all, also those without an answer.
    """

    name: str
    probability: float | None
    answer: Answer
    words: int
    answered: int
    shaky: int
    calibrated: float | None = None


def check_band(band: tuple[float, float]) -> None:
    """Raise DataError unless 0 <= low <= 0.5 <= high <= 1."""
    low, high = band
    if not 0 <= low <= 0.5 <= high <= 1:
        raise DataError(
            f"The band of unsure answers is {low:g} to {high:g}: give one around 0.5, such as "
            f"{UNSURE[0]:g} to {UNSURE[1]:g}."
        )


def unsure(probability: float, band: tuple[float, float] = UNSURE) -> bool:
    """Whether a probability of shaky lies in the band, its ends counted in."""
    return band[0] <= probability <= band[1]


def band_of(scan: bool, given: tuple[float, float] | None) -> tuple[float, float]:
    """The band of unsure answers about single images.

    Images read as those of training are have the answer that is likelier; scans are other images,
    and their answers near a half are unsure.

    Raises
    ------
    DataError
        See `check_band`.
    """
    band = given or (UNSURE if scan else (0.5, 0.5))
    check_band(band)
    return band


def answer_of(
    probability: float | None,
    band: tuple[float, float] = UNSURE,
    calibrated: float | None = None,
) -> Answer:
    """The answer that a probability of shaky stands for.

    Parameters
    ----------
    probability : float or None
        As the network gives it; None is no writing.
    band : (float, float)
        See `unsure`; ``(0.5, 0.5)`` leaves only a tie unsure.
    calibrated : float or None
        The same calibrated: it decides where it is known.

    Returns
    -------
    str
    """
    if probability is None:
        return "no writing here"
    decides = probability if calibrated is None else calibrated
    if unsure(decides, band):
        return "unsure"
    return "shaky" if decides > 0.5 else "regular"


def gather(
    words: Iterable[WordAnswer],
    key: Callable[[WordAnswer], str],
    band: tuple[float, float] = UNSURE,
) -> list[Gathered]:
    """Gather answers about words by page or by person.

    Words of one hand are evidence of one thing and far from independent, so their log odds are
    averaged, not added: many words make the answer steadier, not surer.

    Parameters
    ----------
    words : iterable of WordAnswer
    key : callable
        What a word belongs to, such as ``lambda word: word.person``; words of an empty key are
        left out.
    band : (float, float)

    Returns
    -------
    list of Gathered
        In the order of the first word of each.
    """
    check_band(band)
    groups: dict[str, list[WordAnswer]] = {}
    for word in words:
        if name := key(word):
            groups.setdefault(name, []).append(word)
    return [_gathered(name, group, band) for name, group in groups.items()]


def _gathered(name: str, words: Sequence[WordAnswer], band: tuple[float, float]) -> Gathered:
    known = [word.probability for word in words if word.probability is not None]
    probability = mean_probability(known)
    scaled = mean_probability([w.calibrated for w in words if w.calibrated is not None])
    answer = answer_of(probability, band, scaled)
    if probability is None and all(word.answer == "unreadable" for word in words):
        answer = "unreadable"
    shaky = sum(word.answer == LABELS[1] for word in words)
    return Gathered(name, probability, answer, len(words), len(known), shaky, scaled)


def mean_probability(probabilities: Sequence[float]) -> float | None:
    """Mean in log odds, each held within 1e-6 of 0 and 1; None of nothing."""
    if not probabilities:
        return None
    held = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    odds = float(np.mean(np.log(held / (1 - held))))
    return float(1 / (1 + np.exp(-odds)))
