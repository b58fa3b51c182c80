"""What a benchmark found, as a table, a text or plain numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from rvsm.deploy.benching.runners import DENSE, OURS
from rvsm.text import as_text

_TEXT_WIDTH = 140


@dataclass(frozen=True)
class Row:
    """One runtime at one batch on so many threads.

    Attributes
    ----------
    runtime, threads, batch
        What was measured.
    ms
        Median milliseconds of a batch: processor time of the process on one thread, wall clock on
        more.
    cpu_ms, wall_ms
        The same by either clock.
    throughput
        Samples a second, by `ms`.
    ratio
        How many times faster than the faster dense runtime (`Bench.dense`), the median over
        rounds in which both ran; None where neither ran.
    scaling
        Of ours on more threads than one: how many times faster than on one in the same rounds,
        by wall clock.
    useful_gmacs
        Billions of multiply-adds with a nonzero weight a second; what zeros cost is not counted.
    difference
        The largest difference of an output from PyTorch's.
    error
        Why there are no times: another output than PyTorch's, or a failure.
    """

    runtime: str
    threads: int
    batch: int
    ms: float | None = None
    cpu_ms: float | None = None
    wall_ms: float | None = None
    throughput: float | None = None
    ratio: float | None = None
    scaling: float | None = None
    useful_gmacs: float | None = None
    difference: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Bench:
    """The account of `bench`: `print` it, hand it to rich, or take `to_dict()`.

    Attributes
    ----------
    rows
        All that was timed or failed.
    sizes
        Bytes of files: ``safetensors`` (dense), ``rvsm`` (`rvsm.save`), ``rvsm library`` (the
        shared library), and those of runtimes that have one of their own.
    memory
        For each runtime, by batch, peak bytes beyond what its process held before the network was
        loaded.
    dense
        The faster of ONNX Runtime and OpenVINO, by threads and batch.
    left_out
        Why runtimes, or their memory, are not there.
    weights, nonzeros, macs, useful_macs
        Of the network; multiply-adds of one sample, all and those with a nonzero weight.
    scale
        The largest output, in absolute value, that differences are to be seen beside.
    machine
        Processor, instruction set, cores, load and versions.
    """

    rows: tuple[Row, ...]
    sizes: dict[str, int]
    memory: dict[str, dict[int, int]]
    dense: dict[tuple[int, int], str]
    left_out: dict[str, str]
    weights: int
    nonzeros: int
    macs: int
    useful_macs: int
    scale: float
    machine: dict[str, Any]

    def row(self, runtime: str, threads: int, batch: int) -> Row:
        """Return one row.

        Raises
        ------
        KeyError
            If it was not measured.
        """
        for row in self.rows:
            if (row.runtime, row.threads, row.batch) == (runtime, threads, batch):
                return row
        raise KeyError((runtime, threads, batch))

    @property
    def losses(self) -> tuple[str, ...]:
        """Where another runtime is faster, or needs less memory or a smaller file, than ours."""
        return (*self._slower(), *self._larger())

    def _slower(self) -> Iterator[str]:
        for row, ours in self._pairs():
            assert row.ms is not None
            assert ours.ms is not None
            if row.ms < ours.ms:
                yield (
                    f"{_where(row)}: {row.runtime} is {ours.ms / row.ms:.2f} times as fast as "
                    f"{OURS}."
                )

    def _pairs(self) -> Iterator[tuple[Row, Row]]:
        timed = {(r.runtime, r.threads, r.batch): r for r in self.rows if r.ms is not None}
        for row in timed.values():
            ours = timed.get((OURS, row.threads, row.batch))
            if ours is not None and row is not ours:
                yield row, ours

    def _larger(self) -> Iterator[str]:
        for name, size in self.sizes.items():
            for own in ("rvsm", "rvsm library"):
                if not name.startswith("rvsm") and own in self.sizes and size < self.sizes[own]:
                    yield (
                        f"{name}'s file is {self.sizes[own] / size:.2f} times smaller than the "
                        f"{'library' if own != 'rvsm' else 'file'} of {OURS}."
                    )
        ours = self.memory.get(OURS, {})
        for name, peaks in self.memory.items():
            for batch, peak in peaks.items():
                if peak < ours.get(batch, 0):
                    yield f"batch {batch}: {name} needs less memory than {OURS}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        plain = asdict(self)
        plain["rows"] = [asdict(row) for row in self.rows]
        plain["dense"] = [
            {"threads": threads, "batch": batch, "runtime": runtime}
            for (threads, batch), runtime in self.dense.items()
        ]
        plain["memory"] = {
            name: {str(batch): peak for batch, peak in peaks.items()}
            for name, peaks in self.memory.items()
        }
        return plain | {"losses": list(self.losses)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables that `rvsm bench` prints, and below them what we lose."""
        zeros = 1 - self.nonzeros / max(1, self.weights)
        yield (
            f"{self.weights:,} weights, {zeros:.2%} zeros; {self.useful_macs:,} of {self.macs:,} "
            "multiply-adds are useful."
        )
        yield self._times()
        yield self._sizes()
        yield (
            "Milliseconds are processor time on one thread and wall clock on more; x dense is "
            f"the speed over the faster of {' and '.join(DENSE)}."
        )
        for name, reason in self.left_out.items():
            yield f"Left out: {name}: {reason}"
        for loss in self.losses:
            yield f"We lose: {loss}"
        if not self.losses and any(row.runtime == OURS and row.ms for row in self.rows):
            yield "We lose nowhere."

    def _times(self) -> Table:
        table = Table()
        for title in ("threads", "batch"):
            table.add_column(title, justify="right")
        table.add_column("runtime", no_wrap=True)
        for title in ("ms", "samples/s", "x dense", "x 1 thread", "useful GMAC/s", "difference"):
            table.add_column(title, justify="right")
        table.add_column("", overflow="fold")
        before: tuple[int, int] | None = None
        lost = {id(row) for row, ours in self._pairs() if (row.ms or 0) < (ours.ms or 0)}
        for row in self.rows:
            here = (row.threads, row.batch)
            if before is not None and here != before:
                table.add_section()
            where = ("", "") if here == before else tuple(map(str, here))
            before = here
            note = row.error or ("faster than ours" if id(row) in lost else "")
            table.add_row(
                *where,
                row.runtime,
                _number(row.ms, ".4g"),
                _number(row.throughput, ",.0f"),
                _number(row.ratio, ".2f"),
                _number(row.scaling, ".2f"),
                _number(row.useful_gmacs, ".2f"),
                _number(row.difference, ".1e"),
                note,
                style="bold" if row.runtime == OURS else None,
            )
        return table

    def _sizes(self) -> Table:
        batches = sorted({batch for peaks in self.memory.values() for batch in peaks})
        table = Table()
        table.add_column("", no_wrap=True)
        table.add_column("file, bytes", justify="right")
        for batch in batches:
            table.add_column(f"peak MB, batch {batch}", justify="right")
        for name in dict.fromkeys([*self.sizes, *self.memory]):
            peaks = self.memory.get(name, {})
            cells = (_number(peaks.get(batch, 0) / 1e6 or None, ".1f") for batch in batches)
            table.add_row(name, _number(self.sizes.get(name), ",d"), *cells)
        return table

    def __str__(self) -> str:
        return as_text(self, _TEXT_WIDTH)


def _where(row: Row) -> str:
    threads = "one thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{threads}, batch {row.batch}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
