"""One honest table: how fast, how small and how exact a sparse network is in every runtime."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rvsm.accounting import report
from rvsm.deploy.benching import memory
from rvsm.deploy.benching.account import Bench, Row
from rvsm.deploy.benching.prepare import prepare
from rvsm.deploy.benching.runners import DENSE, OURS, RUNTIMES, Bind, Bound, Files, Floats
from rvsm.deploy.benching.timing import Times, interleave, ratio
from rvsm.deploy.tracing import check_example
from rvsm.errors import RvsmError
from rvsm.modes import evaluating
from rvsm.processor import processor_facts, processor_name

__all__ = ["Bench", "Row", "bench"]

TOLERANCE = 1e-4
"""Largest difference of an output from PyTorch's, absolute or as a share of the largest output."""

_ONE = "one thread"


def bench(
    model: nn.Module,
    example: Tensor,
    *,
    batches: Sequence[int] = (1, 64),
    threads: Sequence[int] = (1, 2),
    runtimes: Sequence[str] | None = None,
    seconds: float = 1.0,
    measure_memory: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Compare a network in PyTorch, torch.compile, torch's CSR, ONNX Runtime, OpenVINO and C.

    Parameters
    ----------
    model
        A feed-forward network of layers rvsm knows, on the CPU, in float32; under `rvsm.RVSM` call
        this after ``optimizer.finalize()`` or inside ``optimizer.sparse_weights()``.
    example
        float32 ``(batch, *shape)``, of which the shape counts: inputs are random.
    batches
        Samples in a call.
    threads
        How many threads every runtime has.
    runtimes
        Names from `rvsm.deploy.benching.runners.RUNTIMES`; all by default. ``torch-csr`` has CSR
        weights in linear layers and dense convolutions; ``onnxruntime-shrunk`` runs what
        `rvsm.shrink` leaves.
    seconds
        Wall clock spent on each row.
    measure_memory
        Open each runtime in a process of its own as well, to tell the memory it needs.
    progress
        Called with what is done and how much there is.

    Returns
    -------
    Bench
        Rows, sizes, memory, and where another runtime is better than ours.

    Raises
    ------
    UnsupportedLayer
        If the model does something that is no layer rvsm knows.
    CompilerError
        If the C compiler fails.
    RvsmError
        If model, example or an option cannot be.

    Notes
    -----
    All runtimes are opened and their outputs compared before anything is timed; one whose output
    differs from PyTorch's by more than `TOLERANCE` has no time. They are then called in turns.
    Threads of torch and the model's mode are as before when this returns.
    """
    names = _checked(model, example, batches, threads, runtimes, seconds)
    batches, threads = sorted(set(batches)), sorted(set(threads))
    total = 1 + len(names) * (len(threads) * len(batches) + measure_memory)
    steps = iter(range(1, total + 1))

    def advance() -> None:
        if progress is not None:
            progress(next(steps), total)

    with tempfile.TemporaryDirectory(prefix="rvsm-bench-") as folder, _settings(model):
        files = Files(Path(folder))
        torch.set_num_threads(1)
        sizes, left_out = prepare(model, example, files, names)
        account = report(model, example[:1])
        advance()
        course = _Course(model, files, tuple(example.shape[1:]), account.effective_macs or 0)
        rows: list[Row] = []
        dense: dict[tuple[int, int], str] = {}
        able = [name for name in names if name not in left_out]
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        for count in threads:
            for batch in batches:
                found, best = course.measure(able, count, batch, seconds)
                rows += found
                if best is not None:
                    dense[count, batch] = best
                for _ in names:
                    advance()
        peaks: dict[str, dict[int, int]] = {}
        for name in names if measure_memory else ():
            if name in able:
                told = memory.measure(name, files.folder, example.shape[1:], batches)
                if isinstance(told, str):
                    left_out[f"memory of {name}"] = told
                else:
                    peaks[name] = dict(zip(batches, told, strict=True))
            advance()
    if not dense:
        left_out["ratios"] = f"neither of {' and '.join(DENSE)} ran"
    return Bench(
        rows=tuple(rows),
        sizes=sizes,
        memory=peaks,
        dense=dense,
        left_out=left_out,
        weights=account.weights,
        nonzeros=account.nonzeros,
        macs=account.macs or 0,
        useful_macs=account.effective_macs or 0,
        scale=course.scale,
        machine=machine() | {"load": load},
    )


def _checked(
    model: nn.Module,
    example: Tensor,
    batches: Sequence[int],
    threads: Sequence[int],
    runtimes: Sequence[str] | None,
    seconds: float,
) -> list[str]:
    """Return the runtimes asked for in the order of the table."""
    check_example(example)
    tensors = [example, *model.parameters(), *model.buffers()]
    if any(x.device.type != "cpu" for x in tensors):
        raise RvsmError(
            "rvsm.deploy.bench measures on the CPU: move model and example with .cpu()."
        )
    if any(x.dtype != torch.float32 for x in tensors if x.is_floating_point()):
        raise RvsmError(
            "The runtimes are compared in float32: convert model and example, .float()."
        )
    for name, given in (("batches", batches), ("threads", threads)):
        if not given or any(type(x) is not int or x < 1 for x in given):
            raise RvsmError(
                f"{name} is {given!r}; give whole numbers of at least 1, such as (1, 2)."
            )
    if not 0 < seconds < float("inf"):
        raise RvsmError(f"seconds is {seconds}; give a positive number, such as 1.")
    unknown = [name for name in runtimes or () if name not in RUNTIMES]
    if unknown:
        raise RvsmError(f"{unknown[0]!r} is no runtime: choose among {', '.join(RUNTIMES)}.")
    return [name for name in RUNTIMES if runtimes is None or name in runtimes]


@contextlib.contextmanager
def _settings(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and torch's threads back to what they were."""
    before = torch.get_num_threads()
    try:
        with evaluating(model):
            yield
    finally:
        torch.set_num_threads(before)


class _Course:
    """Runs all runtimes on one network."""

    def __init__(self, model: nn.Module, files: Files, shape: tuple[int, ...], macs: int) -> None:
        self.model = model
        self.files = files
        self.shape = shape
        self.macs = macs
        self.scale = 0.0

    def measure(
        self, names: Sequence[str], threads: int, batch: int, seconds: float
    ) -> tuple[list[Row], str | None]:
        """Return the rows of these runtimes, and which of the dense ones is faster."""
        torch.set_num_threads(threads)
        rng = np.random.default_rng(0)
        images = rng.random((batch, *self.shape), dtype=np.float32)
        with torch.inference_mode():
            wanted = self.model(torch.from_numpy(images)).numpy()
        self.scale = max(self.scale, float(np.abs(wanted).max()))
        rows: dict[str, Row] = {}
        sides: dict[str, Callable[[], object]] = {}
        for name in names:
            row = Row(name, threads, batch)
            try:
                bound = self._bind(name, threads, images)
                bound.run()
                difference = _difference(bound.read(), wanted)
            except Exception as error:  # whatever a runtime raises is told in its row
                first = (str(error).strip().splitlines() or [""])[0]
                rows[name] = replace(row, error=f"{type(error).__name__}: {first}")
                continue
            allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
            if not difference <= allowed:
                told = f"other outputs than PyTorch's, by {difference:.2g}"
                rows[name] = replace(row, difference=difference, error=told)
                continue
            rows[name] = replace(row, difference=difference)
            sides[name] = bound.run
        if OURS in sides and threads > 1:
            sides[_ONE] = self._bind(OURS, 1, images).run
        times = interleave(sides, seconds) if sides else {}
        clock = "cpu" if threads == 1 else "wall"
        dense = min(
            (name for name in DENSE if name in times),
            key=lambda name: times[name].median(clock),
            default=None,
        )
        done = [
            self._timed(row, times, clock, dense) if name in times else row
            for name, row in rows.items()
        ]
        return done, dense

    def _bind(self, name: str, threads: int, images: Floats) -> Bound:
        bind: Bind = RUNTIMES[name].open(self.files, threads, self.model)
        return bind(images)

    def _timed(self, row: Row, times: Mapping[str, Times], clock: str, dense: str | None) -> Row:
        own = times[row.runtime]
        taken = own.median(clock)
        one = times.get(_ONE)
        return replace(
            row,
            ms=taken * 1e3,
            cpu_ms=own.median("cpu") * 1e3,
            wall_ms=own.median("wall") * 1e3,
            throughput=row.batch / taken,
            ratio=None if dense is None else ratio(times[dense], own, clock),
            scaling=ratio(one, own, "wall") if one is not None and row.runtime == OURS else None,
            useful_gmacs=self.macs * row.batch / taken / 1e9,
        )


def _difference(got: Floats, wanted: Floats) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    return float(np.abs(got - wanted).max()) if got.size else 0.0


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, instruction set, cores and versions."""
    found = processor_facts()
    words = f"{found.get('flags', '')} {found.get('Features', '')}".split()
    sets = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    versions = {}
    for package in ("torch", "onnxruntime", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processor": processor_name(),
        "instructions": next((name for flag, name in sets.items() if flag in words), "unknown"),
        "cores": os.cpu_count(),
        "versions": versions,
    }
