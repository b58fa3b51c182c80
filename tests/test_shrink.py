"""A shrunk network has the same outputs and nothing that could go."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import rvsm
from networks import NETWORKS, Block, network
from rvsm.deploy.tracing import trace
from shrinking import check, sizes, zero_at_random

_TRACED = {name: (*network(name), trace(*network(name))) for name in NETWORKS}


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    columns=st.sampled_from([0.0, 0.3, 0.9]),
    round_to=st.sampled_from([1, 1, 3, 8]),
    fold=st.booleans(),
)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_same(
    name: str, seed: int, rows: float, columns: float, round_to: int, fold: bool
) -> None:
    _, example, traced = _TRACED[name]
    model = copy.deepcopy(traced).double()
    with torch.no_grad():
        zero_at_random(model.state_dict(), seed, rows, columns)
    small = check(model, example, round_to=round_to, fold=fold)
    before, after = rvsm.shrink_report(small).total()
    assert round_to > 1 or fold or after.weights <= before.weights


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_all_that_can_go_is_gone_from_a_chain(seed: int, share: float) -> None:
    """Counted by hand: without biases what lives is what has a way from input to output."""
    torch.manual_seed(seed)
    widths = [5, 7, 6, 8, 3]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    weights = [layer.weight.data for layer in model if isinstance(layer, nn.Linear)]
    for weight in weights:
        weight[torch.rand(weight.shape) < share] = 0
    reached = [torch.ones(5, dtype=torch.bool)]
    for weight in weights:
        reached.append(((weight != 0) & reached[-1]).any(1))
    read = [torch.ones(3, dtype=torch.bool)]
    for weight in reversed(weights):
        read.insert(0, ((weight != 0) & read[0][:, None]).any(0))
    alive = [int((a & b).sum()) for a, b in zip(reached, read, strict=True)]
    small = check(model, torch.randn(1, 5))
    found = [size for name, size in sizes(small).items() if name.endswith("weight")]
    if all(alive[:-1]) and alive[-1]:
        assert [size[1] for size in found] == alive[:-1]
    else:
        assert len(found) == 1  # the output is zero: one linear layer says so


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_a_constant_that_meets_padding_stays(padding: int, bias: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding, bias=False)
    )
    nn.init.zeros_(model[0].weight[1])
    nn.init.constant_(model[0].bias[1:2], bias)
    small = check(model, torch.randn(1, 1, 9, 9))
    stays = padding == 1 and bias != 0
    assert sizes(small)["0.weight"][0] == (4 if stays else 3)
    assert ("2.bias" in sizes(small)) is (bias != 0 and not stays)


def test_a_constant_read_in_the_middle_only_goes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, padding=1))
    with torch.no_grad():
        model[0].weight[1] = 0
        middle = model[1].weight[:, 1, 1, 1].clone()
        model[1].weight[:, 1] = 0
        model[1].weight[:, 1, 1, 1] = middle
    assert sizes(check(model, torch.randn(1, 1, 9, 9)))["0.weight"][0] == 3


def test_constants_that_meet_padding_become_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)
    )
    with torch.no_grad():
        model[0].weight[2:] = 0
        model[1].bias.uniform_(-1, 1)
    assert sizes(check(model, torch.randn(1, 1, 9, 9)))["0.weight"][0] == 3


@pytest.mark.parametrize(
    ("pool", "goes"),
    [
        (nn.AvgPool2d(3, 2, 1, count_include_pad=True), False),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), True),
        (nn.AvgPool2d(2, 2, ceil_mode=True), True),
        (nn.MaxPool2d(3, 2, 1), True),
        (nn.MaxPool2d(2, 2, ceil_mode=True), True),
        (nn.AdaptiveAvgPool2d(3), True),
        (nn.AdaptiveMaxPool2d(3), True),
    ],
)
def test_constants_through_pooling(pool: nn.Module, goes: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), pool, nn.Conv2d(4, 3, 2))
    with torch.no_grad():
        model[0].weight[[0, 3]] = 0
        model[0].bias[0] = -2.5  # below the zeros of a padding, above its -inf
    small = check(model, torch.randn(1, 1, 10, 10))
    assert sizes(small)["0.weight"][0] == (2 if goes else 4)
    # each place of a flattened map has a value of its own
    flat = nn.Sequential(*copy.deepcopy(model)[:2], nn.Flatten(), nn.LazyLinear(3)).double()
    flat(torch.randn(1, 1, 10, 10).double())
    assert sizes(check(flat, torch.randn(1, 1, 10, 10)))["0.weight"][0] == 2


def test_a_dead_layer_and_a_constant_output() -> None:
    model, example = network("lenet5")
    with torch.no_grad():
        model.conv2.weight.zero_()
    small = check(model, example)
    assert set(sizes(small)) == {"fc2.weight", "fc2.bias"}
    assert rvsm.shrink_report(small).to_dict()["total"]["macs"] == 10


def test_a_constant_map_as_output() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, stride=2))
    nn.init.zeros_(model[0].weight)
    small = check(model, torch.randn(1, 2, 9, 12))
    assert sizes(small) == {"2.weight": (2, 1, 1, 1), "2.bias": (2,)}
    only = nn.Conv2d(2, 3, 3)
    nn.init.zeros_(only.weight)
    assert sizes(check(only, torch.randn(1, 2, 9, 9)))["weight"][1] == 1


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_residual_block_with_a_dead_branch(shift: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), Block(6, 6), Block(6, 6))
    with torch.no_grad():
        model[2].bn2.weight.zero_()
        model[2].bn2.bias.fill_(shift)
    small = check(model, torch.randn(1, 2, 8, 8))
    names = {name for name in sizes(small) if name.startswith("2.")}
    assert not {name for name in names if "conv1" in name}
    assert bool(names) is (shift != 0)


def test_residual_channels_go_together_or_stay() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), Block(6, 6), nn.Flatten(), nn.Linear(6 * 64, 3)
    )
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[1].conv2.weight[2:5] = 0
    small = check(model, torch.randn(1, 2, 8, 8))
    assert sizes(small)["0.weight"][0] == sizes(small)["1.conv2.weight"][0] == 5


def test_depthwise_and_pointwise() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 5, 1),
    )
    with torch.no_grad():
        model[0].weight[0] = 0
        model[2].weight[1] = 0
        model[4].weight[:, 2] = 0
    small = check(model, torch.randn(1, 3, 9, 9))
    assert sizes(small)["2.weight"] == (5, 1, 3, 3)
    assert small.graph.nodes[3].number("groups") == 5


def test_depthwise_with_several_filters_for_each_channel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[2].weight[:, [0, 1, 2, 4]] = 0  # both of the first, one of the next two
    small = check(model, torch.randn(1, 1, 7, 7))
    assert sizes(small)["1.weight"] == (6, 1, 3, 3)


def test_groups_lose_the_same_number_of_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 12, 1, bias=False),
        nn.Conv2d(12, 9, 3, groups=3, bias=False),
        nn.Conv2d(9, 2, 1),
    )
    with torch.no_grad():
        model[0].weight[[0, 1, 4, 5, 6]] = 0  # two of the first group, three of the second
        model[1].weight[[0, 3, 4]] = 0
        model[2].weight[:, 6:] = 0  # all of the third
    small = check(model, torch.randn(1, 2, 6, 6))
    assert sizes(small)["1.weight"] == (4, 2, 3, 3)
    assert sizes(small)["0.weight"] == (4, 2, 1, 1)


class Dense(nn.Module):
    """Concatenations of concatenations, as dense networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 + 3 * i, 3, 3, padding=1) for i in range(3))
        self.fc = nn.Linear(11, 4)

    def forward(self, maps: Tensor) -> Tensor:
        for conv in self.convs:
            maps = torch.cat([maps, F.relu(conv(maps))], 1)
        return self.fc(maps.mean((2, 3)))


