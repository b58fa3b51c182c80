"""The networks of the benchmark, with zeros at random places."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.architectures import ResNet18, lenet_300_100, shared


def small_vgg() -> nn.Module:
    """Six convolutions with batch norm, pooled after every second, and one hidden layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Case:
    """A network with random zeros.

    Attributes
    ----------
    make
        Its constructor.
    shape
        Of one input.
    zeros
        Shares of zeros of the weights in order, or one share for each of them.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    zeros: Sequence[float] | float

    def build(self) -> tuple[nn.Module, Tensor]:
        """Return the network in evaluation mode, and an input."""
        torch.manual_seed(0)
        model = self.make().eval()
        weights = [p for p in model.parameters() if p.dim() > 1]
        shares = self.zeros if not isinstance(self.zeros, float) else [self.zeros] * len(weights)
        with torch.no_grad():
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("running_mean"):
                    buffer.normal_(0, 0.1)
                elif buffer_name.endswith("running_var"):
                    buffer.uniform_(0.05, 0.2)
            for weight, share in zip(weights, shares, strict=True):
                places = torch.randperm(weight.numel())[: round(share * weight.numel())]
                weight.view(-1)[places] = 0
        return model, torch.zeros(1, *self.shape)


CASES = {
    "LeNet-5, zeros 60/97/99.5/95 %": Case(shared.LeNet5, (1, 28, 28), (0.6, 0.97, 0.995, 0.95)),
    "LeNet-5, zeros 30/85/96/80 %": Case(shared.LeNet5, (1, 28, 28), (0.3, 0.85, 0.96, 0.8)),
    "LeNet-5, zeros 99 % everywhere": Case(shared.LeNet5, (1, 28, 28), 0.99),
    "LeNet-300-100, zeros 95 %": Case(lenet_300_100, (784,), 0.95),
    "LeNet-300-100, zeros 99 %": Case(lenet_300_100, (784,), 0.99),
    "small VGG, zeros 95 %": Case(small_vgg, (3, 32, 32), 0.95),
    "ResNet-18 (CIFAR), zeros 90 %": Case(ResNet18, (3, 32, 32), 0.9),
}
