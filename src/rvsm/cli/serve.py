"""`rvsm serve`: a page on this machine to try a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rvsm.cli.data import Drawing


def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to answer at; any but 127.0.0.1 lets others in, without encryption.",
        ),
    ] = "127.0.0.1",
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep drawings and scans with their answers there."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile", help="Compile the network, where there is a C compiler."
        ),
    ] = True,
    drawing: Drawing = False,
) -> None:
    """Try a trained network on a page: draw a word or drop a scan, see the answer and why.

    The page is for this machine alone, needs no internet and keeps nothing unless --store is
    given. It shows the probability, the evidence for it on the image, and, of a drawing, the
    frequency and amplitude of the tremor. Research use, not a diagnosis.

    \b
    Examples:
      rvsm serve runs/l0
      rvsm serve runs/l0 --open
      rvsm serve runs/l0 --port 0 --store kept
      rvsm serve runs/l0 --host 192.168.1.20
    """
    from rvsm.experiments.serve.server import serve as run_server

    run_server(
        run,
        host=host,
        port=port,
        store=store,
        open_browser=open_,
        compiled=compile_,
        drawing=drawing,
        tell=lambda sentence: typer.echo(sentence),
    )
