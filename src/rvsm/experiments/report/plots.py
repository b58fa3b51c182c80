"""The report's curves: detection over amplitude, accuracy over sparsity, training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from rvsm.experiments.config import METHODS
from rvsm.experiments.report.amplitude import Detection, Rate
from rvsm.experiments.report.source import Floats, Row, Run
from rvsm.experiments.report.svg import MARKERS, Axis, Chart, linear_axis, log_axis
from rvsm.experiments.report.tables import method_order, percent

MAX_POINTS = 160
_PANEL = (340, 230)
# Columns of metrics.csv (the second dotted), title of the panel, percent axis, may be logarithmic.
PANELS = (
    (("val_accuracy",), "Validation accuracy", True, False),
    (("val_loss", "train_loss"), "Loss: validation, and training (dotted)", False, True),
    (("lagrangian",), "Relaxed Lagrangian", False, True),
    (("gap",), "Distance ‖w − u‖", False, True),
    (("zeros/all",), "Zeros among all weights", True, False),
)
SPLIT_ONLY = ("lagrangian", "gap", "zeros/all")
_AMPLITUDE_TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0)


def colour(method: str) -> str:
    """CSS class that gives a method its colour."""
    return f"m-{method}" if method in METHODS else "m-other"


def marker(method: str) -> str:
    """Shape that tells a method apart without its colour."""
    return MARKERS[METHODS.index(method)] if method in METHODS else "circle"


def accuracy_chart(curves: Mapping[str, Detection]) -> Markup | None:
    """Accuracy over amplitude with 95 % bands; guessing would give one half."""
    rates = {method: curve.accuracy for method, curve in curves.items() if curve.accuracy}
    if not rates:
        return None
    chart = _amplitude_chart(rates, 0.5, "Accuracy over tremor amplitude")
    return chart.svg()


def detection_chart(curves: Mapping[str, Detection]) -> Markup:
    """Detection rate over amplitude with 95 % bands; dashed, each method's false alarms."""
    rates = {method: curve.found for method, curve in curves.items()}
    chart = _amplitude_chart(rates, 0.0, "Share of shaky writing detected over tremor amplitude")
    for method, curve in curves.items():
        if math.isfinite(curve.false_alarm):
            chart.level(curve.false_alarm, colour(method))
    return chart.svg()


def _amplitude_chart(rates: Mapping[str, Rate], floor: float, summary: str) -> Chart:
    low = min(float(rate.mm.min()) for rate in rates.values())
    high = max(float(rate.mm.max()) for rate in rates.values())
    if low == high:  # few images make one bin
        low, high = low / 1.2, high * 1.2
    ticks = tuple((t, f"{t:g}") for t in _AMPLITUDE_TICKS if low * 0.95 <= t <= high * 1.05)
    x = Axis(low, high, "RMS tremor amplitude, mm (log scale)", ticks, log=True)
    lowest = min(floor, *(float(rate.low.min()) for rate in rates.values()))
    y = linear_axis([lowest, 1.0], "", percent=True)
    chart = Chart(x, y, summary)
    for method, rate in rates.items():
        chart.band(list(rate.mm), list(rate.low), list(rate.high), colour(method))
    for method, rate in rates.items():
        chart.line(list(rate.mm), list(rate.share), colour(method))
        for mm, share in zip(rate.mm, rate.share, strict=True):
            words = f"{method}: {percent(float(share), 1)} at {mm:.2f} mm"
            chart.point(float(mm), float(share), colour(method), marker(method), words, 3)
    return chart


