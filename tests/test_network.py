"""The paper's network."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rvsm.errors import ConfigError
from rvsm.handwriting.network import TremorNet, layer_table


def test_names_and_counts_of_the_weights() -> None:
    net = TremorNet()
    assert list(net.state_dict()) == [
        f"{layer}.{kind}"
        for layer in ("conv1", "conv2", "conv3", "fc")
        for kind in ("weight", "bias")
    ]
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
    net = TremorNet().eval()
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
