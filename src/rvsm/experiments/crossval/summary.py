"""From the answers of all folds to figures with intervals, per image and per person."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from rvsm.atomic import atomic_text
from rvsm.experiments.calibration import calibration_error, log_loss, reliability
from rvsm.experiments.crossval.bootstrap import DRAWS, interval, sampled
from rvsm.experiments.crossval.cases import Cases
from rvsm.experiments.crossval.metrics import MEASURES, Answers, Reals, by_person
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH, Settings
from rvsm.experiments.gather import NOTICE

NOTE = (
    NOTICE,
    "People are held out, never images: nobody a figure is of was seen in training, in choosing "
    "start, strength, penalty or epochs, or in calibrating; that was done on inner folds of the "
    "other people.",
    "A person's answer is the mean log-odds of the person's images. The answer is positive where "
    "the log-odds exceed those of the training part's share of positives, which balances "
    "sensitivity and specificity; an AUC ranks by how far they are above it, as folds differ in "
    "it. The majority class of all images is one answer for everybody.",
    "Intervals are 95 % percentile intervals over people drawn with replacement, within their "
    "class; figures are means over the repetitions. They do not tell how another set of training "
    "people would do.",
)
"""What a reader of the figures has to know."""

_PAIRS = (
    ("sparse", "dense"),
    ("sparse", "hog"),
    ("dense", "hog"),
    ("sparse", "amplitude"),
    ("dense", "amplitude"),
    ("dense", SCRATCH),
    ("dense", PLAIN),
)
_COMPARED = ("balanced_accuracy", "auc")
Folds = Sequence[Mapping[str, Any]]
Level = str


def summarise(cases: Cases, settings: Settings, folds: Folds) -> dict[str, Any]:
    """The content of ``results.json`` but for what the machine is.

    Parameters
    ----------
    cases : Cases
    settings : Settings
    folds : sequence of dict
        What each fold's file holds.
    """
    arms = [arm for arm in settings.compared() if all(arm in f["answers"] for f in folds)]
    samples: dict[tuple[str, Level], dict[str, Reals]] = {}
    rows = []
    for arm in arms:
        repeats = _repeats(cases, folds, arm)
        row: dict[str, Any] = {"arm": arm, **_networks(folds, arm)}
        of_people = [by_person(answers) for answers in repeats]
        for level, parts in (("image", repeats), ("person", of_people)):
            figures, samples[arm, level] = sampled(parts, DRAWS, settings.seed)
            row[level] = {
                name: {"value": figures[name], "interval": interval(samples[arm, level][name])}
                for name in MEASURES
            }
        people = _people(cases, folds, arm)
        row["calibration"] = _calibration(people)
        wrong = np.mean([(a.scores > 0) != (a.labels == 1) for a in of_people], axis=0)
        told = zip(people.people, people.labels, people.scores, wrong, strict=True)
        row["people"] = [
            {
                "person": cases.names[who],
                "label": int(label),
                "probability": float(expit(z)),
                "wrong": float(share),
            }
            for who, label, z, share in told
        ]
        rows.append(row)
    results: dict[str, Any] = {
        "note": list(NOTE),
        "data": _data(cases),
        "settings": asdict(settings),
        "rows": rows,
        "differences": _differences(rows, samples),
        "people_draws": DRAWS,
    }
    return {key: _finite(value) for key, value in results.items()}


def _repeats(cases: Cases, folds: Folds, arm: str) -> list[Answers]:
    """The arm's answers in each repetition: every image once, scores above 0 positive."""
    found: dict[int, Reals] = {}
    for fold in folds:
        answer = fold["answers"][arm]
        scores = found.setdefault(fold["repeat"], np.full(len(cases.cases), np.nan))
        scores[fold["test"]] = np.array(answer["log_odds"]) - answer["cut"]
    return [Answers(scores, cases.labels, cases.people) for scores in found.values()]


