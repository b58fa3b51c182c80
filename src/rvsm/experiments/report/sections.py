"""The words and pictures of every section, ready for the template."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from rvsm import __version__
from rvsm.errors import RvsmError
from rvsm.experiments.report import pictures, plots
from rvsm.experiments.report.amplitude import Detection, detection
from rvsm.experiments.report.source import Predictions, Row, Run, Study, View
from rvsm.experiments.report.svg import legend_mark
from rvsm.experiments.report.tables import Figure, TableRow, headline, method_order, percent

if TYPE_CHECKING:
    from torch import Tensor

    from rvsm.handwriting.manifest import Row as ImageRow
    from rvsm.handwriting.network import TremorNet

PROTOCOLS = {
    "paper": "fonts shared with training, texts unseen",
    "unseen": "no font, text or writer of the test was seen in training",
}
EXAMPLE_SPLITS = ("test-unseen", "test-paper", "test")
KINDS = {"right": "Right", "wrong": "Wrong", "uncertain": "Uncertain"}
KIND_WORDS = {
    "right": "Drawn at random from what was classified rightly by",
    "wrong": "The most confident mistakes of",
    "uncertain": "Nearest to P(shaky) = 0.5, between 0.05 and 0.95, of",
}
STRIP = (0.06, 0.12, 0.25, 0.4, 0.7, 1.2)
SHARES = (50, 90, 99)


@dataclass
class Example:
    """One image with what was measured on it."""

    image: str
    truth: str
    caption: str
    overlay: str = ""
    probability: float = math.nan
    called: str = ""


@dataclass
class Sheet:
    """A picture of weights and what is left of them."""

    name: str
    uri: str
    width: int
    height: int
    planes: str
    left: int
    total: int
    words: str
    run: str

    @classmethod
    def of(
        cls,
        name: str,
        planes: npt.NDArray[np.float32],
        columns: int,
        tensor: Tensor,
        words: str = "",
        run: str = "",
    ) -> Sheet:
        """Draw planes (n, height, width); `left` and `total` count the whole tensor."""
        uri, width, height = pictures.weights(planes, columns)
        shape = f"{len(planes)} planes of {planes.shape[1]} × {planes.shape[2]} places"
        left = int((tensor != 0).sum())
        return cls(name, uri, width, height, shape, left, tensor.numel(), words, run)


@dataclass
class Layer:
    name: str
    shape: str
    weights: int
    left: int


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
    examples: dict[str, list[Example]] = field(default_factory=dict)
    example_where: str = ""
    contact: dict[str, list[Example]] = field(default_factory=dict)
    contact_where: str = ""
    facts: list[dict[str, str]] = field(default_factory=list)
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
        "note": study.note,
        "starts": _starts([row for view in study.views for row in view.rows]),
        "blocks": blocks,
        "protocols": PROTOCOLS,
        "methods": method_order(m for b in blocks for m in b.methods),
        "kinds": KINDS,
        "kind_words": KIND_WORDS,
        "tremor": _calming_line(),
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
        starts=_starts(view.rows),
    )
    images = _images(view)
    block.facts = _facts(images)
    _amplitude(block, view, images)
    for protocol in dict.fromkeys(row.protocol for row in view.rows):
        chart = plots.sparsity_chart(view.rows, view.sweep, protocol)
        if chart:
            block.sparsity.append((protocol, chart))
    block.swept = bool(view.sweep)
    block.training = plots.training_charts(view.runs)
    if run:
        block.layer_growth = plots.zeros_chart(run)
        block.layer_names = plots.layer_names(run)
        _weights(block, view, run)
        _examples(block, view, run, images)
        path = run.path / "config.toml"
        block.config = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    _contact(block, view, images)
    return block


# --- words -------------------------------------------------------------------------------------


def _heading(view: View) -> str:
    task = {"fonts": "Texts in different fonts", "pen": "Words written with a pen"}
    words = task.get(view.task, view.task or "This run")
    return f"{words}, {view.set} set" if view.set else words


def _measured_on(view: View) -> str:
    seeds = sorted({row.seed for row in view.rows})
    sizes = next((row.split_sizes for row in view.rows if row.split_sizes), {})
    parts = [view.title]
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
    where = {
        "paper": "texts it never saw, in fonts it knows",
        "unseen": "fonts and texts it never saw",
    }.get(protocol, "the test images")
    verb = (
        "keeps every weight" if zeros == 0 else f"has zeros for {percent(zeros, 1)} of its weights"
    )
    return (
        f"On {where}, the {method} network is right for {percent(accuracy, 1)} of the images "
        f"and {verb}."
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
        f"The networks {', '.join(method_order(methods))} started from "
        + ("the dense network trained first" if start == "dense" else start)
        + ", so their epochs come on top of its own"
        for start, methods in found.items()
    ]


def _facts(images: Mapping[str, ImageRow]) -> list[dict[str, str]]:
    """One line per split of the data folder: images, carriers, texts and amplitudes."""
    lines = []
    for split in dict.fromkeys(row.split for row in images.values()):
        rows = [row for row in images.values() if row.split == split]
        carriers = {row.carrier for row in rows if row.carrier}
        texts = {row.text for row in rows if row.text}
        amplitudes = [row.tremor_amplitude_mm for row in rows if row.tremor_amplitude_mm]
        lines.append(
            {
                "split": split,
                "regular": f"{sum(row.label == 'regular' for row in rows):,}",
                "shaky": f"{sum(row.label == 'shaky' for row in rows):,}",
                "carriers": f"{len(carriers):,}" if carriers else "unknown",
                "texts": f"{len(texts):,}" if texts else "unknown",
                "amplitude": f"{min(amplitudes):.2f}–{max(amplitudes):.2f} mm"
                if amplitudes
                else "unknown",
            }
        )
    return lines


def _calming_line() -> str:
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


def _amplitude(block: Block, view: View, images: Mapping[str, ImageRow]) -> None:
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
    run = view.featured
    table = run.predictions if run else None
    if table is not None and view.data:
        block.strip = _strip(view, table.where((table.split == "curve") & table.shaky), images)


def _strip(view: View, table: Predictions, images: Mapping[str, ImageRow]) -> list[Example]:
    """One image near each amplitude of STRIP, with what the network makes of it."""
    shown = []
    for wanted in STRIP:
        if not len(table) or not table.amplitude_mm.min() <= wanted * 1.1:
            continue
        index = int(np.argmin(np.abs(np.log(np.maximum(table.amplitude_mm, 1e-6) / wanted))))
        if abs(math.log(table.amplitude_mm[index] / wanted)) < 0.3:
            example = _example(view, table, index, images)
            if example:
                shown.append(example)
    return shown


# --- weights -------------------------------------------------------------------------------------


def _weights(block: Block, view: View, run: Run) -> None:
    for method, other in view.one_run_per_method().items():
        if other.network is None:
            continue
        block.maps.append(_map(method, other, other.network))
        first = other.network.conv1.weight.detach()
        planes = first.numpy().reshape(-1, *first.shape[-2:])
        block.filters.append(Sheet.of(method, planes, len(planes), first))
    if run.network is None:
        return
    for name, layer in (("conv2", run.network.conv2), ("conv3", run.network.conv3)):
        tensor = layer.weight.detach()
        # A row per input channel and a column per output channel: wide sheets, not tall ones.
        planes = tensor.transpose(0, 1).reshape(-1, *tensor.shape[2:]).numpy()
        silent = int((tensor == 0).flatten(2).all(2).sum())
        kernels = tensor.shape[0] * tensor.shape[1]
        block.kernels.append(
            Sheet.of(name, planes, tensor.shape[0], tensor, f"{silent} of {kernels} kernels silent")
        )
    block.layers = [
        Layer(
            name.removesuffix(".weight"),
            " × ".join(map(str, w.shape)),
            w.numel(),
            int((w != 0).sum()),
        )
        for name, w in run.weights.items()
        if name.endswith(".weight")
    ]


def _map(method: str, run: Run, network: TremorNet) -> Sheet:
    """fc.weight as (classes, channels, height, width): shaky minus regular, a plane a channel."""
    fc = network.fc.weight.detach()
    height, width = network.size
    for rows, columns in network.pools:
        height, width = height // rows, width // columns
    planes = (fc[1] - fc[0]).numpy().reshape(-1, height, width)
    alive = int((planes != 0).any(axis=(1, 2)).sum())
    words = f"{alive} of {len(planes)} channels in use"
    return Sheet.of(method, planes, pictures.near_square(planes), fc, words, run.name)


# --- images --------------------------------------------------------------------------------------


def _images(view: View) -> dict[str, ImageRow]:
    from rvsm.handwriting.manifest import read_manifest

    if view.data is None:
        return {}
    try:
        return {row.file: row for row in read_manifest(view.data) if not row.error}
    except RvsmError:
        return {}


def _examples(block: Block, view: View, run: Run, images: Mapping[str, ImageRow]) -> None:
    from rvsm.experiments.report.evidence import choose

    table = run.predictions
    if table is None or view.data is None:
        return
    splits = [s for s in dict.fromkeys(table.split.tolist()) if s != "curve"]
    split = next((s for s in EXAMPLE_SPLITS if s in splits), splits[0] if splits else "")
    table = table.where(table.split == split)
    for choice in choose(table):
        example = _example(view, table, choice.index, images)
        if example is not None:
            _explain(example, run, view, str(table.file[choice.index]))
            block.examples.setdefault(choice.kind, []).append(example)
    block.example_where = f"{run.name}, {view.title}, split {split}"


def _explain(example: Example, run: Run, view: View, file: str) -> None:
    """Lay the evidence over the picture, and say so if the model and the predictions differ."""
    from rvsm.experiments.report.evidence import occlusion

    if run.network is None:
        return
    odds, evidence = occlusion(run.network, _read(view, file))
    example.overlay = pictures.evidence(evidence, max(float(np.abs(evidence).max()), 0.5))
    again = 1 / (1 + math.exp(-odds))
    if abs(again - example.probability) > 0.02:
        run.missing.append(
            f"{run.name}: the model gives P(shaky) = {again:.2f} for {file}, "
            f"test_predictions.csv says {example.probability:.2f}"
        )


def _example(
    view: View, table: Predictions, index: int, images: Mapping[str, ImageRow]
) -> Example | None:
    file = str(table.file[index])
    try:
        image = pictures.paper(_read(view, file))
    except (RvsmError, OSError):
        return None
    amplitude = float(table.amplitude_mm[index])
    shaky = bool(table.shaky[index])
    known = images.get(file)
    parts = []
    if shaky and amplitude > 0:
        parts.append(f"tremor {amplitude:.2f} mm")
    if known and known.tremor_frequency_hz and shaky:
        parts.append(f"{known.tremor_frequency_hz:.1f} Hz")
    if known and known.carrier:
        parts.append(known.carrier)
    probability = float(table.probability[index])
    return Example(
        image,
        "shaky" if shaky else "regular",
        " · ".join(parts) or file,
        probability=probability,
        called="shaky" if probability > 0.5 else "regular",
    )


def _read(view: View, file: str) -> Any:
    from rvsm.handwriting.images import read_grey

    assert view.data is not None
    return read_grey(view.data / file)


def _contact(block: Block, view: View, images: Mapping[str, ImageRow], columns: int = 6) -> None:
    """Both classes side by side, each column one carrier where the data know carriers."""
    if view.data is None or not images:
        return
    train = [row for row in images.values() if row.split == "train"] or list(images.values())
    by_label: dict[str, dict[str, ImageRow]] = {"regular": {}, "shaky": {}}
    order = np.random.default_rng(0).permutation(len(train))
    for row in (train[int(i)] for i in order):
        by_label[row.label].setdefault(row.carrier or row.file, row)
    shared = sorted(by_label["regular"].keys() & by_label["shaky"].keys())
    step = max(1, len(shared) // columns)
    carriers = shared[::step][:columns]
    for label, rows in by_label.items():
        picked = [rows[c] for c in carriers] or list(rows.values())[:columns]
        sheet = [e for row in picked if (e := _contact_example(view, row)) is not None]
        if sheet:
            block.contact[label] = sheet
    block.contact_where = f"{view.title}, split {train[0].split}"


def _contact_example(view: View, row: ImageRow) -> Example | None:
    try:
        image = pictures.paper(_read(view, row.file))
    except (RvsmError, OSError):
        return None
    parts = [row.carrier] if row.carrier else []
    if row.label == "shaky" and row.tremor_amplitude_mm:
        parts.append(f"{row.tremor_amplitude_mm:.2f} mm")
        if row.tremor_frequency_hz:
            parts.append(f"{row.tremor_frequency_hz:.1f} Hz")
    return Example(image, row.label, " · ".join(parts) or row.file)
