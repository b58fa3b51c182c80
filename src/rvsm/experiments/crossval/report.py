"""The study as one HTML page in the style of the other reports: no network, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rvsm import __version__
from rvsm.atomic import atomic_text
from rvsm.experiments.crossval.metrics import MEASURES
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH
from rvsm.experiments.report.page import filled
from rvsm.experiments.report.sections import calming_line
from rvsm.experiments.report.svg import Axis, Chart, legend_mark, linear_axis
from rvsm.experiments.report.tables import percent
from rvsm.text import by_reason

FILE_NAME = "report.html"
MEASURE_WORDS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "ROC AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
LEVEL_WORDS = {"person": "Per person", "image": "Per image"}
ARM_WORDS = {
    "majority": "majority class",
    "hog": "HOG + logistic regression",
    "amplitude": "tremor amplitude alone",
    "dense": "dense network",
    "sparse": "sparse network",
    SCRATCH: "dense, from scratch",
    PLAIN: "dense, not augmented",
}
_SHORT = {"hog": "HOG", SCRATCH: "scratch", PLAIN: "plain"}
_LOOKS = {
    "majority": ("quiet", "circle"),
    "hog": ("m-l1", "square"),
    "amplitude": ("m-other", "square"),
    "dense": ("m-dense", "circle"),
    SCRATCH: ("m-other", "diamond"),
    PLAIN: ("m-transformed-l1", "diamond"),
    "sparse": ("m-l0", "triangle"),
}
Row = Mapping[str, Any]


def write_report(out: Path, results: Mapping[str, Any]) -> Path:
    """Write `report.html` beside ``results.json``.

    Raises
    ------
    RvsmError
        The file cannot be written.
    """
    target = out / FILE_NAME
    atomic_text(target, render(out.resolve().name, results))
    return target


def render(title: str, results: Mapping[str, Any]) -> str:
    """The page; every word from a file is escaped."""
    rows = results["rows"]
    told = [row for row in rows if row["arm"] != "majority"]
    featured = rows[-1]
    return filled(
        "rvsm.experiments.crossval",
        tremor=calming_line(),
        title=title,
        results=results,
        featured=featured,
        arm_words=ARM_WORDS,
        lead=lead(featured, results),
        tiles=tiles(featured),
        tables=[(LEVEL_WORDS[level], table(rows, level)) for level in LEVEL_WORDS],
        measures=MEASURE_WORDS,
        differences=[difference(found) for found in results["differences"]],
        interval_charts=[
            (f"{MEASURE_WORDS[name]}, {LEVEL_WORDS['person'].lower()}", interval_chart(rows, name))
            for name in ("balanced_accuracy", "auc")
        ],
        calibration_charts=[(ARM_WORDS[r["arm"]], calibration_chart(r), r) for r in told],
        left_out=by_reason(results["data"]["skipped"]),
        people_chart=people_chart(featured, results["data"]["classes"]),
        legend=lambda arm: legend_mark(*_LOOKS[arm]),
        percent=percent,
        written=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        version=__version__,
    )


def lead(row: Row, results: Mapping[str, Any]) -> str:
    """One sentence that says what came out."""
    people = sum(results["data"]["people"])
    figure = row["person"]["balanced_accuracy"]
    zeros = (
        f", with zeros for {percent(row['zeros'], 1)} of its weights" if row.get("zeros") else ""
    )
    return (
        f"Of {people} people, none seen before, the {ARM_WORDS[row['arm']]} places "
        f"{_share(figure)} rightly (balanced accuracy, {_range(figure)}){zeros}."
    )


def tiles(row: Row) -> list[tuple[str, str, str]]:
    """(number, what it is, interval) of the featured arm, per person."""
    found = [
        (text(name, row["person"][name]), _small(MEASURE_WORDS[name]), spread(name, row, "person"))
        for name in ("balanced_accuracy", "auc", "sensitivity", "specificity")
    ]
    if row.get("zeros"):
        found.append(
            (percent(row["zeros"], 1), "zeros, all weights", f"{row['nonzeros']:,.0f} left")
        )
    return found


def table(rows: Sequence[Row], level: str) -> list[dict[str, Any]]:
    """Lines of a table: an arm, its figures with intervals, its zeros."""
    return [
        {
            "arm": row["arm"],
            "cells": [
                (text(name, row[level][name]), spread(name, row, level)) for name in MEASURES
            ],
            "zeros": percent(row["zeros"], 1) if row.get("zeros") is not None else "–",
        }
        for row in rows
    ]


def text(name: str, figure: Mapping[str, Any]) -> str:
    """A figure in the unit of its column."""
    value = figure["value"]
    if value is None:
        return "–"
    return f"{value:.3f}" if name == "auc" else percent(value, 1)


def spread(name: str, row: Row, level: str) -> str:
    """The interval of a figure, in its unit."""
    low, high = row[level][name]["interval"]
    if low is None:
        return ""
    return f"{low:.3f} – {high:.3f}" if name == "auc" else f"{100 * low:.1f} – {100 * high:.1f}"


def _small(words: str) -> str:
    """Without a capital, unless they are an abbreviation."""
    return words if words.isupper() else words.lower()


def _share(figure: Mapping[str, Any]) -> str:
    return "–" if figure["value"] is None else percent(figure["value"], 1)


def _range(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return "no interval" if low is None else f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def difference(found: Mapping[str, Any]) -> dict[str, str]:
    """A line of the table of differences."""
    low, high = found["interval"]
    in_points = found["measure"] != "auc"
    unit, places = (100, 1) if in_points else (1, 3)

    def signed(value: float | None) -> str:
        return "–" if value is None else f"{unit * value:+.{places}f}"

    return {
        "what": f"{ARM_WORDS[found['of']]} − {ARM_WORDS[found['against']]}",
        "level": LEVEL_WORDS[found["level"]].lower(),
        "measure": _small(MEASURE_WORDS[found["measure"]]) + (", points" if in_points else ""),
        "value": signed(found["value"]),
        "interval": f"{signed(low)} to {signed(high)}",
    }


def interval_chart(rows: Sequence[Row], name: str) -> Markup:
    """Each arm's figure per person as a point with its interval; chance at one half."""
    ticks = tuple((float(i), _SHORT.get(r["arm"]) or str(r["arm"])) for i, r in enumerate(rows))
    x = Axis(-0.6, len(rows) - 0.4, "", ticks)
    known = [(i, r, r["person"][name]) for i, r in enumerate(rows)]
    drawn = [(i, r, f) for i, r, f in known if f["value"] is not None]
    bounds = [b for _, _, f in drawn for b in f["interval"] if b is not None]
    y = linear_axis([0.5, *bounds, *(f["value"] for *_, f in drawn)], "", percent=name != "auc")
    chart = Chart(x, y, f"{MEASURE_WORDS[name]} of each arm, with intervals")
    chart.level(0.5, "quiet")
    for i, row, figure in drawn:
        colour, marker = _LOOKS[row["arm"]]
        low, high = figure["interval"]
        if low is not None:
            chart.line([i, i], [low, high], colour)
        chart.point(i, figure["value"], colour, marker, f"{row['arm']}: {text(name, figure)}", 5)
    return chart.svg()


