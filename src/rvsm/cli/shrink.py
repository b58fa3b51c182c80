"""`rvsm shrink`: a smaller network with the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn


def shrink(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="The folder of a run, or a file with its layers."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.", dir_okay=False)
    ],
    round_to: Annotated[
        int, typer.Option(min=1, help="Sizes of layers are multiples of this.")
    ] = 1,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold batch norm into the layer before it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Remove what the zeros make useless and write the smaller network, with the same outputs.

    \b
    Examples:
      rvsm shrink runs/pen -o small.safetensors
      rvsm shrink runs/pen -o small.safetensors --round-to 8 --json
    """
    import rvsm

    network, example = _read(model)
    small = rvsm.shrink(network, example, round_to=round_to, fold=fold)
    rvsm.save(small, out)
    account = rvsm.shrink_report(small)
    if as_json:
        import json

        typer.echo(json.dumps(account.to_dict(), indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(account if console.is_terminal else str(account), soft_wrap=True)


def _read(path: Path) -> tuple[nn.Module, Tensor]:
    """Return a network and an input of the shape it takes."""
    import torch

    import rvsm
    from rvsm.deploy import files
    from rvsm.deploy.network import Network
    from rvsm.errors import RvsmError

    if path.is_dir():
        from rvsm.experiments.runs import load_run

        return load_run(path)[1], torch.zeros(1, 1, 64, 256)
    tensors = rvsm.load(path)
    # files that hold no layers are those of any module, and of versions before there were any
    read_architecture = getattr(files, "read_architecture", lambda path: None)
    description = read_architecture(path)
    if description is None:
        raise RvsmError(
            f"{path} holds tensors and not the layers that use them: give the folder of its run, "
            "or call rvsm.shrink(model, example) in Python."
        )
    network = Network.from_description(description, tensors).eval()
    dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
    return network, torch.zeros(1, *network.graph.input.ints("shape"), dtype=dtype)
