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
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from rvsm.atomic import explain
from rvsm.deploy import compression
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
COMPRESSED = ":zstd"
"""What the name of a compressed array has at its end."""
_COMPRESSED_BYTES = 60  # what a compressed array costs in the header
_MAX_DIMS = 64
_MAX_HEADER = 100_000_000  # as in the safetensors package
_NO_SUM = b"0" * 64


@dataclass(frozen=True)
class Part:
    """One array of the file.

    Attributes
    ----------
    dtype, shape
        Name of the dtype in safetensors, and the shape.
    data
        The bytes of its elements as the file holds them: plain, or one zstd frame.
    compressed
        Whether `data` is such a frame.
    """

    dtype: str
    shape: list[int]
    data: NDArray[np.uint8]
    compressed: bool = False

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    def packed(self, level: int) -> "Part":
        """Return the same array as a zstd frame, or itself where that saves nothing."""
        if self.data.size <= _COMPRESSED_BYTES:
            return self
        frame = compression.compress(self.data, self.width, level)
        if frame is None or frame.size + _COMPRESSED_BYTES >= self.data.size:
            return self
        return Part(self.dtype, self.shape, frame, compressed=True)

    def plain(self) -> NDArray[np.uint8]:
        """Return the bytes of the elements.

        Raises
        ------
        ValueError
            If the frame is damaged, holds another number of bytes, or a bool that is none.
        RvsmError
            If there is a frame and nothing that reads it is installed.
        """
        if not self.compressed:
            return self.data
        size = math.prod(self.shape) * self.width
        plain = compression.expand(self.data, size, self.width)
        if not _possible(self.dtype, plain):
            raise ValueError("a compressed array holds impossible values")
        return plain


@dataclass(frozen=True)
class Container:
    """The texts of the header's `__metadata__` and the arrays by name."""

    texts: dict[str, str]
    parts: dict[str, Part]


def write_container(stream: BinaryIO, container: Container) -> int:
    """Write header and arrays, with the SHA-256 of the whole file in the header.

    The checksum is taken with 64 zeros in its own place.

    Returns
    -------
    int
        The size of the file in bytes.
    """
    frames = {name: part for name, part in container.parts.items() if part.compressed}
    parts = {name: part for name, part in container.parts.items() if name not in frames} | {
        name + COMPRESSED: Part("U8", [part.data.size], part.data) for name, part in frames.items()
    }
    texts = dict(container.texts)
    if frames:
        contents = {name: [part.dtype, part.shape] for name, part in frames.items()}
        texts["zstd"] = json.dumps(contents, separators=(",", ":"))
    # Wide elements first keeps every array aligned for readers that map the file.
    names = sorted(parts, key=lambda name: (-parts[name].width, name))
    header: dict[str, Any] = {"__metadata__": texts | {"sha256": _NO_SUM.decode()}}
    start = 0
    for name in names:
        part = parts[name]
        end = start + part.data.size
        header[name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blocks = [len(text).to_bytes(8, "little"), text]
    arrays = [parts[name].data.data for name in names]
    digest = _sha256([*blocks, *arrays])
    mark = b'"sha256":"'
    # Quotes inside texts and names are escaped, so this mark stands in one place only.
    place = text.index(mark + _NO_SUM) + len(mark)
    stream.write(blocks[0])
    stream.write(text[:place] + digest + text[place + len(digest) :])
    for array in arrays:
        stream.write(array)
    return len(blocks[0]) + len(text) + start


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
    return Container(texts, _with_frames(path, texts, _cut(path, header, body)))


def damaged(path: Path, cause: str) -> FileFormatError:
    """Return the error for a file that cannot be what `save` wrote."""
    return FileFormatError(f"{path} is damaged: {cause}; copy or make the file again.")


def strict_json(text: str) -> Any:
    """Read JSON without the leniences of `json.loads`.

    Raises
    ------
    ValueError
        If it is not JSON, nested too deeply, has a name twice in one object, or a number that
        is infinite or none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name stands twice")
        return result

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is no finite number")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_object(path: Path, text: object, what: str) -> dict[str, Any]:
    """Return the JSON object in one of the texts of a file, or raise FileFormatError."""
    try:
        value = strict_json(text if isinstance(text, str) else "")
    except ValueError as error:
        raise damaged(path, f"its {what} cannot be read") from error
    if not isinstance(value, dict):
        raise damaged(path, f"its {what} is not as it must be")
    return value


def is_shape(value: object) -> TypeGuard[list[int]]:
    """Say whether a value from a header is a list of sizes."""
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMS
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
        # No file holds more; beyond this NumPy's and torch's own integers would overflow.
        and math.prod(size or 1 for size in value) < 2**63
    )


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = strict_json(text.decode())
    except ValueError as error:
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
                and is_shape(shape)
                and 0 <= a <= b <= body.size
                and math.prod(shape) * DTYPES[dtype].itemsize == b - a
            ):
                data = body[a:b]
                if not _possible(dtype, data):
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


def _possible(dtype: str, data: NDArray[np.uint8]) -> bool:
    """Say whether bools are 0 or 1: programs that use others have undefined behaviour."""
    return dtype != "BOOL" or not data.size or bool(data.max() <= 1)


def _with_frames(path: Path, texts: dict[str, str], parts: dict[str, Part]) -> dict[str, Part]:
    """Put compressed arrays in under their own names, still compressed."""
    if "zstd" not in texts:
        return parts
    for name, content in json_object(path, texts["zstd"], "list of compressed arrays").items():
        frame = parts.pop(name + COMPRESSED, None)
        match content:
            case [str(dtype), list(shape)] if (
                dtype in DTYPES
                and is_shape(shape)
                and frame is not None
                and frame.dtype == "U8"
                and not frame.compressed
                and name not in parts
                and compression.fits(math.prod(shape) * DTYPES[dtype].itemsize, frame.data.size)
            ):
                parts[name] = Part(dtype, shape, frame.data, compressed=True)
            case _:
                raise damaged(path, f"the compressed {name!r} is described wrongly")
    return parts


def _sha256(blocks: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest().encode()
