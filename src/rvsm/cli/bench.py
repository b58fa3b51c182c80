"""`rvsm bench`: a network in every runtime, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rvsm.cli.guard import Bars
from rvsm.cli.models import network_and_example
from rvsm.cli.show import show


def bench(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="The folder of a run, or a file with its layers."),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Samples in a call; may be repeated. [1 and 64]"),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Threads; may be repeated. [1 and 2]"),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A runtime; may be repeated. [all]"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Spent on each row.")] = 1.0,
    memory: Annotated[
        bool, typer.Option(help="Measure memory, each runtime in a process of its own.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare speed, memory and file size with PyTorch, ONNX Runtime and OpenVINO.

    All run in turns on the same inputs, and their outputs are compared before that. What we lose is
    listed below the table. Runtimes that are not installed are left out: pip install 'rvsm[onnx]'
    openvino brings them.

    \b
    Examples:
      rvsm bench runs/pen
      rvsm bench small.safetensors --batch 1 --batch 256 --threads 4
      rvsm bench runs/pen --runtime onnxruntime --runtime rvsm --seconds 5 --json
    """
    from rvsm.deploy.bench import bench as compare

    network, example = network_and_example(model)
    with Bars() as bars:
        found = compare(
            network,
            example,
            batches=batch or (1, 64),
            threads=threads or (1, 2),
            runtimes=runtime,
            seconds=seconds,
            measure_memory=memory,
            progress=bars.named("measuring"),
        )
    show(found, as_json)
