"""The paper's network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from rvsm.errors import ConfigError
from rvsm.handwriting.network import TremorNet, layer_table


def test_names_and_counts_of_the_weights() -> None:
    net = TremorNet(norm=False)
    assert list(net.state_dict()) == [
        f"{layer}.{kind}"
        for layer in ("conv1", "conv2", "conv3", "fc")
        for kind in ("weight", "bias")
    ]
    assert list(net.children()) == [net.conv1, net.conv2, net.conv3, net.fc], "nothing else"
    normalised = TremorNet()
    assert {name for name, _ in normalised.named_parameters()} == {
        *(f"{layer}.weight" for layer in ("conv1", "conv2", "conv3", "fc")),
        *(f"{layer}.bias" for layer in ("norm1", "norm2", "norm3", "fc")),
    }
    assert layer_table(normalised) == layer_table(net)
    table = {row.name: row for row in layer_table(net)}
    assert {name: row.weights for name, row in table.items()} == {
        "conv1": 108,
        "conv2": 2592,
        "conv3": 5184,
        "fc": 6144,
    }
    assert table["conv3"].output == (24, 8, 16)
    assert sum(row.share for row in table.values()) == pytest.approx(1)
    full_size = TremorNet((8, 16, 16), pools=((2, 2), (2, 2), (2, 2)), size=(64, 256))
    assert layer_table(full_size)[-1].weights == 2 * 16 * 8 * 32


def test_the_table_tells_the_true_shapes() -> None:
    net = TremorNet(channels=(3, 4, 5), pools=((2, 4), (1, 2), (3, 3)))
    assert tuple(net.features(torch.rand(1, 1, 32, 128)).shape[1:]) == layer_table(net)[2].output


def test_full_size_images_are_averaged_first() -> None:
    net = TremorNet().eval()
    images = torch.rand(3, 1, 64, 256)
    torch.testing.assert_close(net(images), net(F.avg_pool2d(images, 2)))


def test_pooling_before_relu_is_relu_before_pooling() -> None:
    net = TremorNet(norm=False).eval()
    images = torch.rand(2, 1, 32, 128)
    maps = images
    for layer, pool in zip((net.conv1, net.conv2, net.conv3), net.pools, strict=True):
        maps = F.max_pool2d(F.relu(layer(maps)), pool)
    torch.testing.assert_close(net(images), net.fc(maps.flatten(1)))


def test_dropout_only_while_training() -> None:
    net = TremorNet(dropout=0.5)
    images = torch.rand(2, 1, 32, 128)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def trained(seed: int = 0) -> TremorNet:
    """Return a network in float64 with statistics, biases and zeros that are not those of birth."""
    torch.manual_seed(seed)
    net = TremorNet((4, 5, 6)).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_()
            if name.endswith("weight"):
                parameter[torch.rand_like(parameter) < 0.6] = 0
        net.conv2.weight[1] = 0  # a filter that is dead has variance 0
        net.conv1.weight[0, 0, 0, 0] = -0.0
    net.measure_statistics([torch.rand(20, 1, 32, 128, dtype=torch.float64)])
    return net.eval()


def test_folded_it_computes_the_same_with_the_same_zeros() -> None:
    net = trained()
    images = torch.rand(7, 1, 64, 256, dtype=torch.float64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    folded = net.folded()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not folded.training
    assert list(folded.state_dict()) == list(TremorNet(norm=False).state_dict())
    torch.testing.assert_close(folded(images), net(images), rtol=1e-10, atol=1e-10)
    for layer in ("conv1", "conv2", "conv3", "fc"):
        zeros = getattr(folded, layer).weight == 0
        assert torch.equal(zeros, getattr(net, layer).weight == 0)
        assert zeros.any()
    again = folded.folded()
    assert torch.equal(again(images), folded(images))


def test_the_statistics_are_those_of_the_given_images() -> None:
    net = trained()
    assert net.norm1 is not None
    net.norm1.running_mean.fill_(1e6)
    first, second = torch.rand(2, 5, 1, 32, 128, dtype=torch.float64)
    net.train().measure_statistics([first, second])
    maps = [F.max_pool2d(net.conv1(part), 2) for part in (first, second)]
    means = torch.stack([part.mean((0, 2, 3)) for part in maps])
    variances = torch.stack([part.var((0, 2, 3)) for part in maps])
    torch.testing.assert_close(net.norm1.running_mean, means.mean(0))
    torch.testing.assert_close(net.norm1.running_var, variances.mean(0))
    assert net.training
    assert net.norm1.training
    assert net.norm1.momentum == 0.1
    alone = TremorNet(norm=False)
    alone.measure_statistics([first.float()])


def test_features_are_normalised_while_training() -> None:
    net = TremorNet()
    images = torch.rand(8, 1, 32, 128)
    assert net.norm1 is not None
    maps = net.norm1(F.max_pool2d(net.conv1(images), 2))
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.std((0, 2, 3)), torch.ones(12), atol=1e-2, rtol=0)


def test_weights_at_birth() -> None:
    torch.manual_seed(0)
    net = TremorNet((12, 24, 48), norm=False)
    assert float(net.conv3.weight.detach().std()) == pytest.approx((2 / (24 * 9)) ** 0.5, rel=0.05)
    assert float(net.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not any(p.any() for n, p in net.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kernel": 4}, "network.kernel is 4"),
        ({"pools": ((8, 8), (8, 8), (8, 8))}, "leave nothing"),
        ({"channels": (4, 4)}, "three entries"),
    ],
)
def test_shapes_that_cannot_work(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TremorNet(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [True, False])
def test_the_simple_form_is_the_same_function_with_more_zeros(norm: bool) -> None:
    torch.manual_seed(0)
    net = TremorNet((3, 4, 5), norm=norm).eval()
    with torch.no_grad():
        net.fc.weight.view(2, 5, net.positions)[:, [1, 3]] = 0
        net.conv3.weight[[0, 2, 4], 2] = 0
    images = torch.rand(4, 1, 32, 128)
    before = net(images).log_softmax(1)
    net.simplify()
    torch.testing.assert_close(net(images).log_softmax(1), before)
    assert not net.fc.weight[0].any()
    assert net.fc.bias[0] == 0
    dead = [conv.weight.flatten(1).eq(0).all(1) for conv in (net.conv1, net.conv2, net.conv3)]
    assert [d.nonzero().flatten().tolist() for d in dead] == [[], [2], [1, 3]]
    net.train()(images).square().sum().backward()
    assert net.fc.weight.grad is not None
    dead_maps = net.fc.weight.grad.view(2, 5, net.positions)[:, [1, 3]]
    assert not dead_maps.any(), "nothing calls them back"


@pytest.mark.parametrize("norm", [True, False])
def test_maps_that_nobody_reads_are_not_computed(norm: bool) -> None:
    torch.manual_seed(0)
    net = TremorNet((3, 4, 6), norm=norm)
    with torch.no_grad():
        net.fc.weight.view(2, 6, net.positions)[:, [0, 3, 4]] = 0
        net.fc.bias[1] = 0.3
    net.simplify()
    whole = copy.deepcopy(net)
    whole._alive = None
    images = torch.rand(4, 1, 32, 128)
    assert net.features(images).shape[1] == 3
    for one in (net, whole):
        one.measure_statistics([images, images.flip(0)])
        F.cross_entropy(one.train()(images), torch.tensor([0, 1, 1, 0])).backward()
    for (name, p), twin in zip(net.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, twin.grad, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(net.eval()(images), whole.eval()(images))
    folded = net.folded()
    torch.testing.assert_close(folded(images), whole(images), rtol=1e-4, atol=1e-5)
    assert folded.conv3.bias is not None
    assert not folded.conv3.bias[[0, 3, 4]].any()
