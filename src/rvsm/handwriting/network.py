"""The paper's network: three convolutions, each followed by max pooling, then one large layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm.errors import ConfigError
from rvsm.handwriting.block import (
    Normalised,
    first_pool_norm_relu,
    fused,
    fused_first,
    pool_norm_relu,
)


class FixedScaleNorm(nn.Module):
    r"""Batch normalisation whose scale stays 1: ``(x - mean) / sqrt(var + eps) + bias``.

    Mean and variance are those of the batch while training and the running ones otherwise. The
    scale being positive, the map commutes with max pooling and ReLU can follow it, so it can
    always be folded into the convolution before them (:meth:`TremorNet.folded`).

    Parameters
    ----------
    channels
        Maps to normalise, each by itself.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv 1502.03167.
    """

    momentum = 0.1
    eps = 1e-5
    scale: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        # No parameter: a learned scale says nothing that the convolution's weights do not.
        self.register_buffer("scale", torch.ones(channels), persistent=False)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor, alive: Tensor | None = None) -> Tensor:
        """Return the normalised maps ``(B, channels, h, w)``, of the channels `alive` if given."""
        own = (self.running_mean, self.running_var, self.scale, self.bias)
        mean, var, scale, bias = own if alive is None else (x[alive] for x in own)
        maps = F.batch_norm(maps, mean, var, scale, bias, self.training, self.momentum, self.eps)
        if alive is not None and self.training:
            self.running_mean[alive], self.running_var[alive] = mean, var
        return maps

    def pooled(self, maps: Tensor, pool: tuple[int, int], alive: Tensor | None = None) -> Tensor:
        """Return ``relu(self(max_pool2d(maps, pool), alive))``, while training in one go."""
        own_type = self.bias.dtype == torch.float32  # that of the statistics in C
        if not (self.training and own_type and fused(maps, pool)):
            return F.relu(self(F.max_pool2d(maps, pool), alive))
        chosen = slice(None) if alive is None else alive
        found = pool_norm_relu(maps, pool, self.scale[chosen], self.bias[chosen], self.eps)
        return self._followed(found, chosen)

    def convolved(self, images: Tensor, conv: nn.Conv2d, pool: tuple[int, int]) -> Tensor | None:
        """Return ``pooled(conv(images), pool)`` of the first layer while training, if in one go."""
        if not (self.training and fused_first(images, conv, pool)):
            return None
        found = first_pool_norm_relu(images, conv.weight, self.scale, self.bias, self.eps)
        return self._followed(found, slice(None))

    @torch.no_grad()
    def _followed(self, found: Normalised, chosen: slice | Tensor) -> Tensor:
        """Let the running statistics follow those of a batch; return its maps."""
        for running, new in ((self.running_mean, found.mean), (self.running_var, found.var)):
            running[chosen] = running[chosen].lerp(new, self.momentum)
        return found.maps


class TremorNet(nn.Module):
    """Shaky or regular: (convolution -> max pooling -> ReLU) three times, then one linear layer.

    Parameters are named ``conv1.weight`` ... ``conv3.weight`` and ``fc.weight``, with
    ``fc.bias`` and the biases of the maps: ``norm1.bias`` ... with `norm`, else ``conv1.bias``.

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
    norm
        Normalise the pooled maps over the batch, before the ReLU: far faster to train. The
        trained network needs none of it: :meth:`folded` returns the same function without.

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
        norm: bool = True,
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
        self.conv1 = nn.Conv2d(1, first, kernel, padding=kernel // 2, bias=not norm)
        self.conv2 = nn.Conv2d(first, second, kernel, padding=kernel // 2, bias=not norm)
        self.conv3 = nn.Conv2d(second, third, kernel, padding=kernel // 2, bias=not norm)
        self.norm1 = FixedScaleNorm(first) if norm else None
        self.norm2 = FixedScaleNorm(second) if norm else None
        self.norm3 = FixedScaleNorm(third) if norm else None
        self.positions = height * width
        self._alive: Tensor | None
        self.register_buffer("_alive", None, persistent=False)
        self.fc = nn.Linear(third * self.positions, 2)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        # mypy knows no overload of Module.to that takes a memory format alone
        cast(Any, self).to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return the maps ``(B, channels[2], h, w)`` that the linear layer reads.

        Only those it reads at all once :meth:`simplify` has found the others.
        """
        if images.shape[-2:] == (2 * self.size[0], 2 * self.size[1]):
            images = F.avg_pool2d(images, 2)
        maps = images.contiguous(memory_format=torch.channels_last)
        for conv, norm, pool in self._layers():
            alive = self._alive if conv is self.conv3 else None
            first = norm.convolved(maps, conv, pool) if conv is self.conv1 and norm else None
            if first is not None:
                maps = first
                continue
            maps = conv(maps) if alive is None else _some_maps(conv, maps, alive)
            if norm is None:
                maps = F.relu(F.max_pool2d(maps, pool))
            else:
                maps = norm.pooled(maps, pool, alive)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, 2)`` of images ``(B, 1, H, W)``."""
        flat = self.features(images).flatten(1)
        flat = F.dropout(flat, self.dropout, self.training)
        if self._alive is None:
            logits: Tensor = self.fc(flat)  # the layer itself, for whoever watches it
            return logits
        weight = self.fc.weight.view(2, -1, self.positions)[:, self._alive].flatten(1)
        return F.linear(flat, weight, self.fc.bias)

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[Tensor]) -> None:
        """Set the running means and variances to their average over these batches alone.

        The running statistics of training belong to the weights it went through; those of u,
        which it never ran, have to be measured. Does nothing without `norm`.

        Parameters
        ----------
        batches
            Images ``(B, 1, H, W)``, each batch counting the same.
        """
        norms = [norm for _, norm, _ in self._layers() if norm is not None]
        if not norms:
            return
        modes = [norm.training for norm in norms]
        try:
            for number, images in enumerate(batches, start=1):
                for norm in norms:
                    norm.train()
                    norm.momentum = 1 / number  # the first batch leaves nothing of before
                self.features(images)
        finally:
            for norm, mode in zip(norms, modes, strict=True):
                norm.train(mode)
                norm.momentum = FixedScaleNorm.momentum

    @torch.no_grad()
    def simplify(self) -> None:
        """Write the same function with the zeros it has for nothing: where sparse training starts.

        Only the difference of the two logits counts, so the first takes zeros and the second
        the difference. Filters whose map no weight of the next layer reads become zero, and
        their biases: the map is zero then, and training finds no gradient that would let a
        weight read it again. The last convolution computes them no more.
        """
        for parameter in (self.fc.weight, self.fc.bias):
            parameter[1] -= parameter[0].clone()
            parameter[0] = 0
        read = self.fc.weight.view(2, -1, self.positions).ne(0).any(2).any(0)
        self._alive = None if read.all() else read.nonzero().flatten()
        for conv, norm, _ in reversed(self._layers()):
            bias = conv.bias if norm is None else norm.bias
            assert bias is not None
            conv.weight[~read] = 0
            bias[~read] = 0
            if norm is not None:
                norm.running_mean[~read] = 0
            read = conv.weight.ne(0).flatten(2).any(2).any(0)

    @torch.no_grad()
    def folded(self) -> TremorNet:
        """Return a network without normalisation that computes what this one does to evaluate.

        Convolution weights are divided by ``sqrt(var + eps)`` of their channel, which keeps
        every zero exactly; the means go into the biases. A network without `norm` is copied.
        """
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
            net = TremorNet(
                [conv.out_channels for conv, _, _ in self._layers()],
                self.conv1.kernel_size[0],
                self.pools,
                self.size,
                self.dropout,
                norm=False,
            ).to(self.fc.weight)
        for (conv, norm, _), (into, _, _) in zip(self._layers(), net._layers(), strict=True):
            assert into.bias is not None
            if norm is None:
                into.load_state_dict(conv.state_dict())
                continue
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            into.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
            into.bias.copy_(norm.bias - norm.running_mean * scale)
        net.fc.load_state_dict(self.fc.state_dict())
        return net.train(self.training)

    def _layers(self) -> list[tuple[nn.Conv2d, FixedScaleNorm | None, tuple[int, int]]]:
        convs = (self.conv1, self.conv2, self.conv3)
        return list(zip(convs, (self.norm1, self.norm2, self.norm3), self.pools, strict=True))


def _some_maps(conv: nn.Conv2d, images: Tensor, alive: Tensor) -> Tensor:
    """Return the output channels `alive` of a convolution."""
    weight = conv.weight[alive].contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias[alive]
    return F.conv2d(images, weight, bias, conv.stride, conv.padding)


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

    Of a network with normalisation this is what is left when it is folded.

    Parameters
    ----------
    net
        The network.

    Returns
    -------
    list of LayerRow
        One row per layer in order; ``share`` is its part of all weights (biases not counted).
    """
    net = net.folded()
    layers: list[tuple[str, str, tuple[int, ...], nn.Conv2d | nn.Linear]] = []
    height, width = net.size
    for number, (layer, _, (rows, columns)) in enumerate(net._layers(), start=1):
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
