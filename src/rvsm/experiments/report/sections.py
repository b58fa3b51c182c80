"""The words and pictures of every section, ready for the template."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup

from rvsm import __version__
from rvsm.experiments.config import CONFIG_FILE, TrainConfig
from rvsm.experiments.report import gallery, making, plots, sheets
from rvsm.experiments.report.amplitude import Detection, detection
from rvsm.experiments.report.gallery import Example, Examples
from rvsm.experiments.report.sheets import Layer, Sheet
from rvsm.experiments.report.source import Row, Run, Study, View
from rvsm.experiments.report.svg import legend_mark
from rvsm.experiments.report.tables import (
    Figure,
    TableRow,
    headline,
    method_order,
    percent,
    short_cuts,
)
from rvsm.experiments.runs import CHOSEN_BY

KINDS = {"right": "Right", "wrong": "Wrong", "uncertain": "Uncertain"}
KIND_WORDS = {
    "right": "Drawn at random from what was classified rightly by",
    "wrong": "The most confident mistakes of",
    "uncertain": "Nearest to P(shaky) = 0.5, between 0.05 and 0.95, of",
}
LABELS = {
    "accuracy": "Test accuracy",
    "difference": "Against dense",
    "accuracy_one_view": "Of one view",
    "auc": "ROC AUC",
    "fc_zeros": "Zeros, FC layer",
    "zeros": "Zeros, all",
    "nonzeros": "Weights left",
}
"""Columns of the table of results; on a narrow screen, what stands before each figure."""

SHARES = (50, 90, 99)


@dataclass
class Block:
    """Everything the template prints for one task and set."""

    title: str
    heading: str
    measured_on: str
    lead: str
    tiles: list[tuple[str, str, str]]
    table: list[TableRow]
    methods: list[str]
    featured: str = ""
    shown_method: str = ""
    amplitude: list[tuple[str, Markup]] = field(default_factory=list)
    amplitude_methods: list[str] = field(default_factory=list)
    amplitude_table: list[tuple[str, list[str]]] = field(default_factory=list)
    amplitude_where: str = ""
    strip: list[Example] = field(default_factory=list)
    sparsity: list[tuple[str, Markup]] = field(default_factory=list)
    swept: bool = False
    training: list[tuple[str, Markup]] = field(default_factory=list)
    layer_growth: Markup | None = None
    layer_names: list[str] = field(default_factory=list)
    maps: list[Sheet] = field(default_factory=list)
    filters: list[Sheet] = field(default_factory=list)
    kernels: list[Sheet] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    examples: Examples = field(default_factory=lambda: Examples({}, ""))
    contact: dict[str, list[Example]] = field(default_factory=dict)
    contact_where: str = ""
    making: str = ""
    shift: str = ""
    chosen: str = ""
    facts: list[dict[str, str]] = field(default_factory=list)
    short_cuts: list[dict[str, str]] = field(default_factory=list)
    findings: list[dict[str, str]] = field(default_factory=list)
    checked: int = 0
    starts: list[str] = field(default_factory=list)
    config: str = ""


def context(study: Study) -> dict[str, Any]:
    """The template's variables. Reads images and runs the featured networks: some seconds."""
    blocks = [_block(view) for view in study.views]
    featured = next((v.featured for v in study.views if v.featured), None)
    return {
        "title": "Shaky or regular?",
        "folder": study.folder.resolve().name,
        "single": study.single,
        "notes": study.note.splitlines(),
        "starts": _starts([row for view in study.views for row in view.rows]),
        "blocks": blocks,
        "protocols": making.protocols(study.views),
        "caveats": _caveats(study),
        "labels": LABELS,
        "methods": method_order(m for b in blocks for m in b.methods),
        "kinds": KINDS,
        "kind_words": KIND_WORDS,
        "tremor": calming_line(),
        "environment": _environment(featured),
        "written": datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "version": __version__,
        "legend": lambda method: legend_mark(plots.colour(method), plots.marker(method)),
        "colour": plots.colour,
        "percent": percent,
        "shares": SHARES,
        "missing": study.all_missing(),
    }


