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
        from rvsm.experiments.predict import reading_of
        from rvsm.experiments.runs import load_run

        config, run = load_run(path)
        height, width = reading_of(path, config, scan=False, dpi=None).size
        # Images of any other size it takes only once they are reduced.
        taken = (height, width) in (run.size, (2 * run.size[0], 2 * run.size[1]))
        return run, torch.rand(1, 1, *((height, width) if taken else run.size))
    from rvsm.deploy.network import load_network

    network = load_network(path)
    dtypes = [value.dtype for value in network.state_dict().values() if value.is_floating_point()]
    example = torch.rand(1, *network.graph.input.ints("shape"), dtype=next(iter(dtypes), None))
    return network, example
