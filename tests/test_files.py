import hashlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rvsm.deploy import coding
from rvsm.deploy.container import DTYPES
from rvsm.deploy.files import load, read_metadata, save, sparse_bytes
from rvsm.errors import FileFormatError, RvsmError


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert bits(a) == bits(b)


def sparse(*shape: int, zeros: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    # Not a product: that would make half of the zeros negative.
    return values.where(torch.rand(shape, generator=generator) >= zeros, 0.0)


def resign(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change a file's header and give it a checksum that holds: a lie, not an accident."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blank = struct.pack("<Q", len(text)) + text + content[8 + length :]
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b"0" * 64, digest, 1)


def change_entry(name: str, **news: object) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        entries = json.loads(header["__metadata__"]["tensors"])
        entries[name] |= news
        header["__metadata__"]["tensors"] = json.dumps(entries)

    return change


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_round_trip_of_random_bits(tmp_path: Path, dtype: torch.dtype, zeros: float) -> None:
    """Random bits hold NaN payloads, infinities, subnormals and -0.0 of every format."""
    generator = np.random.default_rng(1)
    width = dtype.itemsize
    raw = generator.integers(0, 2 if dtype == torch.bool else 256, (5000, width), dtype=np.uint8)
    raw[generator.random(5000) < zeros] = 0
    tensor = torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(50, 100)
    save({"x": tensor}, tmp_path / "f")
    assert_same(load(tmp_path / "f")["x"], tensor)


def test_special_values_and_shapes(tmp_path: Path) -> None:
    odd = torch.zeros(3000)
    odd[7] = -0.0
    odd[8] = math.nan
    odd[2999] = math.inf
    tensors = {
        "odd": odd,
        "scalar": torch.tensor(3),
        "zero scalar": torch.tensor(0.0),
        "empty": torch.zeros(0, 5),
        "flags": torch.arange(2000) % 97 == 0,
        "transposed": sparse(300, 40, zeros=0.95).T,
        "slice": sparse(400, 40, zeros=0.95)[3:200:2, 1:],
        "größe: 漢字": torch.ones(2, dtype=torch.bfloat16),
    }
    save(tensors, tmp_path / "f")
    loaded = load(tmp_path / "f")
    assert list(loaded) == list(tensors)
    for name, tensor in tensors.items():
        assert_same(loaded[name], tensor)


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    model[1].weight = model[0].weight
    save(model, tmp_path / "tied")
    loaded = load(tmp_path / "tied")
    assert loaded["0.weight"] is loaded["1.weight"]
    save(nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50)), tmp_path / "apart")
    assert (tmp_path / "tied").stat().st_size < (tmp_path / "apart").stat().st_size - 9000
    other = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    other[1].weight = other[0].weight
    assert load(tmp_path / "tied", other) is other
    assert_same(other[1].weight, model[0].weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_load_into_model_through_wrappers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    save(torch.compile(model), tmp_path / "f", {"note": "ü"})
    assert read_metadata(tmp_path / "f") == {"note": "ü"}
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    load(tmp_path / "f", nn.DataParallel(other))
    for name, value in model.state_dict().items():
        assert_same(other.state_dict()[name], value)


def test_size_near_the_information_bound(tmp_path: Path) -> None:
    """LeNet-5 at 99 % zeros: at most 24 kB, where dense takes 1,724 kB."""
    tensors = {
        "conv1.weight": sparse(20, 1, 5, 5, zeros=0.99),
        "conv1.bias": sparse(20, zeros=0.99),
        "conv2.weight": sparse(50, 20, 5, 5, zeros=0.99),
        "conv2.bias": sparse(50, zeros=0.99),
        "fc1.weight": sparse(500, 800, zeros=0.99),
        "fc1.bias": sparse(500, zeros=0.99),
        "fc2.weight": sparse(10, 500, zeros=0.99),
        "fc2.bias": sparse(10, zeros=0.99),
    }
    save(tensors, tmp_path / "f")
    assert (tmp_path / "f").stat().st_size <= 24_000


@pytest.mark.parametrize("zeros", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_places_cost_little_more_than_their_information(zeros: float) -> None:
    tensor = sparse(500, 800, zeros=zeros)
    n, k = tensor.numel(), int((tensor != 0).sum())
    places = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    assert sparse_bytes(tensor) <= 1.1 * (places / 8 + 4 * k)


def test_negative_zeros_can_be_dropped(tmp_path: Path) -> None:
    tensor = torch.randn(100, 100) * (torch.rand(100, 100) > 0.99)
    save({"x": tensor}, tmp_path / "kept")
    save({"x": tensor}, tmp_path / "dropped", negative_zeros=False)
    assert_same(load(tmp_path / "kept")["x"], tensor)
    assert torch.equal(load(tmp_path / "dropped")["x"], tensor)
    assert not load(tmp_path / "dropped")["x"].signbit()[tensor == 0].any()
    assert (tmp_path / "dropped").stat().st_size * 10 < (tmp_path / "kept").stat().st_size


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    tensors = {"dense": torch.randn(20, 3), "few": sparse(100, 100, zeros=0.99)}
    save(tensors, tmp_path / "f.safetensors")
    parts = safetensors.torch.load_file(tmp_path / "f.safetensors")
    assert_same(parts["dense"], tensors["dense"])
    assert sorted(parts) == ["dense", "few:gaps", "few:values"]
    assert_same(parts["few:values"], tensors["few"][tensors["few"] != 0])
    assert hashlib.sha256((tmp_path / "f.safetensors").read_bytes()).digest()


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"a": sparse(100, 100, zeros=0.9), "b": torch.randn(3)}
    for name in "xy":
        save(tensors, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_names_that_look_like_parts(tmp_path: Path) -> None:
    tensors = {
        "a": sparse(100, 100, zeros=0.99),
        "a:values": sparse(100, 100, zeros=0.99, seed=1),
        "a:values:gaps": torch.ones(2),
        "sha256": torch.ones(3),
        "__metadata__x": torch.ones(1),
    }
    save(tensors, tmp_path / "f", {"sha256": "0" * 64, '"sha256":"': "0" * 64})
    loaded = load(tmp_path / "f")
    for name, tensor in tensors.items():
        assert_same(loaded[name], tensor)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), elements=st.integers(0, 3000))
