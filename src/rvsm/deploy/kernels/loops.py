"""The loops of a convolution: blocks of places outermost, outputs inside, sums in registers."""

from __future__ import annotations

from rvsm.deploy.kernels.block import Block
from rvsm.deploy.kernels.finish import finish
from rvsm.deploy.kernels.geometry import Layer
from rvsm.deploy.kernels.products import accumulate
from rvsm.deploy.kernels.tables import Tables
from rvsm.deploy.kernels.text import braced, indent
from rvsm.deploy.kernels.view import View


def body(
    name: str,
    layer: Layer,
    view: View,
    tables: Tables,
    block: Block,
    together: int,
    input_blocks: int,
) -> tuple[list[str], int]:
    """Return the statements that compute block by block, and the scratch floats they use."""
    outputs = layer.target.channels
    steps = -(-outputs // together)
    sums = [[f"a{j}_{k}" for k in range(block.vectors)] for j in range(together)]
    whole = together * steps == outputs
    channel = f"n * {together}" if together > 1 else "n"
    if not whole:
        last = outputs - together
        channel = f"({channel} < {last} ? {channel} : {last})"
    index = "n" if input_blocks == 1 else f"g * {steps} + n"
    inner = [f"const int o = {channel};"]
    inner += _start(name, layer, block, sums, input_blocks)
    inner += accumulate(name, block, sums, tables, index)
    partial = _partial(block, sums)
    if input_blocks > 1:
        inner += braced(f"if (g < {input_blocks - 1})", [*partial, "continue;"])
    target = layer.target
    for j in range(together):
        place = f"(o + {j}) * {target.plane}" if j else f"o * {target.plane}"
        ends = [f"float *to = home + {place};"]
        if layer.epilogue.residual:
            ends.append(f"const float *plus = other + {place};")
        inner += ["{", *indent([*ends, *finish(layer, block, sums[j])]), "}"]
    lines = braced(f"for (int n = 0; n < {steps}; n++)", inner)
    if input_blocks > 1:
        lines = braced(f"for (int g = 0; g < {input_blocks}; g++)", lines)
    lines = _blocks(layer, view, block, lines)
    scratch = steps * together * block.vectors * block.width if input_blocks > 1 else 0
    if scratch:
        lines.insert(0, f"float *const part = scratch + {view.scratch};")
    return lines, scratch


def _blocks(layer: Layer, view: View, block: Block, lines: list[str]) -> list[str]:
    """Return the loops over the blocks of a view around `lines`."""
    target = layer.target
    tiled = view.extent != layer.needed
    (y, x) = ("(y0 + y)", "(x0 + x)") if tiled else ("y", "x")
    ph, pw = layer.epilogue.pool or (1, 1)
    at, place = f"{view.base} + y * {view.step} + x", f"{y} / {ph} * {target.line} + {x} / {pw}"
    if view.column != 1:
        at, place = f"{at} * {view.column}", f"{place} * {target.column}"
    lane = " + l" if block.lanes < target.lanes else ""
    place = f"{target.origin} + {place}{lane}"
    head = [f"const float *at = {at}{lane};", f"float *home = out + {place};"]
    if layer.epilogue.residual:
        head.append(f"const float *other = residual + {place};")
    lines = [*head, *lines]
    if lane:
        loop = f"for (int l = 0; l < {target.lanes}; l += {block.lanes})"
        lines = braced(loop, lines)
    lines = covered("x", view.extent[1], block.columns, lines)
    return covered("y", view.extent[0], block.rows, lines)


def covered(variable: str, size: int, part: int, lines: list[str]) -> list[str]:
    """Return `lines` for every part of a size; the last part overlaps the one before if it must."""
    count = -(-size // part)
    if count == 1:
        return [f"const int {variable} = 0;", *lines]
    start = f"{variable}b * {part}"
    if size % part:
        start = f"{start} < {size - part} ? {start} : {size - part}"
    lines = [f"const int {variable} = {start};", *lines]
    return braced(f"for (int {variable}b = 0; {variable}b < {count}; {variable}b++)", lines)


def _start(
    name: str, layer: Layer, block: Block, sums: list[list[str]], input_blocks: int
) -> list[str]:
    """Declare the sums, and set them to the bias or to the sums of earlier input blocks."""
    w = block.width
    bias = layer.epilogue.bias is not None
    lines = []
    for j, row in enumerate(sums):
        value = f"{name}_bias[o + {j}]" if bias else "0.0f"
        first = f"rvsm_v{w} {row[0]} = rvsm_set{w}({value})"
        lines.append(", ".join([first, *(f"{a} = {row[0]}" for a in row[1:])]) + ";")
    if input_blocks > 1:
        flat = [a for row in sums for a in row]
        place = f"part + n * {len(flat) * w}"
        loads = [f"{a} = rvsm_load{w}({place} + {k * w});" for k, a in enumerate(flat)]
        lines += braced("if (g > 0)", loads)
    return lines


def _partial(block: Block, sums: list[list[str]]) -> list[str]:
    w = block.width
    flat = [a for row in sums for a in row]
    place = f"part + n * {len(flat) * w}"
    return [f"rvsm_store{w}({place} + {k * w}, {a});" for k, a in enumerate(flat)]