def test_concatenation() -> None:
    torch.manual_seed(4)
    model = Dense()
    with torch.no_grad():
        model.convs[0].weight[1] = 0
        model.convs[0].bias[1] = 0
        model.convs[1].weight.zero_()
        model.convs[1].bias.fill_(-1.0)
    small = check(model, torch.randn(1, 2, 8, 8))
    assert sizes(small)["convs.2.weight"] == (3, 4, 3, 3)
    assert sizes(small)["fc.weight"] == (4, 7)
    assert "convs.1.weight" not in sizes(small)


class Tied(nn.Module):
    """One layer three times, and a weight that another layer has too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.again = nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)
        self.other.weight = self.again.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for _ in range(3):
            x = F.relu(self.again(x))
        return self.last(torch.sigmoid(self.other(x)))


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_tied_weights_agree(bias: float) -> None:
    torch.manual_seed(5)
    model = Tied()
    with torch.no_grad():
        for layer in (model.first, model.again, model.other):
            layer.weight[2] = 0
            layer.bias[2] = bias
        model.last.weight[:, 2] = 0
    small = check(model, torch.randn(1, 4))
    shared = [size for name, size in sizes(small).items() if len(size) == 2 and "t.w" not in name]
    assert shared == [(5, 5) if bias == 0 else (6, 6)]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.sampled_from([0.2, 0.6]))
def test_tied_weights_with_random_zeros(seed: int, rows: float) -> None:
    torch.manual_seed(seed)
    model = Tied()
    with torch.no_grad():
        zero_at_random(model.state_dict(), seed, rows, rows)
    check(model, torch.randn(1, 4))


class Shared(nn.Module):
    """A map that two convolutions read, one of them in groups, with batch norm used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.right = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Conv2d(16, 3, 3, padding=1, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.sigmoid(self.stem(images))
        left, right = self.norm(self.left(maps)), self.norm(self.right(maps))
        return F.softmax(self.out(torch.cat([left + maps, right], 1)), 1)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31), rows=st.sampled_from([0.2, 0.6, 0.9]), round_to=st.integers(1, 4)
)
def test_shared_maps_with_random_zeros(seed: int, rows: float, round_to: int) -> None:
    torch.manual_seed(seed)
    model = Shared()
    with torch.no_grad():
        zero_at_random(model.state_dict(), seed, rows, rows)
    check(model, torch.randn(1, 2, 7, 7), round_to=round_to)


