"""Values in fewer bits: what is kept, what is refused, what the account says."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from modelfiles import assert_same, bits, sparse
from rvsm.deploy import codebook
from rvsm.deploy.container import DTYPES
from rvsm.deploy.files import load, read_architecture, read_metadata, save
from rvsm.errors import RvsmError

FORMS = ["float16", "bfloat16", "codebook", "codebook-4", "codebook-17"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("zeros", [0.0, 0.05, 0.6, 0.97, 1.0])
def test_dtype_and_support_come_back(
    tmp_path: Path, form: str, dtype: torch.dtype, zeros: float
) -> None:
    wide = 10 * sparse(90, 70, zeros=zeros)
    if dtype.is_complex or dtype.is_floating_point:
        tensor = wide.to(dtype)
    else:
        tensor = (wide.int() & 1).to(dtype)
    save({"x": tensor}, tmp_path / "f", values=form)
    loaded = load(tmp_path / "f")["x"]
    assert loaded.dtype == dtype
    if not dtype.is_floating_point or dtype.itemsize == 1:
        assert_same(loaded, tensor)
        return
    assert torch.equal(loaded != 0, tensor != 0)
    assert not loaded[loaded == 0].signbit().any()
    assert torch.equal(loaded.sign(), tensor.sign())
    if "float16" in form and dtype.itemsize > 2:
        narrow: torch.dtype = getattr(torch, form)
        assert torch.equal(loaded, tensor.to(narrow).to(dtype))
    elif "codebook" in form:
        few = loaded[loaded != 0].unique().numel() <= int(f"{form}-256".split("-")[1])
        assert few or torch.equal(loaded, tensor)  # where exact values take no more bytes


def test_default_is_exact_and_small_tensors_stay(tmp_path: Path) -> None:
    tensors = {
        "weight": sparse(60, 60, zeros=0.9),
        "bias": torch.randn(60),
        "count": torch.tensor(3),
        "tiny": torch.randn(1, 5),
    }
    for form in (None, "exact", "codebook"):
        save(tensors, tmp_path / "f", values=form)
        loaded = load(tmp_path / "f")
        for name, tensor in tensors.items():
            if form != "codebook" or name != "weight":
                assert_same(loaded[name], tensor)


def test_patterns_choose_and_the_last_wins(tmp_path: Path) -> None:
    tensors = {name: torch.randn(40, 40) for name in ("conv.weight", "fc.weight", "other")}
    tensors["conv.bias"] = torch.randn(40)
    forms = {"*": "bfloat16", "conv.*": "float16", "other": "exact"}
    saved = save(tensors, tmp_path / "f", values=forms)
    assert {t.name: t.values for t in saved.tensors} == {
        "conv.weight": "F16",
        "conv.bias": "F16",
        "fc.weight": "BF16",
        "other": "exact",
    }
    with pytest.raises(RvsmError, match=r"'conv': \.\.\.} matches no tensor: the names are conv"):
        save(tensors, tmp_path / "g", values={"conv": "float16"})


@pytest.mark.parametrize(
    "form", ["", "fp16", "codebook-3", "codebook-257", "codebook-", "codebook-0004", 16]
)
def test_unknown_forms_are_refused(tmp_path: Path, form: Any) -> None:
    with pytest.raises(RvsmError, match="is not known: choose exact, float16"):
        save({"x": torch.ones(2, 2)}, tmp_path / "f", values=form)
    assert list(tmp_path.iterdir()) == []


def test_ends_of_the_range(tmp_path: Path) -> None:
    """What would become zero becomes the smallest number; what would become infinite is refused."""
    row = torch.tensor([1e-30, -1e-30, 1e-7, 65504.0, -0.0, 0.0, math.inf, -math.inf])
    save({"x": row.repeat(50, 1)}, tmp_path / "f", values="float16")
    loaded = load(tmp_path / "f")["x"][0].tolist()
    assert loaded[:2] == [2.0**-24, -(2.0**-24)]
    assert loaded[3:] == [65504.0, 0.0, 0.0, math.inf, -math.inf]
    assert math.copysign(1, loaded[4]) == 1.0
    tiny = torch.tensor([[1e-300, -1e-300]], dtype=torch.float64).repeat(50, 1)
    save({"x": tiny}, tmp_path / "f", values="bfloat16")
    assert load(tmp_path / "f")["x"][0].tolist() == [2.0**-133, -(2.0**-133)]
    save({"x": torch.full((50, 2), math.nan)}, tmp_path / "f", values="bfloat16")
    assert load(tmp_path / "f")["x"].isnan().all()
    before = (tmp_path / "f").read_bytes()
    for value, form, cause in [
        (65520.0, "float16", r"'x' holds values beyond 65504, .* bfloat16 or 'exact'"),
        (3.4e38, "bfloat16", r"beyond 3\.38953e\+38, .* write it as 'exact'"),
        (math.nan, "codebook", "infinity, NaN or values beyond 1e"),
        (-math.inf, "codebook", "infinity, NaN or values beyond 1e"),
    ]:
        with pytest.raises(RvsmError, match=cause):
            save({"x": torch.randn(50, 50).fill_diagonal_(value)}, tmp_path / "f", values=form)
        assert (tmp_path / "f").read_bytes() == before


def best_error(values: NDArray[np.float64], size: int) -> float:
    """The least squared error of any `size` groups, by dynamic programming over the borders."""
    x = np.sort(values)
    first = np.concatenate([[0.0], np.cumsum(x)])
    second = np.concatenate([[0.0], np.cumsum(x * x)])
    cost = np.full((x.size + 1, x.size + 1), np.inf)
    for a in range(x.size):
        b = np.arange(a + 1, x.size + 1)
        cost[a, b] = second[b] - second[a] - (first[b] - first[a]) ** 2 / (b - a)
    least = cost[0].copy()
    for _ in range(size - 1):
        least = (least[:, None] + cost).min(0)
    return float(least[-1])


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "pruned", "two heaps", "outlier"])
def test_codebook_is_nearly_the_best(size: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(4000)
    values = {
        "normal": normal[:300],
        "heavy tails": rng.standard_t(2, 300),
        "pruned": normal[np.abs(normal) > 1.6][:300],
        "two heaps": np.concatenate([normal[:150] * 0.1 - 1, normal[150:300] * 0.1 + 1]),
        "outlier": np.append(normal[:299], 1e4),
    }[kind]
    means, codes = codebook.fit(values, size)
    assert means.size == size
    assert ((values - means[codes]) ** 2).sum() <= 1.25 * best_error(values, size) + 1e-9


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-1e100, 1e100) | st.integers(-3, 3).map(float), max_size=80),
    size=st.integers(4, 40),
)
def test_codebook_keeps_signs_and_few_values(values: list[float], size: int) -> None:
    array = np.array(values, dtype=np.float64)
    means, codes = codebook.fit(array, size)
    assert means.size <= size
    assert codes.shape == array.shape
    assert np.array_equal(np.sign(means[codes]), np.sign(array))
    if np.unique(array).size <= size:
        assert np.array_equal(means[codes], array)
    again = codebook.fit(array.copy(), size)
    assert again[0].tobytes() == means.tobytes()
    assert np.array_equal(again[1], codes)


def test_many_values_are_cut_into_cells() -> None:
    """Of many codes for a normal density the error is that of Panter and Dite's formula."""
    values = np.random.default_rng(0).standard_normal(200_000)
    means, codes = codebook.fit(values, 256)
    error = float(((values - means[codes]) ** 2).mean())
    assert error * 256**2 == pytest.approx(math.pi * math.sqrt(3) / 2, rel=0.06)
    assert means.size == 256


