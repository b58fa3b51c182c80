"""What is left of the weights: maps of the fully connected layer, filters, kernels, counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rvsm.experiments.report import pictures
from rvsm.experiments.report.source import Run, View

if TYPE_CHECKING:
    from torch import Tensor

    from rvsm.handwriting.network import TremorNet


@dataclass
class Sheet:
    """A picture of weights and what is left of them."""

    name: str
    uri: str
    width: int
    height: int
    planes: str
    left: int
    total: int
    words: str
    run: str

    @classmethod
    def of(
        cls,
        name: str,
        planes: npt.NDArray[np.float32],
        columns: int,
        tensor: Tensor,
        words: str = "",
        run: str = "",
    ) -> Sheet:
        """Draw planes (n, height, width); `left` and `total` count the whole tensor."""
        uri, width, height = pictures.weights(planes, columns)
        shape = f"{len(planes)} planes of {planes.shape[1]} × {planes.shape[2]} places"
        left = int((tensor != 0).sum())
        return cls(name, uri, width, height, shape, left, tensor.numel(), words, run)


@dataclass
class Layer:
    """One line of the table of layers."""

    name: str
    shape: str
    weights: int
    left: int


def maps(view: View) -> list[Sheet]:
    """The fully connected layer of each method's lowest seed."""
    runs = view.one_run_per_method()
    return [_map(m, run, run.network) for m, run in runs.items() if run.network is not None]


def filters(view: View) -> list[Sheet]:
    """The first convolution of each method's lowest seed."""
    found = []
    for method, run in view.one_run_per_method().items():
        if run.network is not None:
            first = run.network.conv1.weight.detach()
            planes = first.numpy().reshape(-1, *first.shape[-2:])
            found.append(Sheet.of(method, planes, len(planes), first))
    return found


def kernels(run: Run) -> list[Sheet]:
    """Second and third convolution of one run."""
    if run.network is None:
        return []
    found = []
    for name, layer in (("conv2", run.network.conv2), ("conv3", run.network.conv3)):
        tensor = layer.weight.detach()
        # A row per input channel and a column per output channel: wide sheets, not tall ones.
        planes = tensor.transpose(0, 1).reshape(-1, *tensor.shape[2:]).numpy()
        silent = int((tensor == 0).flatten(2).all(2).sum())
        words = f"{silent} of {len(planes)} kernels silent"
        found.append(Sheet.of(name, planes, tensor.shape[0], tensor, words))
    return found


def layers(run: Run) -> list[Layer]:
    """Shape and nonzeros of every layer's weights, biases left out."""
    return [
        Layer(
            name.removesuffix(".weight"),
            " × ".join(map(str, w.shape)),
            w.numel(),
            int((w != 0).sum()),
        )
        for name, w in run.weights.items()
        if name.endswith(".weight")
    ]


def _map(method: str, run: Run, network: TremorNet) -> Sheet:
    """fc.weight as (classes, channels, height, width): shaky minus regular, a plane a channel."""
    fc = network.fc.weight.detach()
    height, width = network.size
    for rows, columns in network.pools:
        height, width = height // rows, width // columns
    planes = (fc[1] - fc[0]).numpy().reshape(-1, height, width)
    alive = int((planes != 0).any(axis=(1, 2)).sum())
    words = f"{alive} of {len(planes)} channels in use"
    return Sheet.of(method, planes, pictures.near_square(planes), fc, words, run.name)
