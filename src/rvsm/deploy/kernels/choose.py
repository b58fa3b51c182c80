"""Which variants make sense for a layer, and which is taken where none is timed."""

from __future__ import annotations

from rvsm.deploy.kernels.assemble import Kernel, Variant
from rvsm.deploy.kernels.geometry import Layer, Pair
from rvsm.deploy.kernels.view import ALIGN, round_up

CACHE_FLOATS = 10 * 1024  # what a block of input channels may take of the nearest cache
DENSE = 0.4  # above this share of nonzeros, sharing loads beats skipping zeros
NARROW = 2 * ALIGN  # columns below which vectors that cross rows may save more than they cost


def variants(layer: Layer) -> list[Variant]:
    """Return the variants worth timing, the default of `choose` first.

    Parameters
    ----------
    layer : Layer
        From `make_layer` or `linear_layer`.
    """
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
    if layer.needed == (1, 1):
        return Variant("columns" if layer.density > 0.25 else "gather")
    (height, width), per_output = layer.needed, layer.taps.value.size / layer.target.channels
    uses = layer.taps.value.size / (layer.source.channels * layer.kernel[1])  # of a copied row
    together = max(_together(layer)) if layer.density > DENSE else 1
    strided = layer.stride[1] != 1
    narrow = width < ALIGN or (width < NARROW and width % ALIGN != 0)
    tall = layer.stride[0] == 1 and not layer.source.interleaved
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
        tall = height > 1 and layer.stride[0] == 1 and not layer.source.interleaved
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
