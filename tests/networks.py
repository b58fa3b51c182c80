"""Small networks that between them have every type of layer, for the tests of `rvsm.deploy`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """The Caffe form, 20-50-500-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.conv1(images), 2)
        maps = F.max_pool2d(self.conv2(maps), 2)
        return self.fc2(F.relu(self.fc1(maps.flatten(1))))


class Block(nn.Module):
    """A residual block, with a convolution in the short cut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        out += self.short(maps)
        return self.relu(out)


class SmallResNet(nn.Module):
    """Two stages of residual blocks, mean over all places, one linear layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width))
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer2(self.layer1(self.stem(images)))
        return self.fc(maps.mean((2, 3)))


class Branches(nn.Module):
    """Concatenation, depthwise and grouped convolution, dilation, odd pooling, many activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, stride=2, padding="valid")
        self.depthwise = nn.Conv2d(6, 6, 5, padding=2, groups=6)
        self.pointwise = nn.Conv2d(6, 8, 1)
        self.grouped = nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2)
        self.norm = nn.BatchNorm2d(12, affine=False)
        self.out = nn.Linear(12 * 4, 7)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.leaky_relu(self.first(images), 0.1)
        left = F.hardtanh(self.pointwise(torch.tanh(self.depthwise(maps))), -0.5, 2.0)
        right = torch.sigmoid(self.grouped(maps))
        maps = self.norm(torch.cat([left, right], 1))
        maps = F.avg_pool2d(maps, 3, 1, 1) + F.max_pool2d(maps, 3, 1, 1)
        maps = F.adaptive_avg_pool2d(F.silu(maps), (2, 2))
        return F.softmax(self.out(F.gelu(maps).flatten(1)), dim=-1)


class Line(nn.Module):
    """One axis in space, ceiling pools, half of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, signal: Tensor) -> Tensor:
        maps = F.relu6(self.conv(signal))[:, ::2]
        maps = F.max_pool1d(maps, 3, 2, 1, ceil_mode=True)
        maps = F.avg_pool1d(maps, 2, ceil_mode=True, count_include_pad=False)
        return F.log_softmax(self.fc(F.adaptive_max_pool1d(maps, 1).squeeze(-1)), dim=1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (LeNet5, (1, 28, 28)),
    "resnet": (SmallResNet, (3, 16, 16)),
    "branches": (Branches, (2, 19, 14)),
    "line": (Line, (3, 29)),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(13, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 4)),
        (13,),
    ),
}
"""Each network's constructor and the shape of its input without the batch."""


def network(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a network in evaluation mode with lively statistics, and a batch of two inputs."""
    make, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(generator=generator)
        elif buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    return model, torch.randn(2, *shape, generator=generator)
