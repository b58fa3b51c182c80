"""2:4 weights: what holds the pattern, what can be converted, and that all comes back.

The conversion to bytes runs here on the CPU too, torch's CUTLASS layout being made by torch's own
Python; the multiplication needs a GPU and is tested in test_cuda.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

import rvsm
from rvsm.deploy import semi_structured
from rvsm.deploy.semi_structured import holds_2_4, obstacle, to_dense, to_semi_structured
from rvsm.errors import RvsmError
from rvsm.groups import NM
from rvsm.optim import RVSM, Rule
from rvsm.penalties import L0


def cut(weight: Tensor) -> Tensor:
    """Return the weight with the two smallest of every four set to zero."""
    return weight.masked_fill(~NM(2, 4).free(weight), 0)


def network(dtype: torch.dtype = torch.float16) -> nn.Sequential:
    """Two layers that are 2:4, one that is not and one whose shape does not fit."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    )
    with torch.no_grad():
        for place in (0, 2, 4):
            model[place].weight.copy_(cut(model[place].weight))
    return model.to(dtype)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the conversion run on the CPU: it is a permutation of bytes."""
    monkeypatch.setattr(semi_structured, "_gpu_obstacle", lambda device: None)
    monkeypatch.setattr(
        SparseSemiStructuredTensorCUTLASS, "_validate_device_dim_dtype_shape", lambda weight: None
    )
    monkeypatch.setattr(SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)


@given(st.data(), st.sampled_from([(3, 8), (2, 12), (2, 4, 3, 3), (1, 8, 2)]))
def test_the_pattern_is_that_of_the_group(data: st.DataObject, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    share = data.draw(st.sampled_from([0.2, 0.5, 0.7, 0.95]))
    weight = torch.randn(shape, generator=generator)
    weight *= torch.rand(shape, generator=generator) > share
    by_group = not weight.masked_fill(NM(2, 4).free(weight), 0).any()
    assert holds_2_4(weight) == by_group
    assert holds_2_4(cut(weight))


def test_what_does_not_hold_the_pattern() -> None:
    assert holds_2_4(torch.zeros(3, 4))
    assert holds_2_4(torch.tensor([[-0.0, 1, 2, 0]]))
    assert holds_2_4(torch.tensor([[-128, 0, 0, 5]], dtype=torch.int8))
    for weight in (torch.ones(4), torch.zeros(3, 6), torch.zeros(3, 0), torch.ones(1, 4)):
        assert not holds_2_4(weight)
    # Two of four across the border of two blocks are not two of four of each.
    assert not holds_2_4(torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 0]]))
    assert not holds_2_4(torch.tensor([[torch.nan, torch.nan, torch.nan, 0]]))


def test_a_target_of_half_gives_the_pattern() -> None:
    model = nn.Linear(64, 32)
    rule = Rule("weight", L0(), groups=NM(2, 4), sparsity=0.5, beta=0.1)
    optimizer = RVSM(torch.optim.SGD(model.named_parameters(), lr=0.1), [rule])
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    assert not holds_2_4(model.weight)
    optimizer.finalize()
    assert holds_2_4(model.weight)


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        (torch.float16, (32, 64), None),
        (torch.bfloat16, (16, 16), None),
        (torch.int8, (32, 32), None),
        (torch.float32, (32, 64), "torch.float32 is none of .*torch.float16"),
        (torch.float16, (24, 64), r"shape \(24, 64\) is no multiple of \(16, 16\)"),
        (torch.float16, (0, 64), r"shape \(0, 64\) is no multiple"),
        (torch.int8, (32, 48), r"shape \(32, 48\) is no multiple of \(32, 32\)"),
    ],
)
def test_dtypes_and_shapes(
    dtype: torch.dtype, shape: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semi_structured, "_gpu_obstacle", lambda device: None)
    why = obstacle(torch.zeros(shape, dtype=dtype), SparseSemiStructuredTensorCUSPARSELT)
    assert (why is None) == (reason is None)
    assert re.search(reason or "", why or "")


def test_every_obstacle_is_told() -> None:
    why = obstacle(torch.ones(6, 6), SparseSemiStructuredTensorCUSPARSELT)
    assert why is not None
    parts = why.split("; ")
    assert parts[0].startswith("torch.float32 is none of")
    assert parts[1:] == ["it is not 2:4", "it is on the device cpu, not on a CUDA GPU"]
    infinite = torch.zeros(32, 64, dtype=torch.float16)
    infinite[0, 0] = torch.inf
    why = obstacle(infinite, SparseSemiStructuredTensorCUSPARSELT)
    assert why is not None
    assert why.startswith("it holds infinite weights")


def test_without_a_gpu_all_stays_dense() -> None:
    model = network()
    before = list(model.parameters())
    account = to_semi_structured(model)
    assert account.converted == ()
    assert list(account.left) == ["0.weight", "2.weight", "3.weight", "4.weight"]
    assert account.left["0.weight"] == "it is on the device cpu, not on a CUDA GPU"
    assert all(ours is theirs for ours, theirs in zip(before, model.parameters(), strict=True))
    assert to_dense(model) == ()


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_there_and_back(dtype: torch.dtype) -> None:
    model = network(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    account = to_semi_structured(model)
    assert account.converted == ("0.weight", "2.weight")
    assert list(account.left) == ["3.weight", "4.weight"]
    assert account.left["3.weight"] == "it is not 2:4"
    assert "no multiple" in account.left["4.weight"]
    assert str(account).splitlines()[:3] == [
        "0.weight: 2:4", "2.weight: 2:4", "3.weight: dense, it is not 2:4"
    ]  # fmt: skip
    assert isinstance(model[0].weight, SparseSemiStructuredTensor)
    assert isinstance(model[0].weight, nn.Parameter)
    assert not model[0].weight.requires_grad
    assert to_semi_structured(model).left["0.weight"] == "it is semi-structured already"
    assert to_dense(model) == ("0.weight", "2.weight")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.usefixtures("pretended_gpu")
def test_names() -> None:
    model = network()
    account = to_semi_structured(model, ["2.*"])
    assert account.converted == ("2.weight",)
    assert account.left == {}
    with pytest.raises(RvsmError, match=r"'5.weight' matches no weight of a linear layer; .* 0.we"):
        to_semi_structured(model, ["0.weight", "5.weight"])
    with pytest.raises(RvsmError, match="give a list of names"):
        to_semi_structured(model, "0.weight")
    assert not isinstance(model[0].weight, SparseSemiStructuredTensor)


@pytest.mark.usefixtures("pretended_gpu")
def test_tied_weights_stay_tied() -> None:
    model = network()
    again = nn.Linear(64, 128).half()
    again.weight = model[0].weight
    model.append(again)
    model.append(model[2])
    account = to_semi_structured(model)
    assert account.converted == ("0.weight", "2.weight", "5.weight", "6.weight")
    assert model[0].weight is model[5].weight
    assert to_dense(model) == account.converted
    assert model[0].weight is model[5].weight


class Own(nn.Linear):
    pass


@pytest.mark.usefixtures("pretended_gpu")
def test_weights_that_others_read_stay_dense() -> None:
    embedding, linear = nn.Embedding(128, 64), nn.Linear(64, 128, bias=False)
    with torch.no_grad():
        embedding.weight.copy_(cut(embedding.weight))
    linear.weight = embedding.weight
    own = Own(64, 128)
    with torch.no_grad():
        own.weight.copy_(cut(own.weight))
    account = to_semi_structured(nn.Sequential(embedding, linear, own).half())
    assert account.converted == ()
    assert account.left == {
        "1.weight": "0 (Embedding) holds it too",
        "2.weight": "Own may read it in its own way",
    }


@pytest.mark.usefixtures("pretended_gpu")
def test_a_failure_leaves_the_model_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    convert = SparseSemiStructuredTensorCUTLASS.from_dense
    seen: list[Tensor] = []

    def fail(weight: Tensor) -> SparseSemiStructuredTensor:
        seen.append(weight)
        if len(seen) == 2:
            raise RuntimeError("out of memory.\nmore of it")
        return convert(weight)

    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "from_dense", fail)
    before = list(model.parameters())
    with pytest.raises(RvsmError, match=r"Cannot convert 2.weight: out of memory; leave it out"):
        to_semi_structured(model)
    assert all(ours is theirs for ours, theirs in zip(before, model.parameters(), strict=True))


@pytest.mark.usefixtures("pretended_gpu")
def test_a_converted_model_is_saved_dense_or_not_at_all(tmp_path: Path) -> None:
    model = network()
    to_semi_structured(model)
    with pytest.raises(RvsmError, match="only ordinary dense tensors with data can be saved"):
        rvsm.save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
