"""The C file of a network: all functions in it, and how one sample or many go through them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from rvsm.deploy import kernels
from rvsm.deploy.compiler import plain, steps
from rvsm.deploy.compiler.lower import Program
from rvsm.deploy.compiler.memory import (
    FLOATS_APART,
    Memory,
    Place,
    map_planes,
    plan,
)
from rvsm.deploy.compiler.steps import Activation, Shape, Step
from rvsm.deploy.kernels import Emitted, Epilogue, Layer, Plane, Variant
from rvsm.errors import RvsmError

LANES = 32
"""Samples whose vectors are computed together, so that a weight is read once for all of them."""


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
    program: Program, name: str = "network", variants: Mapping[str, Variant] | None = None
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

    Raises
    ------
    RvsmError
        If the name is no C identifier.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise RvsmError(f"{name!r} is no name for C code: use letters, digits and underscores.")
    shapes = program.shapes()
    trunk, joints, head = _parts(program, shapes)
    planes = map_planes(shapes, trunk)
    writer = _Writer(name, variants or {})

    kept = [step.inputs[0] for step in joints]
    kept += [program.output] if len(shapes[program.output]) == 3 else []
    given = [program.input] if len(shapes[program.input]) == 3 else []
    maps = plan(given, trunk, kept, planes)
    body = ""
    if given:
        load = writer.next()
        plane = planes[program.input]
        writer.add(plain.copy(load, _tight(plane), plane))
        body += f"    {load}(in, w + {maps.places[program.input].start});\n"
    for step in trunk:
        body += _call(writer, step, maps.places)
    writer.add(_function("trunk", "const float *restrict in, float *restrict w", body))

    floats = maps.floats
    if len(shapes[program.output]) == 3:
        run = _run_maps(writer, program, maps)
    else:
        run = _RUN_VECTORS
        vectors = [value for value, shape in shapes.items() if len(shape) == 1]
        given = [step.output for step in joints]
        given += [program.input] if program.input in vectors else []
        for lanes in (1, LANES):
            flat = {vector: Plane(shapes[vector][0], 1, lanes) for vector in vectors}
            memory = plan(given, head, [program.output], flat)
            places = {
                vector: Place(place.start + maps.floats, place.plane)
                for vector, place in memory.places.items()
            }
            end = maps.floats + memory.floats
            rows = {}
            for vector in given:
                rows[vector] = end
                end += _row(shapes[vector][0]) * lanes if lanes > 1 else 0
            floats = max(floats, end)
            _write_head(writer, program, joints, head, lanes, places, maps, rows)
    scratch = -(-floats // FLOATS_APART) * FLOATS_APART
    floats = scratch + writer.scratch + FLOATS_APART
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
        "scratch": f"w + {scratch}",
    }
    code = _HEAD + kernels.prelude() + plain.HELPERS + "\n" + "".join(writer.code) + _TAIL
    return Source(
        name,
        _filled(code, texts),
        _filled(_HEADER, texts),
        inputs,
        outputs,
        workspace,
        writer.layers,
    )


def _tight(plane: Plane) -> Plane:
    """Return how the same map lies with nothing between its elements."""
    return Plane(plane.channels, plane.height, plane.width)


def _filled(text: str, texts: Mapping[str, str]) -> str:
    for key, value in texts.items():
        text = text.replace(f"@{key}@", value)
    return text


def _parts(
    program: Program, shapes: Mapping[str, Shape]
) -> tuple[list[Step], list[steps.Flatten], list[Step]]:
    """Return the steps on maps, those that make vectors of maps, and those on vectors."""
    trunk: list[Step] = []
    joints: list[steps.Flatten] = []
    head: list[Step] = []
    for step in program.steps:
        if len(step.shape) == 3:
            trunk.append(step)
        elif isinstance(step, steps.Flatten):
            joints.append(step)
        else:
            head.append(step)
    return trunk, joints, head


def _call(writer: _Writer, step: Step, places: Mapping[str, Place]) -> str:
    """Write a step's function and return the statement that calls it."""
    name = writer.next()
    sources = [places[source] for source in step.inputs]
    target = places[step.output]
    where = [f"w + {place.start}" for place in sources]
    into = f"w + {target.start}"
    if isinstance(step, steps.Conv | steps.Linear):
        emitted = writer.kernel(name, _layer(step, sources[0].plane, target.plane))
        arguments = [where[0], into, *where[1:]]
        arguments += ["@scratch@"] if emitted.scratch else []
    else:
        writer.add(plain.emit(name, step, [place.plane for place in sources], target.plane))
        arguments = [*where, into]
    return f"    {name}({', '.join(arguments)});\n"


