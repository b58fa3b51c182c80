"""The words and pictures of every section, ready for the template."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from rvsm import __version__
from rvsm.errors import RvsmError
from rvsm.experiments.report import pictures, plots
from rvsm.experiments.report.amplitude import Detection, detection
from rvsm.experiments.report.source import Predictions, Row, Run, Study, View, read_json
from rvsm.experiments.report.svg import legend_mark
from rvsm.experiments.report.tables import Figure, TableRow, headline, method_order, percent

if TYPE_CHECKING:
    from torch import Tensor

    from rvsm.handwriting.manifest import Row as ImageRow

PROTOCOLS = {
    "paper": "fonts shared with training, texts unseen",
    "unseen": "no font, text or writer of the test was seen in training",
}
EXAMPLE_SPLITS = ("test-unseen", "test-paper", "test")
KINDS = {"right": "Right", "wrong": "Wrong", "uncertain": "Uncertain"}
KIND_WORDS = {
    "right": "Drawn at random from what was classified rightly by",
    "wrong": "The most confident mistakes of",
    "uncertain": "Nearest to P(shaky) = 0.5 of",
}
STRIP = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.5)
LARGEST_MAP = 40_000


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
class Layer:
    name: str
    shape: str
    weights: int
    left: int


@dataclass
class Block:
    """Everything the template prints for one task and set."""

    title: str
    measured_on: str
    lead: str
    tiles: list[tuple[str, str, str]]
    table: list[TableRow]
    methods: list[str]
    featured: str = ""
    shown_method: str = ""
    amplitude: list[tuple[str, Markup]] = field(default_factory=list)
    amplitude_methods: list[str] = field(default_factory=list)
    amplitude_words: list[str] = field(default_factory=list)
    amplitude_where: str = ""
    strip: list[Example] = field(default_factory=list)
    sparsity: list[tuple[str, Markup]] = field(default_factory=list)
    swept: bool = False
    training: list[tuple[str, Markup]] = field(default_factory=list)
    layer_growth: Markup | None = None
    layer_names: list[str] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)
    filters: list[dict[str, Any]] = field(default_factory=list)
    kernels: list[dict[str, Any]] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    example_where: str = ""
    contact: dict[str, list[Example]] = field(default_factory=dict)
    contact_where: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
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
        "missing": study.all_missing(),
    }


def _block(view: View) -> Block:
    run = view.featured
    block = Block(
        title=view.title,
        measured_on=_measured_on(view),
        lead=_lead(view, run),
        tiles=_tiles(view, run),
        table=headline(view.rows),
        methods=method_order([*(r.method for r in view.rows), *(r.method for r in view.runs)]),
        featured=run.name if run else "",
        shown_method=run.method if run else "",
        starts=_starts(view),
        facts=_facts(view),
    )
    images = _images(view)
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


def _measured_on(view: View) -> str:
    seeds = sorted({row.seed for row in view.rows})
    sizes = next((row.split_sizes for row in view.rows if row.split_sizes), {})
    parts = [view.title]
    if seeds:
        parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    if sizes:
        parts.append(", ".join(f"{name} {count:,} images" for name, count in sizes.items()))
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
    verb = "keeps every weight" if zeros == 0 else f"has zeros for {percent(zeros, 1)} of its weights"
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


def _starts(view: View) -> list[str]:
    """Which methods started from the dense network and which from scratch."""
    found: dict[str, list[str]] = {}
    for row in view.rows:
        if row.start:
            found.setdefault(row.start, []).append(row.method)
    return [
        f"{', '.join(method_order(methods))}: started from "
        + {"dense": "the dense network trained first", "scratch": "scratch"}.get(start, start)
        for start, methods in found.items()
    ]


def _facts(view: View) -> list[tuple[str, str]]:
    raw = read_json(view.data / "dataset.json") if view.data else None
    if not isinstance(raw, dict):
        return []
    facts = [
        (key.replace("_", " "), str(raw[key]))
        for key in ("task", "set", "seed", "generator_version")
        if raw.get(key) is not None
    ]
    if isinstance(counts := raw.get("counts"), dict):
        facts += [(f"{split} images", _count_words(value)) for split, value in counts.items()]
    return facts


def _count_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {label}" for label, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _calming_line() -> str:
    """The ornament of the page: a pen line whose tremor dies away (5 Hz at 14 mm/s)."""
    x = np.linspace(0, 1080, 540)
    calm = 30 + 9 * np.sin(x / 75) + 4 * np.sin(x / 31 + 1)
    tremor = 11 * np.exp(-((x / 520) ** 2)) * np.sin(x / 3.4 + 1.5 * np.sin(x / 60))
    y = calm + tremor * (1 + 0.4 * np.sin(x / 47))
    return "M" + "L".join(f"{a:.0f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _environment(run: Run | None) -> list[tuple[str, str]]:
    known = run.environment if run else {}
    facts = [
        (str(key).replace("_", " "), str(value))
        for key, value in known.items()
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
        seen = [
            f"{share} % of the shaky images from {at:.2f} mm"
            for share in (50, 90, 99)
            if math.isfinite(at := curve.amplitude_at(share / 100))
        ]
        block.amplitude_words.append(
            f"{method} detects {', '.join(seen) if seen else 'less than half at every amplitude'}; "
            f"it calls {percent(curve.false_alarm, 1)} of the regular images shaky."
        )
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
        weights = other.weights
        if weights is None:
            continue
        if (entry := _map(method, other, weights)) is not None:
            block.maps.append(entry)
        first = weights.get("conv1.weight")
        if first is not None and first.dim() == 4:
            planes = first.float().numpy().reshape(-1, *first.shape[-2:])
            uri, width, height = pictures.weights(planes, columns=min(len(planes), 12))
            block.filters.append(
                {"method": method, "uri": uri, "width": width, "height": height, **_count(first)}
            )
    weights = run.weights
    if weights is None:
        return
    for name in ("conv2.weight", "conv3.weight"):
        tensor = weights.get(name)
        if tensor is None or tensor.dim() != 4 or tensor.numel() > LARGEST_MAP:
            continue
        outputs, inputs = tensor.shape[:2]
        planes = tensor.float().numpy().reshape(outputs * inputs, *tensor.shape[2:])
        uri, width, height = pictures.weights(planes, columns=inputs)
        silent = int((tensor == 0).flatten(2).all(2).sum())
        block.kernels.append(
            {
                "name": name.removesuffix(".weight"),
                "uri": uri,
                "width": width,
                "height": height,
                "inputs": inputs,
                "outputs": outputs,
                "silent": silent,
                "pairs": outputs * inputs,
                **_count(tensor),
            }
        )
    block.layers = [
        Layer(
            name,
            " × ".join(str(s) for s in tensor.shape),
            tensor.numel(),
            int((tensor != 0).sum()),
        )
        for name, tensor in weights.items()
    ]


def _count(tensor: Tensor) -> dict[str, int]:
    return {"left": int((tensor != 0).sum()), "total": tensor.numel()}


def _map(method: str, run: Run, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """fc.weight as (classes, channels, height, width): shaky minus regular, a plane a channel."""
    fc, last = weights.get("fc.weight"), weights.get("conv3.weight")
    if fc is None or last is None or fc.shape[0] != 2 or fc.numel() > LARGEST_MAP:
        return None
    channels = last.shape[0]
    shape = _map_shape(run, fc.shape[1] // channels)
    if shape is None or channels * shape[0] * shape[1] != fc.shape[1]:
        return None
    planes = (fc[1] - fc[0]).float().numpy().reshape(channels, *shape)
    uri, width, height = pictures.weights(planes)
    alive = int((planes != 0).any(axis=(1, 2)).sum())
    return {
        "method": method,
        "run": run.name,
        "uri": uri,
        "width": width,
        "height": height,
        "alive": alive,
        "channels": channels,
        "rows": shape[0],
        "columns": shape[1],
        **_count(fc),
    }


def _map_shape(run: Run, cells: int) -> tuple[int, int] | None:
    """Height and width of the last feature map, from the config's size and pools."""
    from pydantic import ValidationError

    from rvsm.experiments.config import NetworkConfig

    try:
        network = NetworkConfig.model_validate(run.config.get("network", {}))
    except ValidationError:
        return None
    height, width = network.size
    for rows, columns in network.pools:
        height, width = height // rows, width // columns
    return (height, width) if height * width == cells else None


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
    from rvsm.experiments.report.evidence import choose, load_network, occlusion

    table = run.predictions
    if table is None or view.data is None:
        return
    splits = [s for s in dict.fromkeys(table.split.tolist()) if s != "curve"]
    split = next((s for s in EXAMPLE_SPLITS if s in splits), splits[0] if splits else "")
    table = table.where(table.split == split)
    chosen = [(c, _example(view, table, c.index, images)) for c in choose(table)]
    weights = run.weights
    explain: Callable[[Example, int], None] | None = None
    if weights is not None:
        try:
            network = load_network(run.config, weights)
        except (RuntimeError, ValueError, RvsmError) as error:
            run.missing.append(
                f"{run.name}/model.safetensors does not fit the network of config.toml ({error})"
            )
        else:

            def explain(example: Example, index: int) -> None:
                odds, evidence = occlusion(network, _read(view, table.file[index]))
                limit = max(float(np.abs(evidence).max()), 0.5)
                example.overlay = pictures.evidence(evidence, limit)
                again = 1 / (1 + math.exp(-odds))
                if abs(again - example.probability) > 0.02:
                    run.missing.append(
                        f"{run.name}: the model gives P(shaky) = {again:.2f} for "
                        f"{table.file[index]}, test_predictions.csv says {example.probability:.2f}"
                    )

    for choice, example in chosen:
        if example is None:
            continue
        if explain:
            explain(example, choice.index)
        block.examples.setdefault(choice.kind, []).append(example)
    block.example_where = f"{run.name}, {view.title}, split {split}"


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
