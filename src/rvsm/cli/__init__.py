"""The command line: thin commands over the library, errors in one sentence."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from rvsm.cli import bench, crossval, data, export, inspect, predict, runs, serve, shrink
from rvsm.cli.guard import debugging, guarded

app = typer.Typer(
    name="rvsm",
    help="Sparse neural networks by relaxed variable splitting, and the proof that it works: "
    "telling shaky writing from regular writing.\n\n"
    "\b\n"
    "The whole study, in minutes:\n"
    "  rvsm reproduce\n\n"
    "\b\n"
    "Step by step:\n"
    "  rvsm data make data/pen --task pen\n"
    "  rvsm train data/pen --out runs/pen --method l0\n"
    "  rvsm report runs/pen\n"
    "  rvsm predict runs/pen letter.png",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.command("train")(guarded(runs.train))
app.command("evaluate")(guarded(runs.evaluate))
app.command("predict")(guarded(predict.predict))
app.command("report")(guarded(runs.report))
app.command("serve")(guarded(serve.serve))
app.command("crossval")(guarded(crossval.crossval))
app.command("reproduce")(guarded(runs.reproduce))
app.command("inspect")(guarded(inspect.inspect))
app.command("export")(guarded(export.export))
app.command("shrink")(guarded(shrink.shrink))
app.command("bench")(guarded(bench.bench))


def _print_version(wanted: bool) -> None:
    if wanted:
        from rvsm import __version__

        typer.echo(f"rvsm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    debugging.set(debug)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 (error), 2 (wrong usage), 130 (ctrl-C), 143 (SIGTERM)."""
    given = sys.argv[1:] if arguments is None else arguments
    if empty := _empty_word(given):
        print(
            f"Error: {empty}, perhaps a variable of the shell that is not set: name what is meant, "
            "or leave it out.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    own = given[: given.index("--")] if "--" in given else given
    if "--debug" in own:
        given = ["--debug", *(word for word in own if word != "--debug"), *given[len(own) :]]
    app(given, prog_name="rvsm")


def _empty_word(given: list[str]) -> str:
    """Say where nothing is given: as a path it would be the current folder."""
    for before, word in zip(["rvsm", *given], given, strict=False):
        if not word:
            return f"The word after {before} is empty"
        if re.fullmatch("--[a-z-]+=", word):
            return f"{word} has no value"
    return ""
