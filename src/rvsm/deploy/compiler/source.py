"""The C file of a network: all functions in it, and how one sample or many go through them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from rvsm.deploy import kernels
from rvsm.deploy.compiler import copies, plain, steps
from rvsm.deploy.compiler.lower import Program
from rvsm.deploy.compiler.memory import (
    FLOATS_APART,
    Place,
    plan,
    planes_of,
)
from rvsm.deploy.compiler.steps import Activation, Step
from rvsm.deploy.kernels import Emitted, Epilogue, Layer, Plane, Variant
from rvsm.errors import RvsmError

LANES = 16
"""Samples that are computed side by side, so that every vector is aligned and a weight is read once
for all of them."""
LANES_OF_VECTORS = 32
"""The same where nothing is a convolution: linear layers gain by more."""
THREAD_WORK = 1_500_000
"""Multiply-adds that are worth a thread of their own: some 40 microseconds."""
FEWEST = 8
"""Samples for which that is faster than one after the other."""


@dataclass(frozen=True)
class Source:
    """A network as C.

    Attributes
    ----------
    name
        Prefix of every function and constant.
    code, header
        Texts of ``name.c``, which needs nothing else, and ``name.h``.
    inputs, outputs
        Floats of one sample.
    workspace_bytes
        Of the memory one thread needs.
    layers
        What kernels compute, by the name of the function.
    """

    name: str
    code: str
    header: str
    inputs: int
    outputs: int
    workspace_bytes: int
    layers: Mapping[str, Layer]


@dataclass
class _Writer:
    """Functions written so far, and the layers that kernels compute, by their functions' names."""

    name: str
    variants: Mapping[str, Variant]
    code: list[str] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    scratch: int = 0
    count: int = 0

    def next(self) -> str:
        self.count += 1
        return f"{self.name}_f{self.count}"

    def add(self, code: str) -> None:
        self.code.append(code)

    def kernel(self, name: str, layer: Layer) -> Emitted:
        self.layers[name] = layer
        emitted = kernels.emit(name, layer, self.variants.get(name) or kernels.choose(layer))
        self.code.append(emitted.code)
        self.scratch = max(self.scratch, emitted.scratch)
        return emitted


