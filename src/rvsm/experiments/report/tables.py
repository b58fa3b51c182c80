"""Numbers of the report: mean, standard deviation and n over seeds, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rvsm.experiments.config import METHODS
from rvsm.experiments.report.source import Row
from rvsm.handwriting.linear import UNDECIDED

COLUMNS = ("accuracy", "accuracy_one_view", "auc", "fc_zeros", "zeros", "nonzeros")


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation of one quantity over n seeds."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        finite = [v for v in values if math.isfinite(v)]
        if not finite:
            return cls(math.nan, math.nan, 0)
        return cls(fmean(finite), stdev(finite) if len(finite) > 1 else math.nan, len(finite))


@dataclass(frozen=True)
class Cell:
    """One printed cell: the mean, its spread, and the raw mean for machines."""

    text: str
    spread: str
    raw: str
    bar: float | None = None


@dataclass(frozen=True)
class TableRow:
    protocol: str
    method: str
    n: int
    cells: dict[str, Cell]
    starts: str


def headline(rows: Sequence[Row]) -> list[TableRow]:
    """One line per protocol and method, protocols as they come, methods from dense to sparse."""
    lines = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        here = [row for row in rows if row.protocol == protocol]
        dense = {row.seed: row.accuracy for row in here if row.method == "dense"}
        for method in method_order(row.method for row in here):
            mine = [row for row in here if row.method == method]
            cells = {
                name: cell(name, Figure.of([getattr(row, name) for row in mine]))
                for name in COLUMNS
            }
            cells["difference"] = _difference(mine, dense)
            starts = ", ".join(sorted({row.start for row in mine if row.start}))
            lines.append(TableRow(protocol, method, len(mine), cells, starts))
    return lines


def method_order(methods: Iterable[str]) -> list[str]:
    """The known methods in their fixed order, then any other as first met."""
    given = list(dict.fromkeys(methods))
    return [m for m in METHODS if m in given] + [m for m in given if m not in METHODS]


def cell(name: str, figure: Figure) -> Cell:
    """Print a figure in the unit of its column: percent, AUC or a count."""
    if figure.n == 0:
        return Cell("–", "", "")
    raw = repr(figure.mean)
    if name == "auc":
        return Cell(f"{figure.mean:.4f}", _spread(figure, 1, 4), raw)
    if name == "nonzeros":
        return Cell(f"{figure.mean:,.0f}", _spread(figure, 1, 0), raw)
    bar = figure.mean if name in ("fc_zeros", "zeros") else None
    return Cell(percent(figure.mean), _spread(figure, 100, 2), raw, bar)


def short_cuts(check: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lines of the table of the linear model on global features, a line per split and band."""
    scored = [
        {
            **_band(score),
            "accuracy": percent(score["accuracy"], 1),
            "interval": f"{percent(score['low'], 1)} – {percent(score['high'], 1)}",
            "verdict": str(score["verdict"])
            + ("" if score.get("decided", True) else f", {UNDECIDED}"),
        }
        for score in check.get("linear", ())
    ]
    small = [
        {**_band(band), "accuracy": "", "interval": "", "verdict": UNDECIDED}
        for band in check.get("small", ())
    ]
    return scored + small


def _band(score: Mapping[str, Any]) -> dict[str, str]:
    return {
        "split": str(score["split"]),
        "band": "all" if score["band_mm"] is None else "–".join(map(str, score["band_mm"])),
        "shaky": f"{score['shaky']:,}",
    }


def percent(fraction: float, places: int = 2) -> str:
    """A fraction as a percentage; one that only rounding makes 100 or 0 keeps its distance."""
    if not math.isfinite(fraction):
        return "–"
    text = f"{100 * fraction:.{places}f}"
    if fraction < 1 and float(text) >= 100:
        text = f"{100 - 10.0**-places:.{places}f}"
    elif fraction > 0 and float(text) <= 0:
        text = f"{10.0**-places:.{places}f}"
    return f"{text} %"


def _spread(figure: Figure, scale: float, places: int) -> str:
    return "" if math.isnan(figure.sd) else f"± {scale * figure.sd:,.{places}f}"


def _difference(rows: Sequence[Row], dense: dict[int, float]) -> Cell:
    """Accuracy minus the dense network's of the same seed, in percentage points."""
    if not rows or rows[0].method == "dense":
        return Cell("", "", "")
    figure = Figure.of([row.accuracy - dense[row.seed] for row in rows if row.seed in dense])
    if figure.n == 0:
        return Cell("–", "", "")
    return Cell(
        f"{100 * figure.mean:+.2f}".replace("-", "−"), _spread(figure, 100, 2), repr(figure.mean)
    )
