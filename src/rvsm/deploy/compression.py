"""Arrays as zstd frames: optional, lossless, and bounded when read.

The bytes of the elements are regrouped first, all first bytes, then all second bytes and so on:
the exponents of weights resemble each other, their fractions do not. That saves twice as much of
float32 values as zstd alone.
"""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import RvsmError

Bytes = NDArray[np.uint8]

BYTES_PER_BYTE = 1024
"""A frame may hold this many bytes for each of its own, and so ask for no large allocation."""


def fits(plain_bytes: int, frame_bytes: int) -> bool:
    """Say whether a frame of `frame_bytes` may stand for `plain_bytes`."""
    return plain_bytes <= BYTES_PER_BYTE * (frame_bytes + 1)


def check_level(level: int) -> None:
    """Raise RvsmError unless zstd is installed and has the level, 1 to 22."""
    if not isinstance(level, int) or not 1 <= level <= 22:
        raise RvsmError(
            f"zstd={level!r} is no level: give True, or a whole number from 1 (fast) to 22 (small)."
        )
    _zstandard()


def compress(data: Bytes, width: int, level: int) -> Bytes | None:
    """Return one zstd frame for an array with elements of `width` bytes.

    None where it would hold more than `BYTES_PER_BYTE` for each of its own bytes.
    """
    planes = np.ascontiguousarray(data.reshape(-1, width).T)
    frame = _zstandard().ZstdCompressor(level=level).compress(planes.data.cast("B"))
    return np.frombuffer(frame, dtype=np.uint8) if fits(data.size, len(frame)) else None


def expand(frame: Bytes, size: int, width: int) -> Bytes:
    """Invert `compress`.

    Raises
    ------
    ValueError
        If the frame is damaged, holds another number of bytes than `size`, or too many.
    RvsmError
        If the package zstandard is not installed.
    """
    zstandard = _zstandard()
    try:
        # The frame's own claim goes first: the package allocates what it says.
        if not fits(size, frame.size) or zstandard.frame_content_size(frame.data) != size:
            raise ValueError("a compressed array holds another number of bytes than it must")
        plain = zstandard.ZstdDecompressor().decompress(
            frame.data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError("a compressed array cannot be read") from error
    if len(plain) != size:
        raise ValueError("a compressed array holds another number of bytes than it must")
    planes = np.frombuffer(plain, dtype=np.uint8).reshape(width, -1)
    return np.ascontiguousarray(planes.T).reshape(-1)


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise RvsmError(
            "Compressed model files need the package zstandard, which is not installed: "
            "pip install 'rvsm[zstd]'."
        ) from error
    return zstandard
