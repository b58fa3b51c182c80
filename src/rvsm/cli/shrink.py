"""`rvsm shrink`: a smaller network with the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rvsm.cli.show import show


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
    from rvsm.cli.models import network_and_example

    network, example = network_and_example(model)
    small = rvsm.shrink(network, example, round_to=round_to, fold=fold)
    rvsm.save(small, out)
    show(rvsm.shrink_report(small), as_json)
