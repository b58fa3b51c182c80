"""Damaged, forged and foreign files: one kind of error, and no large allocation."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfiles import (
    EVERY_FORM,
    Change,
    change_text,
    every_coding,
    forge,
    replace_header,
    replace_text,
    sign,
)
from rvsm.deploy.container import Container, Part, write_container
from rvsm.deploy.files import load, save
from rvsm.errors import FileFormatError


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("f") / "f"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="not a model file"):
        load(path)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "f"
    save(
        every_coding() | {"packed": torch.arange(300.0)},
        path,
        {"note": "x"},
        values=EVERY_FORM,
        zstd=True,
        architecture={"layers": ["linear"]},
    )
    return path.read_bytes()


def test_every_cut_and_every_flipped_byte_is_noticed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    for end in range(len(content)):
        write_anew(path, content[:end])
        with pytest.raises(FileFormatError):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(FileFormatError):
        load(path)
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << (place % 8)
        write_anew(path, broken)
        with pytest.raises(FileFormatError):
            load(path)


def write_anew(path: Path, content: bytes | bytearray) -> None:
    """Write a new file: to cut an old one back makes some file systems wait for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def loaded_or_refused(path: Path, content: bytes, traced: bool = True) -> bool:
    """Load, with an error of the right kind at most, and within the memory that is allowed."""
    write_anew(path, content)
    if traced:  # which is slow
        tracemalloc.start()
    refusal = None
    try:
        load(path)
    except FileFormatError as error:
        refusal = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 1024 elements of 8 bytes for each byte of the file, places and values beside them.
    assert peak < min(32 * 1024 * len(content), 100_000_000)
    assert refusal is None or str(path) in refusal
    return refusal is None


def test_every_flipped_byte_under_a_good_checksum(content: bytes, tmp_path: Path) -> None:
    refused = 0
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << (place % 7)
        refused += not loaded_or_refused(tmp_path / "f", sign(bytes(broken)), place % 16 == 0)
    # Most of the file is header, where nearly nothing can be changed unnoticed.
    assert refused > 0.5 * len(content)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 12)
    | st.sampled_from([2**31, 2**40, 2**62, 2**63, 10**30])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F16", "F32", "F64", "BF16", "U8", "BOOL", "C64", "dense", "rice", "alias"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = ["coding", "shape", "bits", "codes", "code_bits", "dtype", "of"]


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([*every_coding(), "packed"]),
    news=st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1, max_size=3),
)
def test_any_entry_is_loaded_or_refused(
    content: bytes, tmp_path: Path, name: str, news: dict[str, Any]
) -> None:
    loaded_or_refused(tmp_path / "f", forge(content, change_text("tensors", name, **news)))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(news=ANYTHING, data=st.data())
def test_any_part_is_loaded_or_refused(
    content: bytes, tmp_path: Path, news: Any, data: st.DataObject
) -> None:
    def change(header: dict[str, Any]) -> None:
        texts = header["__metadata__"]
        compressed = json.loads(texts["zstd"])
        places: list[tuple[Any, Any]] = [(header, name) for name in header if name[0] != "_"]
        places += [(header[name], key) for _, name in places for key in header[name]]
        places += [(compressed, name) for name in compressed]
        places += [(compressed[name], index) for name in compressed for index in (0, 1)]
        places += [(texts, key) for key in texts]
        holder, key = data.draw(st.sampled_from(places))
        holder[key] = news
        if holder is not texts:
            texts["zstd"] = json.dumps(compressed)

    loaded_or_refused(tmp_path / "f", forge(content, change))


def entry(name: str, **news: object) -> Change:
    return change_text("tensors", name, **news)


def zstd(text: str) -> Change:
    return replace_text("zstd", text)