def sparsity_chart(rows: Sequence[Row], sweep: Sequence[Row], protocol: str) -> Markup | None:
    """Test accuracy over the share of zeros, on a scale that spreads the last per cents out."""
    shown = [r for r in rows if r.protocol == protocol and r.zeros < 1 and r.accuracy >= 0]
    swept = [r for r in sweep if r.protocol == protocol and r.zeros < 1 and r.accuracy >= 0]
    if not shown and not swept:
        return None
    kept = [1 - r.zeros for r in [*shown, *swept]]
    lowest = min(*kept, 0.5)
    candidates = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
    ticks = tuple((1 - z, f"{100 * z:g} %") for z in candidates if 1 - z >= lowest * 0.85)
    x = Axis(1.15, lowest * 0.85, "zeros among all weights", ticks, log=True)
    right = [r.accuracy for r in [*shown, *swept]]
    room = 0.04 * (max(right) - min(right))  # keeps markers off the axis
    y = linear_axis([min(right) - room, *right], "", percent=True)
    chart = Chart(x, y, f"Accuracy over sparsity, protocol {protocol}")
    order = method_order(r.method for r in shown)
    places = [(row, 2.6, 0.0) for row in swept]
    for row in shown:
        aside = 9 * (order.index(row.method) - (len(order) - 1) / 2)
        places.append((row, 5.0, 0.0 if row.method == "dense" else aside))
    for row, size, aside in places:
        look = (colour(row.method), marker(row.method), _tell(row))
        chart.point(1 - row.zeros, row.accuracy, *look, size=size, aside=aside)
    return chart.svg()


def _tell(row: Row) -> str:
    return (
        f"{row.method}, seed {row.seed}: {percent(row.accuracy)} right, "
        f"{percent(row.zeros)} zeros ({row.nonzeros:,.0f} weights left)"
    )


def training_charts(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    """One panel per logged quantity; a line per run, coloured by its method.

    A dense run has no splitting, so the panels of the splitting leave it out.
    """
    panels = []
    for columns, title, is_percent, may_log in PANELS:
        lines = []
        for run in runs:
            metrics = run.metrics or {}
            if run.method == "dense" and columns[0] in SPLIT_ONLY:
                continue
            for column, style in zip(columns, ("slim", "dotted"), strict=False):
                values = metrics.get(column)
                if "epoch" in metrics and values is not None and np.isfinite(values).any():
                    lines.append(Series(run.method, style, metrics["epoch"] + 1, values))
        if lines:
            panels.append((title, _panel(title, lines, is_percent, may_log)))
    return panels


def zeros_chart(run: Run) -> Markup | None:
    """Zeros of every layer of one run over its epochs."""
    metrics = run.metrics or {}
    layers = layer_names(run)
    if "epoch" not in metrics or not layers:
        return None
    epochs = metrics["epoch"] + 1
    x, y = _epoch_axis([epochs]), linear_axis([0, 1], "", percent=True)
    chart = Chart(x, y, f"Zeros per layer, {run.name}", *_PANEL)
    for number, layer in enumerate(layers):
        chart.line(list(epochs), list(metrics[f"zeros/{layer}"]), f"s{number % 4 + 1}")
    return chart.svg()


def layer_names(run: Run) -> list[str]:
    """The layers of `zeros_chart`, in the order of its colours."""
    return [
        column.removeprefix("zeros/")
        for column, values in (run.metrics or {}).items()
        if column.startswith("zeros/") and column != "zeros/all" and np.isfinite(values).any()
    ]


@dataclass(frozen=True)
class Series:
    """A line of a training panel."""

    method: str
    style: str
    epochs: Floats
    values: Floats


def _panel(title: str, lines: Sequence[Series], is_percent: bool, may_log: bool) -> Markup:
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    log = may_log and values.min() > 0 and values.max() > 20 * values.min()
    y = log_axis(values, "") if log else linear_axis(values, "", percent=is_percent)
    chart = Chart(_epoch_axis([line.epochs for line in lines]), y, title, *_PANEL)
    for line in lines:
        last = len(line.epochs) - 1
        keep = np.unique(np.linspace(0, last, MAX_POINTS).round().astype(int))
        epochs, series = list(line.epochs[keep]), list(line.values[keep])
        chart.line(epochs, series, colour(line.method), line.style)
        if last == 0:
            chart.point(epochs[0], series[0], colour(line.method), marker(line.method))
    return chart.svg()


def _epoch_axis(epochs: Sequence[Floats]) -> Axis:
    first = min(float(np.nanmin(e)) for e in epochs)
    span = max(max(float(np.nanmax(e)) for e in epochs) - first, 1.0)
    stride = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if span / s <= 7)
    start = math.ceil(first / stride) * stride
    ticks = tuple((float(e), f"{e}") for e in range(start, int(first + span) + 1, stride))
    return Axis(first, first + span, "epoch", ticks)