def _block(view: View) -> Block:
    run = view.featured
    block = Block(
        title=view.title,
        heading=_heading(view),
        measured_on=_measured_on(view),
        lead=_lead(view, run),
        tiles=_tiles(view, run),
        table=headline(view.rows),
        methods=method_order([*(r.method for r in view.rows), *(r.method for r in view.runs)]),
        featured=run.name if run else "",
        shown_method=run.method if run else "",
        making=making.told(view),
        # Of other images nobody knows how large a pixel is.
        shift="up to 0.8 mm" if making.kind(view) in ("texts", "words") else "a few pixels",
        chosen=_chosen(view.runs),
        starts=_starts(view.rows),
    )
    images = gallery.images_of(view)
    block.facts = gallery.split_facts(images)
    block.short_cuts, block.findings = short_cuts(view.check), view.check.get("findings", [])
    block.checked = int(view.check.get("most_per_split", 0))
    _amplitude(block, view)
    for protocol in dict.fromkeys(row.protocol for row in view.rows):
        chart = plots.sparsity_chart(view.rows, view.sweep, protocol)
        if chart:
            block.sparsity.append((protocol, chart))
    block.swept = bool(view.sweep)
    block.training = plots.training_charts(view.runs)
    block.maps, block.filters = sheets.maps(view), sheets.filters(view)
    block.contact, block.contact_where = gallery.contact_sheet(view, images.read)
    if run:
        block.strip = gallery.amplitude_strip(view, run, images.read)
        block.layer_growth = plots.zeros_chart(run)
        block.layer_names = plots.layer_names(run)
        block.kernels, block.layers = sheets.kernels(run), sheets.layers(run)
        block.examples = gallery.examples(view, run, images.read)
        path = run.path / CONFIG_FILE
        block.config = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return block


# --- words -------------------------------------------------------------------------------------


def _heading(view: View) -> str:
    task = {
        "fonts": "Texts in different fonts",
        "pen": "Words written with a pen",
        "words": "Real handwritten words",
        "spiral": "Spirals",
        "wave": "Waves",
    }
    words = task.get(view.task, view.task or "This run")
    return f"{words}, {view.set} set" if view.set else words


def _measured_on(view: View) -> str:
    seeds = sorted({row.seed for row in view.rows})
    sizes = next((row.split_sizes for row in view.rows if row.split_sizes), {})
    parts = [view.title]
    if "seed" in view.origin:
        parts.append(f"data seed {view.origin['seed']}")
    if seeds:
        parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    if sizes:
        parts.append("images: " + ", ".join(f"{n:,} {name}" for name, n in sizes.items()))
    return " · ".join(parts)


def _rows_of(view: View, method: str, protocol: str) -> list[Row]:
    return [row for row in view.rows if (row.method, row.protocol) == (method, protocol)]


def _lead(view: View, run: Run | None) -> str:
    """One sentence that says what came out, under the hardest protocol there is."""
    method = run.method if run else next((r.method for r in view.rows), "")
    for protocol in ("unseen", "paper", *(r.protocol for r in view.rows)):
        rows = _rows_of(view, method, protocol)
        if rows:
            break
    else:
        return "No test results have been written for this run yet."
    accuracy = Figure.of([r.accuracy for r in rows]).mean
    zeros = Figure.of([r.zeros for r in rows]).mean
    verb = (
        "keeps every weight" if zeros == 0 else f"has zeros for {percent(zeros, 1)} of its weights"
    )
    return (
        f"On {making.where(view, protocol)}, the {method} network is right for "
        f"{percent(accuracy, 1)} of the images and {verb}."
    )


def _tiles(view: View, run: Run | None) -> list[tuple[str, str, str]]:
    """(number, what it is, spread) of the featured method."""
    if run is None:
        return []
    tiles = []
    for protocol in dict.fromkeys(row.protocol for row in view.rows):
        rows = _rows_of(view, run.method, protocol)
        figure = Figure.of([r.accuracy for r in rows])
        if figure.n:
            tiles.append((percent(figure.mean), f"test accuracy, protocol {protocol}", _n(figure)))
    rows = [row for row in view.rows if row.method == run.method]
    zeros, left = Figure.of([r.fc_zeros for r in rows]), Figure.of([r.nonzeros for r in rows])
    if zeros.n:
        tiles.append((percent(zeros.mean), "zeros in the fully connected layer", ""))
    if left.n:
        tiles.append((f"{left.mean:,.0f}", "weights left in the whole network", ""))
    return tiles


