"""The loops of a convolution: blocks of places outermost, outputs inside, sums in registers."""

from __future__ import annotations

from rvsm.deploy.kernels.block import Block, best_block
from rvsm.deploy.kernels.finish import finish
from rvsm.deploy.kernels.geometry import Layer
from rvsm.deploy.kernels.tables import Tables
from rvsm.deploy.kernels.view import View

_INDENT = "    "


def indent(lines: list[str]) -> list[str]:
    """Return the lines one level deeper."""
    return [line if line.startswith("#") else _INDENT + line for line in lines]


def braced(head: str, lines: list[str]) -> list[str]:
    """Return ``head { lines }``."""
    return [f"{head} {{", *indent(lines), "}"]


def body(
    name: str,
    layer: Layer,
    view: View,
    tables: Tables,
    width: int,
    together: int,
    crosses: bool,
    input_blocks: int,
) -> tuple[list[str], int]:
    """Return the statements for vectors of `width` floats, and the scratch floats they use."""
    block = best_block(layer, view, width, together, crosses, tables.entries)
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
    inner += _accumulate(name, block, sums, tables.entries, index)
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
    scratch = steps * together * block.vectors * width if input_blocks > 1 else 0
    if scratch:
        lines.insert(0, f"float *const part = scratch + {view.scratch};")
    return lines, scratch


def _blocks(layer: Layer, view: View, block: Block, lines: list[str]) -> list[str]:
    """Return the loops over the blocks of a view around `lines`."""
    target = layer.target
    tiled = view.extent != layer.needed
    (y, x) = ("(y0 + y)", "(x0 + x)") if tiled else ("y", "x")
    ph, pw = layer.epilogue.pool or (1, 1)
    place = f"{target.origin} + {y} / {ph} * {target.line} + {x} / {pw}"
    head = [
        f"const float *at = {view.base} + y * {view.step} + x;",
        f"float *home = out + {place};",
    ]
    if layer.epilogue.residual:
        head.append(f"const float *other = residual + {place};")
    lines = [*head, *lines]
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


def _accumulate(
    name: str, block: Block, sums: list[list[str]], entries: float, index: str
) -> list[str]:
    """Add all entries of a step to its sums."""
    w = block.width
    if len(sums) > 1:
        step = ["const float *p = at + *e;"]
        step += [
            f"const rvsm_v{w} x{k} = rvsm_load{w}(p + {s});" for k, s in enumerate(block.starts)
        ]
        for j, row in enumerate(sums):
            adds = [f"{a} = rvsm_fma{w}(w{j}, x{k}, {a});" for k, a in enumerate(row)]
            step += [f"const rvsm_v{w} w{j} = rvsm_set{w}(w[{j}]);", *adds]
        return [
            f"const float *w = {name}_value + {name}_first[{index}] * {len(sums)};",
            f"const int32_t *e = {name}_offset + {name}_first[{index}];",
            f"const int32_t *const end = {name}_offset + {name}_first[{index} + 1];",
            *braced(f"for (; e != end; e++, w += {len(sums)})", step),
        ]
    lines = [
        f"const rvsm_entry *e = {name}_table + {name}_first[{index}];",
        f"const rvsm_entry *const end = {name}_table + {name}_first[{index} + 1];",
    ]
    # Few sums would wait for each other: further entries go to sums of their own.
    streams = max(1, min(4 // block.vectors, int(entries // 4)))
    if streams > 1:
        steps: list[str] = []
        names = [sums[0], *([f"b{u}_{k}" for k in range(block.vectors)] for u in range(1, streams))]
        for row in names[1:]:
            lines += [f"rvsm_v{w} {a} = rvsm_set{w}(0.0f);" for a in row]
        for u, row in enumerate(names):
            steps += ["{", *indent(_entry(block, row, f"e[{u}]")), "}"]
        lines += braced(f"for (; end - e >= {streams}; e += {streams})", steps)
        for row in names[1:]:
            lines += [f"{a} = rvsm_add{w}({a}, {b});" for a, b in zip(sums[0], row, strict=True)]
    return [*lines, *braced("for (; e != end; e++)", _entry(block, sums[0], "e[0]"))]


def _entry(block: Block, sums: list[str], entry: str) -> list[str]:
    w = block.width
    lines = [
        f"const float *p = at + {entry}.offset;",
        f"const rvsm_v{w} w = rvsm_set{w}({entry}.value);",
    ]
    return lines + [
        f"{a} = rvsm_fma{w}(w, rvsm_load{w}(p + {s}), {a});"
        for a, s in zip(sums, block.starts, strict=True)
    ]
