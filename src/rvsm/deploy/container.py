"""The outside of a model file: a safetensors file with texts and a checksum, read with distrust.

The `safetensors` package could write the same bytes, but it cannot put a checksum of the whole
file into its own header; reading is strict about everything an ordinary reader leaves open.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from rvsm.atomic import explain
from rvsm.errors import FileFormatError, RvsmError

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # as in the safetensors package
_NO_SUM = b"0" * 64


@dataclass(frozen=True)
class Part:
    """One array of the file: safetensors dtype name, shape, and the bytes of its elements."""

    dtype: str
    shape: list[int]
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class Container:
    """The texts of the header's `__metadata__` and the arrays by name."""

    texts: dict[str, str]
    parts: dict[str, Part]


def write_container(stream: BinaryIO, container: Container) -> None:
    """Write header and arrays, with the SHA-256 of the whole file in the header.

    The checksum is taken with 64 zeros in its own place.
    """
    # Wide elements first keeps every array aligned for readers that map the file.
    names = sorted(container.parts, key=lambda name: (-_width(container.parts[name]), name))
    header: dict[str, Any] = {"__metadata__": container.texts | {"sha256": _NO_SUM.decode()}}
    start = 0
    for name in names:
        part = container.parts[name]
        end = start + part.data.size
        header[name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blocks = [len(text).to_bytes(8, "little"), text]
    arrays = [container.parts[name].data.data for name in names]
    digest = _sha256([*blocks, *arrays])
    mark = b'"sha256":"'
    # Quotes inside texts and names are escaped, so this mark stands in one place only.
    place = text.index(mark + _NO_SUM) + len(mark)
    stream.write(blocks[0])
    stream.write(text[:place] + digest + text[place + len(digest) :])
    for array in arrays:
        stream.write(array)


def read_container(path: Path, newest: int) -> Container:
    """Read a file written by `write_container`, at most as new as version `newest`.

    Raises
    ------
    FileFormatError
        If the file is not one of ours, too new, or damaged.
    RvsmError
        If the system cannot read it.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise FileFormatError(
                    f"{path} is not a model file, or it is cut short: give a file written by "
                    "rvsm.save."
                )
            text = stream.read(length)
            body = np.frombuffer(stream.read(size - 8 - length), dtype=np.uint8)
    except OSError as error:
        raise RvsmError(explain(error, path, "read")) from error
    header = _parse_header(path, text)
    texts = header.pop("__metadata__", None)
    if not isinstance(texts, dict) or "rvsm_version" not in texts:
        raise FileFormatError(
            f"{path} was not written by rvsm.save: read a plain safetensors file with "
            "safetensors.torch.load_file."
        )
    _check_version(path, texts["rvsm_version"], newest)
    if size < 8 + length + _claimed(header):
        raise FileFormatError(f"{path} is cut short: copy or make the file again.")
    digest = texts.get("sha256")
    if not isinstance(digest, str) or len(digest) != 64 or text.count(digest.encode()) != 1:
        raise FileFormatError(f"{path} is damaged: its checksum is not in its place.")
    blank = text.replace(digest.encode(), _NO_SUM)
    if _sha256([length.to_bytes(8, "little"), blank, body.data]).decode() != digest:
        raise FileFormatError(
            f"{path} is damaged: its content does not match its checksum; copy or make the "
            "file again."
        )
    return Container(texts, _cut(path, header, body))


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name stands twice")
        return result

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path} is not a model file, or its header is damaged: give a file written by "
            "rvsm.save."
        ) from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path} is not a model file: give a file written by rvsm.save.")
    return header


def _check_version(path: Path, version: object, newest: int) -> None:
    number = int(version) if isinstance(version, str) and version.isdecimal() else 0
    if not 0 < number < 10**6:
        raise FileFormatError(f"{path} is damaged: its version is not a number.")
    if number > newest:
        raise FileFormatError(
            f"{path} has format version {number} and this rvsm reads up to {newest}: upgrade rvsm."
        )


def _claimed(header: dict[str, Any]) -> int:
    """Return the end of the last array as the header tells it, 0 where it is nonsense."""
    try:
        return max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (TypeError, KeyError, IndexError, ValueError):
        return 0


def _cut(path: Path, header: dict[str, Any], body: NDArray[np.uint8]) -> dict[str, Part]:
    """Return the arrays, which must fill the body without gaps or overlaps."""
    parts = {}
    spans = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(a), int(b)]} if (
                len(entry) == 3
                and dtype in DTYPES
                and len(shape) <= 64
                and all(type(size) is int and 0 <= size < 2**63 for size in shape)
                and 0 <= a <= b <= body.size
                and math.prod(shape) * DTYPES[dtype].itemsize == b - a
            ):
                data = body[a:b]
                # Any other byte in a bool is undefined behaviour in the programs that use it.
                if dtype == "BOOL" and data.size and data.max() > 1:
                    raise FileFormatError(f"{path} is damaged: {name!r} holds impossible values.")
                parts[name] = Part(dtype, shape, data)
                spans.append((a, b))
            case _:
                raise FileFormatError(
                    f"{path} is damaged: its header describes {name!r} wrongly; copy or make "
                    "the file again."
                )
    end = 0
    for a, b in sorted(spans):
        if a != end:
            break
        end = b
    else:
        if end == body.size:
            return parts
    raise FileFormatError(f"{path} is damaged: its arrays overlap or leave gaps.")


def _width(part: Part) -> int:
    return DTYPES[part.dtype].itemsize


def _sha256(blocks: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest().encode()
