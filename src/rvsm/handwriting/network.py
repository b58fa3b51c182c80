"""The paper's network: three convolutions, each followed by max pooling, then one large layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm.errors import ConfigError

IMAGE_SIZE = (64, 256)
"""Rows and columns of the images a data folder holds."""


class TremorNet(nn.Module):
    """Shaky or regular: (convolution -> max pooling -> ReLU) three times, then one linear layer.

    Parameters are named ``conv1.weight`` ... ``conv3.weight`` and ``fc.weight`` (and their
    biases). There is no batch normalisation, so zeroing weights leaves no statistics to repair.

    Parameters
    ----------
    channels
        Output channels of the three convolutions.
    kernel
        Side of the square kernels; odd, so that padding keeps the size.
    pools
        (rows, columns) of the max pooling after each convolution.
    size
        Rows and columns the first convolution sees. Images of twice that size are averaged 2x2
        first.
    dropout
        Share of the features dropped before the linear layer while training.

    Raises
    ------
    ConfigError
        If the kernel is even, or the pools leave nothing of the image.

    Notes
    -----
    Input: float ``(B, 1, H, W)`` with ink = 1 and paper = 0. Output: ``(B, 2)`` logits, class 0
    regular and class 1 shaky. ReLU follows the pooling, not the convolution: they commute, and
    pooled maps are smaller. Inside, tensors are ``channels_last``, twice as fast on a CPU.

    Shape of the network: Xue & Xin 2019, arXiv 1902.07419; its channel counts are not published,
    these are ours.
    """

    def __init__(
        self,
        channels: Sequence[int] = (12, 24, 24),
        kernel: int = 3,
        pools: Sequence[tuple[int, int]] = ((2, 2), (2, 2), (1, 2)),
        size: tuple[int, int] = (32, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"network.kernel is {kernel}; give an odd number, such as 3 or 5.")
        if len(channels) != 3 or len(pools) != 3:
            raise ConfigError("network.channels and network.pools must each have three entries.")
        self.size = (int(size[0]), int(size[1]))
        self.pools = [(int(rows), int(columns)) for rows, columns in pools]
        self.dropout = dropout
        height, width = self.size
        for rows, columns in self.pools:
            height, width = height // rows, width // columns
        if height < 1 or width < 1:
            raise ConfigError(
                f"network.pools {self.pools} leave nothing of a {self.size[0]}x{self.size[1]} "
                "image; give smaller pools."
            )
        first, second, third = channels
        self.conv1 = nn.Conv2d(1, first, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(first, second, kernel, padding=kernel // 2)
        self.conv3 = nn.Conv2d(second, third, kernel, padding=kernel // 2)
        self.fc = nn.Linear(third * height * width, 2)
        # mypy knows no overload of Module.to that takes a memory format alone
        cast(Any, self).to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return the maps ``(B, channels[2], h, w)`` that the linear layer reads."""
        if images.shape[-2:] == (2 * self.size[0], 2 * self.size[1]):
            images = F.avg_pool2d(images, 2)
        maps = images.contiguous(memory_format=torch.channels_last)
        for layer, pool in zip((self.conv1, self.conv2, self.conv3), self.pools, strict=True):
            maps = F.relu(F.max_pool2d(layer(maps), pool))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, 2)`` of images ``(B, 1, H, W)``."""
        flat = self.features(images).flatten(1)
        logits: Tensor = self.fc(F.dropout(flat, self.dropout, self.training))
        return logits


@dataclass(frozen=True)
class LayerRow:
    """One layer of the table in the documentation."""

    name: str
    kind: str
    output: tuple[int, ...]
    weights: int
    biases: int
    share: float


def layer_table(net: TremorNet) -> list[LayerRow]:
    """Describe every layer: what it is, the shape it puts out, its weights and their share.

    Parameters
    ----------
    net
        The network.

    Returns
    -------
    list of LayerRow
        One row per layer in order; ``share`` is its part of all weights (biases not counted).
    """
    layers: list[tuple[str, str, tuple[int, ...], nn.Conv2d | nn.Linear]] = []
    height, width = net.size
    for number, (layer, (rows, columns)) in enumerate(
        zip((net.conv1, net.conv2, net.conv3), net.pools, strict=True), start=1
    ):
        height, width = height // rows, width // columns
        side = layer.kernel_size[0]
        kind = f"convolution {side}x{side}, max pooling {rows}x{columns}, ReLU"
        layers.append((f"conv{number}", kind, (layer.out_channels, height, width), layer))
    layers.append(("fc", "linear", (net.fc.out_features,), net.fc))
    total = sum(layer.weight.numel() for *_, layer in layers)
    return [
        LayerRow(
            name=name,
            kind=kind,
            output=output,
            weights=layer.weight.numel(),
            biases=0 if layer.bias is None else layer.bias.numel(),
            share=layer.weight.numel() / total,
        )
        for name, kind, output, layer in layers
    ]
