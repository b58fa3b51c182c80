"""What `rvsm.report` counts: groups and bytes by brute force, products and dead units by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import rvsm
from rvsm.accounting.formats import bytes_by_format, choice_bits
from rvsm.accounting.layer import Layer
from rvsm.errors import RvsmError


def only(weight: Tensor, block: tuple[int, int] = (4, 4)) -> Layer:
    (layer,) = rvsm.report({"w": weight}, block=block).layers
    return layer


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.randn(shape, generator=generator), 0.0)


@settings(max_examples=60, deadline=None)
@given(weight=tensors(), rows=st.integers(1, 4), columns=st.integers(1, 5))
def test_groups_by_loops(weight: Tensor, rows: int, columns: int) -> None:
    layer = only(weight, (rows, columns))
    array = weight.numpy()
    outputs, inputs = array.shape[:2]
    assert layer.zero_filters == sum(not array[o].any() for o in range(outputs))
    assert layer.zero_inputs == sum(not array[:, i].any() for i in range(inputs))
    pairs = list(itertools.product(range(outputs), range(inputs)))
    if array[0, 0].size > 1:
        assert layer.kernels == len(pairs)
        assert layer.zero_kernels == sum(not array[pair].any() for pair in pairs)
    else:
        assert layer.kernels is None
    matrix = array.reshape(outputs, -1)
    blocks = [
        matrix[top : top + rows, left : left + columns]
        for top in range(0, matrix.shape[0], rows)
        for left in range(0, matrix.shape[1], columns)
    ]
    assert layer.blocks == len(blocks)
    assert layer.zero_blocks == sum(not block.any() for block in blocks)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@settings(max_examples=40, deadline=None)
@given(weight=tensors())
def test_bytes_are_those_of_torch_and_of_the_file(weight: Tensor) -> None:
    found = bytes_by_format(weight)
    matrix = weight.flatten(1)

    def held(*parts: Tensor) -> int:
        return sum(part.numel() * part.element_size() for part in parts)

    csr = matrix.to_sparse_csr()
    coo = matrix.to_sparse_coo().coalesce()
    assert found["csr"] == held(csr.crow_indices(), csr.col_indices(), csr.values())
    assert found["coo"] == held(coo.indices(), coo.values())
    assert found["dense"] == held(weight)
    layer = only(weight)
    assert found[layer.coding] == layer.sparse_bytes
    assert found["bound"] <= min(found["bitmask"], found["csr"], found["coo"])
    kept = int((weight != 0).sum())
    exact = math.log2(math.comb(weight.numel(), kept))
    assert choice_bits(weight.numel(), kept) == pytest.approx(exact, abs=1e-6)


def test_negative_zeros_cost_a_value_in_the_file_only() -> None:
    weight = torch.zeros(10, 100)
    weight[0] = -0.0
    found = only(weight)
    assert found.nonzeros == 0
    assert found.bytes["bitmask"] == 100 * 4 + 125
    assert found.bytes["coo"] == found.bytes["bound"] == 0


@pytest.mark.parametrize(
    ("kept", "pattern"), [(1, "1:4"), (2, "2:4"), (3, None), (4, None)], ids=str
)
def test_patterns(kept: int, pattern: str | None) -> None:
    weight = torch.zeros(3, 8, 2, 2)
    weight[:, :kept] = 1.0
    weight[:, 4 : 4 + kept] = 1.0
    assert only(weight).pattern == pattern
    weight[0, :4, 0, 0] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    weight[0, 4:, 0, 0] = 0.0
    assert only(weight).pattern == (None if kept > 2 else "4:8")
    assert only(weight[:, :6]).pattern is None


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float8_e4m3fn]
)
def test_every_dtype(dtype: torch.dtype) -> None:
    weight = torch.zeros(4, 4)
    weight[0, 0] = 1.0
    layer = only(weight.to(dtype))
    assert (layer.nonzeros, layer.zero_filters) == (1, 3)
    assert layer.bytes["dense"] == 16 * dtype.itemsize
    assert layer.bytes["bitmask"] == dtype.itemsize + 2


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0, 2), (0,), (5,)], ids=str)
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    layer = only(torch.zeros(shape))
    assert layer.nonzeros == 0
    assert layer.blocks is None
    assert layer.zero_filters is None
    assert layer.bytes["dense"] == 4 * math.prod(shape)


def test_what_cannot_be_counted_is_named() -> None:
    for value, remedy in (
        (3, "leave it out"),
        (torch.zeros(2, device="meta"), "load its weights"),
        (torch.zeros(2, 2).to_sparse_coo(), "to_dense"),
        (torch.zeros(2, dtype=torch.complex128), "convert"),
    ):
        with pytest.raises(RvsmError, match=remedy):
            rvsm.report({"w": value})
    with pytest.raises(RvsmError, match="run the model"):
        rvsm.report(nn.LazyLinear(3))
    with pytest.raises(RvsmError, match="no size"):
        rvsm.report({}, block=(0, 4))
    with pytest.raises(RvsmError, match="a mapping from names to tensors, not a list"):
        rvsm.report([torch.zeros(2)])  # type: ignore[arg-type]


def test_what_the_module_cannot_take_is_named() -> None:
    layer = nn.Linear(3, 2)
    for inputs, says in (
        (torch.zeros(1, 4), r"Linear cannot take an example of \(1, 4\) torch.float32: .*shapes"),
        (torch.zeros(1, 3).double(), "torch.float64: .*; give an example as the module is used"),
        (np.zeros((1, 3)), "An example is a ndarray; give a tensor"),
        ((torch.zeros(1, 3), 7), "positional arguments"),
        ({"images": torch.zeros(1, 3)}, "images"),
    ):
        for call in ({"example": inputs}, {"samples": inputs}):
            with pytest.raises(RvsmError, match=says):
                rvsm.report(layer, **call)  # type: ignore[arg-type]


class Functional(nn.Module):
    """Weights used by functions: as they are, twice, as views, masked, and beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 4))
        self.kernel = nn.Parameter(torch.randn(2, 1, 3))
        self.square = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("mask", torch.tensor([[1.0], [0.0], [1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        both = F.linear(x, self.table[:3]) + x @ self.table[3:].T
        both = torch.einsum("bi,ij->bj", both, self.square) + F.linear(
            both, self.square * self.mask
        )
        return F.conv1d(both[:, None], self.kernel).flatten(1)


def test_functional_uses() -> None:
    model, batch = Functional(), 5
    with torch.no_grad():
        model.table[0] = 0
        model.square[0, 0] = 0
    account = rvsm.report(model, torch.randn(batch, 4))
    counts = {layer.name: (layer.macs, layer.effective_macs) for layer in account.layers}
    assert counts == {
        "table": (batch * 24, batch * 20),
        "square": (batch * 18, batch * (8 + 5)),
        "kernel": (batch * 6, batch * 6),
    }
    assert account.other_macs == 0


def test_computed_weights_count_for_their_parameter() -> None:
    pruned = nn.Linear(4, 3)
    prune.l1_unstructured(pruned, "weight", 6)
    normed = parametrizations.weight_norm(nn.Linear(4, 3))
    for model, kept in ((pruned, 12), (normed, 24)):
        account = rvsm.report(model, torch.randn(2, 4))
        assert (account.macs, account.effective_macs) == (24, kept)


def test_attention_and_recurrent_layers_hide_nothing() -> None:
    tokens, width = 2 * 3, 4
    layer = nn.TransformerEncoderLayer(width, 2, 8, batch_first=True)
    account = rvsm.report(layer, torch.randn(2, 3, width))
    assert account.macs == tokens * sum(p.numel() for p in layer.parameters() if p.dim() > 1)
    assert account.other_macs == 2 * (2 * 3 * 3 * width)  # queries on keys, then on values
    lstm = nn.LSTM(4, 3, bidirectional=True)
    account = rvsm.report(lstm, torch.randn(7, 2, 4))
    assert account.macs == 14 * sum(p.numel() for p in lstm.parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6), 2 * 16),
        (nn.Conv2d(6, 6, 3, groups=6, padding="same"), (6, 5, 5), 25),
        (nn.Conv3d(2, 3, 2, stride=2), (1, 2, 4, 4, 4), 8),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (2, 4, 5, 5), 2 * 25),
        (nn.Conv1d(2, 3, 3, dilation=2, dtype=torch.bfloat16), (1, 2, 10), 6),
        (nn.Linear(3, 2), (3,), 1),
        (nn.Linear(3, 2), (4, 5, 3), 20),
    ],
    ids=str,
)
def test_layers_of_every_kind(layer: nn.Module, shape: tuple[int, ...], positions: int) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.view(-1)[::3] = 0
    found = rvsm.report(layer, torch.randn(shape).to(weight.dtype)).layers[0]
    assert found.macs == positions * weight.numel()
    assert found.effective_macs == positions * int((weight != 0).sum())
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert found.units == outputs


