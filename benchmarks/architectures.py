"""The networks that more than one benchmark trains or measures."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn


def _shared_with_tests() -> ModuleType:
    """Return tests/networks.py, by its path: other modules have that name too."""
    path = Path(__file__).parent.parent / "tests" / "networks.py"
    spec = importlib.util.spec_from_file_location("tests_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = _shared_with_tests()
"""LeNet5, the Caffe form of 430,500 weights, and the residual Block among others."""


def small_network() -> nn.Sequential:
    """Two convolutions and two linear layers of 9,736 weights, for 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def lenet_300_100() -> nn.Sequential:
    """Three linear layers of 266,200 weights, for 28 x 28 images."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


class ResNet18(nn.Module):
    """ResNet-18 as used on CIFAR: a 3x3 stem, no pooling before the blocks, 64-128-256-512."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        blocks, inputs = [], 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [shared.Block(inputs, outputs, stride), shared.Block(outputs, outputs)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, classes)`` of images ``(B, 3, 32, 32)``."""
        maps: Tensor = self.blocks(self.stem(images)).mean((2, 3))
        logits: Tensor = self.fc(maps)
        return logits


class VGG16(nn.Module):
    """VGG-16 as used on CIFAR: 13 convolutions with batch norm, one linear layer.

    Torch's ``vgg16_bn`` has 4,096 hidden units for images of 224 pixels; with 32 pixels the maps
    are down to 1 x 1 after the last pooling, and one layer reads them.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3):
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, classes)`` of images ``(B, 3, 32, 32)``."""
        logits: Tensor = self.fc(torch.flatten(self.features(images), 1))
        return logits