def _layer(step: steps.Conv | steps.Linear, source: Plane, target: Plane) -> Layer:
    if isinstance(step, steps.Linear):
        return kernels.linear_layer(step.weight, _epilogue(step), source.width)
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


def _run_maps(writer: _Writer, program: Program, maps: Memory) -> str:
    """Return the loop over samples of a network whose output is a map."""
    store = writer.next()
    place = maps.places[program.output]
    writer.add(plain.copy(store, place.plane, _tight(place.plane)))
    return (
        "    for (size_t i = 0; i < n; i++) {\n"
        "        @name@_trunk(in + i * @inputs@, w);\n"
        f"        {store}(w + {place.start}, out + i * @outputs@);\n"
        "    }\n"
    )


def _write_head(
    writer: _Writer,
    program: Program,
    joints: list[steps.Flatten],
    head: list[Step],
    lanes: int,
    places: Mapping[str, Place],
    maps: Memory,
    rows: Mapping[str, int],
) -> None:
    """Write the functions that fill a lane, compute on vectors and read a lane.

    Samples are kept one after the other and turned into lanes at once: a store that leaves a
    cache line after one float costs as much as one that fills it.
    """
    arguments = "const float *restrict in, float *restrict w, int lane"
    joined = {step.output: maps.places[step.inputs[0]] for step in joints}
    fill = turn = ""
    for vector, start in rows.items():
        target = places[vector]
        features = target.plane.channels
        pitch = _row(features) if lanes > 1 else 0
        into = f"w + {start if lanes > 1 else target.start}" + f" + lane * {pitch}" * (lanes > 1)
        source, plane = "in", Plane(1, 1, features)
        if vector in joined:
            source, plane = f"w + {joined[vector].start}", joined[vector].plane
        copy = writer.next()
        writer.add(plain.copy(copy, plane, _tight(plane)))
        fill += f"    {copy}({source}, {into});\n"
        if lanes > 1:
            transpose = writer.next()
            writer.add(plain.transpose(transpose, features, pitch, lanes))
            turn += f"    {transpose}(w + {start}, w + {target.start});\n"
    writer.add(_function(f"fill{lanes}", arguments, fill))
    body = turn + "".join(_call(writer, step, places) for step in head)
    writer.add(_function(f"head{lanes}", "float *restrict w", body))
    start = places[program.output].start
    body = (
        "    for (int i = 0; i < @outputs@; i++)\n"
        f"        out[i] = w[{start} + i * {lanes} + lane];\n"
    )
    arguments = "const float *restrict w, float *restrict out, int lane"
    writer.add(_function(f"read{lanes}", arguments, body))


def _row(features: int) -> int:
    """Return the floats from one sample's row to the next: an odd number of cache lines.

    Even numbers would put the rows of all lanes in the same few sets of the cache.
    """
    return (-(-features // FLOATS_APART) | 1) * FLOATS_APART


def _function(part: str, arguments: str, body: str) -> str:
    names = [argument.split()[-1].lstrip("*") for argument in arguments.split(", ")]
    unused = "".join(f"    (void){name};\n" for name in names)
    return f"static void @name@_{part}({arguments})\n{{\n{unused}{body}}}\n\n"


_RUN_VECTORS = f"""\
    size_t i = 0;
    while (n - i >= {LANES // 4}) {{
        const size_t count = n - i < {LANES} ? n - i : {LANES};
        for (size_t lane = 0; lane < count; lane++) {{
            @name@_trunk(in + (i + lane) * @inputs@, w);
            @name@_fill{LANES}(in + (i + lane) * @inputs@, w, (int)lane);
        }}
        @name@_head{LANES}(w);
        for (size_t lane = 0; lane < count; lane++)
            @name@_read{LANES}(w, out + (i + lane) * @outputs@, (int)lane);
        i += count;
    }}
    for (; i < n; i++) {{
        @name@_trunk(in + i * @inputs@, w);
        @name@_fill1(in + i * @inputs@, w, 0);
        @name@_head1(w);
        @name@_read1(w, out + i * @outputs@, 0);
    }}
"""

_ABOUT = """\
/* A sparse network as C, written by rvsm. No other file, no library but libm, no malloc.
 *
 *   cc -O3 -march=native -ffp-contract=fast -c @name@.c       for this machine
 *   cc -O3 -c @name@.c                                        for any machine of its kind
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
    if (threads > 1 && n > 1) {
        if ((size_t)threads > n) threads = (int)n;
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
