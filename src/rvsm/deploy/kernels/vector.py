"""Layers with one output place per channel, a linear layer on one image above all."""

from __future__ import annotations

import numpy as np

from rvsm.deploy.kernels.finish import activate
from rvsm.deploy.kernels.geometry import Layer
from rvsm.deploy.kernels.tables import array, floats, ints
from rvsm.deploy.kernels.text import braced
from rvsm.deploy.kernels.view import View

SLICE = 16  # outputs whose sums are lanes of one vector, or of several narrow ones
COLUMNS = 64  # outputs of a block of the dense kernel


def gather_code(name: str, layer: Layer, view: View) -> str:
    """Return the tables of `gather_body`: outputs in slices of 16, by falling number of nonzeros.

    Each slice holds as many steps as its fullest output has nonzeros; a step is 16 values and 16
    offsets. Outputs that run out are padded with zeros, few as neighbours are about equally full.
    """
    taps, outputs = layer.taps, layer.target.channels
    counts = np.bincount(taps.output, minlength=outputs)
    order = np.argsort(-counts, kind="stable")
    slices = -(-outputs // SLICE)
    rank = np.empty(outputs, dtype=np.int64)
    rank[order] = np.arange(outputs)
    steps = counts[order][::SLICE]
    first = np.concatenate([[0], np.cumsum(steps)])
    lane = rank[taps.output]
    nth = np.arange(taps.output.size) - (np.cumsum(counts) - counts)[taps.output]
    place = (first[lane // SLICE] + nth) * SLICE + lane % SLICE
    # Compilers warn of vectors beyond a table's end even in loops that never run.
    size = max(int(first[-1]), 1) * SLICE
    values = np.zeros(size, dtype=np.float32)
    offsets = np.zeros(size, dtype=np.int64)
    values[place] = taps.value
    offsets[place] = view.offsets
    # Lanes beyond the last output repeat it and are not stored.
    lanes = np.append(order, np.full(slices * SLICE - outputs, order[-1]))
    code = array("int32_t", f"{name}_first", ints(first))
    code += array("float", f"{name}_value", floats(values))
    code += array("int32_t", f"{name}_offset", ints(offsets))
    code += array(
        "int32_t", f"{name}_place", ints(layer.target.origin + lanes * layer.target.plane)
    )
    if layer.epilogue.bias is not None:
        code += array("float", f"{name}_bias", floats(layer.epilogue.bias[lanes]))
    return code


def gather_body(name: str, layer: Layer, width: int) -> list[str]:
    """Return loops whose lanes are outputs; each lane fetches its own input."""
    epilogue, outputs = layer.epilogue, layer.target.channels
    sums = [f"a{k}" for k in range(SLICE // width)]
    start = f"rvsm_load{width}({name}_bias + s * {SLICE} + {{}})"
    if epilogue.bias is None:
        start = f"rvsm_set{width}(0.0f)"
    lines = [f"rvsm_v{width} {a} = {start.format(k * width)};" for k, a in enumerate(sums)]
    step = [
        f"{a} = rvsm_fma{width}(rvsm_load{width}({name}_value + e * {SLICE} + {k * width}), "
        f"rvsm_gather{width}(in, {name}_offset + e * {SLICE} + {k * width}), {a});"
        for k, a in enumerate(sums)
    ]
    lines += braced(f"for (int e = {name}_first[s]; e < {name}_first[s + 1]; e++)", step)
    lines += [f"const int32_t *const place = {name}_place + s * {SLICE};"]
    lines.append(f"RVSM_ALIGNED float t[{SLICE}];")
    for k, a in enumerate(sums):
        value = a
        if epilogue.residual:
            value = f"rvsm_add{width}({a}, rvsm_gather{width}(residual, place + {k * width}))"
        lines.append(f"rvsm_store{width}(t + {k * width}, {activate(epilogue, width, value)});")
    rest = outputs % SLICE
    count = f"s < {outputs // SLICE} ? {SLICE} : {rest}" if rest else f"{SLICE}"
    lines += [f"const int count = {count};"]
    lines.append("for (int i = 0; i < count; i++) out[place[i]] = t[i];")
    return braced(f"for (int s = 0; s < {-(-outputs // SLICE)}; s++)", lines)


def columns_code(name: str, layer: Layer, view: View) -> str:
    """Return the tables of `columns_body`: blocks of up to 64 outputs, an input a row."""
    taps, outputs = layer.taps, layer.target.channels
    code, values, first = "", [], [0]
    all_places = []
    for start in range(0, outputs, COLUMNS):
        chosen = (taps.output >= start) & (taps.output < start + COLUMNS)
        places, index = np.unique(view.offsets[chosen], return_inverse=True)
        value = np.zeros((places.size, COLUMNS), dtype=np.float32)
        value[index, taps.output[chosen] - start] = taps.value[chosen]
        values.append(value)
        all_places.append(places)
        first.append(first[-1] + places.size)
    code += array("int32_t", f"{name}_first", map(str, first))
    code += array("int32_t", f"{name}_offset", ints(np.concatenate(all_places)))
    rows = np.concatenate(values) if first[-1] else np.zeros((1, COLUMNS), dtype=np.float32)
    code += array("float", f"{name}_value", floats(rows))
    if layer.epilogue.bias is not None:
        bias = np.zeros(len(values) * COLUMNS, dtype=np.float32)
        bias[:outputs] = layer.epilogue.bias
        code += array("float", f"{name}_bias", floats(bias))
    return code


def columns_body(name: str, layer: Layer, width: int) -> list[str]:
    """Return loops whose lanes are outputs; all lanes use the same input, one after the other."""
    epilogue, outputs, target = layer.epilogue, layer.target.channels, layer.target
    part = min(COLUMNS, 8 * width)  # divides COLUMNS, and 8 sums fit every target's registers
    sums = [f"a{k}" for k in range(part // width)]
    start = f"rvsm_load{width}({name}_bias + b * {COLUMNS} + h + {{}})"
    if epilogue.bias is None:
        start = f"rvsm_set{width}(0.0f)"
    lines = [f"rvsm_v{width} {a} = {start.format(k * width)};" for k, a in enumerate(sums)]
    lines.append(f"const float *row = {name}_value + {name}_first[b] * {COLUMNS} + h;")
    step = [f"const rvsm_v{width} x = rvsm_set{width}(in[{name}_offset[e]]);"]
    step += [
        f"{a} = rvsm_fma{width}(x, rvsm_load{width}(row + {k * width}), {a});"
        for k, a in enumerate(sums)
    ]
    loop = f"for (int e = {name}_first[b]; e < {name}_first[b + 1]; e++, row += {COLUMNS})"
    lines += braced(loop, step)
    lines.append(f"RVSM_ALIGNED float t[{part}];")
    place = f"{target.origin} + (b * {COLUMNS} + h + i) * {target.plane}"
    lines.append(f"const int left = {outputs} - b * {COLUMNS} - h;")
    if epilogue.residual:
        lines += [f"rvsm_store{width}(t + {k * width}, {a});" for k, a in enumerate(sums)]
        lines.append(f"for (int i = 0; i < {part} && i < left; i++) t[i] += residual[{place}];")
        loads = [f"{a} = rvsm_load{width}(t + {k * width});" for k, a in enumerate(sums)]
        lines += loads
    for k, a in enumerate(sums):
        lines.append(f"rvsm_store{width}(t + {k * width}, {activate(epilogue, width, a)});")
    lines.append(f"for (int i = 0; i < {part} && i < left; i++) out[{place}] = t[i];")
    inner = braced(
        f"for (int h = 0; h < {COLUMNS} && b * {COLUMNS} + h < {outputs}; h += {part})", lines
    )
    return braced(f"for (int b = 0; b < {-(-outputs // COLUMNS)}; b++)", inner)