def _n(figure: Figure) -> str:
    return f"± {100 * figure.sd:.2f}, n = {figure.n}" if figure.n > 1 else f"n = {figure.n}"


def _starts(rows: Sequence[Row]) -> list[str]:
    """Which methods did not start from scratch, and from what."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.start and row.start != "scratch":
            found.setdefault(row.start, []).append(row.method)
    return [
        f"{', '.join(method_order(methods))} started from "
        + ("the dense network trained first" if start == "dense" else start)
        + ", whose epochs come on top"
        for start, methods in found.items()
    ]


def _chosen(runs: Sequence[Run]) -> str:
    """Which epoch of a run is its model."""
    default = TrainConfig.model_fields["select"].default
    told = [CHOSEN_BY.get(str(run.config.get("select", default)), "") for run in runs]
    return " or ".join(dict.fromkeys(words for words in told if words))


def _caveats(study: Study) -> list[tuple[str, str]]:
    """What a reader must not make of the numbers: a heading and a sentence each."""
    views = study.views
    made = "Nothing here was measured on patients, and no" if making.simulated(views) else "No"
    ours = [making.kind(view) for view in views]
    paper = "whose full text could not be obtained: "
    if all(kind == "texts" for kind in ours):
        paper += "image sizes, fonts, strengths and tables are ours, and "
    caveats = [
        (
            "Research use, not a diagnosis.",
            ("The networks were trained on simulated tremor. " if made != "No" else "")
            + f"{made} verdict says anything about a person's health.",
        ),
        (
            "Our own protocol.",
            f"This follows Xue & Xin 2019 (arXiv 1902.07419), {paper}no number here is theirs.",
        ),
    ]
    if study.single and (chosen := _chosen(views[0].runs)):
        sentence = f"It is {chosen}; the test images were read after training."
        caveats.append(("What chose the model.", sentence))
    if not study.single and not all(row.data for view in views for row in view.rows):
        sentence = "Not all of these runs noted of which data seed and generator their images are."
        caveats.append(("Data partly unknown.", sentence))
    if all(kind in ("texts", "words") for kind in ours):
        caveats.append(("Splits.", "Fonts, writers and texts are split, never single images."))
    return caveats


def calming_line() -> str:
    """The ornament of the page: a pen line whose tremor dies away (5 Hz at 14 mm/s)."""
    x = np.linspace(0, 1080, 540)
    calm = 30 + 9 * np.sin(x / 75) + 4 * np.sin(x / 31 + 1)
    tremor = 11 * np.exp(-((x / 520) ** 2)) * np.sin(x / 3.4 + 1.5 * np.sin(x / 60))
    y = calm + tremor * (1 + 0.4 * np.sin(x / 47))
    return "M" + "L".join(f"{a:.0f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _environment(run: Run | None) -> list[tuple[str, str]]:
    known = run.environment if run else {}
    packages = known.get("packages")
    flat = {**known, **packages} if isinstance(packages, dict) else known
    facts = [
        (str(key).replace("_", " "), str(value))
        for key, value in flat.items()
        if isinstance(value, str | int | float)
    ]
    return facts or [("report written with Python", platform.python_version())]


# --- amplitude -----------------------------------------------------------------------------------


def _amplitude(block: Block, view: View) -> None:
    curves: dict[str, Detection] = {}
    for method in block.methods:
        tables = [run.predictions for run in view.runs if run.method == method]
        curve = detection([table for table in tables if table is not None])
        if curve:
            curves[method] = curve
    if not curves:
        return
    accuracy = plots.accuracy_chart(curves)
    if accuracy:
        block.amplitude.append(("Accuracy", accuracy))
    block.amplitude.append(("Shaky writing detected", plots.detection_chart(curves)))
    block.amplitude_methods = list(curves)
    first = next(iter(curves.values()))
    block.amplitude_where = (
        f"{first.shaky_images:,} shaky images with amplitudes drawn log-uniformly and "
        f"{first.regular_images:,} regular ones, split curve"
    )
    for method, curve in curves.items():
        reached = [curve.amplitude_at(share / 100) for share in SHARES]
        words = [f"{mm:.2f}" if math.isfinite(mm) else "never" for mm in reached]
        block.amplitude_table.append((method, [*words, percent(curve.false_alarm, 1)]))