def write(
    program: Program,
    name: str = "network",
    variants: Mapping[str, Variant] | None = None,
    batched: bool = True,
    file: str | None = None,
) -> Source:
    """Return the C source of a program.

    Parameters
    ----------
    program
        Of `rvsm.deploy.compiler.lower.lower`.
    name
        A C identifier; the prefix of all that the file defines.
    variants
        How layers are computed, by their functions' names; by shape and share of zeros otherwise.
    batched
        Write functions for several samples side by side, too.
    file
        The name of the C file, for the comment that says how to compile it; ``name.c`` by default.

    Raises
    ------
    RvsmError
        If the name is no C identifier.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise RvsmError(f"{name!r} is no name for C code: use letters, digits and underscores.")
    shapes = program.shapes()
    writer = _Writer(name, variants or {})
    floats = _write_one(writer, program)
    work = sum(
        layer.taps.value.size * layer.size[0] * layer.size[1] for layer in writer.layers.values()
    )
    run = _RUN_ONE
    if batched:
        maps = any(isinstance(step, steps.Conv) for step in program.steps)
        lanes = LANES if maps else LANES_OF_VECTORS
        floats += _write_lanes(writer, program, lanes, floats)
        run = _RUN_LANES.replace("@lanes@", str(lanes)) + run
    start = -(-floats // FLOATS_APART) * FLOATS_APART
    floats = start + writer.scratch + FLOATS_APART
    inputs, outputs = math.prod(program.input_shape), math.prod(shapes[program.output])
    workspace = -(-floats * 4 // 64) * 64 + 64
    texts = {
        "run": run,
        "name": name,
        "upper": name.upper(),
        "inputs": str(inputs),
        "outputs": str(outputs),
        "input_shape": " x ".join(map(str, program.input_shape)),
        "output_shape": " x ".join(map(str, shapes[program.output])),
        "workspace": str(workspace),
        "work": f"{work}.0",
        "thread_work": f"{THREAD_WORK}.0",
        "scratch": f"w + {start}",
        "file": file or f"{name}.c",
    }
    code = (
        _HEAD
        + kernels.prelude()
        + plain.HELPERS
        + copies.HELPERS
        + "\n"
        + "".join(writer.code)
        + _TAIL
    )
    return Source(
        name,
        _filled(code, texts),
        _filled(_HEADER, texts),
        inputs,
        outputs,
        workspace,
        writer.layers,
    )


def _write_one(writer: _Writer, program: Program) -> int:
    """Write what computes one sample and return the floats its values take."""
    planes = planes_of(program.shapes(), program.steps, 1)
    memory = plan(program.input, program.steps, program.output, planes)
    load, store = writer.next(), writer.next()
    given, result = memory.places[program.input], memory.places[program.output]
    writer.add(copies.copy(load, _tight(given.plane), given.plane))
    writer.add(copies.copy(store, result.plane, _tight(result.plane)))
    body = f"    {load}(in, w + {given.start});\n"
    body += "".join(_call(writer, step, memory.places) for step in program.steps)
    body += f"    {store}(w + {result.start}, out);\n"
    writer.add(
        "static void @name@_one(const float *restrict in, float *restrict out, float *restrict w)\n"
        f"{{\n{body}}}\n\n"
    )
    return memory.floats


def _write_lanes(writer: _Writer, program: Program, lanes: int, start: int) -> int:
    """Write what computes samples side by side, with memory from `start`; return its floats.

    Plain C has no vectors that would hold a place of several samples.
    """
    planes = planes_of(program.shapes(), program.steps, lanes)
    memory = plan(program.input, program.steps, program.output, planes)
    places = {name: Place(start + at.start, at.plane) for name, at in memory.places.items()}
    writer.add("#if RVSM_V > 1\n")
    load, store = writer.next(), writer.next()
    given, result = places[program.input], places[program.output]
    writer.add(copies.side_by_side(load, given.plane) + copies.one_by_one(store, result.plane))
    body = f"    {load}(in, count, w + {given.start});\n"
    body += "".join(_call(writer, step, places) for step in program.steps)
    body += f"    {store}(w + {result.start}, count, out);\n"
    writer.add(
        "static void @name@_lanes(const float *restrict in, size_t count, float *restrict out,\n"
        f"                         float *restrict w)\n{{\n{body}}}\n#endif\n\n"
    )
    return memory.floats


def _tight(plane: Plane) -> Plane:
    """Return how the same map lies with nothing between its elements."""
    return Plane(plane.channels, plane.height, plane.width)


def _filled(text: str, texts: Mapping[str, str]) -> str:
    for key, value in texts.items():
        text = text.replace(f"@{key}@", value)
    return text


def _call(writer: _Writer, step: Step, places: Mapping[str, Place]) -> str:
    """Write a step's function and return the statement that calls it."""
    name = writer.next()
    sources = [places[source] for source in step.inputs]
    target = places[step.output]
    if isinstance(step, steps.Flatten) and target.start == sources[0].start:
        return ""
    where = [f"w + {place.start}" for place in sources]
    into = f"w + {target.start}"
    if isinstance(step, steps.Conv | steps.Linear):
        emitted = writer.kernel(name, _layer(step, sources[0].plane, target.plane))
        arguments = [where[0], into, *where[1:]]
        arguments += ["@scratch@"] if emitted.scratch else []
    elif isinstance(step, steps.Flatten):
        lanes = target.plane.lanes
        rows = replace(_tight(sources[0].plane), order="channels", lanes=lanes)
        writer.add(copies.copy(name, sources[0].plane, rows))
        arguments = [*where, into]
    else:
        writer.add(plain.emit(name, step, [place.plane for place in sources], target.plane))
        arguments = [*where, into]
    return f"    {name}({', '.join(arguments)});\n"


