"""Which variants make sense for a layer, and which is taken where none is timed."""

from __future__ import annotations

from rvsm.deploy.kernels.assemble import Kernel, Variant
from rvsm.deploy.kernels.block import LINE_BYTES
from rvsm.deploy.kernels.geometry import Layer, Pair
from rvsm.deploy.kernels.view import ALIGN, round_up

CACHE_FLOATS = 10 * 1024  # what a block of input channels may take of the nearest cache
DENSE = 0.4  # above this share of nonzeros, sharing loads beats skipping zeros
NARROW = 2 * ALIGN  # columns below which vectors that cross rows may save more than they cost

TILES: tuple[Pair, ...] = ((4, 6), (2, 12), (4, 4), (2, 8), (1, 8), (2, 4), (4, 2), (2, 2))
"""Output places computed together for images side by side; each takes a register of 16 floats."""
WIDE_TILES = (
    (2, 2, 1), (2, 4, 2), (4, 2, 1), (2, 4, 1), (2, 2, 2), (4, 2, 2), (2, 4, 4), (2, 2, 4),
    (4, 4, 2),
)  # fmt: skip
"""Rows, columns and parts of the input channels, where inputs do not fit the nearest cache."""
NEAR_BYTES = 40 * 1024


def variants(layer: Layer) -> list[Variant]:
    """Return the variants worth timing, the default of `choose` first.

    Parameters
    ----------
    layer : Layer
        From `make_layer` or `linear_layer`.
    """
    if layer.source.lanes > 1:
        return _sorted(layer, _of_images(layer))
    if layer.needed == (1, 1):
        return _sorted(layer, [Variant("gather"), Variant("columns")])
    found: list[Variant] = []
    for together in _together(layer):
        for kernel, crosses in _views(layer):
            for tile in _tiles(layer, kernel) if not crosses else [None]:
                for blocks in _input_blocks(layer, tile):
                    found.append(Variant(kernel, crosses, together, blocks, tile=tile))
    return _sorted(layer, found)


def choose(layer: Layer) -> Variant:
    """Return a variant by shape and share of zeros, as timed on one machine with AVX-512."""
    if layer.source.lanes > 1:
        return _default_of_images(layer)
    if layer.needed == (1, 1):
        return Variant("columns" if layer.density > 0.25 else "gather")
    (height, width), per_output = layer.needed, layer.taps.value.size / layer.target.channels
    uses = layer.taps.value.size / (layer.source.channels * layer.kernel[1])  # of a copied row
    together = max(_together(layer)) if layer.density > DENSE else 1
    strided = layer.stride[1] != 1
    narrow = width < ALIGN or (width < NARROW and width % ALIGN != 0)
    tall = layer.stride[0] == 1
    blocks = _default_blocks(layer, per_output)
    if width == 1 or (layer.kernel == (1, 1) and not strided):
        return Variant("direct", narrow and tall and height > 1, together, blocks)
    if _large(layer) and (strided or uses >= 6):
        kernel: Kernel = "shifted" if uses >= 12 else "packed"
        return Variant(kernel, False, together, min(blocks, 2), tile=_tiles(layer, kernel)[0])
    if uses >= 12:
        crosses = width < ALIGN and width in (2, 4, 8)
        return Variant("shifted", crosses, together, blocks)
    if strided:
        return Variant("shifted" if uses >= 6 else "packed", narrow, together)
    return Variant("direct", narrow and tall and width < ALIGN, together, min(blocks, 2))


