"""`rvsm export`: a model as a file for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rvsm.cli.guard import Bars
from rvsm.cli.models import network_and_example
from rvsm.cli.show import show

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rvsm.deploy.compiler.export import CAccount
    from rvsm.deploy.onnx import OnnxAccount
    from rvsm.deploy.saved import Saved
    from rvsm.experiments.config import TrainConfig


class Format(StrEnum):
    safetensors = "safetensors"
    onnx = "onnx"
    c = "c"


@dataclass(frozen=True)
class Request:
    """What the command line asks for; each format takes what concerns it."""

    model: Path
    out: Path
    values: str | dict[str, str] | None
    zstd: bool
    single: bool
    tune: bool
    as_json: bool


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file of rvsm.save, or the folder of a run.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write; export.* beside the model by default. C gets a header beside it.",
        ),
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="What to write.")
    ] = Format.safetensors,
    values: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PATTERN=]FORM",
            help="How to write values: exact, float16, bfloat16, codebook or codebook-N (4 to "
            "256); for all weights, or for tensors of a name and then once for each.",
        ),
    ] = None,
    zstd: Annotated[
        bool, typer.Option("--zstd", help="Compress without loss; needs rvsm[zstd].")
    ] = False,
    single: Annotated[
        bool,
        typer.Option(
            "--single",
            help="Leave the code for batches out of C: half the file, a fraction of the memory.",
        ),
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Time several ways to compute each layer here and write the fastest; needs a C "
            "compiler.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a model for others to read, and tell what became of it.

    safetensors: sizes, and with --values the accuracy on the run's validation images before and
    after. onnx: checked with ONNX Runtime where it is installed (rvsm[onnx]). c: one C file without
    dependencies, the zeros left out, that any compiler takes; its first lines say how.

    onnx and c need the network, not its tensors alone: a run, or a file that holds its layers, as
    those of rvsm shrink do and those exported of a run.

    \b
    Examples:
      rvsm export runs/pen --values float16
      rvsm export runs/pen --values codebook --zstd --out small.safetensors
      rvsm export model.safetensors --values conv*=float16 --values fc*=codebook-16
      rvsm export runs/pen --format onnx --out pen.onnx
      rvsm export runs/pen --format c --out pen.c
      rvsm export runs/pen --format c --single --tune --out pen.c
    """
    if format_ is not Format.safetensors and (values or zstd):
        raise typer.BadParameter(f"--values and --zstd belong to safetensors, not {format_.value}.")
    if (single or tune) and format_ is not Format.c:
        raise typer.BadParameter(f"--single and --tune belong to c, not {format_.value}.")
    name = f"export.{format_.value}"
    beside = model / name if model.is_dir() else model.with_name(f"{model.stem}-{name}")
    _WRITERS[format_](
        Request(model, out or beside, _forms(values or []), zstd, single, tune, as_json)
    )


def _forms(texts: list[str]) -> str | dict[str, str] | None:
    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    if not all("=" in text for text in texts):
        raise typer.BadParameter(
            "--values: give one form for all weights, or PATTERN=FORM every time."
        )
    pairs = (text.rpartition("=") for text in texts)
    return {pattern: form for pattern, _, form in pairs}


def _safetensors(request: Request) -> None:
    from rvsm.deploy.files import load, read_architecture, read_metadata, save

    path, values = request.model, request.values
    model: nn.Module | dict[str, Tensor]
    measure = None
    if path.is_dir():
        from rvsm.experiments.places import MODEL_FILE
        from rvsm.experiments.runs import load_run

        config, model = load_run(path)
        measure = None if values is None else _accuracy(config)
        path = path / MODEL_FILE
    else:
        model = load(path)
    saved = save(
        model,
        request.out,
        read_metadata(path),
        values=values,
        zstd=request.zstd,
        architecture=read_architecture(path),
        evaluate=measure,
    )
    _print(saved, request.as_json)


def _onnx(request: Request) -> None:
    from rvsm.deploy.onnx import export_onnx

    _print(export_onnx(*network_and_example(request.model), request.out), request.as_json)


def _c(request: Request) -> None:
    from rvsm.deploy.compiler.export import export_c

    account = export_c(
        *network_and_example(request.model),
        request.out,
        batched=not request.single,
        tune=request.tune,
    )
    _print(account, request.as_json)


def _accuracy(config: TrainConfig) -> Callable[[nn.Module], float] | None:
    """Return what measures accuracy on a run's validation images, None where they are gone."""
    from rvsm.errors import DataError
    from rvsm.experiments.data import load_split, read_rows
    from rvsm.experiments.evaluate import evaluate_network
    from rvsm.experiments.runs import network_size

    data = Path(config.data)
    try:
        with Bars() as bars:
            split = load_split(
                data,
                "val",
                network_size(config),
                rows=read_rows(data),
                progress=bars.named("reading val"),
            )
    except DataError as error:
        typer.echo(f"The accuracy is not measured: {error}", err=True)
        return None
    return lambda net: float(evaluate_network(net, split).correct.mean())


def _print(account: Saved | OnnxAccount | CAccount, as_json: bool) -> None:
    from rich.console import Console

    from rvsm.deploy.saved import Saved

    console = Console()
    if not as_json and not isinstance(account, Saved):
        console.print(str(account), soft_wrap=True, markup=False, highlight=False)
        return
    show(account, as_json)
    if as_json or not isinstance(account, Saved):
        return
    console.print(
        f"{account.path}: {account.bytes:,} bytes, {account.dense_bytes / account.bytes:.1f} times "
        "smaller than dense.",
        soft_wrap=True,
        markup=False,
    )


_WRITERS: dict[Format, Callable[[Request], None]] = {
    Format.safetensors: _safetensors,
    Format.onnx: _onnx,
    Format.c: _c,
}
