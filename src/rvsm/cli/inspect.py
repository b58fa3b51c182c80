"""`rvsm inspect`: how sparse a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file of rvsm.save, or the folder of a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show zeros, dead filters, multiply-adds and bytes of a model, tensor by tensor.

    \b
    Examples:
      rvsm inspect runs/pen
      rvsm inspect model.safetensors --json
    """
    import rvsm

    if model.is_dir():
        import torch

        from rvsm.experiments.runs import load_run

        _, net = load_run(model)
        account = rvsm.report(net, torch.zeros(1, 1, 64, 256))
    else:
        account = rvsm.report(rvsm.load(model))
    if as_json:
        import json

        typer.echo(json.dumps(account.to_dict(), indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(account if console.is_terminal else str(account), soft_wrap=True)
