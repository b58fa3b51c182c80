"""`rvsm inspect`: how sparse a model is, and what its zeros are worth."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rvsm.cli.show import show

if TYPE_CHECKING:
    from torch import Tensor

    from rvsm.accounting import Report, Sensitivity


class Unseen(StrEnum):
    """Splits a sparsity may be chosen on: the test set chooses nothing."""

    val = "val"
    train = "train"


def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file of rvsm.save, or the folder of a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the report too; .png, .svg or .pdf."),
    ] = None,
    block: Annotated[
        str, typer.Option(metavar="RxC", help="Rows and columns of the blocks to count.")
    ] = "4x4",
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Score the run with one layer at a time pruned."),
    ] = False,
    split: Annotated[
        Unseen, typer.Option(help="The images --sensitivity scores; never those of a test.")
    ] = Unseen.val,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="A data folder, where that of the run has moved."),
    ] = None,
) -> None:
    """Show zeros, multiply-adds, dead units and bytes of a model, tensor by tensor.

    Multiply-adds and dead units are told of the network of a run: of one image, and of 200
    images of its validation split. --sensitivity prunes one tensor at a time by magnitude,
    without training, and scores one view of each image; a tensor begins at the zeros it has.

    \b
    Examples:
      rvsm inspect runs/pen
      rvsm inspect model.safetensors --json
      rvsm inspect runs/pen --sensitivity --picture pen.png
    """
    import rvsm

    shape = _block(block)
    scored = None
    if model.is_dir():
        _check_one_run(model)
        account = _account_run(model, data, shape)
    elif sensitivity or data is not None:
        raise typer.BadParameter(
            f"{model} is no run folder: --sensitivity and --data need the network of one."
        )
    else:
        account = rvsm.report(rvsm.load(model), block=shape)
    if picture is not None:
        account.plot(picture)  # before what takes time: a wrong path is told at once
    if sensitivity:
        scored = _score_run(model, data, split.value)
        if picture is not None:
            account.plot(picture, scored)
    _print(account, scored, as_json)


def _block(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise typer.BadParameter(f"--block {text} is not rows x columns, such as 4x4 or 1x8.")
    return int(found[1]), int(found[2])


def _check_one_run(folder: Path) -> None:
    """Raise RunError for a folder of several runs, which it names."""
    from rvsm.errors import RunError
    from rvsm.experiments.places import MODEL_FILE

    runs = sorted(str(found.parent) for found in folder.glob(f"*/{MODEL_FILE}"))
    if runs and not (folder / MODEL_FILE).exists():
        raise RunError(f"{folder} holds several runs; name one of them: {', '.join(runs)}.")


def _account_run(folder: Path, data: Path | None, block: tuple[int, int]) -> Report:
    import torch

    import rvsm
    from rvsm.errors import DataError
    from rvsm.experiments.runs import load_run
    from rvsm.experiments.samples import some_images

    config, net = load_run(folder)
    samples: Tensor | Literal[False] = False
    try:
        samples = some_images(data or Path(config.data), "val", net.size)
    except DataError as error:
        if data is not None:
            raise
        typer.echo(f"Dead units are not looked for; --data names images to try: {error}", err=True)
    return rvsm.report(net, torch.zeros(1, 1, *net.size), samples=samples, block=block)


def _score_run(folder: Path, data: Path | None, split: str) -> Sensitivity:
    import rvsm
    from rvsm.cli.guard import Bars
    from rvsm.experiments.data import load_split
    from rvsm.experiments.evaluate import accuracy_of_one_view
    from rvsm.experiments.runs import load_run

    config, net = load_run(folder)
    with Bars() as bars:
        images = load_split(
            data or Path(config.data), split, net.size, progress=bars.named(f"reading {split}")
        )
        return rvsm.sensitivity(
            net,
            lambda network: accuracy_of_one_view(network, images),
            progress=bars.named("sensitivity"),
        )


def _print(account: Report, scored: Sensitivity | None, as_json: bool) -> None:
    if as_json:
        import json

        found: dict[str, Any] = account.to_dict()
        if scored is not None:
            found["sensitivity"] = scored.to_dict()
        typer.echo(json.dumps(found, indent=2))
        return
    show(account)
    if scored is not None:
        show(scored)
