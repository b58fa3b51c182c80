"""The picture of a report: what is kept of each layer, what it weighs, and where it lies."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rvsm.accounting.tables import percent
from rvsm.atomic import atomic_write
from rvsm.errors import RvsmError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from rvsm.accounting.layer import Layer
    from rvsm.accounting.summary import Report
    from rvsm.accounting.tolerance import Sensitivity

MOST_LAYERS = 24
"""Bars and patterns a picture shows; of a deeper network, those of the largest tensors."""

_ALL, _KEPT, _INK = "#d5dde5", "#1f6f8b", "#22303c"
_SAVED, _OTHER = "#e07a3f", "#9fb3c1"
_CURVES = ("#1f6f8b", "#e07a3f", "#5b8c5a", "#a23b72", "#7a6ff0", "#c9a227", "#3d405b", "#58b4ae")
_LABELS = {
    "dense": "dense",
    "coo": "torch COO",
    "csr": "torch CSR",
    "bitmask": "bitmask",
    "gaps": "gap codes",
    "bound": "information bound",
}
_STYLE: Any = {  # matplotlib types each of its hundreds of keys by itself
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": "#8a99a6",
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
}
_WIDTH = 11.0


def write(draw: Callable[[], Figure], path: Path | str) -> None:
    """Draw and write a figure, in the format its path ends with.

    Raises
    ------
    RvsmError
        If matplotlib is not installed, does not know the ending, or the file cannot be written.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise RvsmError(
            "A picture needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    kind = Path(path).suffix.removeprefix(".").lower()
    picture = io.BytesIO()
    with rc_context(_STYLE):
        figure = draw()
        known = figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise RvsmError(
                f"{path} does not end like a picture; let it end with .png, .svg or .pdf."
            )
        figure.savefig(picture, format=kind, dpi=150, facecolor="white")
    with atomic_write(path) as stream:
        stream.write(picture.getvalue())


def draw_report(report: Report, sensitivity: Sensitivity | None = None) -> Figure:
    """Return the figure of `Report.plot`."""
    from matplotlib.figure import Figure

    matrices = [layer for layer in report.layers if layer.name in report.densities]
    by_size = sorted(matrices, key=lambda layer: -layer.weights)
    largest = {layer.name for layer in by_size[:MOST_LAYERS]}
    layers = [layer for layer in matrices if layer.name in largest]
    left_out = len(matrices) - len(layers)
    across = min(4 if len(layers) <= 12 else 6, max(1, len(layers)))
    heights = [
        0.9 + 0.27 * max(len(layers), len(_LABELS) + 1),
        0.45 + 1.35 * math.ceil(len(layers) / across),
    ]
    if sensitivity is not None:
        heights.append(3.4)
    figure = Figure(figsize=(_WIDTH, 0.75 + sum(heights)), layout="constrained")
    figure.suptitle(_headline(report), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    parts = cast("Sequence[SubFigure]", figure.subfigures(len(heights), 1, height_ratios=heights))
    _draw_bars(parts[0], report, layers, left_out)
    _draw_patterns(parts[1], report, layers, across)
    if sensitivity is not None:
        _draw_curves(parts[2].subplots(), sensitivity)
    return figure


def draw_sensitivity(sensitivity: Sensitivity) -> Figure:
    """Return the figure of `Sensitivity.plot`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    _draw_curves(figure.subplots(), sensitivity)
    return figure


def _headline(report: Report) -> str:
    kept = f"{report.nonzeros:,} of {report.weights:,} weights are not zero"
    parts = [f"{kept} ({percent(1 - report.zeros)})"]
    if report.macs and report.effective_macs is not None:
        share = percent(report.effective_macs / report.macs)
        parts.append(f"{short(report.effective_macs)} of {short(report.macs)} MACs ({share})")
    parts.append(f"{size(report.sparse_bytes)} of {size(report.bytes['dense'])}")
    return "   ·   ".join(parts)


def _draw_bars(part: SubFigure, report: Report, layers: Sequence[Layer], left_out: int) -> None:
    work = [layer for layer in layers if layer.macs]
    widths = [1, 1, 0.9] if work else [1, 0.8]
    axes = cast("Sequence[Axes]", part.subplots(1, len(widths), width_ratios=widths))
    title = "Weights, log scale" + (f" ({left_out} smaller tensors left out)" if left_out else "")
    names = [shortened(layer.name) for layer in layers]
    _pairs(axes[0], title, names, [(x.weights, x.nonzeros) for x in layers])
    if work:
        macs = [(x.macs or 0, x.effective_macs or 0) for x in layers]
        _pairs(axes[1], "Multiply-adds (MACs), log scale", None, macs)
    _draw_formats(axes[-1], report)
    for own in axes:
        # From the top; a few bars may grow, but not to slabs.
        rows = max(len(layers), len(_LABELS) + 1 if own is axes[-1] else 3)
        own.set_ylim(rows - 0.4, -0.6)
        own.tick_params(axis="y", length=0)


def _pairs(
    axes: Axes, title: str, names: Sequence[str] | None, pairs: Sequence[tuple[int, int]]
) -> None:
    """Draw for each layer a pale bar of all and a dark one of what is kept, on a log scale."""
    rows = range(len(pairs))
    axes.barh(rows, [whole for whole, _ in pairs], height=0.74, color=_ALL)
    axes.barh(rows, [kept for _, kept in pairs], height=0.74, color=_KEPT)
    most = max((whole for whole, _ in pairs), default=1)
    least = min((kept for _, kept in pairs if kept), default=1)
    low, high = 10 ** math.floor(math.log10(max(least / 2, 1))), max(most, 10)
    axes.set_xscale("log")
    # Room on the right for the labels.
    axes.set_xlim(low, high * (high / low) ** 0.42)
    for row, (whole, kept) in enumerate(pairs):
        if whole:
            label = short(kept) if kept == whole else f"{short(kept)} of {short(whole)}"
            label += "" if kept == whole else f" ({percent(kept / whole)})"
            axes.annotate(label, (whole, row), (4, 0), "data", "offset points", va="center", size=8)
    axes.set_yticks(list(rows), [] if names is None else list(names))
    axes.set_title(title)
    axes.minorticks_off()


def _draw_formats(axes: Axes, report: Report) -> None:
    """Draw what all tensors weigh in each format, and what `rvsm.save` makes of them."""
    kinds = sorted(_LABELS, key=lambda kind: -report.bytes[kind])
    bars = [(_LABELS[kind], report.bytes[kind], _OTHER) for kind in kinds if kind != "bound"]
    bars += [("rvsm.save", report.sparse_bytes, _SAVED)]
    bars += [(_LABELS["bound"], report.bytes["bound"], _ALL)]
    rows = range(len(bars))
    values = [value for _, value, _ in bars]
    axes.barh(rows, values, height=0.74, color=[colour for *_, colour in bars])
    for row, value in zip(rows, values, strict=True):
        axes.annotate(size(value), (value, row), (4, 0), "data", "offset points", va="center")
    axes.set_yticks(list(rows), [label for label, *_ in bars])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, max([*values, 1]) * 1.25)
    axes.set_title("Size in each format")


def _draw_patterns(part: SubFigure, report: Report, layers: Sequence[Layer], across: int) -> None:
    """Draw where the nonzeros of each layer are."""
    if not layers:
        return
    from matplotlib.colors import LinearSegmentedColormap

    part.suptitle(
        "Where the nonzeros are: outputs down, inputs across; the darker, the more",
        x=0.01,
        ha="left",
        fontsize=10,
        fontweight="bold",
    )
    ink = LinearSegmentedColormap.from_list("ink", ["#f4f6f8", "#7fb0c1", _KEPT, "#0d3b4c"])
    down = math.ceil(len(layers) / across)
    grid = cast("Any", part.subplots(down, across, squeeze=False))
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, layer in zip(grid.flat, layers, strict=False):
        axes.set_axis_on()
        # A lone nonzero must show among many zeros, so the scale is that of roots.
        cells = report.densities[layer.name] ** 0.5
        axes.imshow(cells, cmap=ink, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color("#c3ced7")
        shape = "×".join(map(str, layer.shape))
        axes.set_title(f"{shortened(layer.name)}  {shape}", size=8, weight="normal")


def _draw_curves(axes: Axes, sensitivity: Sensitivity) -> None:
    """Draw the score over the sparsity of each layer, the last per cents spread out."""
    from matplotlib.ticker import NullLocator

    axes.axhline(sensitivity.score, color="#8a99a6", linewidth=0.8, linestyle="--")
    # Wholly zero has no place on this scale: it gets one beyond the most that was tried.
    shares = [share for layer in sensitivity.layers for share in layer.sparsities if share < 1]
    least = min((1 - share for share in shares), default=0.1)
    for number, layer in enumerate(sensitivity.layers):
        places = [max(1 - share, least / 3) for share in layer.sparsities]
        axes.plot(
            places,
            layer.scores,
            marker="osD^v"[number // len(_CURVES) % 5],
            markersize=4,
            linewidth=1.6,
            color=_CURVES[number % len(_CURVES)],
            label=shortened(layer.name),
            clip_on=False,
        )
    axes.set_xscale("log")
    candidates = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
    ticks = [(1 - share, f"{100 * share:g} %") for share in candidates if 1 - share >= least * 0.95]
    if any(share == 1 for layer in sensitivity.layers for share in layer.sparsities):
        ticks.append((least / 3, "100 %"))
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(1.1, min(ticks[-1][0], least) * 0.92)
    axes.grid(axis="y", color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("zeros in that tensor (it begins with those it has)")
    axes.set_title("Score with one tensor pruned, the others as they are")
    axes.legend(
        frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0
    )


def short(number: int) -> str:
    """Return a number in three digits or so: 16.9k, 3.41M."""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= unit:
            return f"{number / (1000 if letter == 'k' else unit):.3g}{letter}"
    return f"{number:,}"


def size(number: int) -> str:
    """Return bytes with three digits or so: 24 kB, 1.72 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"


def shortened(name: str, most: int = 28) -> str:
    """Return a name without the ending `.weight`, long ones without their middle."""
    name = name.removesuffix(".weight")
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
