"""How the places of a feature map are cut into blocks that fit the vector registers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rvsm.deploy.kernels.geometry import Layer, Pair
from rvsm.deploy.kernels.view import View

# Vector registers left for sums, by vector width: one holds the weight; without AVX (4) an operand
# that is not aligned needs one of its own.
REGISTERS = {16: 26, 8: 14, 4: 12, 1: 8}
L1_BYTES = 32 * 1024
LINE_BYTES = 64


@dataclass(frozen=True)
class Segment:
    """Lanes [lane, lane + count) of a vector go to a row of the block, `column` floats along."""

    vector: int
    lane: int
    row: int
    column: int
    count: int


@dataclass(frozen=True)
class Block:
    """A block of rows x columns output places, and the vectors that cover it.

    Attributes
    ----------
    rows, columns : int
    starts : tuple of int
        Where each vector starts in the view, from the block's own start.
    segments : tuple of Segment
    crosses : bool
        Whether vectors cross rows.
    run_step : int
        Floats from row to row of a block whose vectors cross rows.
    lanes : int
        Images side by side that the block computes; 1 where vectors hold places of one image.
    """

    width: int
    rows: int
    columns: int
    starts: tuple[int, ...]
    segments: tuple[Segment, ...]
    crosses: bool
    run_step: int = 0
    lanes: int = 1

    @property
    def vectors(self) -> int:
        """Vector registers that hold the block's sums for one output channel."""
        return len(self.starts)


def by_rows(width: int, rows: int, columns: int, step: int, aligned: bool) -> Block:
    """Return a block whose vectors each lie in one row.

    The last vector of a row overlaps the one before, unless that would make it misaligned.
    """
    starts: list[int] = []
    segments: list[Segment] = []
    for row in range(rows):
        for first in range(0, columns, width):
            whole = first + width <= columns
            column = first if whole or aligned or columns < width else columns - width
            segments.append(Segment(len(starts), 0, row, column, min(width, columns - column)))
            starts.append(row * step + column)
    return Block(width, rows, columns, tuple(starts), tuple(segments), False)


def by_run(width: int, rows: int, columns: int, step: int) -> Block:
    """Return a block of vectors that run on from row to row."""
    length = (rows - 1) * step + columns
    starts = tuple(range(0, length, width))
    segments = []
    for row in range(rows):
        column = 0
        while column < columns:
            vector, lane = divmod(row * step + column, width)
            count = min(width - lane, columns - column)
            segments.append(Segment(vector, lane, row, column, count))
            column += count
    return Block(width, rows, columns, starts, tuple(segments), True, step)


def by_images(layer: Layer, view: View, width: int, places: Pair) -> Block:
    """Return a block whose vectors each hold one place of several images.

    Parameters
    ----------
    places : pair of int
        Rows and columns wanted for the widest vectors. Narrower ones get fewer, as they hold a
        place in two registers, or only some of the images at a time.
    """
    lanes = math.gcd(layer.source.lanes, 16) if width >= 8 else width
    parts = lanes // width
    window, needed = layer.epilogue.pool or (1, 1), layer.needed
    rows, columns = (
        min(size, max(1, part // unit) * unit)
        for size, part, unit in zip(needed, places, window, strict=True)
    )
    while rows * columns * parts > REGISTERS[width] and columns > window[1]:
        columns -= window[1]
    while rows * columns * parts > REGISTERS[width] and rows > window[0]:
        rows -= window[0]
    starts: list[int] = []
    segments: list[Segment] = []
    for row in range(rows):
        for column in range(columns):
            for lane in range(0, lanes, width):
                place = column * layer.target.column + lane
                segments.append(Segment(len(starts), 0, row, place, width))
                starts.append(row * view.step + column * view.column + lane)
    return Block(width, rows, columns, tuple(starts), tuple(segments), False, lanes=lanes)


def _divided(size: int, part: int) -> int:
    return -(-size // part)


def best_block(
    layer: Layer, view: View, width: int, together: int, crosses: bool, entries: float
) -> Block:
    """Return the block with the least estimated time.

    Parameters
    ----------
    width : int
        Floats in a vector.
    together : int
        Output channels whose sums are in registers at once.
    crosses : bool
        Let vectors cross rows.
    entries : float
        Mean table entries of a step through the table.
    """
    (height, columns), pool = view.extent, layer.epilogue.pool or (1, 1)
    limit = max(1, REGISTERS[width] // together)
    column_choices = [columns] if crosses else _column_choices(columns, width, pool, limit)
    sizes: dict[Pair, int] = {}
    for rows in range(pool[0], height + 1, pool[0]):
        for part in column_choices:
            run = (rows - 1) * view.step + columns
            sizes[rows, part] = _divided(run, width) if crosses else rows * _divided(part, width)
    fitting = [size for size, vectors in sizes.items() if vectors <= limit]
    # Where not even one row of pooling windows fits, the compiler has to spill a few sums.
    blocks = [
        by_run(width, rows, part, view.step)
        if crosses
        else by_rows(width, rows, part, view.step, view.aligned >= width)
        for rows, part in fitting or [min(sizes, key=lambda size: sizes[size])]
    ]
    return min(blocks, key=lambda block: _cost(layer, view, block, together, entries))


def _column_choices(columns: int, width: int, pool: Pair, limit: int) -> list[int]:
    """Return numbers of columns a block may have: all, or some whole vectors and pool windows.

    Whole rows win wherever the registers hold one: parts of rows were up to twice as slow.
    """
    if _divided(columns, width) * pool[0] <= limit:
        return [columns]
    some = {_divided(vectors * width, pool[1]) * pool[1] for vectors in range(1, limit + 1)}
    return sorted({min(part, columns) for part in some})


def _cost(layer: Layer, view: View, block: Block, together: int, entries: float) -> float:
    """Return estimated cycles, by loads and multiply-adds, for the outputs of one table step."""
    height, columns = view.extent
    blocks = _divided(height, block.rows) * _divided(columns, block.columns)
    misaligned = 0.0 if view.aligned >= block.width else (1.0 if block.width >= 16 else 0.4)
    loads = block.vectors * (1 + misaligned)
    # Each row of a channel takes its share of cache lines and, as it starts anywhere, one more.
    row = view.channel_bytes * block.columns / columns + LINE_BYTES
    footprint = layer.source.channels * row * (block.rows + layer.kernel[0] - 1)
    if footprint > L1_BYTES:
        loads *= 1 + 0.5 * math.log2(footprint / L1_BYTES)
    # The first touch of a line is slow, and the start of a row, often on another page, slower.
    lines = layer.source.channels * (block.rows + layer.kernel[0] - 1) * (row / LINE_BYTES + 3)
    cold = 3 * lines * together / layer.target.channels
    if together == 1:
        per_entry = (loads + 2) / 2
    else:
        per_entry = max(block.vectors * together / 2, (loads + together + 1) / 2)
    finish = 8 + together * (len(block.segments) + (block.vectors if block.crosses else 0))
    spill = 4 * max(0, block.vectors * together - REGISTERS[block.width])
    return blocks * (entries * (per_entry + spill) + finish + cold)
