"""Which way to compute each layer is fastest on this machine: a quick timing of all that may be."""

from __future__ import annotations

import ctypes
import json
import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rvsm.atomic import atomic_write
from rvsm.deploy import kernels
from rvsm.deploy.kernels import Emitted, Layer, Variant
from rvsm.native import build, cached, open_library, version

ENTRIES = 300_000
"""Nonzeros compiled for one layer's timing: what is larger gets fewer candidates, at least one."""

_ROUNDS = 9
_SECONDS = 1e-3


def fastest(layers: Mapping[str, Layer], code: str, compiler: str) -> dict[str, Variant]:
    """Return the fastest variant of each layer, or what an earlier timing found.

    Parameters
    ----------
    layers
        By the names of their functions.
    code
        The network's source, which tells it from others.
    compiler
        Path of the C compiler.

    Notes
    -----
    Candidates run in turns and the median of each decides, so that a machine with other work
    treats all alike.
    """
    candidates = {name: _candidates(layer) for name, layer in layers.items()}
    record = cached(".json", code, compiler, version(compiler), str(candidates))
    chosen = _remembered(record, candidates)
    if chosen is None:
        chosen = _time(layers, candidates, compiler)
        with atomic_write(record) as stream:
            stream.write(json.dumps(chosen).encode())
        record.chmod(0o600)
    return {name: candidates[name][place] for name, place in chosen.items()}


def _candidates(layer: Layer) -> list[Variant]:
    entries = max(1, layer.taps.value.size)
    return kernels.variants(layer)[: max(1, ENTRIES // entries)]


def _remembered(path: Path, candidates: Mapping[str, Sequence[Variant]]) -> dict[str, int] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != set(candidates):
        return None
    fits = all(type(x) is int and 0 <= x < len(candidates[name]) for name, x in found.items())
    return found if fits else None


def _time(
    layers: Mapping[str, Layer], candidates: Mapping[str, Sequence[Variant]], compiler: str
) -> dict[str, int]:
    chosen = {}
    for name, layer in layers.items():
        if len(candidates[name]) == 1:
            chosen[name] = 0
            continue
        emitted = [
            kernels.emit(f"{name}_v{i}", layer, variant)
            for i, variant in enumerate(candidates[name])
        ]
        code = kernels.prelude() + "".join(one.code + _wrapper(one) for one in emitted)
        # another process that times the same network must not find a library about to go
        code += f"/* {secrets.token_hex(8)} */\n"
        library = build(code, compiler)
        try:
            loaded = open_library(library)
            chosen[name] = _race(loaded, layer, emitted)
        finally:
            library.unlink(missing_ok=True)
    return chosen


def _wrapper(emitted: Emitted) -> str:
    """Return an exported function that calls one with few arguments or many, again and again."""
    arguments = ["in", "out", *["residual"] * emitted.residual]
    arguments += ["scratch"] * (emitted.scratch > 0)
    return (
        f"void time_{emitted.name}(const float *in, float *out, const float *residual, "
        "float *scratch, int times)\n"
        "{\n    (void)residual; (void)scratch;\n"
        f"    for (int i = 0; i < times; i++) {{ {emitted.name}({', '.join(arguments)}); "
        # what a layer without nonzeros does is done once, if nobody may look in between
        '__asm__ volatile("" ::: "memory"); }\n}\n'
    )


def _race(library: ctypes.CDLL, layer: Layer, emitted: Sequence[Emitted]) -> int:
    """Return the place of the fastest."""
    rng = np.random.default_rng(0)
    source = aligned(layer.source.size)
    source[...] = rng.standard_normal(source.size)
    buffers = [source, aligned(layer.target.size), aligned(layer.target.size)]
    buffers.append(aligned(max(one.scratch for one in emitted)))
    pointers = [buffer.ctypes.data for buffer in buffers]
    runs = []
    for one in emitted:
        run = getattr(library, f"time_{one.name}")
        run.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
        run.restype = None
        runs.append(run)
    times = [1] * len(runs)
    for place, run in enumerate(runs):
        run(*pointers, 1)
        while (taken := _seconds(run, pointers, times[place])) < _SECONDS / 4:
            times[place] *= 2
        times[place] = max(1, int(times[place] * _SECONDS / taken))
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for place, run in enumerate(runs):
            found[place].append(_seconds(run, pointers, times[place]) / times[place])
    medians = [statistics.median(seconds) for seconds in found]
    return medians.index(min(medians))


def _seconds(run: Callable[..., None], pointers: Sequence[int], times: int) -> float:
    # processor time: the time of others on the machine does not count
    start = time.process_time()
    run(*pointers, times)
    return time.process_time() - start


def aligned(size: int) -> NDArray[np.float32]:
    """Return ones, aligned to 64 bytes, with as much to read beyond.

    Memory never written would share one page of zeros and look too fast.
    """
    raw = np.ones(size + 32, dtype=np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + size + 16]
