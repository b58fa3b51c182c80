"""The tables of a report, for a terminal of any width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table

from rvsm.accounting.layer import Layer

if TYPE_CHECKING:
    from rvsm.accounting.summary import Report


@dataclass(frozen=True)
class _Column:
    """A column: its title, its footer, what it shows of a layer, and whether it always fits."""

    title: str
    total: str
    cell: Callable[[Layer], str]
    always: bool = True


def tables(report: Report, console: Console, options: ConsoleOptions) -> Iterator[Table]:
    """Yield the tables of a report: weights and work, groups, and bytes in each format.

    Columns without content are left out, and where a table is wider than the console, those
    that can be spared.
    """
    matrices = [layer for layer in report.layers if len(layer.shape) > 1]
    for title, layers, columns in (
        ("", report.layers, _weights(report)),
        ("Wholly zero groups, and units that say nothing", matrices, _zero_groups(report)),
        ("Bytes in each format, and as rvsm.save picks it", matrices, _bytes(report, matrices)),
    ):
        if not layers and title:
            continue
        shown = [c for c in columns if c.total or any(map(c.cell, layers))]
        wide = _table(title, layers, shown)
        unbounded = options.update(max_width=10_000)
        if Measurement.get(console, unbounded, wide).maximum <= options.max_width:
            yield wide
        else:
            yield _table(title, layers, [c for c in shown if c.always], short=True)


def _table(
    title: str, layers: Sequence[Layer], columns: Sequence[_Column], short: bool = False
) -> Table:
    box = SIMPLE if short else HEAVY_HEAD
    table = Table(
        title=title or None,
        title_justify="left",
        show_footer=any(column.total for column in columns),
        box=box,
        pad_edge=not short,
        collapse_padding=short,
    )
    table.add_column("tensor", footer="all", overflow="fold")
    if not title:
        table.add_column("shape", overflow="fold")
    for column in columns:
        table.add_column(column.title, footer=column.total, justify="right", no_wrap=True)
    for layer in layers:
        shape = [] if title else ["x".join(map(str, layer.shape)) or "-"]
        table.add_row(layer.name, *shape, *(column.cell(layer) for column in columns))
    return table


def _weights(report: Report) -> list[_Column]:
    saved = report.sparse_bytes
    return [
        _Column("weights", f"{report.weights:,}", lambda x: f"{x.weights:,}"),
        _Column("nonzeros", f"{report.nonzeros:,}", lambda x: f"{x.nonzeros:,}"),
        _Column("zeros", percent(report.zeros), lambda x: percent(x.zeros)),
        _Column("MACs", count(report.macs), lambda x: count(x.macs)),
        _Column("kept", count(report.effective_macs), lambda x: count(x.effective_macs)),
        _Column("bytes", f"{report.bytes['dense']:,}", lambda x: f"{x.dense_bytes:,}", False),
        _Column("saved", f"{saved:,}", lambda x: f"{x.sparse_bytes:,}", False),
    ]


def _zero_groups(report: Report) -> list[_Column]:
    block = "x".join(map(str, report.block))
    return [
        _Column("outputs", "", lambda x: _share(x.zero_filters, x.filters)),
        _Column("inputs", "", lambda x: _share(x.zero_inputs, x.inputs)),
        _Column("kernels", "", lambda x: _share(x.zero_kernels, x.kernels)),
        _Column(f"{block} blocks", "", lambda x: _share(x.zero_blocks, x.blocks)),
        _Column("N:M", "", lambda x: x.pattern or ""),
        _Column("constant", "", lambda x: _share(x.constant_units, x.units), False),
        _Column("unused", "", lambda x: _share(x.unused_units, x.units), False),
        _Column("dead units", "", lambda x: _share(x.dead_units, x.units)),
    ]


def _bytes(report: Report, matrices: Sequence[Layer]) -> list[_Column]:
    def total(kind: str) -> str:
        return f"{sum(layer.bytes[kind] for layer in matrices):,}"

    def column(kind: str, title: str, always: bool = True) -> _Column:
        return _Column(title, total(kind), lambda layer: f"{layer.bytes[kind]:,}", always)

    saved = sum(layer.sparse_bytes for layer in matrices)

    return [
        column("dense", "dense"),
        column("coo", "COO", False),
        column("csr", "CSR"),
        column("bitmask", "bitmask"),
        column("gaps", "gaps"),
        column("bound", "bound"),
        _Column("saved", f"{saved:,}", lambda layer: f"{layer.sparse_bytes:,}"),
        _Column("as", "", lambda layer: layer.coding),
    ]


def percent(share: float) -> str:
    """Return a share in percent, never rounded up to 100 % or down to 0 %."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return f"{share:.4%}"
    return f"{share:.1%}"


def count(number: int | None) -> str:
    """Return a number with its thousands told apart, nothing for None."""
    return "" if number is None else f"{number:,}"


def _share(part: int | None, whole: int | None) -> str:
    return "" if part is None else f"{part:,}/{whole:,}"