def _layer(step: steps.Conv | steps.Linear, source: Plane, target: Plane) -> Layer:
    if isinstance(step, steps.Linear):
        return kernels.linear_layer(step.weight, _epilogue(step), source.lanes)
    return kernels.make_layer(
        source,
        target,
        step.weight,
        step.stride,
        step.padding,
        step.dilation,
        step.groups,
        _epilogue(step),
    )


def _epilogue(step: steps.Conv | steps.Linear) -> Epilogue:
    activation = step.activation
    kind = "relu6" if activation == Activation("clamp", 0, 6) else activation.kind
    make = partial(
        Epilogue,
        bias=step.bias if step.bias.any() else None,
        activation=kind,  # type: ignore[arg-type]
        residual=len(step.inputs) == 2,
        pool=step.pool if isinstance(step, steps.Conv) else None,
    )
    return make(slope=activation.low) if kind == "leaky_relu" else make()


_RUN_LANES = f"""\
#if RVSM_V > 1
    while (n >= {FEWEST}) {{
        const size_t count = n < @lanes@ ? n : @lanes@;
        @name@_lanes(in, count, out, w);
        in += count * @inputs@;
        out += count * @outputs@;
        n -= count;
    }}
#endif
"""

_RUN_ONE = """\
    for (size_t i = 0; i < n; i++) @name@_one(in + i * @inputs@, out + i * @outputs@, w);
"""

_ABOUT = """\
/* A sparse network as C, written by rvsm. No other file, no library but libm, no malloc.
 *
 *   cc -O3 -march=native -ffp-contract=fast -c @file@       for this machine
 *   cc -O3 -c @file@                                        for any machine of its kind
 *   add -fopenmp for @name@_run_parallel to use threads; link with -lm.
 *
 * Input: @input_shape@; output: @output_shape@ (float32, row-major, one sample after the other).
 */
"""

_HEAD = (
    _ABOUT
    + """
#ifdef _OPENMP
#include <omp.h>
#endif
"""
)

_TAIL = """\
#ifdef __cplusplus
extern "C" {
#endif

void @name@_init(void *workspace)
{
    memset(workspace, 0, @workspace@);
}

void @name@_run(const float *in, float *out, size_t n, void *workspace)
{
    float *w = (float *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
@run@}

void @name@_run_parallel(const float *in, float *out, size_t n, void *workspaces, int threads)
{
#ifdef _OPENMP
    /* to start a thread takes as long as many multiply-adds: each has enough of them, or is none */
    const double most = (double)n * @work@ / @thread_work@;
    if (threads > most) threads = (int)most;
    if (threads > 1 && (size_t)threads > n) threads = (int)n;
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            const size_t parts = (size_t)omp_get_num_threads();
            const size_t part = (size_t)omp_get_thread_num();
            const size_t first = n * part / parts, last = n * (part + 1) / parts;
            @name@_run(in + first * @inputs@, out + first * @outputs@, last - first,
                       (char *)workspaces + part * @workspace@);
        }
        return;
    }
#endif
    (void)threads;
    @name@_run(in, out, n, workspaces);
}

#ifdef __cplusplus
}
#endif
"""

_HEADER = (
    _ABOUT
    + """\
#ifndef @upper@_H
#define @upper@_H

#include <stddef.h>

#define @upper@_INPUTS @inputs@    /* floats of one input: @input_shape@ */
#define @upper@_OUTPUTS @outputs@    /* floats of one output: @output_shape@ */
#define @upper@_WORKSPACE_BYTES @workspace@    /* memory each thread needs */

#ifdef __cplusplus
extern "C" {
#endif

/* Prepare one workspace of @upper@_WORKSPACE_BYTES, once, before it is used. Threads that run at
 * the same time each need one of their own; nothing else is shared. */
void @name@_init(void *workspace);

/* Compute n samples. */
void @name@_run(const float *in, float *out, size_t n, void *workspace);

/* The same with threads, where compiled with OpenMP: `workspaces` are that many, one after the
 * other, each prepared by @name@_init. */
void @name@_run_parallel(const float *in, float *out, size_t n, void *workspaces, int threads);

#ifdef __cplusplus
}
#endif
#endif
"""
)
