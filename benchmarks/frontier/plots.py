"""Error against the number of weights, all methods of one network and set in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.tables import Cell
from rvsm.atomic import atomic_write

_COLOURS = {
    "ours": ("#0b3c8c", "#2f6fd0", "#6a9fe8", "#9cc3f5", "#14808c", "#4fb3bf"),
    "relative": ("#2e7d32", "#66a834", "#9a9a2c", "#00695c", "#8d6e63"),
    "peer": ("#c62828", "#ef6c00", "#ad1457"),
}
_MARKS = "osD^vP"


def frontier(cells: Sequence[Cell], path: Path) -> None:
    """Draw the mean test error with its standard error over the mean number of weights.

    Both axes are logarithmic. Solid lines have an exact target, dashed ones a strength.

    Parameters
    ----------
    cells : sequence of Cell
        Of one network and set.
    path : Path
        A PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(9.6, 5.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    used = dict.fromkeys(_COLOURS, 0)
    for rank in sorted({c.rank for c in cells if c.sparsity}):
        own = sorted((c for c in cells if c.rank == rank), key=lambda c: c.nonzeros)
        method = METHODS[own[0].method]
        party, ours = method.party, own[0].is_ours
        number = used[party]
        used[party] += 1
        errors = [100 * c.se if not math.isnan(c.se) else 0.0 for c in own]
        axes.errorbar(
            [c.nonzeros for c in own],
            [100 * c.mean for c in own],
            yerr=errors,
            label=own[0].name + (" [ours]" if ours else ""),
            color="black" if ours else _COLOURS[party][number % len(_COLOURS[party])],
            marker=_MARKS[number % len(_MARKS)],
            markersize=6 if ours else 4,
            linewidth=2.4 if ours else 1.1,
            linestyle="-" if method.kind == "exact" else "--",
            capsize=2,
            zorder=5 if ours else 3,
        )
    for dense in (c for c in cells if not c.sparsity):
        axes.axhline(100 * dense.mean, color="grey", linewidth=1, label="dense", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    shares = sorted({c.sparsity for c in cells if c.sparsity})
    ticks = [max(c.nonzeros for c in cells if c.sparsity == s) for s in shares]
    axes.set_xticks(ticks, [f"{t:,.0f}\n{100 * s:g} %" for t, s in zip(ticks, shares, strict=True)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_on()
    axes.tick_params(axis="x", which="minor", bottom=False)
    low, high = axes.get_ylim()
    marks = [m for m in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 90)
             if low <= m <= high]  # fmt: skip
    axes.set_yticks(marks)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", left=False)
    axes.grid(alpha=0.3)
    axes.set_xlabel("weights that are not zero, and share of zeros asked for")
    axes.set_ylabel("test error, %")
    axes.set_title(f"{cells[0].network} on {cells[0].data}: mean ± standard error over seeds")
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", metadata={"Software": None})
