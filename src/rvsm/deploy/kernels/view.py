"""Where a kernel reads: the source itself, or a copy that makes its columns neighbours.

In a view, the input of output place (y, x) under one weight is at
``base + offset(weight) + y * step + x``, whatever the stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rvsm.deploy.kernels.geometry import Ints, Layer, Pair, Taps
from rvsm.errors import RvsmError

ALIGN = 16  # floats: a cache line, and the widest vector


def round_up(value: int, unit: int) -> int:
    """Return the least multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


@dataclass(frozen=True)
class View:
    """What the loops need to know of a view.

    Attributes
    ----------
    base : str
        C expression of the pointer that offsets count from.
    extent : pair of int
        Rows and columns of output places that the view serves: all, or those of a tile whose first
        place is (y0, x0).
    step, pitch, column : int
        Floats from output row to output row, between rows as they lie, and from output column to
        output column; where the first two are equal a run of vectors may cross rows.
    offsets : ndarray of int
        Of each nonzero, in the order of the layer's taps.
    prepare : str
        C statements that fill the copy.
    scratch : int
        Floats of the copy.
    channel_bytes : float
        Bytes read per channel and output row, to judge what a cache holds.
    aligned : int
        Floats whose multiples all vectors start at, if `step` is such a multiple; 1: none.
    """

    base: str
    extent: Pair
    step: int
    pitch: int
    offsets: Ints
    prepare: str
    scratch: int
    channel_bytes: float
    aligned: int
    column: int = 1


def direct(layer: Layer) -> View:
    """Return the source as it lies; its columns are neighbours for stride 1."""
    view = placed(layer)
    if view.column != 1 and layer.needed[1] != 1:
        raise RvsmError("A stride across columns needs a packed or shifted copy; choose one.")
    return view


def placed(layer: Layer) -> View:
    """Return the source as it lies, its columns as far apart as they may be."""
    source, taps = layer.source, layer.taps
    offsets = (
        source.origin
        + taps.channel * source.plane
        + layer.row_shift(taps.row) * source.line
        + layer.column_shift(taps.column) * source.column
    )
    step, column = layer.stride[0] * source.line, layer.stride[1] * source.column
    return View("in", layer.needed, step, source.line, offsets, "", 0, 4.0 * step, 1, column)


@dataclass(frozen=True)
class _Copy:
    """One copy of each channel: rows and columns of one phase of the stride."""

    row_phase: int
    column_phase: int
    first_row: int  # in units of the stride
    first_column: int
    rows: int
    columns: int


def copied(layer: Layer, shifted: bool, tight: bool, extent: Pair) -> View:
    """Return a copy with one part per phase of the stride, or per kernel column.

    Parameters
    ----------
    shifted : bool
        Give every kernel column a part of its own, so that all vectors of a row are aligned.
    tight : bool
        Keep rows without a gap between them where `shifted`, so that vectors may cross rows.
    extent : pair of int
        Rows and columns of output places that are served at a time.
    """
    height, width = extent
    row_q, row_phase = np.divmod(layer.row_shift(np.arange(layer.kernel[0])), layer.stride[0])
    col_q, col_phase = np.divmod(layer.column_shift(np.arange(layer.kernel[1])), layer.stride[1])
    column_parts = (
        np.unique(col_q * layer.stride[1] + col_phase) if shifted else np.unique(col_phase)
    )
    copies: dict[tuple[int, int], _Copy] = {}
    for rp in np.unique(row_phase):
        rows = row_q[row_phase == rp]
        for part in column_parts:
            phase = int(part) % layer.stride[1]
            cols = np.array([part // layer.stride[1]]) if shifted else col_q[col_phase == phase]
            copies[int(rp), int(part)] = _Copy(
                int(rp),
                phase,
                int(rows.min()),
                int(cols.min()),
                int(np.ptp(rows)) + height,
                int(np.ptp(cols)) + width,
            )
    columns = max(copy.columns for copy in copies.values())
    unit = 1 if tight else 8 if 0 < columns % ALIGN <= 8 else ALIGN
    pitch = round_up(columns, unit)
    starts: dict[tuple[int, int], int] = {}
    plane = 0
    for key, copy in copies.items():
        starts[key] = plane
        plane += round_up(copy.rows * pitch, ALIGN)
    offsets = _offsets(layer, copies, starts, plane, pitch, shifted)
    prepare = "\n".join(_fill(layer, copies, starts, plane, pitch, extent))
    aligned = unit if shifted else 1
    return View(
        "scratch",
        extent,
        pitch,
        pitch,
        offsets,
        prepare,
        plane * layer.source.channels,
        4.0 * pitch * len(copies),
        aligned,
    )


def _offsets(
    layer: Layer,
    copies: dict[tuple[int, int], _Copy],
    starts: dict[tuple[int, int], int],
    plane: int,
    pitch: int,
    shifted: bool,
) -> Ints:
    taps: Taps = layer.taps
    of_place = np.empty(layer.kernel, dtype=np.int64)
    for i in range(layer.kernel[0]):
        row_q, row_phase = divmod(int(layer.row_shift(np.array(i))), layer.stride[0])
        for j in range(layer.kernel[1]):
            shift = int(layer.column_shift(np.array(j)))
            col_q, col_phase = divmod(shift, layer.stride[1])
            key = (row_phase, shift if shifted else col_phase)
            copy = copies[key]
            of_place[i, j] = (
                starts[key] + (row_q - copy.first_row) * pitch + col_q - copy.first_column
            )
    return taps.channel * plane + of_place[taps.row, taps.column]


def _fill(
    layer: Layer,
    copies: dict[tuple[int, int], _Copy],
    starts: dict[tuple[int, int], int],
    plane: int,
    pitch: int,
    extent: Pair,
) -> list[str]:
    source, (sh, sw) = layer.source, layer.stride
    corner = "in" if extent == layer.needed else f"in + y0 * {sh * source.line} + x0 * {sw}"
    lines = [f"for (int c = 0; c < {source.channels}; c++) {{"]
    for key, copy in copies.items():
        row = copy.first_row * sh + copy.row_phase
        column = copy.first_column * sw + copy.column_phase
        start = source.origin + row * source.line + column
        lines += [
            f"    for (int y = 0; y < {copy.rows}; y++) {{",
            f"        const float *from = {corner} + c * {source.plane} + y * {sh * source.line}"
            f" + {start};",
            f"        float *to = scratch + c * {plane} + y * {pitch} + {starts[key]};",
        ]
        if sw == 1:
            lines.append(f"        memcpy(to, from, {copy.columns} * sizeof(float));")
        else:
            lines.append(
                f"        for (int x = 0; x < {copy.columns}; x++) to[x] = from[x * {sw}];"
            )
        lines.append("    }")
    return [*lines, "}"]
