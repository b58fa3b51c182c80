"""The networks of the suite, and how long and how fast each is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from benchmarks.architectures import VGG16, ResNet18, lenet_300_100, shared, small_network
from benchmarks.frontier.options import Options
from rvsm.handwriting.network import TremorNet

AUGMENTATION: dict[str, dict[str, Any]] = {
    "mnist": {"shift": 1, "elastic": 1.0},
    "fashion-mnist": {"shift": 1, "flip": True},
}
"""What is done to the images of a set, whatever the network and the method."""


UNITS = {
    "lenet-300-100": "fc1.weight=0.6 fc2.weight=0.5",
    "lenet-5": "conv1.weight=0.5 conv2.weight=0.7 fc1.weight=0.9",
}
"""Shares of units that go first, layer by layer; found in runs of 12 and 15 epochs."""
FEWER_UNITS = {
    "lenet-300-100": "fc1.weight=0.3 fc2.weight=0.25",
    "lenet-5": "conv1.weight=0.3 conv2.weight=0.5 fc1.weight=0.8",
}
"""The same where more single weights are to stay."""


def _last(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return how to build a network with its channels last: a CPU trains it in two thirds."""
    return lambda: cast("Any", build()).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Network:
    """A network with what all methods share when they train it.

    Parameters
    ----------
    build : callable
        Makes it with random weights.
    epochs, tune_epochs : int
        Of a final run, and of one that chooses a strength.
    held_out : int
        Training images that choosing validates on; final runs train on all.
    options : mapping
        The `Options` of every method.
    seconds : float
        An epoch on one core of a server from 2026, for an estimate before there are rows.
    """

    build: Callable[[], nn.Module]
    epochs: int
    tune_epochs: int
    held_out: int
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def base_options(self, data: str = "") -> Options:
        """Return the options of every method on a set; without one those of the network alone."""
        return Options.of({**self.options, **AUGMENTATION.get(data, {})})


# After He et al. and the family's own CIFAR code: SGD 0.1, weight decay 5e-4, crops and mirrors.
_CIFAR: dict[str, Any] = {
    "lr": 0.1, "batch": 128, "weight_decay": 5e-4, "shift": 4, "flip": True,
}  # fmt: skip

# Without ReLU behind its convolutions LeNet-5 ends at chance with the others' rate of 0.05, and has
# 4.5 % errors after five epochs (validation, dense); 1.75 with 0.03, 1.4 with 0.02, 1.3 with 0.01.
NETWORKS: dict[str, Network] = {
    "small": Network(small_network, 8, 4, 300, 0.15, {"batch": 64}),
    "lenet-300-100": Network(lenet_300_100, 40, 10, 10_000, 2.0),
    "lenet-5": Network(_last(shared.LeNet5), 40, 5, 10_000, 17.0, {"lr": 0.02}),
    "tremor": Network(TremorNet, 10, 3, 0, 15.0, {"batch": 32, "shift": 3}),
    "vgg-16": Network(_last(VGG16), 160, 20, 5_000, 900.0, _CIFAR),
    "resnet-18": Network(_last(ResNet18), 160, 20, 5_000, 1600.0, _CIFAR),
}
