"""How the places of nonzeros are written: a bitmask, or the gaps between them in few bits.

Pure functions on NumPy arrays; `rvsm.deploy.files` puts their results in a file. The layout is
described for other readers in docs/file-format.md.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

MIN_BITS, MAX_BITS = 2, 12
MAX_LOW = 20  # low bits of a Rice code
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
    return pack(codes, bits), count


def gaps_decode(packed: Bytes, count: int, bits: int, elements: int) -> Places:
    """Invert `gaps_encode`.

    Raises
    ------
    ValueError
        If lengths disagree, padding is set, a place lies beyond the last element, or more zeros
        follow the last code than are left out.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"gap codes of {bits} bits are not defined")
    codes = unpack(packed, count, bits)
    longest = (1 << bits) - 1
    escape = codes == longest
    ends = np.cumsum(np.where(escape, codes, codes + 1))
    rest = elements - (int(ends[-1]) if count else 0)
    if rest < 0:
        raise ValueError("the gap codes run past the end of the tensor")
    if rest >= longest:
        raise ValueError("the gap codes stop before the end of the tensor")
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


def rice_bits(places: Places) -> tuple[int, int]:
    """Return the number of low bits that makes `rice_encode` shortest, and its length in bytes."""
    gaps = np.diff(places, prepend=np.int64(-1)) - 1
    sizes = [places.size * (low + 1) + int((gaps >> low).sum()) for low in range(MAX_LOW + 1)]
    low = int(np.argmin(sizes))
    return low, (sizes[low] + 7) // 8


def rice_encode(places: Places, low: int) -> Bytes:
    """Return the zeros before each kept value in the code of Rice.

    A gap g is written as its `low` lowest bits and, after those of all gaps, floor(g / 2^low)
    zero bits and a one. Gaps of random places are geometric, for which this code is within a few
    percent of the shortest; zeros after the last kept value are not written.
    """
    gaps = np.diff(places, prepend=np.int64(-1)) - 1
    high = np.zeros(int((gaps >> low).sum()) + gaps.size, dtype=np.uint8)
    high[np.cumsum((gaps >> low) + 1) - 1] = 1
    return np.packbits(np.concatenate([_spread(gaps, low), high]), bitorder="little")


def rice_decode(packed: Bytes, count: int, low: int, elements: int) -> Places:
    """Invert `rice_encode` for `count` gaps.

    Raises
    ------
    ValueError
        If lengths disagree, padding is set, or a place lies beyond the last element.
    """
    if not 0 <= low <= MAX_LOW:
        raise ValueError(f"Rice codes of {low} low bits are not defined")
    spread = np.unpackbits(packed, bitorder="little")
    split = count * low
    if not 0 <= split <= spread.size:
        raise ValueError("the Rice codes have the wrong length")
    ends = np.flatnonzero(spread[split:])
    used = split + (int(ends[-1]) + 1 if ends.size else 0)
    if ends.size != count or packed.size != (used + 7) // 8:
        raise ValueError("the Rice codes have the wrong length")
    high = np.diff(ends, prepend=-1) - 1
    places: Places = np.cumsum((high << low) + _join(spread[:split], low, count) + 1) - 1
    if count and places[-1] >= elements:
        raise ValueError("the Rice codes run past the end of the tensor")
    return places


def pack(codes: NDArray[Any], bits: int) -> Bytes:
    """Return numbers of `bits` bits each without gaps between them, lowest bit first."""
    return np.packbits(_spread(codes, bits), bitorder="little")


def unpack(packed: Bytes, count: int, bits: int) -> Places:
    """Invert `pack` for `count` numbers.

    Raises
    ------
    ValueError
        If the length is another, or bits beyond the last number are set.
    """
    if count < 0 or packed.size != (count * bits + 7) // 8:
        raise ValueError("the codes have the wrong length")
    spread = np.unpackbits(packed, bitorder="little")
    if spread[count * bits :].any():
        raise ValueError("the codes end in stray bits")
    return _join(spread[: count * bits], bits, count)


def _spread(codes: NDArray[Any], bits: int) -> Bytes:
    """Return the lowest bits of each number, one a byte."""
    spread = np.empty((codes.size, bits), dtype=np.uint8)
    for bit in range(bits):
        spread[:, bit] = (codes >> bit) & 1
    return spread.reshape(-1)


def _join(spread: Bytes, bits: int, count: int) -> Places:
    """Invert `_spread`."""
    codes = np.zeros(count, dtype=np.int64)
    for bit in range(bits):
        codes |= spread[bit::bits].astype(np.int64) << bit
    return codes


def _gaps(places: Places, elements: int) -> tuple[Places, int]:
    """Return the zeros before each kept value, and those after the last."""
    gaps = np.diff(places, prepend=np.int64(-1)) - 1
    tail = elements - 1 - int(places[-1]) if places.size else elements
    return gaps, tail
