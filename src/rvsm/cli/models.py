"""The network behind a path on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def network_and_example(path: Path) -> tuple[nn.Module, Tensor]:
    """Return the network of a run, or of a file that holds its layers, and an input it takes.

    Raises
    ------
    RvsmError
        If the run cannot be loaded, or the file holds tensors without layers.
    """
    import torch

    if path.is_dir():
        from rvsm.experiments.runs import load_run
        from rvsm.handwriting.network import IMAGE_SIZE

        return load_run(path)[1], torch.rand(1, 1, *IMAGE_SIZE)
    from rvsm.deploy.network import load_network

    network = load_network(path)
    dtypes = [value.dtype for value in network.state_dict().values() if value.is_floating_point()]
    example = torch.rand(1, *network.graph.input.ints("shape"), dtype=next(iter(dtypes), None))
    return network, example
