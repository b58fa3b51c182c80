"""How the places of nonzeros are written: a bitmask, or gaps of a few bits each.

Pure functions on NumPy arrays; `rvsm.deploy.files` puts their results in a file. The layout is
described for other readers in docs/file-format.md.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

MIN_BITS, MAX_BITS = 2, 12
# A tensor may have this many elements per byte of its own parts. The limit costs a real model
# nothing, and keeps a small hostile file from asking for a large allocation.
ELEMENTS_PER_BYTE = 1024


def fits(elements: int, part_bytes: int) -> bool:
    """Say whether `part_bytes` of parts may stand for `elements` elements."""
    return elements <= ELEMENTS_PER_BYTE * (part_bytes + 1)


def bitmask_encode(places: Places, elements: int) -> Bytes:
    """Return one bit per element, set where a value is kept; first element in the lowest bit."""
    kept = np.zeros(elements, dtype=bool)
    kept[places] = True
    return np.packbits(kept, bitorder="little")


def bitmask_decode(mask: Bytes, elements: int) -> Places:
    """Invert `bitmask_encode`.

    Raises
    ------
    ValueError
        If the mask has another length, or a bit set beyond the last element.
    """
    if mask.size != (elements + 7) // 8:
        raise ValueError("the bitmask has the wrong length")
    bits = np.unpackbits(mask, bitorder="little")
    if bits[elements:].any():
        raise ValueError("the bitmask marks elements that do not exist")
    return np.flatnonzero(bits).astype(np.int64)


def gap_codes(places: Places, elements: int, bits: int) -> int:
    """Return how many codes of `bits` bits `gaps_encode` would write."""
    gaps, tail = _gaps(places, elements)
    longest = (1 << bits) - 1
    return int((gaps // longest + 1).sum()) + tail // longest


def gaps_encode(places: Places, elements: int, bits: int) -> tuple[Bytes, int]:
    """Return the packed codes of the zeros before each kept value, and the number of codes.

    With E = 2^bits - 1, a code c < E means "c zeros, then a kept value"; E means "E zeros". The
    zeros after the last kept value are written as E while they last; fewer than E are left out.
    Codes are packed without gaps between them, lowest bit first.
    """
    gaps, tail = _gaps(places, elements)
    longest = (1 << bits) - 1
    lengths = gaps // longest + 1
    count = int(lengths.sum()) + tail // longest
    codes = np.full(count, longest, dtype=np.uint16)
    codes[np.cumsum(lengths) - 1] = gaps % longest
    spread = (codes[:, None] >> np.arange(bits, dtype=np.uint16)) & 1
    return np.packbits(spread.astype(np.uint8).ravel(), bitorder="little"), count


def gaps_decode(packed: Bytes, count: int, bits: int, elements: int) -> Places:
    """Invert `gaps_encode`.

    Raises
    ------
    ValueError
        If lengths disagree, padding is set, or a place lies beyond the last element.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"gap codes of {bits} bits are not defined")
    if count < 0 or packed.size != (count * bits + 7) // 8:
        raise ValueError("the gap codes have the wrong length")
    spread = np.unpackbits(packed, bitorder="little")
    if spread[count * bits :].any():
        raise ValueError("the gap codes end in stray bits")
    weights = (1 << np.arange(bits)).astype(np.uint16)
    codes = spread[: count * bits].reshape(count, bits).astype(np.uint16) @ weights
    escape = codes == (1 << bits) - 1
    ends = np.cumsum(np.where(escape, codes, codes + 1).astype(np.int64))
    if count and ends[-1] > elements:
        raise ValueError("the gap codes run past the end of the tensor")
    places: Places = ends[~escape] - 1
    return places


def best_bits(places: Places, elements: int) -> int:
    """Return the code width that packs these places into the fewest bytes."""
    sizes = {}
    for bits in range(MIN_BITS, MAX_BITS + 1):
        size = (gap_codes(places, elements, bits) * bits + 7) // 8
        if fits(elements, size):
            sizes[bits] = size
    return min(sizes, key=lambda bits: sizes[bits])


def _gaps(places: Places, elements: int) -> tuple[Places, int]:
    """Return the zeros before each kept value, and those after the last."""
    gaps = np.diff(places, prepend=np.int64(-1)) - 1
    tail = elements - 1 - int(places[-1]) if places.size else elements
    return gaps, tail
