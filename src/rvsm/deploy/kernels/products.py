"""The innermost loop: the entries of a step times what they read, added to sums in registers."""

from __future__ import annotations

from rvsm.deploy.kernels.block import Block
from rvsm.deploy.kernels.tables import Tables
from rvsm.deploy.kernels.text import braced, indent

FOUR = 4
"""Offsets of 16 bits in one load, and sums that hide the latency of a multiply-add."""


def accumulate(
    name: str, block: Block, sums: list[list[str]], tables: Tables, index: str
) -> list[str]:
    """Return statements that add all entries of a step.

    Parameters
    ----------
    name : str
        Prefix of the tables.
    sums : list of list of str
        Registers, a row for each output of the step; of one row the tables are sparse.
    index : str
        C expression of the step's number.
    """
    if len(sums) > 1:
        return _joint(name, block, sums, index)
    # Few sums would wait for each other: further entries go to sums of their own.
    streams = max(1, min(FOUR // block.vectors, int(tables.entries // FOUR)))
    rows = [sums[0], *([f"b{u}_{k}" for k in range(block.vectors)] for u in range(1, streams))]
    w = block.width
    lines = [f"rvsm_v{w} {a} = rvsm_set{w}(0.0f);" for row in rows[1:] for a in row]
    lines += (_short if tables.short else _long)(name, block, rows, tables, index)
    return lines


def _short(name: str, block: Block, rows: list[list[str]], tables: Tables, index: str) -> list[str]:
    """Read values and offsets of 16 bits; four offsets at a time where entries are many."""
    place = "at" + f" + {tables.start}" * (tables.start != 0)
    place += f" + {tables.unit} * " if tables.unit > 1 else " + "
    together, offsets, head = len(rows), [f"q[{u}]" for u in range(len(rows))], []
    if tables.entries >= 2 * FOUR:
        together, head = FOUR, ["const uint64_t four = rvsm_four(q);"]
        offsets = [f"(ptrdiff_t)(four >> {16 * u} & 0xffff)" for u in range(FOUR)]
    entries = [(f"e[{u}]", place + offset) for u, offset in enumerate(offsets)]
    return [
        f"const float *e = {name}_value + {name}_first[{index}];",
        f"const float *const end = {name}_value + {name}_first[{index} + 1];",
        f"const uint16_t *q = {name}_offset + {name}_first[{index}];",
        *_several(block, rows, f"e += {together}, q += {together}", head, entries),
        *braced("for (; e != end; e++, q++)", _entry(block, rows[0], "e[0]", f"{place}q[0]")),
    ]


def _long(name: str, block: Block, rows: list[list[str]], tables: Tables, index: str) -> list[str]:
    """Read values and offsets of 32 bits together."""
    entries = [(f"e[{u}].value", f"at + e[{u}].offset") for u in range(len(rows))]
    return [
        f"const rvsm_entry *e = {name}_table + {name}_first[{index}];",
        f"const rvsm_entry *const end = {name}_table + {name}_first[{index} + 1];",
        *_several(block, rows, f"e += {len(rows)}", [], entries),
        *braced("for (; e != end; e++)", _entry(block, rows[0], *entries[0])),
    ]


def _several(
    block: Block,
    rows: list[list[str]],
    advance: str,
    head: list[str],
    entries: list[tuple[str, str]],
) -> list[str]:
    """Return the loop that takes several entries a turn, and the sum of its rows of sums."""
    lines = []
    if len(entries) > 1:
        steps = list(head)
        for u, entry in enumerate(entries):
            steps += ["{", *indent(_entry(block, rows[u % len(rows)], *entry)), "}"]
        lines = braced(f"for (; end - e >= {len(entries)}; {advance})", steps)
    w = block.width
    for row in rows[1:]:
        lines += [f"{a} = rvsm_add{w}({a}, {b});" for a, b in zip(rows[0], row, strict=True)]
    return lines


def _entry(block: Block, sums: list[str], value: str, place: str) -> list[str]:
    w = block.width
    lines = [f"const float *p = {place};", f"const rvsm_v{w} w = rvsm_set{w}({value});"]
    return lines + [
        f"{a} = rvsm_fma{w}(w, rvsm_load{w}(p + {s}), {a});"
        for a, s in zip(sums, block.starts, strict=True)
    ]


def _joint(name: str, block: Block, sums: list[list[str]], index: str) -> list[str]:
    """Load inputs once for several outputs."""
    w, outputs = block.width, len(sums)
    step = ["const float *p = at + *e;"]
    step += [f"const rvsm_v{w} x{k} = rvsm_load{w}(p + {s});" for k, s in enumerate(block.starts)]
    for j, row in enumerate(sums):
        step.append(f"const rvsm_v{w} w{j} = rvsm_set{w}(w[{j}]);")
        step += [f"{a} = rvsm_fma{w}(w{j}, x{k}, {a});" for k, a in enumerate(row)]
    return [
        f"const float *w = {name}_value + {name}_first[{index}] * {outputs};",
        f"const int32_t *e = {name}_offset + {name}_first[{index}];",
        f"const int32_t *const end = {name}_offset + {name}_first[{index} + 1];",
        *braced(f"for (; e != end; e++, w += {outputs})", step),
    ]
