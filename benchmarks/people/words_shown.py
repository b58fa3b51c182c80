"""The table and the picture of `words.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.people.recipes import GOALS
from rvsm.atomic import atomic_write

_LINES = {
    ("recorded", "recorded"): ("#0b3c8c", "-", "o"),
    ("modelled", "recorded"): ("#d55e00", "-", "s"),
    ("modelled", "modelled"): ("#d55e00", "--", "^"),
    ("recorded", "modelled"): ("#0b3c8c", "--", "v"),
}
"""Colour by the tremor learned from, dashes by the tremor tested with."""


def row(results: Mapping[str, Any], learned: str, tested: str, mm: float, method: str) -> Any:
    """One row of the results."""
    wanted = (learned, tested, mm, method)
    keys = ("learned", "tested", "mm", "method")
    return next(r for r in results["rows"] if tuple(r[k] for k in keys) == wanted)


def table(results: Mapping[str, Any]) -> str:
    """Balanced accuracy at the amplitudes of the goals, in Markdown."""
    lines = [
        "| learned from | tested with | network | zeros | "
        + " | ".join(f"{mm:g} mm" for mm in GOALS)
        + " |",
        "|---|---|---|---|" + "---|" * len(GOALS),
    ]
    for learned, tested in _LINES:
        for method in ("dense", "sparse"):
            zeros = results["networks"][f"{learned}, {method}"]["zeros"]
            cells = [cell(row(results, learned, tested, mm, method), "balanced") for mm in GOALS]
            lines.append(
                f"| {learned} | {tested} | {method} | {100 * zeros:.1f} % | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def cell(found: Mapping[str, Any], name: str) -> str:
    """A share in % with its interval."""
    low, high = found[f"{name}_95"]
    return f"{100 * found[name]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Balanced accuracy of the sparse networks against amplitude, with bands over writers."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for (learned, tested), (colour, dash, mark) in _LINES.items():
        rows = [
            r
            for r in results["rows"]
            if (r["learned"], r["tested"], r["method"]) == (learned, tested, "sparse")
        ]
        mm = [r["mm"] for r in rows]
        axes.plot(
            mm,
            [100 * r["balanced"] for r in rows],
            color=colour,
            linestyle=dash,
            marker=mark,
            markersize=4,
            label=f"learned from {learned}, tested with {tested} tremor",
        )
        low, high = ([100 * r["balanced_95"][end] for r in rows] for end in (0, 1))
        axes.fill_between(mm, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(list(GOALS), list(GOALS.values()), "k+", markersize=11, label="goal")
    axes.set_xscale("log")
    ticks = sorted({r["mm"] for r in results["rows"]})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("tremor, mm RMS (small letters 2.5 mm)")
    axes.set_ylabel("balanced accuracy, %")
    axes.set_ylim(48, 101)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "rvsm"}), atomic_write(path) as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
