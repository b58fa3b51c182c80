"""From a module to a description of its layers and back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, network
from rvsm.deploy import ops
from rvsm.deploy.graph import OPS, Graph
from rvsm.deploy.network import Network
from rvsm.deploy.tracing import trace
from rvsm.errors import FileFormatError, RvsmError, UnsupportedLayer


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_compute_what_the_module_does(name: str) -> None:
    model, example = network(name)
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, example)
    for batch in (example, torch.randn(5, *example.shape[1:])):
        torch.testing.assert_close(traced(batch), model(batch), rtol=0, atol=0)
    own = dict(traced.state_dict())
    assert set(own) <= set(before)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(own[key], value)
            assert own[key].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_rebuilt_from_json(name: str) -> None:
    model, example = network(name)
    traced = trace(model, example)
    text = json.dumps(traced.describe())
    rebuilt = Network.from_description(json.loads(text), traced.state_dict()).eval()
    assert json.dumps(rebuilt.describe()) == text
    assert [n for n, _ in rebuilt.named_parameters()] == [n for n, _ in traced.named_parameters()]
    torch.testing.assert_close(rebuilt(example), model(example), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_description_tells_the_dtype_of_now(dtype: torch.dtype) -> None:
    model, example = network("line")
    traced = trace(model, example).to(dtype)
    rebuilt = Network.from_description(traced.describe(), traced.state_dict()).eval()
    assert torch.equal(rebuilt(example.to(dtype)), traced(example.to(dtype)))


def test_together_they_have_every_type_of_layer() -> None:
    found = {node.op for name in NETWORKS for node in trace(*network(name)).graph.nodes}
    assert found == set(OPS)


def test_shapes_are_those_of_the_values() -> None:
    model, example = network("branches")
    traced = trace(model, example)
    sizes = ops.shapes(traced.graph)
    assert sizes[traced.graph.input.name] == example.shape[1:]
    assert sizes[traced.graph.output.name] == model(example).shape[1:]


def test_what_is_computed_of_weights_alone_is_computed_once() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))
            self.register_buffer("alive", torch.tensor([0, 3, 5]))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight[self.alive]) + F.linear(x, self.weight)[:, self.pick]

        pick = slice(0, 3)

    model = Masked()
    traced = trace(model, torch.randn(1, 4))
    sizes = {tuple(value.shape) for value in traced.state_dict().values()}
    assert sizes == {(3, 4), (6, 4)}
    x = torch.randn(7, 4)
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)


def test_the_mode_of_the_module_stays() -> None:
    model, example = network("resnet")
    model.train()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    trace(model, example)
    assert [module.training for module in model.modules()] == modes


def test_a_shrunk_network_learns_on() -> None:
    model, example = network("resnet")
    traced = trace(model, example).train()
    model.train()
    for net in (model, traced):
        net(example).square().mean().backward()
    gradients = dict(traced.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)
    state = traced.state_dict()
    for name, value in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(state[name], value)


class Depends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x if float(x.sum()) > 0 else x


class Together(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.flatten(0, 1).view(x.shape[1], -1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(x), F.relu(x)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.weight)


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (Inner(), (1, 1, 6, 6), r"features\.1 \(PixelShuffle\) does pixel_shuffle"),
        (Depends(), (1, 3), "must not depend on the values"),
        (Together(), (1, 2, 3), "moves the batch axis"),
        (Pair(), (1, 3), "returns 2 values"),
        (Constant(), (1, 3), "does not depend on its input"),
        (nn.BatchNorm1d(3, track_running_stats=False), (2, 3), "statistics of the batch"),
        (nn.Linear(3, 2), (1, 5, 3), "every place of a map"),
        (nn.LSTM(3, 2, batch_first=True), (1, 5, 3), "returns|LSTM"),
    ],
)
def test_what_is_no_layer_is_named(model: nn.Module, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UnsupportedLayer, match=says):
        trace(model.eval(), torch.randn(shape))


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ([1.0], "is a list"),
        (torch.randn(4), "has shape"),
        (torch.zeros(1, 4, dtype=torch.int64), "int64"),
        (torch.zeros(0, 4), r"\(0, 4\)"),
        (torch.randn(1, 5), "cannot take an example of shape"),
    ],
)
def test_a_wrong_example(example: Any, says: str) -> None:
    with pytest.raises(RvsmError, match=says):
        trace(nn.Linear(4, 2), example)


def test_nothing_is_printed_of_what_cannot_be_traced(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedLayer, match="must not depend on the values of its input"):
        trace(Depends(), torch.ones(1, 3))
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("model", [{"weight": torch.ones(2, 3)}, F.relu, "net.safetensors"])
def test_what_is_no_module(model: Any) -> None:
    with pytest.raises(RvsmError, match="is no module: give the network itself"):
        trace(model, torch.ones(1, 3))


def test_weights_that_are_no_numbers_are_traced() -> None:
    model = nn.Linear(4, 2)
    nn.init.constant_(model.weight[0, 0], float("nan"))
    assert trace(model, torch.randn(1, 4))(torch.randn(1, 4)).isnan().any()


def test_a_wrong_input() -> None:
    traced = trace(nn.Linear(4, 2), torch.randn(1, 4))
    with pytest.raises(RvsmError, match=r"\(batch, 4\)"):
        traced(torch.randn(1, 5))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path]
    for key, child in children:
        below = isinstance(child, dict | list)
        found += _paths(child, (*path, key)) if below else [(*path, key)]
    return found


_DESCRIPTION = trace(*network("branches")).describe()
_ODD = st.sampled_from([None, -1, 2**40, 1.5, "relu", [], {}, True, [-1], [0, 0], float("nan")])


@given(path=st.sampled_from([p for p in _paths(_DESCRIPTION) if p]), odd=_ODD)
def test_a_damaged_description_is_an_error_or_another_network(
    path: tuple[Any, ...], odd: Any
) -> None:
    damaged = copy.deepcopy(_DESCRIPTION)
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd
    try:
        graph = Graph.from_dict(damaged)
        Network(graph, {name: torch.zeros(i.shape) for name, i in graph.tensors.items()})
    except FileFormatError:
        return
    assert graph.to_dict() == damaged


def described(op: str, inputs: int = 1, tensors: Any = None, **attributes: Any) -> dict[str, Any]:
    """Describe one layer on maps of 4 x 5 x 5, or for two inputs on them and their mean."""
    shape: dict[str, Any] = {"tensors": {}, "attributes": {"shape": [4, 5, 5]}}
    mean: dict[str, Any] = {"tensors": {}, "attributes": {"size": [1, 1]}}
    nodes = [
        {"name": "x", "op": "input", "inputs": [], **shape},
        {"name": "mean", "op": "adaptive_avg_pool", "inputs": ["x"], **mean},
        {
            "name": "y",
            "op": op,
            "inputs": ["x", "mean"][:inputs],
            "tensors": {role: role for role in tensors or {}},
            "attributes": attributes,
        },
    ]
    infos = {
        role: {"shape": shape, "dtype": "F32", "parameter": True}
        for role, shape in (tensors or {}).items()
    }
    return {"format": 1, "nodes": nodes, "tensors": infos}


CONV: dict[str, Any] = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
POOL: dict[str, Any] = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1]}
KERNEL = {"weight": [3, 4, 1, 1]}
STATISTICS = {"running_mean": [4, 1], "running_var": [4, 1]}


@pytest.mark.parametrize(
    ("description", "cause"),
    [
        (described("select", channels=[7]), "takes channels that are not there"),
        (described("select", channels=[]), "takes no channels"),
        (described("add", 2), "adds maps of different shape"),
        (described("conv", tensors=KERNEL | {"bias": [1]}, **CONV), "expected bias to be"),
        (described("conv", tensors=KERNEL, **CONV | {"padding": [0, 0]}), "2 numbers for its pad"),
        (described("conv", tensors=KERNEL, **CONV | {"stride": [1]}), "1 numbers for its stride"),
        (described("conv", tensors=KERNEL, **CONV | {"dilation": [0, 1]}), "a dilation of 0"),
        (described("linear", tensors={"weight": [3, 5]}), "has a weight with another number"),
        (described("batch_norm", tensors=STATISTICS, eps=1e-5), "has a tensor of another size"),
        (described("max_pool", ceil=False, **POOL | {"kernel": [2]}), "1 numbers for its kernel"),
        (described("max_pool", ceil=True, **POOL | {"stride": []}), "0 numbers for its stride"),
        (described("adaptive_avg_pool", size=[0, 1]), "a size of 0"),
    ],
)
def test_layers_that_compute_nothing(description: Any, cause: str) -> None:
    graph = Graph.from_dict(description)
    with pytest.raises(FileFormatError, match=f"layer 'y'.* {cause}"):
        Network(graph, {name: torch.zeros(i.shape) for name, i in graph.tensors.items()})


@pytest.mark.parametrize("name", ["a", "a.b", "forward", "graph", "a..b"])
def test_names_that_cannot_stand_in_a_module(name: str) -> None:
    description = trace(nn.Linear(4, 2), torch.randn(1, 4)).describe()
    description["tensors"]["a"] = {"shape": [1], "dtype": "F32", "parameter": False}
    description["tensors"][name] = {"shape": [1], "dtype": "F32", "parameter": False}
    tensors = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2), "a": torch.zeros(1)}
    if name == "a":
        Network.from_description(description, tensors)
        return
    with pytest.raises(FileFormatError):
        Network.from_description(description, {**tensors, name: torch.zeros(1)})
