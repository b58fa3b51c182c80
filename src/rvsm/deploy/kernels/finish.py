"""What happens to the sums in the registers: residual, activation, pooling, storing."""

from __future__ import annotations

from rvsm.deploy.kernels.block import Block
from rvsm.deploy.kernels.geometry import Epilogue, Layer


def activate(epilogue: Epilogue, width: int, value: str) -> str:
    """Return the C expression of the activation of `value`."""
    if epilogue.activation == "none":
        return value
    extra = f", {epilogue.slope:.8e}f" if epilogue.activation == "leaky_relu" else ""
    return f"rvsm_{epilogue.activation}{width}({value}{extra})"


def finish(layer: Layer, block: Block, sums: list[str]) -> list[str]:
    """Return statements that turn the registers `sums` of one channel into its outputs.

    They use the pointers ``to`` (and ``plus``, the residual) of the block's first place.
    """
    if layer.epilogue.pool is not None:
        pooled = _pooled_images if layer.target.column != 1 else _pooled
        return pooled(layer, block, sums)
    if layer.epilogue.residual and block.crosses:
        return _through_memory(layer, block, sums)
    w, pitch = block.width, layer.target.line
    lines = []
    if layer.epilogue.residual:
        for segment in block.segments:
            place = segment.row * pitch + segment.column
            a = sums[segment.vector]
            lines.append(f"{a} = rvsm_add{w}({a}, rvsm_load{w}(plus + {place}));")
    if layer.epilogue.activation != "none":
        lines += [f"{a} = {activate(layer.epilogue, w, a)};" for a in sums]
    for segment in block.segments:
        place = segment.row * pitch + segment.column
        a = sums[segment.vector]
        if segment.count == w:
            lines.append(f"rvsm_store{w}(to + {place}, {a});")
        else:
            lines.append(f"rvsm_part{w}(to + {place}, {a}, {segment.lane}, {segment.count});")
    return lines


def _through_memory(layer: Layer, block: Block, sums: list[str]) -> list[str]:
    """Store the run, then go on by rows: the residual has no gaps where the run has them."""
    w, pitch = block.width, layer.target.line
    step = block.run_step
    lines = [f"RVSM_ALIGNED float t[{(block.vectors + 1) * w}];"]
    lines += [f"rvsm_store{w}(t + {k * w}, {a});" for k, a in enumerate(sums)]
    lines += [f"memset(t + {block.vectors * w}, 0, {w} * sizeof(float));"]
    for column in range(0, block.columns, w):
        count = min(w, block.columns - column)
        total = f"rvsm_add{w}(rvsm_load{w}(t + i * {step} + {column}), "
        total += f"rvsm_load{w}(plus + i * {pitch} + {column}))"
        lines += [
            f"for (int i = 0; i < {block.rows}; i++)",
            f"    rvsm_part{w}(to + i * {pitch} + {column}, "
            f"{activate(layer.epilogue, w, total)}, 0, {count});",
        ]
    return lines


def _pooled(layer: Layer, block: Block, sums: list[str]) -> list[str]:
    """Take the maximum over rows in registers where vectors lie in one row, the rest in memory."""
    assert layer.epilogue.pool is not None
    (ph, pw), w, pitch = layer.epilogue.pool, block.width, layer.target.line
    epilogue = layer.epilogue
    lines = []
    if not epilogue.monotone:
        lines += [f"{a} = {activate(epilogue, w, a)};" for a in sums]
    if block.crosses:
        places = {k * w: a for k, a in enumerate(sums)}
        step, high = block.run_step, ph
    else:
        places = {}
        step, high = -(-block.columns // w) * w, 1
        for segment in block.segments:
            place = segment.row // ph * step + segment.column
            a = sums[segment.vector]
            if place in places:
                lines.append(f"{places[place]} = rvsm_max{w}({places[place]}, {a});")
            else:
                places[place] = a
    size = max(places) + w
    lines.append(f"RVSM_ALIGNED float t[{size}];")
    for place, a in places.items():
        value = activate(epilogue, w, a) if epilogue.monotone else a
        lines.append(f"rvsm_store{w}(t + {place}, {value});")
    lines += [
        f"for (int i = 0; i < {block.rows // ph}; i++)",
        f"    for (int j = 0; j < {block.columns // pw}; j++) {{",
        f"        const float *s = t + i * {high * step} + j * {pw};",
        "        float m = s[0];",
    ]
    for place in [i * step + j for i in range(high) for j in range(pw)][1:]:
        lines.append(f"        m = s[{place}] > m ? s[{place}] : m;")
    return [*lines, f"        to[i * {pitch} + j] = m;", "    }"]


def _pooled_images(layer: Layer, block: Block, sums: list[str]) -> list[str]:
    """Take the maximum of whole registers: each holds one place of several images."""
    assert layer.epilogue.pool is not None
    (ph, pw), w, target = layer.epilogue.pool, block.width, layer.target
    parts = block.lanes // w
    epilogue = layer.epilogue
    lines = []
    if not epilogue.monotone:
        lines += [f"{a} = {activate(epilogue, w, a)};" for a in sums]
    for row in range(0, block.rows, ph):
        for column in range(0, block.columns, pw):
            for part in range(parts):
                first, *rest = [
                    sums[((row + i) * block.columns + column + j) * parts + part]
                    for i in range(ph)
                    for j in range(pw)
                ]
                lines += [f"{first} = rvsm_max{w}({first}, {a});" for a in rest]
                value = activate(epilogue, w, first) if epilogue.monotone else first
                place = row // ph * target.line + column // pw * target.column + part * w
                lines.append(f"rvsm_store{w}(to + {place}, {value});")
    return lines
