"""A reader written from docs/file-format.md alone, with NumPy, JSON and zstd, reads every file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from numpy.typing import NDArray
from safetensors import safe_open

from modelfiles import EVERY_FORM, every_coding
from rvsm.deploy.files import load, save

NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "<u2",
}
Array = NDArray[Any]


def read(path: Path) -> dict[str, Array]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = header.pop("__metadata__")
    assert texts["rvsm_version"] in ("1", "2")
    blank = content.replace(texts["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == texts["sha256"]
    arrays: dict[str, tuple[str, bytes]] = {}
    for name, part in header.items():
        start, end = part["data_offsets"]
        arrays[name] = part["dtype"], content[8 + length + start : 8 + length + end]
    for name, (dtype, shape) in json.loads(texts.get("zstd", "{}")).items():
        header[name] = {"shape": shape}
        planes = zstandard.decompress(arrays.pop(f"{name}:zstd")[1])
        width = np.dtype(NUMPY[dtype]).itemsize
        arrays[name] = dtype, np.frombuffer(planes, "u1").reshape(width, -1).T.tobytes()

    def number(name: str) -> Array:
        dtype, data = arrays[name]
        found = np.frombuffer(data, NUMPY[dtype])
        return (found.astype("<u4") << 16).view("<f4") if dtype == "BF16" else found

    def bits_of(name: str) -> Array:
        return np.unpackbits(np.frombuffer(arrays[name][1], "u1"), bitorder="little")

    def numbers(stream: Array, count: int, bits: int) -> Array:
        return stream[: count * bits].reshape(count, bits) @ (1 << np.arange(bits))

    tensors: dict[str, Array] = {}
    for name, entry in json.loads(texts["tensors"]).items():
        kind = entry["coding"]
        if kind == "alias":
            continue
        shape = entry.get("shape") or header[name]["shape"]
        n = int(np.prod(shape, dtype=int))
        if kind == "dense":
            places = np.arange(n)
        elif kind == "bitmask":
            places = np.flatnonzero(bits_of(f"{name}:bitmask")[:n])
        elif kind == "gaps":
            escape, found, at = (1 << entry["bits"]) - 1, [], 0
            for code in numbers(bits_of(f"{name}:gaps"), entry["codes"], entry["bits"]):
                at += code
                if code < escape:
                    found.append(at)
                    at += 1
            places = np.array(found, dtype=int)
        else:
            assert kind == "rice"
            stream, m, b = bits_of(f"{name}:rice"), entry["codes"], entry["bits"]
            low, found, at, gap = numbers(stream, m, b), [], 0, 0
            for bit in stream[m * b :]:
                if bit and len(found) < m:
                    at += (gap << b) + low[len(found)]
                    found.append(at)
                    at, gap = at + 1, 0
                else:
                    gap += 1
            places = np.array(found, dtype=int)
        if "code_bits" in entry:
            codes = numbers(bits_of(f"{name}:codes"), len(places), entry["code_bits"])
            values = number(f"{name}:codebook")[codes]
        else:
            values = number(name if kind == "dense" else f"{name}:values")
        dtype = NUMPY[entry["dtype"]] if "dtype" in entry else values.dtype
        tensors[name] = np.zeros(n, dtype)
        tensors[name][places] = values
        tensors[name] = tensors[name].reshape(shape)
    for name, entry in json.loads(texts["tensors"]).items():
        if entry["coding"] == "alias":
            tensors[name] = tensors[entry["of"]]
    return tensors


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("forms", [None, EVERY_FORM], ids=["exact", "every form"])
def test_independent_reader(tmp_path: Path, zstd: bool, forms: dict[str, str] | None) -> None:
    tensors = every_coding() | {"ones": torch.arange(1000.0)}
    saved = save(tensors, tmp_path / "f", values=forms, zstd=zstd)
    assert saved.version == (2 if zstd or forms else 1)
    wanted = load(tmp_path / "f")
    found = read(tmp_path / "f")
    assert list(wanted) == list(tensors)
    for name, tensor in wanted.items():
        assert tensor.dtype == tensors[name].dtype
        assert found[name].dtype == tensor.numpy().dtype
        assert found[name].tobytes() == tensor.numpy().tobytes()
        assert found[name].shape == tuple(tensor.shape)
    codings = {tensor.coding for tensor in saved.tensors}
    assert codings >= {"dense", "bitmask", "gaps", "alias"}
    if forms:
        assert "rice" in codings
        values = {tensor.values for tensor in saved.tensors}
        assert values >= {"exact", "F16", "BF16", "codebook of 16", "codebook of 8"}
    assert any(tensor.compressed for tensor in saved.tensors) == zstd


def test_other_readers_open_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save({"ones": torch.ones(1000), "few": torch.arange(3)}, path, zstd=True)
    with safe_open(path, "np") as file:
        assert sorted(file.keys()) == ["few", "ones:zstd"]
        assert file.get_tensor("few").tolist() == [0, 1, 2]
        assert json.loads(file.metadata()["zstd"]) == {"ones": ["F32", [1000]]}