def _of_images(layer: Layer) -> list[Variant]:
    """Return blocks of output places and parts of the input channels, the most promising first."""
    wide = _tile_bytes(layer, _fitted(layer, (2, 2))) > NEAR_BYTES
    found = []
    for rows, columns, blocks in WIDE_TILES if wide else [(*tile, 1) for tile in TILES]:
        tile = _fitted(layer, (rows, columns))
        most = -(-_tile_bytes(layer, tile) // NEAR_BYTES)
        if blocks <= min(most, layer.source.channels):
            found.append(Variant("images", input_blocks=blocks, tile=tile))
    if not wide:
        for tile in ((4, 4), (2, 8), (2, 4)):
            tile = _fitted(layer, tile)
            if _tile_bytes(layer, tile) > NEAR_BYTES and layer.source.channels > 1:
                found.append(Variant("images", input_blocks=2, tile=tile))
    return list(dict.fromkeys(found))


def _default_of_images(layer: Layer) -> Variant:
    """Return the largest block whose inputs nearly fit the nearest cache."""
    tiles = [_fitted(layer, tile) for tile in TILES]
    fitting = [tile for tile in tiles if _tile_bytes(layer, tile) <= 1.6 * NEAR_BYTES]
    if fitting:
        return Variant("images", tile=max(fitting, key=lambda tile: tile[0] * tile[1]))
    return Variant("images", tile=_fitted(layer, (2, 2)))


def _fitted(layer: Layer, tile: Pair) -> Pair:
    """Return a tile that is not larger than the map."""
    return min(tile[0], layer.needed[0]), min(tile[1], layer.needed[1])


def _tile_bytes(layer: Layer, tile: Pair) -> int:
    """Return the bytes of the places that a block of outputs reads, of 16 images."""
    rows, columns = (
        (size - 1) * stride + (kernel - 1) * dilation + 1
        for size, stride, kernel, dilation in zip(
            tile, layer.stride, layer.kernel, layer.dilation, strict=True
        )
    )
    return rows * columns * layer.source.channels * LINE_BYTES


def _sorted(layer: Layer, found: list[Variant]) -> list[Variant]:
    default = choose(layer)
    return [default, *(variant for variant in found if variant != default)]


def _together(layer: Layer) -> list[int]:
    """Return how many outputs to compute at once: they should read the same inputs."""
    per_group = layer.target.channels // layer.groups
    choices = [1]
    if layer.density > DENSE / 2 and layer.weight.shape[1] * layer.kernel[0] > 1:
        choices += [size for size in (2, 4) if size <= per_group]
    return choices


def _views(layer: Layer) -> list[tuple[Kernel, bool]]:
    """Return pairs of kernel and whether vectors cross rows."""
    height, width = layer.needed
    found: list[tuple[Kernel, bool]] = []
    if layer.kernel[1] > 1:
        found.append(("shifted", False))
        found += [("shifted", True)] * (height > 1)
    if layer.stride[1] == 1 or width == 1:
        found.append(("direct", False))
        tall = height > 1 and layer.stride[0] == 1
        if tall and width < NARROW:
            found.append(("direct", True))
    else:
        found.append(("packed", True))
    if layer.stride[1] != 1 or _large(layer):
        found.append(("packed", False))
    return found


def _large(layer: Layer) -> bool:
    """Say whether a copy is better made a tile at a time."""
    return layer.needed[0] * layer.needed[1] >= 1024


def _tiles(layer: Layer, kernel: Kernel) -> list[Pair | None]:
    """Return tiles for maps whose channels do not fit a cache together."""
    if kernel == "direct" or not _large(layer):
        return [None]
    return [(4, 2 * ALIGN), (8, 2 * ALIGN)]


def _default_blocks(layer: Layer, per_output: float) -> int:
    """Return how many parts of the input channels keep each part's rows in the cache."""
    rows, width = layer.needed
    rows = min(rows, max(1, 8 * ALIGN // width))
    floats = layer.source.channels * layer.kernel[1] * round_up(width, 8)
    floats *= rows + layer.kernel[0] - 1
    # A part costs loading and storing all sums, which ten entries outweigh.
    return max(1, min(-(-floats // CACHE_FLOATS), int(per_output / 10), layer.source.channels))


def _input_blocks(layer: Layer, tile: Pair | None) -> list[int]:
    per_output = layer.taps.value.size / layer.target.channels
    most = _default_blocks(layer, per_output)
    return sorted({1, most, max(1, most // 2)} if tile is None else {1, min(2, most)})