def test_inference_mode_inside_and_compiled_outside() -> None:
    class Guarded(nn.Linear):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    (weight, _) = rvsm.report(Guarded(4, 3), torch.randn(2, 4)).layers
    assert (weight.macs, weight.units, weight.unused_units) == (24, 3, None)
    compiled = torch.compile(nn.Linear(4, 3), backend="eager")
    assert rvsm.report(compiled, {"input": torch.randn(2, 4)}).macs == 24


def dead_network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6 * 4, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    with torch.no_grad():
        model[0].weight[0] = 0  # constant
        model[4].weight[:, 4:8] = 0  # nobody reads filter 1
        model[1].bias[2] = -100  # filter 2 never passes its ReLU
        model[4].weight[3] = 0  # constant and, with its bias, never on
        model[4].bias[3] = -1
        model[6].weight[:, 4] = 0  # nobody reads unit 4
    return model


def test_dead_units() -> None:
    model = dead_network()
    model[4].weight.requires_grad_(False)
    first, second, last = (
        layer
        for layer in rvsm.report(model, torch.randn(8, 1, 4, 4)).layers
        if len(layer.shape) > 1
    )
    assert (first.units, first.constant_units, first.unused_units, first.dead_units) == (6, 1, 2, 3)
    assert (second.constant_units, second.unused_units, second.dead_units) == (1, 2, 2)
    assert (last.constant_units, last.unused_units, last.dead_units) == (0, 0, 0)
    assert not model[4].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_dead_units_of_other_samples_and_of_none() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1)
            layer.bias.zero_()

    def dead(**options: Tensor | bool) -> int | None:
        return rvsm.report(model, torch.ones(1, 1), **options).layers[0].dead_units

    assert dead() == 0
    assert dead(samples=torch.tensor([[-1.0], [-2.0]])) == 1
    assert dead(samples=torch.tensor([[-1.0], [2.0]])) == 0
    assert dead(samples=False) is None
    assert rvsm.report(model, samples=torch.ones(2, 1)).macs is None


def test_tied_units_are_dead_where_all_uses_agree() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].weight[:, 1] = 0  # unread in the first use only: the second is the output
    layer = rvsm.report(model, torch.randn(4, 3)).layers[0]
    assert (layer.constant_units, layer.dead_units) == (1, 1)