def test_the_input_keeps_its_shape() -> None:
    model, example = network("mlp")
    with torch.no_grad():
        model[0].weight[:, [0, 5, 12]] = 0
    small = check(model, example)
    assert sizes(small)["0.weight"][1] == 10
    assert small.graph.nodes[1].ints("channels") == (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)
    pixels = nn.Sequential(nn.Flatten(), nn.Linear(2 * 9, 4))
    with torch.no_grad():
        pixels[1].weight[:, 5:11] = 0
    small = check(pixels, torch.randn(1, 2, 3, 3))
    assert [node.op for node in small.graph.nodes] == ["input", "flatten", "select", "linear"]
    assert sizes(small)["1.weight"] == (4, 12)
    images = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        images[0].weight[:, 1] = 0
    assert sizes(check(images, torch.randn(1, 3, 6, 6)))["0.weight"] == (4, 2, 3, 3)


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def test_what_is_left_is_the_input_itself() -> None:
    model = Unread()
    nn.init.zeros_(model.conv.weight)
    nn.init.zeros_(model.conv.bias)
    small = check(model, torch.randn(1, 2, 5, 5))
    assert [node.op for node in small.graph.nodes] == ["input", "select"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("round_to", [1, 4])
def test_sizes_are_multiples(name: str, round_to: int) -> None:
    model, example = network(name)
    with torch.no_grad():
        zero_at_random(model.state_dict(), 6, 0.6, 0.2)
    small = check(model, example, round_to=round_to)
    *inner, last = [x for x in rvsm.shrink_report(small).layers if x.op in ("conv", "linear")]
    assert last.after.outputs == last.before.outputs
    for layer in inner:
        assert layer.after.outputs == layer.before.outputs or layer.after.outputs % round_to == 0


def test_what_is_given_back_is_zero() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), nn.Linear(16, 2))
    nn.init.zeros_(model[2].weight[:, 3:8])
    small = check(model, torch.randn(1, 6), round_to=8)
    assert sizes(small)["0.weight"] == (16, 6)
    assert int((small.state_dict()["0.weight"] == 0).all(1).sum()) == 5
    assert sizes(check(model, torch.randn(1, 6), round_to=6))["0.weight"] == (12, 6)


def test_folding_batch_norm() -> None:
    model, example = network("resnet")
    plain, folded = check(model, example), check(model, example, fold=True)
    assert "stem.1.running_mean" in sizes(plain)
    assert not [name for name in sizes(folded) if "running" in name]
    assert {node.op for node in folded.graph.nodes}.isdisjoint({"batch_norm"})
    assert "stem.0.bias" in sizes(folded)