def test_places_round_trip(data: st.DataObject, elements: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, max(elements - 1, 0)), max_size=elements))
    places = np.array(sorted(chosen), dtype=np.int64) if elements else np.zeros(0, np.int64)
    mask = coding.bitmask_encode(places, elements)
    assert coding.bitmask_decode(mask, elements).tolist() == places.tolist()
    for width in (*range(coding.MIN_BITS, coding.MAX_BITS + 1),):
        packed, count = coding.gaps_encode(places, elements, width)
        assert count == coding.gap_codes(places, elements, width)
        assert packed.size == (count * width + 7) // 8
        assert coding.gaps_decode(packed, count, width, elements).tolist() == places.tolist()


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
        {
            "gaps": sparse(100, 100, zeros=0.99),
            "mask": sparse(50, 50, zeros=0.4),
            "dense": torch.randn(4),
            "flags": torch.ones(5, dtype=torch.bool),
        },
        path,
        {"note": "x"},
    )
    return path.read_bytes()


def test_every_cut_and_every_flipped_byte_is_noticed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(FileFormatError):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(FileFormatError):
        load(path)
    for place in range(0, len(content), 29):
        broken = bytearray(content)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        with pytest.raises(FileFormatError):
            load(path)


def replace_header(**news: object) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update(news)


LIES: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("more elements than its bytes", change_entry("gaps", shape=[2**31, 2**31])),
    ("more elements than its bytes", change_entry("gaps", shape=[2**40])),
    ("past the end", change_entry("gaps", shape=[10, 100])),
    ("not a shape", change_entry("gaps", shape=[-1, 100])),
    ("not a shape", change_entry("gaps", shape="100")),
    ("not a shape", change_entry("gaps", shape=[2**70, 0])),
    ("wrong length", change_entry("mask", shape=[2501, 0])),
    ("wrong length", change_entry("mask", shape=[60, 50])),
    ("not defined", change_entry("gaps", bits=40)),
    ("wrong length", change_entry("gaps", codes=10**12)),
    ("wrong length", change_entry("gaps", codes=-1)),
    ("not described", change_entry("gaps", codes=None)),
    ("unknown way", change_entry("gaps", coding="zstd")),
    ("its parts are not those", change_entry("gaps", coding="dense")),
    ("its parts are not those", change_entry("dense", coding="alias", of="mask")),
    ("tied to a tensor that is not there", change_entry("dense", coding="alias", of="nobody")),
    ("tied to a tensor that is not there", change_entry("dense", coding="alias", of="dense")),
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
    content: bytes, tmp_path: Path, cause: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(resign(content, change))
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert cause in str(caught.value) or "cut short" in str(caught.value)


def test_resigning_alone_is_no_lie(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(resign(content, lambda header: None))
    assert list(load(path)) == ["gaps", "mask", "dense", "flags"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", '{"a":7}', "{", ""])
def test_bad_lists(content: bytes, tmp_path: Path, text: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(
        resign(content, lambda header: header["__metadata__"].__setitem__("tensors", text))
    )
    with pytest.raises(FileFormatError, match="damaged"):
        load(path)


def test_impossible_flags(content: bytes, tmp_path: Path) -> None:
    broken = content.replace(b"\1" * 5, b"\1\1\2\1\1")
    path = tmp_path / "f"
    path.write_bytes(resign(broken, lambda header: None))
    with pytest.raises(FileFormatError, match="impossible values"):
        load(path)


def test_a_newer_file_says_upgrade(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(content.replace(b'"rvsm_version":"1"', b'"rvsm_version":"9"'))
    with pytest.raises(FileFormatError, match=r"format version 9 .* upgrade rvsm"):
        load(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"x": torch.ones(3)}, path)
    with pytest.raises(FileFormatError, match=r"not written by rvsm\.save"):
        load(path)
    with pytest.raises(RvsmError, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(RvsmError, match="is a folder"):
        load(tmp_path)


def test_the_model_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    save(nn.Linear(4, 3), path)
    for model, cause in [
        (nn.Linear(5, 3), r"weight is F32 \[3, 4\] in the file and F32 \[3, 5\] in the model"),
        (nn.Linear(4, 3).half(), r"and F16 \[3, 4\] in the model"),
        (nn.Linear(4, 3, bias=False), "the model lacks bias"),
        (nn.Sequential(nn.Linear(4, 3)), "the file lacks 0.weight, 0.bias; the model lacks weig"),
    ]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(FileFormatError, match=cause):
            load(path, model)
        for name, value in model.state_dict().items():
            assert_same(value, before[name])


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("text", "it is a str, not a tensor"),
        (torch.ones(2).to_sparse(), "ordinary dense tensors"),
        (torch.ones(2, device="meta"), "ordinary dense tensors"),
        (torch.ones(2, dtype=torch.complex128), "no place in the safetensors"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, value: Any, cause: str) -> None:
    with pytest.raises(RvsmError, match=cause):
        save({"x": value}, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
