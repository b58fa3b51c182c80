"""Weights as constant tables in C, and the order in which the loops read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rvsm.deploy.kernels.geometry import Floats, Ints, Layer
from rvsm.deploy.kernels.view import View

_PER_LINE = 8


@dataclass(frozen=True)
class Tables:
    """C text of a layer's tables, and their measures.

    Attributes
    ----------
    code : str
        ``NAME_first`` (where the entries of each step start; one more than there are steps) and
        either ``NAME_table`` (value and offset of each entry) or ``NAME_offset`` and ``NAME_value``
        (one value an output).
    entries : float
        Mean entries of a step.
    start, unit : int
        The offset of an entry is start + unit times what the table holds.
    short : bool
        Whether offsets have 16 bits, in a table of their own.
    """

    code: str
    entries: float
    start: int = 0
    unit: int = 1
    short: bool = False


def array(kind: str, name: str, items: Iterable[str]) -> str:
    """Return a constant array of at least one element; C has no empty ones."""
    texts = list(items) or ["0"]
    lines = [", ".join(texts[k : k + _PER_LINE]) for k in range(0, len(texts), _PER_LINE)]
    return f"static const {kind} {name}[{len(texts)}] = {{\n" + ",\n".join(lines) + "\n};\n"


def floats(values: Floats) -> list[str]:
    """Return C literals that read back as exactly these values."""
    return [f"{value:.8e}f" for value in values.ravel().tolist()]


def ints(values: Ints) -> list[str]:
    """Return C literals."""
    return [str(value) for value in values.tolist()]


def sparse_tables(name: str, layer: Layer, view: View, input_blocks: int) -> Tables:
    """Return a step per input block and output; its entries are the nonzeros of that output.

    Offsets of 16 bits are read four at a time, which leaves more loads to the inputs.
    """
    taps, outputs = layer.taps, layer.target.channels
    step = taps.channel * input_blocks // layer.source.channels * outputs + taps.output
    order = np.argsort(step, kind="stable")
    first = np.searchsorted(step[order], np.arange(outputs * input_blocks + 1))
    value, offset = floats(taps.value[order]), view.offsets[order]
    code = array("int32_t", f"{name}_first", ints(first))
    entries = len(value) / (outputs * input_blocks)
    start = int(offset.min(initial=0 if not value else offset.max()))
    unit = int(np.gcd.reduce(offset - start)) or 1
    short = (offset - start) // unit
    if value and short.max() <= np.iinfo(np.uint16).max:
        code += array("uint16_t", f"{name}_offset", ints(short))
        code += array("float", f"{name}_value", value)
        return Tables(code, entries, start, unit, True)
    pairs = [f"{{{v}, {o}}}" for v, o in zip(value, ints(offset), strict=True)]
    return Tables(code + array("rvsm_entry", f"{name}_table", pairs or ["{0, 0}"]), entries)


def joint_tables(name: str, layer: Layer, view: View, together: int, input_blocks: int) -> Tables:
    """Return one step per input block and `together` outputs; entries are places any of them uses.

    The last outputs form a step with those before them that are needed to make it full.
    """
    taps, outputs = layer.taps, layer.target.channels
    blocks = -(-outputs // together)
    part = taps.channel * input_blocks // layer.source.channels
    first, offsets, values = [0], [], []
    for input_block in range(input_blocks):
        for block in range(blocks):
            start = min(block * together, outputs - together)
            chosen = (
                (taps.output >= start) & (taps.output < start + together) & (part == input_block)
            )
            places, index = np.unique(view.offsets[chosen], return_inverse=True)
            value = np.zeros((places.size, together), dtype=np.float32)
            value[index, taps.output[chosen] - start] = taps.value[chosen]
            offsets.append(places)
            values.append(value)
            first.append(first[-1] + places.size)
    code = array("int32_t", f"{name}_first", map(str, first))
    code += array("int32_t", f"{name}_offset", ints(np.concatenate(offsets)))
    code += array("float", f"{name}_value", floats(np.concatenate(values)))
    return Tables(code, first[-1] / (blocks * input_blocks))
