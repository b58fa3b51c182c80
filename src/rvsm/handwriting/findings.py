"""What is found in a set, and what is found about its people and its texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rvsm.handwriting.linear import WITHIN, Level, linear_scores
from rvsm.handwriting.manifest import PERSON, UNSPLIT, Row
from rvsm.text import some


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its name, how it stands, and a sentence."""

    name: str
    level: Level
    text: str


def persons_apart(rows: Sequence[Row]) -> Finding:
    """Whether the people of the other splits are strangers to the training split.

    A fault where they are not: scores on a split with people known from training say nothing of
    new people.
    """
    name = "persons apart"
    people: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.carrier_kind == PERSON:
            people[row.split].add(row.carrier)
    splits = list(dict.fromkeys(row.split for row in rows))
    if not people:
        return Finding(
            name, "warning", "cannot be checked: no person is known; give --person 'REGEX'"
        )
    if splits == [UNSPLIT]:
        text = f"{len(people[UNSPLIT])} people and no published split: split by person"
        return Finding(name, "fine", text)
    told = []
    for number, split in enumerate(splits):
        for other in splits[:number]:
            if common := people[split] & people[other]:
                pair = sorted((split, other), key=lambda s: (s != "test", s != "val", s))
                told.append(
                    f"{len(common)} of {len(people[pair[0]])} of {pair[0]} are in {pair[1]}"
                )
    if told:
        text = "; ".join(told) + ": split by person, or scores say nothing of new people"
        return Finding(name, "fault", text)
    return Finding(name, "fine", "no person is in two splits")


def persons_known(rows: Sequence[Row]) -> Finding:
    """Whether every picture has a person, and how many each drew."""
    name = "persons known"
    known = Counter(row.carrier for row in rows if row.carrier_kind == PERSON)
    missing = [row.file for row in rows if row.carrier_kind != PERSON]
    if missing:
        text = f"{len(missing)} of {len(rows)} pictures have no person: {some(missing)}"
        return Finding(name, "warning", text)
    labels = defaultdict(set)
    for row in rows:
        labels[row.carrier].add(row.label)
    both = [person for person, found in labels.items() if len(found) > 1]
    each = sorted(known.values())
    text = f"{len(known)} people with {each[0]} to {each[-1]} pictures each"
    if both:
        text += f"; {len(both)} are in both classes: {some(both)}"
    return Finding(name, "fine", text)


def text_cue(rows: Sequence[Row]) -> Finding:
    """Whether the text tells the class: a linear model on how often it has each letter.

    It is fitted and scored as the one on global features is, see `linear.linear_scores`; texts that
    are not known are left out. No picture shows a tremor without showing letters, and what a tremor
    does to the picture can be matched by other letters only, so they never tell nothing: a fault is
    only what is more than 5 points above chance by the whole 95 % interval, a score whose interval
    reaches below that a warning.
    """
    name = "texts and classes"
    known = [row for row in rows if row.text]
    letters = sorted({letter for row in known for letter in row.text})
    counts = [[float(row.text.count(letter)) for letter in letters] for row in known]
    scores = linear_scores(known, np.array(counts))[0] if known else []
    scores = [score for score in scores if score.band_mm is None]
    if not scores:
        return Finding(name, "fine", "too few texts are known to try whether they tell the class")
    worst = max(scores, key=lambda s: (s.low, s.accuracy))
    text = (
        f"the letters of the text alone tell the class with {worst.accuracy:.1%} balanced accuracy "
        f"[{worst.low:.1%}, {worst.high:.1%}] on {worst.split}"
    )
    levels: tuple[Level, ...] = ("fine", "warning", "fault")
    passed = sum(value > 0.5 + WITHIN for value in (worst.low, worst.accuracy))
    return Finding(name, levels[passed], text)