def _data(cases: Cases) -> dict[str, Any]:
    labels, people = cases.labels, cases.people
    return {
        "folder": str(cases.folder),
        "classes": list(cases.classes),
        "images": [int((labels == c).sum()) for c in (0, 1)],
        "people": [len(np.unique(people[labels == c])) for c in (0, 1)],
        "people_with_both": cases.both_classes(),
        "reading": cases.reading,
        "skipped": cases.skipped,
    }


def _networks(folds: Folds, arm: str) -> dict[str, Any]:
    """What the inner folds chose, how often, and the zeros of what was chosen."""
    answers = [fold["answers"][arm] for fold in folds]
    chosen = [answer.get("chosen", "") for answer in answers]
    told: dict[str, Any] = {
        "chosen": {name: chosen.count(name) for name in sorted(set(chosen)) if name},
        "seconds": sum(answer.get("seconds", 0.0) for answer in answers),
    }
    starts = [start for answer in answers if (start := answer.get("start"))]
    if starts:
        told["starts"] = {name: starts.count(name) for name in sorted(set(starts))}
    zeros = [answer["zeros"] for answer in answers if answer.get("zeros") is not None]
    if zeros:
        told["zeros"] = float(np.mean(zeros))
        told["zeros_least"] = float(np.min(zeros))
        told["nonzeros"] = float(np.mean([answer["nonzeros"] for answer in answers]))
        # Starts and pools have networks of several sizes.
        told["weights"] = round(float(np.mean([answer["weights"] for answer in answers])))
    return told


def _people(cases: Cases, folds: Folds, arm: str) -> Answers:
    """Each person's mean log-odds over images and repetitions."""
    total, count = np.zeros(len(cases.cases)), np.zeros(len(cases.cases))
    for fold in folds:
        total[fold["test"]] += fold["answers"][arm]["log_odds"]
        count[fold["test"]] += 1
    return by_person(Answers(total / count, cases.labels, cases.people))


def _calibration(people: Answers) -> dict[str, Any]:
    """What the probabilities of people are worth: each person counts once."""
    probabilities = np.asarray(expit(people.scores))
    curve = reliability(probabilities, people.labels)
    return {
        "curve": [asdict(b) for b in curve],
        "error": calibration_error(curve),
        "brier": float(np.mean((probabilities - people.labels) ** 2)),
        "log_loss": log_loss(people.scores, people.labels),
    }


def _differences(
    rows: Sequence[Mapping[str, Any]], samples: Mapping[tuple[str, Level], Mapping[str, Reals]]
) -> list[dict[str, Any]]:
    """Differences of two arms on the same draws of people."""
    by_arm = {row["arm"]: row for row in rows}
    found = []
    for first, second in _PAIRS:
        if first not in by_arm or second not in by_arm:
            continue
        for level in ("image", "person"):
            for name in _COMPARED:
                a, b = (by_arm[arm][level][name]["value"] for arm in (first, second))
                drawn = samples[first, level][name] - samples[second, level][name]
                found.append(
                    {
                        "of": first,
                        "against": second,
                        "level": level,
                        "measure": name,
                        "value": a - b,
                        "interval": interval(drawn),
                    }
                )
    return found


def write_predictions(path: Path, cases: Cases, folds: Folds) -> None:
    """One line for each arm, repetition and image; all figures can be computed from them again.

    Log-odds and cut stand there in full: of probabilities near 1 the printed digits keep no order.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = "arm repeat fold file person label probability answer log_odds cut"
    writer.writerow(columns.split())
    for fold in folds:
        for arm, answer in fold["answers"].items():
            for place, log_odds in zip(fold["test"], answer["log_odds"], strict=True):
                case = cases.cases[place]
                told = cases.classes[int(log_odds > answer["cut"])]
                truth = cases.classes[case.label]
                line = (arm, fold["repeat"], fold["fold"], case.file, case.person, truth)
                said = (f"{float(expit(log_odds)):.6f}", told, log_odds, answer["cut"])
                writer.writerow((*line, *said))
    atomic_text(path, text.getvalue())


def _finite(value: Any) -> Any:
    """The same with None for numbers that are none, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