LIES: list[tuple[str, Change]] = [
    ("more elements than its bytes", entry("gaps", shape=[2**31, 2**31])),
    ("more elements than its bytes", entry("gaps", shape=[2**40])),
    ("past the end", entry("gaps", shape=[10, 100])),
    ("stop before the end", entry("gaps", shape=[100, 200])),
    ("not a shape", entry("gaps", shape=[-1, 100])),
    ("not a shape", entry("gaps", shape="100")),
    ("not a shape", entry("gaps", shape=[2**70, 0])),
    ("not a shape", entry("gaps", shape=[2**62, 2**62])),
    ("not a shape", entry("gaps", shape=[True, 1600])),
    ("not a shape", entry("gaps", shape=[1] * 65)),
    ("wrong length", entry("mask", shape=[2501, 0])),
    ("wrong length", entry("mask", shape=[60, 50])),
    ("not defined", entry("gaps", bits=40)),
    ("wrong length", entry("gaps", codes=10**12)),
    ("wrong length", entry("gaps", codes=-1)),
    ("not described", entry("gaps", codes=None)),
    ("not described", entry("gaps", bits=True)),
    ("not defined", entry("half", bits=21)),
    ("not defined", entry("half", bits=-1)),
    ("wrong length", entry("half", bits=7)),
    ("wrong length", entry("half", codes=10**12)),
    ("wrong length", entry("half", codes=10**30)),
    ("wrong length", entry("half", codes=-1)),
    ("wrong length", entry("half", codes=1)),
    ("past the end", entry("half", shape=[10, 100])),
    ("more elements than its bytes", entry("half", shape=[2**40])),
    ("dtype is described wrongly", entry("half", dtype="I32")),
    ("dtype is described wrongly", entry("half", dtype=[])),
    ("dtype is described wrongly", entry("gaps", dtype="F64")),
    ("codebook is described wrongly", entry("book", dtype="F64")),
    ("codebook is described wrongly", entry("book", code_bits=0)),
    ("codebook is described wrongly", entry("book", code_bits=9)),
    ("codebook is described wrongly", entry("book", code_bits=3)),
    ("codebook is described wrongly", entry("book", code_bits=True)),
    ("wrong length", entry("book", code_bits=5)),
    ("wrong length", entry("full book", shape=[10, 21])),
    ("not a shape", entry("full book", shape=None)),
    ("its parts are not those", entry("gaps", code_bits=4)),
    ("unknown way", entry("gaps", coding=["gaps"])),
    ("tied to a tensor that is not there", entry("tied", of=["shared"])),
    ("tied to a tensor that is not there", entry("tied", of="tied")),
    ("compressed 'packed' is described wrongly", zstd('{"packed":["F32",[1073741824]]}')),
    ("compressed 'packed' is described wrongly", zstd('{"packed":["F31",[300]]}')),
    ("compressed 'packed' is described wrongly", zstd('{"packed":["F32",[-300]]}')),
    ("compressed 'packed' is described wrongly", zstd('{"packed":["F32"]}')),
    ("compressed 'packed' is described wrongly", zstd('{"packed":7}')),
    ("compressed 'dense' is described wrongly", zstd('{"dense":["F32",[4]]}')),
    ("another number of bytes", zstd('{"packed":["F32",[301]],"long":["I64",[100]]}')),
    ("another number of bytes", zstd('{"packed":["F32",[300]],"long":["I64",[101]]}')),
    ("its parts are not those", zstd("{}")),
    ("cannot be read", zstd("[" * 10_000)),
    ("not as it must be", zstd("[]")),
    ("cannot be read", replace_text("architecture", '{"a":NaN}')),
    ("cannot be read", replace_text("architecture", '{"a":1e999}')),
    ("cannot be read", replace_text("architecture", '{"a":1,"a":2}')),
    ("cannot be read", replace_text("architecture", '{"a":' * 100_000)),
    ("cannot be read", replace_text("architecture", "")),
    ("cannot be read", replace_text("architecture", ["x"])),
    ("not as it must be", replace_text("architecture", "[]")),
    ("too long", replace_text("architecture", '{"a":"' + "x" * 2**20 + '"}')),
    ("unknown way", entry("gaps", coding="zstd")),
    ("its parts are not those", entry("gaps", coding="dense")),
    ("its parts are not those", entry("dense", coding="alias", of="mask")),
    ("tied to a tensor that is not there", entry("dense", coding="alias", of="nobody")),
    ("tied to a tensor that is not there", entry("dense", coding="alias", of="dense")),
    ("describes 'dense' wrongly", replace_header(dense={"dtype": "F32", "shape": [4]})),
    ("describes 'extra' wrongly", replace_header(extra=7)),
    (
        "describes 'dense' wrongly",
        replace_header(dense={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    ),
    (
        "describes 'dense' wrongly",
        replace_header(dense={"dtype": "I128", "shape": [1], "data_offsets": [0, 16]}),
    ),
    (
        "overlap",
        replace_header(dense={"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}),
    ),
]


@pytest.mark.parametrize(("cause", "change"), LIES, ids=[str(i) for i in range(len(LIES))])
def test_lies_with_a_good_checksum(
    content: bytes, tmp_path: Path, cause: str, change: Change
) -> None:
    path = tmp_path / "f"
    path.write_bytes(forge(content, change))
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert cause in str(caught.value) or "cut short" in str(caught.value)


def test_resigning_alone_is_no_lie(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(forge(content, lambda header: None))
    assert list(load(path)) == [*every_coding(), "packed"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", '{"a":7}', "{", ""])
def test_bad_lists(content: bytes, tmp_path: Path, text: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(forge(content, replace_text("tensors", text)))
    with pytest.raises(FileFormatError, match="damaged"):
        load(path)


def test_impossible_flags(content: bytes, tmp_path: Path) -> None:
    broken = content.replace(b"\1" * 20, b"\1" * 10 + b"\2" + b"\1" * 9, 1)
    path = tmp_path / "f"
    path.write_bytes(forge(broken, lambda header: None))
    with pytest.raises(FileFormatError, match="impossible values"):
        load(path)


def test_a_newer_file_says_upgrade(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(content.replace(b'"rvsm_version":"2"', b'"rvsm_version":"9"'))
    with pytest.raises(FileFormatError, match=r"format version 9 .* upgrade rvsm"):
        load(path)


def written(path: Path, entries: dict[str, Any], parts: dict[str, Part]) -> None:
    """Write what `save` would not."""
    texts = {"rvsm_version": "2", "tensors": json.dumps(entries), "metadata": "{}"}
    with path.open("wb") as stream:
        write_container(stream, Container(texts, parts))


def as_part(data: bytes, dtype: str, shape: list[int], compressed: bool = False) -> Part:
    return Part(dtype, shape, np.frombuffer(data, dtype=np.uint8), compressed)


GOOD = zstandard.compress(bytes(5000))
FRAMES = {
    "a bomb": (zstandard.compress(bytes(10**8)), 10**8, "described wrongly"),
    "a bomb that hides": (zstandard.compress(bytes(10**8)), 5000, "another number of bytes"),
    "no size": (
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(5000)),
        5000,
        "another number of bytes",
    ),
    "more after it": (GOOD + b"x", 5000, "cannot be read"),
    "two frames": (GOOD + GOOD, 5000, "cannot be read"),
    "cut short": (GOOD[:-2], 5000, "cannot be read"),
    "no frame": (b"not zstd at all", 5000, "cannot be read"),
    "empty": (b"", 0, "cannot be read"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_bad_frames(tmp_path: Path, kind: str) -> None:
    data, size, cause = FRAMES[kind]
    path = tmp_path / "f"
    written(path, {"x": {"coding": "dense"}}, {"x": as_part(data, "U8", [size], True)})
    content = path.read_bytes()
    assert not loaded_or_refused(path, content)
    with pytest.raises(FileFormatError, match=cause):
        load(path)


def test_impossible_flags_in_a_frame(tmp_path: Path) -> None:
    data = zstandard.compress(b"\1\2" * 50)
    written(tmp_path / "f", {"x": {"coding": "dense"}}, {"x": as_part(data, "BOOL", [100], True)})
    with pytest.raises(FileFormatError, match="impossible values"):
        load(tmp_path / "f")


def test_codes_without_a_value(tmp_path: Path) -> None:
    book = as_part(np.ones(3, np.float32).tobytes(), "F32", [3])
    parts = {"x:codes": as_part(b"\x1b", "U8", [1]), "x:codebook": book}
    written(tmp_path / "f", {"x": {"coding": "dense", "shape": [4], "code_bits": 2}}, parts)
    with pytest.raises(FileFormatError, match="a code stands for no value"):
        load(tmp_path / "f")


def test_many_elements_from_little_are_refused_before_they_are_made(tmp_path: Path) -> None:
    """Rice codes end with the last value, so that only the limit speaks of what follows it."""
    entry = {"coding": "rice", "shape": [1, 10**10], "bits": 0, "codes": 1}
    parts = {"x:values": as_part(b"\1" * 4, "F32", [1]), "x:rice": as_part(b"\1", "U8", [1])}
    written(tmp_path / "f", {"x": entry}, parts)
    assert not loaded_or_refused(tmp_path / "f", (tmp_path / "f").read_bytes())