def calibration_chart(row: Row) -> Markup:
    """What came true against what was said; on the dotted line the two are equal."""
    ticks = tuple((k / 4, f"{25 * k} %") for k in range(5))
    chart = Chart(
        Axis(0, 1, "probability said", ticks), Axis(0, 1, "", ticks),
        f"Calibration of {row['arm']}", 340, 300,
    )  # fmt: skip
    chart.line([0, 1], [0, 1], "quiet", "dotted")
    colour, marker = _LOOKS[row["arm"]]
    for entry in row["calibration"]["curve"]:
        chart.line([entry["said"]] * 2, [entry["low"], entry["high"]], colour, "thin")
        words = (
            f"said {percent(entry['said'], 0)}, true {percent(entry['true'], 0)}, n {entry['n']}"
        )
        chart.point(entry["said"], entry["true"], colour, marker, words)
    return chart.svg()


def people_chart(row: Row, classes: Sequence[str]) -> Markup:
    """Every person once: the probability said, in the lane of the true class."""
    x = Axis(0, 1, f"probability of {classes[1]}", tuple((k / 4, f"{25 * k} %") for k in range(5)))
    lanes = tuple((float(lane), classes[lane][:9]) for lane in (0, 1))
    chart = Chart(x, Axis(-0.6, 1.6, "", lanes), "Every person's probability", 960, 240)
    for place, person in enumerate(sorted(row["people"], key=lambda p: p["probability"])):
        label = person["label"]
        aside = 0.28 * ((place * 7) % 5 - 2) / 2
        words = f"{person['person']}, truly {classes[label]}: {percent(person['probability'], 0)}"
        chart.point(person["probability"], label + aside, f"s{1 + label}", "circle", words, 4)
    return chart.svg()
