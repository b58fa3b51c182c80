import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from modelfiles import assert_same, sparse
from rvsm.deploy.container import DTYPES
from rvsm.deploy.files import load, read_metadata, save
from rvsm.errors import FileFormatError, RvsmError


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


@pytest.mark.parametrize(
    ("model", "metadata", "cause"),
    [
        ([torch.ones(2)], None, "a module or a mapping from names to tensors, not a list"),
        ({1: torch.ones(2)}, None, "Cannot save a tensor as 1: a name is a text"),
        ({"__metadata__": torch.ones(2)}, None, "'__metadata__', which safetensors files keep"),
        ({"x": torch.ones(2)}, {"epochs": 3}, "metadata holds 'epochs': 3, .* convert with str"),
        ({"x": torch.ones(2)}, {3: "epochs"}, "metadata holds 3: 'epochs'"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, model: Any, metadata: Any, cause: str
) -> None:
    with pytest.raises(RvsmError, match=cause):
        save(model, tmp_path / "f", metadata)
    assert list(tmp_path.iterdir()) == []
