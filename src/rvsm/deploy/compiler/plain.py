"""C source of the steps that hold no weights worth a kernel: pooling, sums, activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rvsm.deploy.compiler import steps
from rvsm.deploy.compiler.steps import Activation, Floats, Step, Window
from rvsm.deploy.compiler.text import at, each, function
from rvsm.deploy.kernels import Plane
from rvsm.deploy.kernels.tables import array, floats

HELPERS = """
RVSM_INLINE float rvsm_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
RVSM_INLINE float rvsm_silu(float x) { return x / (1.0f + expf(-x)); }
RVSM_INLINE float rvsm_gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
RVSM_INLINE float rvsm_gelu_tanh(float x)
{ return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }
"""
"""Activations of single floats."""

_UNROLLED = 16
"""Places of a pooling window that are written out one by one."""


def number(value: float) -> str:
    """Return a C literal of exactly this float32."""
    return floats(np.array([value], dtype=np.float32))[0]


def _table(name: str, values: Floats) -> str:
    """Return a table of floats."""
    return array("float", name, floats(values))


def activated(activation: Activation, x: str) -> str:
    """Return a C expression of an activation of `x`, a name."""
    match activation.kind:
        case "none":
            return x
        case "relu":
            # the order lets NaN through, as torch does
            return f"({x} < 0.0f ? 0.0f : {x})"
        case "leaky_relu":
            return f"({x} < 0.0f ? {x} * {number(activation.low)} : {x})"
        case "clamp":
            low, high = number(activation.low), number(activation.high)
            return f"({x} < {low} ? {low} : {x} > {high} ? {high} : {x})"
        case "tanh":
            return f"tanhf({x})"
        case kind:
            return f"rvsm_{kind}({x})"


def emit(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    """Return a C function ``static void name(const float *in, [const float *second,] float *out)``.

    Parameters
    ----------
    name
        Of the function.
    step
        Any step but convolutions and linear layers.
    sources, target
        How the values lie.
    """
    return _EMIT[type(step)](name, step, sources, target)


def _pointwise(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    assert isinstance(step, steps.Pointwise)
    terms = [f"in{i}[{at(plane, 'c', 'y', 'x')}]" for i, plane in enumerate(sources)]
    result = activated(step.activation, "v")
    statement = f"float v = {' + '.join(terms)}; out[{at(target, 'c', 'y', 'x')}] = {result};"
    return function(name, len(sources), each(target, statement))


def _affine(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    assert isinstance(step, steps.Affine)
    tables = _table(f"{name}_scale", step.scale) + _table(f"{name}_shift", step.shift)
    value = f"{name}_scale[c] * in0[{at(sources[0], 'c', 'y', 'x')}] + {name}_shift[c]"
    result = activated(step.activation, "v")
    statement = f"float v = {value}; out[{at(target, 'c', 'y', 'x')}] = {result};"
    return function(name, 1, each(target, statement), tables)


def _concat(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    body, first = "", 0
    for i, plane in enumerate(sources):
        into = at(target, f"(c + {first})", "y", "x")
        statement = f"out[{into}] = in{i}[{at(plane, 'c', 'y', 'x')}];"
        body += each(target, statement, plane.channels)
        first += plane.channels
    return function(name, len(sources), body)


def _select(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    assert isinstance(step, steps.Select)
    chosen = ", ".join(map(str, step.channels))
    table = f"static const int {name}_chosen[] = {{{chosen}}};\n"
    source = at(sources[0], f"{name}_chosen[c]", "y", "x")
    statement = f"out[{at(target, 'c', 'y', 'x')}] = in0[{source}];"
    return function(name, 1, each(target, statement), table)


def _softmax(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    assert isinstance(step, steps.Softmax)
    source, into = at(sources[0], "c", "y", "x"), at(target, "c", "y", "x")
    loop = f"for (int c = 0; c < {target.channels}; c++)"
    last = f"out[{into}] = in0[{source}] - top - rest;" if step.log else f"out[{into}] /= sum;"
    ready = "float rest = logf(sum);" if step.log else ""
    term = (
        f"sum += expf(in0[{source}] - top);"
        if step.log
        else (f"out[{into}] = expf(in0[{source}] - top); sum += out[{into}];")
    )
    body = (
        f"float top = in0[{at(sources[0], '0', 'y', 'x')}], sum = 0.0f; "
        f"{loop} if (in0[{source}] > top) top = in0[{source}]; "
        f"{loop} {{ {term} }} {ready} {loop} {last}"
    )
    return function(name, 1, each(target, body, 0))


def _pool(name: str, step: Step, sources: Sequence[Plane], target: Plane) -> str:
    assert isinstance(step, steps.Pool)
    source = sources[0]
    down, right = step.dilation
    start = "-INFINITY" if step.divisors is None else "0.0f"
    # sums of all images at once, so that loops over images are the innermost
    every = f"for (int l = 0; l < {target.lanes}; l++) " if target.lanes > 1 else ""
    sums = "sum[l]" if every else "sum"
    take = f"v > {sums} || v != v ? v : {sums}" if step.divisors is None else f"{sums} + v"
    take = f"{every}{{ float v = in0[{at(source, 'c', '@j', '@i')}]; {sums} = {take}; }}"
    tables = _bounds(name, "rows", step.rows) + _bounds(name, "columns", step.columns)
    rows, columns = _range(name, "rows", "y", step.rows), _range(name, "columns", "x", step.columns)
    window = [_regular(step.rows), _regular(step.columns)]
    body = f"float sum = {start}; "
    if every:
        body = f"float sum[{target.lanes}]; {every}sum[l] = {start}; "
    if window[0] and window[1] and window[0][1] * window[1][1] <= _UNROLLED:
        # without inner loops compilers compute many columns at once
        for j in range(0, window[0][1], down):
            for i in range(0, window[1][1], right):
                taken = take.replace("@j", f"({rows[0]} + {j})")
                body += taken.replace("@i", f"{columns[0]} + {i}") + " "
    else:
        body += (
            f"for (int j = {rows[0]}; j < {rows[1]}; j += {down}) "
            f"for (int i = {columns[0]}; i < {columns[1]}; i += {right}) "
            f"{take.replace('@j', 'j').replace('@i', 'i')} "
        )
    result = sums
    if step.divisors is not None:
        flat = step.divisors.ravel()
        if (flat == flat[0]).all():
            result = f"{sums} / {number(flat[0])}"
        else:
            tables += _table(f"{name}_divisors", flat)
            y = "y" if target.height > 1 else "0"
            x = "x" if target.width > 1 else "0"
            result = f"{sums} / {name}_divisors[{y} * {target.width} + {x}]"
    body += f"{every}out[{at(target, 'c', 'y', 'x')}] = {result};"
    return function(name, 1, each(target, body, inner="l"), tables)


def _regular(windows: Sequence[Window]) -> tuple[int, int] | None:
    """Return step and length of windows that all have the same, starting at 0."""
    length = windows[0][1] - windows[0][0]
    step = windows[1][0] if len(windows) > 1 else 0
    same = all(window == (i * step, i * step + length) for i, window in enumerate(windows))
    return (step, length) if same else None


def _bounds(name: str, side: str, windows: Sequence[Window]) -> str:
    if _regular(windows) is not None:
        return ""
    flat = ", ".join(f"{{{start}, {stop}}}" for start, stop in windows)
    return f"static const int {name}_{side}[][2] = {{{flat}}};\n"


def _range(name: str, side: str, place: str, windows: Sequence[Window]) -> tuple[str, str]:
    regular = _regular(windows)
    if regular is not None:
        step, length = regular
        start = f"{place} * {step}" if step and len(windows) > 1 else "0"
        return start, f"{start} + {length}"
    place = place if len(windows) > 1 else "0"
    return f"{name}_{side}[{place}][0]", f"{name}_{side}[{place}][1]"


_EMIT: dict[type[Step], Callable[[str, Step, Sequence[Plane], Plane], str]] = {
    steps.Pointwise: _pointwise,
    steps.Affine: _affine,
    steps.Concat: _concat,
    steps.Select: _select,
    steps.Softmax: _softmax,
    steps.Pool: _pool,
}
