"""`rvsm crossval`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rvsm.cli.data import Isolating, Isolation, Layouts
from rvsm.cli.guard import Bars
from rvsm.cli.runs import read_assignments
from rvsm.text import by_reason


class Penalty(StrEnum):
    l1 = "l1"
    l0 = "l0"
    transformed_l1 = "transformed-l1"


class Arm(StrEnum):
    majority = "majority"
    hog = "hog"
    amplitude = "amplitude"
    dense = "dense"
    sparse = "sparse"


def crossval(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A set in any layout of `rvsm data list`.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the study goes.")] = Path(
        "runs/crossval"
    ),
    by: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the manifest that is kept together.")
    ] = "person",
    person: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Reads the person off each file's path instead."),
    ] = None,
    layout: Layouts = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only drawings of it, such as spiral.")
    ] = None,
    isolate: Isolating = Isolation.auto,
    arm: Annotated[
        list[Arm] | None,
        typer.Option(help="Only this one; may be given again. Amplitude: of recordings alone."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of people.")] = 5,
    inner: Annotated[int, typer.Option(min=2, help="Inner folds, which choose.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Times all is cut anew.")] = 3,
    method: Annotated[
        list[Penalty] | None, typer.Option(help="A penalty to choose from (l0, transformed-l1).")
    ] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A share of zeros to choose from (0.92, 0.96).")
    ] = None,
    lam: Annotated[
        list[float] | None, typer.Option(help="A penalty strength to choose from.")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(help="A number to choose from (20, 40).")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="What a network reads, such as 96x96."),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="A finished run to start from, or none; to choose from if given again.",
        ),
    ] = None,
    sparse_start: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Of sparse networks; only with --last-layer."),
    ] = None,
    least_zeros: Annotated[
        float, typer.Option(metavar="SHARE", help="Of all weights of a sparse network.")
    ] = 0.0,
    last_layer: Annotated[
        bool, typer.Option(help="Train the last layer alone: for a few dozen people.")
    ] = False,
    pool: Annotated[
        list[int] | None,
        typer.Option(min=1, help="What its maps are pooled by; to choose from if given again."),
    ] = None,
    augment: Annotated[bool, typer.Option(help="Change training images anew each time.")] = True,
    choose_augment: Annotated[
        bool, typer.Option("--choose-augment", help="Let inner folds choose whether to.")
    ] = False,
    average: Annotated[
        bool, typer.Option("--average", help="Average last layers instead of choosing one.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option(help="Measure also without --start, and without augmentation.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the training configuration."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="All is a function of it.")] = 0,
) -> None:
    """Judge classifiers on people they have not seen: nested cross-validation by person.

    Compares the majority class, HOG with logistic regression, and dense and sparse networks.
    Inner folds of the training people choose start, penalty, strength and epochs, and calibrate
    the probabilities; intervals are over people. Research use, not a diagnosis.

    DATA is a published set, whose reader knows the people; or has a manifest.csv with the columns
    file, label and person (or writer_id, or carrier); or class folders (healthy and parkinson,
    control and patient, regular and shaky), where --person finds the person in the file's path.
    Scans are normalised; folders that rvsm made (dataset.json) are read as training reads them. A
    person may have images of both classes. Stopped at any moment, the same command goes on where it
    was.

    \b
    Examples:
      rvsm crossval data/words --by person --out runs/words
      rvsm crossval parkinsons-drawings --task spiral --out runs/spiral
      rvsm crossval uci-pd-spirals --size 192x192 --out runs/recorded
      rvsm crossval scans --person '(P[0-9]+)_' --out runs/scans
      rvsm crossval scans --arm majority --arm hog --repeats 10
      rvsm crossval scans --method l0 --sparsity 0.9 --sparsity 0.95 --epochs 20 --epochs 40
      rvsm crossval scans --start runs/pen --ablate
      rvsm crossval parkinsons-drawings --task spiral --start runs/spiral --start none --last-layer
    """
    from rvsm.experiments.crossval import ARMS, DEFAULT_ARMS, Settings
    from rvsm.experiments.crossval import crossval as study
    from rvsm.experiments.gather import NOTICE
    from rvsm.experiments.pages import keep_pages

    given: dict[str, Any] = {
        "methods": None if method is None else tuple(m.value for m in method),
        "sparsities": tuple(sparsity) if sparsity else () if lam else None,
        "lams": tuple(lam) if lam else None,
        "epochs": tuple(epochs) if epochs else None,
    }
    settings = Settings(
        by=by,
        person=person or "",
        layout=layout or "",
        task=task or "",
        isolate=isolate.value,
        folds=folds,
        inner=inner,
        repeats=repeats,
        seed=seed,
        size=_size(size),
        start=tuple(start or ()),
        sparse_start=tuple(sparse_start or ()),
        least_zeros=least_zeros,
        last_layer=last_layer,
        pools=tuple(pool or ()),
        augment=augment,
        choose_augment=choose_augment,
        average=average,
        ablate=ablate,
        arms=tuple(name for name in ARMS if name in arm) if arm else DEFAULT_ARMS,
        network=read_assignments(set_),
        **{name: value for name, value in given.items() if value is not None},
    )
    keep_pages()
    with Bars() as bars:
        results = study(data, out, settings, progress=bars)
    print_results(results)
    typer.echo(f"{NOTICE} The report is in {out / 'report.html'}")


_SHORT = {"hog": "HOG", "dense, from scratch": "scratch", "dense, not augmented": "plain"}
_HEADINGS = ("acc. %", "balanced %", "AUC", "sens. %", "spec. %", "zeros %")


def print_results(results: dict[str, Any]) -> None:
    """Print two tables, per person and per image: a line for each classifier, intervals below.

    Per person also by how much the probabilities are off on average, and their Brier score.
    """
    import rich.box
    from rich.console import Console
    from rich.table import Table

    from rvsm.experiments.crossval.report import text

    data, console = results["data"], Console()
    for level, counts in (("person", data["people"]), ("image", data["images"])):
        held = " and ".join(f"{n} {name}" for n, name in zip(counts, data["classes"], strict=True))
        table = Table(
            title=f"Unseen people, per {level}: {held}",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("", min_width=8, no_wrap=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        if level == "person":
            table.add_column("off by %\nBrier", justify="right", no_wrap=True)
        for row in results["rows"]:
            cells = [
                f"{text(n, f).removesuffix(' %')}\n{_range(n, f)}" for n, f in row[level].items()
            ]
            cells.append(f"{100 * row['zeros']:.1f}" if row.get("zeros") is not None else "")
            if level == "person":
                told = row["calibration"]
                cells.append(f"{100 * told['error']:.1f}\n{told['brier']:.3f}")
            table.add_row(_SHORT.get(row["arm"], row["arm"]), *cells)
        console.print(table)
    if copies := data["copies"]:
        told = f"{len(copies)} images are copies of other people's, {' = '.join(copies[0])} first"
        console.print(f"{told}: the figures are too good.", markup=False, soft_wrap=True)
    for line in by_reason(data["skipped"])[:5]:
        console.print(f"left out: {line}", markup=False, soft_wrap=True)


def _range(name: str, figure: dict[str, Any]) -> str:
    """The interval of a figure, short."""
    low, high = figure["interval"]
    if low is None:
        return ""
    return f"{low:.2f}–{high:.2f}" if name == "auc" else f"{100 * low:.0f}–{100 * high:.0f}"


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise typer.BadParameter(f"--size {text} is not ROWSxCOLUMNS: write it like --size 96x96.")
    return int(rows), int(columns)