def test_errors_in_the_account_are_those_of_what_is_read(tmp_path: Path) -> None:
    tensors = {"a": sparse(200, 100, zeros=0.9), "b": torch.randn(30)}
    saved = save(tensors, tmp_path / "f", values="codebook-16")
    a, b = saved.tensors
    kept = tensors["a"] != 0
    errors = (load(tmp_path / "f")["a"].double() - tensors["a"].double())[kept]
    assert a.max_error == float(errors.abs().max()) > 0
    assert a.rms_error == pytest.approx(float(errors.square().mean().sqrt()))
    assert (b.max_error, b.rms_error, b.values) == (0, 0, "exact")
    assert saved.bytes == (tmp_path / "f").stat().st_size
    assert saved.dense_bytes == 4 * 20_030
    assert a.bytes >= a.bound_bytes
    told = json.loads(json.dumps(saved.to_dict()))
    assert told["tensors"][0]["coding"] == "rice"
    assert told["bound_bytes"] == saved.bound_bytes
    for text in ("rice", "codebook of 16", f"{saved.bytes:,}"):
        assert text in str(saved)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(100, 100)
        self.norm = nn.BatchNorm1d(100)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.fc(x))
        return result

    def describe(self) -> dict[str, Any]:
        return {"layers": [{"type": "linear", "shape": [100, 100]}, None, True, 0.5, "größe"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
@pytest.mark.parametrize("wrapped", [False, True])
def test_accuracy_before_and_after(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(0)
    net = Net()
    kept = {name: bits(value) for name, value in net.state_dict().items()}
    seen = []

    def evaluate(model: nn.Module) -> float:
        model(torch.randn(10, 100))  # training mode: changes the statistics of batch norm
        seen.append(net.fc.weight.detach().clone())
        return float(seen[-1].sum())

    model = nn.DataParallel(net) if wrapped else net
    saved = save(model, tmp_path / "f", values="float16", evaluate=evaluate)
    assert bits(seen[0]) == kept["fc.weight"]
    assert_same(seen[1], load(tmp_path / "f")["fc.weight"])
    assert saved.accuracy_before == float(seen[0].sum())
    assert saved.accuracy_after == float(seen[1].sum())
    assert "as stored" in str(saved)
    assert {name: bits(value) for name, value in net.state_dict().items()} == kept

    def fail(model: nn.Module) -> float:
        if len(seen) == 3:
            raise KeyboardInterrupt
        return evaluate(model)

    with pytest.raises(KeyboardInterrupt):
        save(model, tmp_path / "g", values="float16", evaluate=fail)
    assert {name: bits(value) for name, value in net.state_dict().items()} == kept
    assert not (tmp_path / "g").exists()
    with pytest.raises(RvsmError, match="needs a model to call"):
        save(net.state_dict(), tmp_path / "g", evaluate=fail)


def test_description_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert save(nn.DataParallel(Net()), path).version == 2
    assert read_architecture(path) == Net().describe()
    assert list(load(path)) == list(Net().state_dict())
    load(path, Net())
    assert save(Net().state_dict(), path).version == 1
    assert read_architecture(path) is None
    save(Net().state_dict(), path, {"note": "x"}, architecture={"a": []})
    assert read_architecture(path) == {"a": []}
    assert read_metadata(path) == {"note": "x"}
    described = nn.Linear(2, 2)
    described.add_module("describe", nn.ReLU())  # no method, and none of our business
    assert save(described, path).version == 1


@pytest.mark.parametrize(
    "bad", [[], "text", {"a": math.nan}, {"a": math.inf}, {1: 2}, {"a": (1,)}, {"a": "x" * 2**20}]
)
def test_descriptions_that_are_not_plain(tmp_path: Path, bad: Any) -> None:
    class Odd(nn.Linear):
        def describe(self) -> Any:
            return bad

    with pytest.raises(RvsmError, match="is not plain JSON"):
        save(Odd(2, 2), tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_levels_of_compression(tmp_path: Path) -> None:
    tensors = {"x": sparse(300, 300, zeros=0.9), "ones": torch.ones(10**6), "none": torch.ones(0)}
    sizes = [save(tensors, tmp_path / "f", zstd=level).bytes for level in (False, 1, True)]
    assert sizes == sorted(sizes, reverse=True)
    loaded = load(tmp_path / "f")
    for name, tensor in tensors.items():
        assert_same(loaded[name], tensor)
    for level in (0, 23, -1, "high"):
        with pytest.raises(RvsmError, match="is no level: give True"):
            save(tensors, tmp_path / "g", zstd=level)  # type: ignore[arg-type]


def test_what_is_all_zero_is_not_compressed_beyond_the_limit(tmp_path: Path) -> None:
    tensors = {"x": torch.zeros(3_000_000), "flags": torch.zeros(10**6, dtype=torch.bool)}
    tensors["same"] = torch.full((10**6,), 3.0)
    save(tensors, tmp_path / "f", zstd=True)
    for name, tensor in load(tmp_path / "f").items():
        assert_same(tensor, tensors[name])


def test_without_zstandard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header can be read all the same."""
    save(Net(), tmp_path / "f", {"note": "x"}, zstd=True)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    assert read_metadata(tmp_path / "f") == {"note": "x"}
    assert read_architecture(tmp_path / "f") == Net().describe()
    for call in (lambda: load(tmp_path / "f"), lambda: save(Net(), tmp_path / "g", zstd=True)):
        with pytest.raises(RvsmError, match=r"zstandard, which is not .* 'rvsm\[zstd\]'"):
            call()
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_names_that_look_like_codes(tmp_path: Path) -> None:
    tensors = {
        "a": sparse(100, 100, zeros=0.9),
        "a:codebook": sparse(100, 100, zeros=0.9, seed=1),
        "a:codebook:codes": torch.ones(2),
        "b": torch.ones(1000),
        "b:zstd": torch.ones(3, dtype=torch.uint8),
    }
    save(tensors, tmp_path / "f", values="codebook", zstd=True)
    loaded = load(tmp_path / "f")
    assert_same(loaded["a"], tensors["a"])
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name] != 0, tensor != 0)
