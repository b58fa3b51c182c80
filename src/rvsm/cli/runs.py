"""`rvsm train`, `evaluate`, `report` and `reproduce`."""

from __future__ import annotations

import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rvsm.cli.data import Person, read_counts, read_hertz
from rvsm.cli.guard import Bars

if TYPE_CHECKING:
    from rvsm.experiments.config import TrainConfig


_NAMED = 5
"""Files that could not be read are named up to so many."""


class Task(StrEnum):
    fonts = "fonts"
    pen = "pen"


class Range(StrEnum):
    headline = "headline"
    mild = "mild"


class Accelerator(StrEnum):
    cpu = "cpu"
    gpu = "gpu"


class Method(StrEnum):
    dense = "dense"
    l1 = "l1"
    l0 = "l0"
    transformed_l1 = "transformed-l1"


def _print_keys(wanted: bool) -> None:
    if wanted:
        from rvsm.experiments.keys import keys_table

        typer.echo(keys_table(), nl=False)
        raise typer.Exit


def train(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Data folder; may stand in the configuration."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder.")] = Path("runs/run"),
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file; options go before it.")
    ] = None,
    method: Annotated[Method | None, typer.Option(help="The penalty, or dense.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Weights, order and draws.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A finished run whose weights to start from.")
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Learn from its training images too; may be repeated."),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=SHARE", help="Share of zeros asked of matching weights."),
    ] = None,
    lam: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=VALUE", help="Penalty strength instead of a share."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Strength of the coupling of w to u.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key that --keys lists."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue a stopped run; otherwise refuse a used folder.")
    ] = True,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            help="List every key of the configuration, with values and default, and stop.",
            callback=_print_keys,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Train a network that tells shaky from regular writing, dense or sparse.

    The run folder receives the resolved configuration, logs, a checkpoint per epoch, the model
    and its scores. A run that was stopped, even by kill -9, continues with the same command and
    ends with the same bits.

    \b
    Examples:
      rvsm train data/pen --out runs/dense --method dense
      rvsm train data/pen --out runs/l0 --method l0 --sparsity fc.weight=0.95
      rvsm train data/pen --out runs/l1 --method l1 --lam fc.weight=1e-4 --beta 0.1
      rvsm train data/words --more data/pen --out runs/both
      rvsm train --config small.toml --out runs/small --set splitting.grad_at=u
      rvsm train --keys
      tensorboard --logdir runs
    """
    from rvsm.experiments.pages import keep_pages
    from rvsm.experiments.train import train as run_training

    settings = _config(config, data, method, seed, epochs, start, more)
    settings = _refined(settings, sparsity or [], lam or [], beta, set_ or [])
    if settings.method == "dense" and (sparsity or lam or beta is not None):
        raise typer.BadParameter(
            "A dense network has no penalty: leave out --sparsity, --lam and --beta, or choose "
            "another --method."
        )
    keep_pages()
    with Bars() as bars:
        finished = run_training(settings, out, resume=resume, progress=bars)
    print_result(str(finished.run_dir), finished.result)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or that of `rvsm reproduce`.")
    ],
) -> None:
    """Write report.html into a run folder: one file, to be opened in any browser.

    \b
    Examples:
      rvsm report runs/l0
      rvsm report runs/reproduce
    """
    from rvsm.experiments.report import write_report

    typer.echo(f"The report is in {write_report(folder)}")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="A data folder other than the run's.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be given again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a trained network on labelled images: accuracy, ROC AUC, and by tremor amplitude.

    Without --split every split but those of training is scored. Files that cannot be read are
    counted and left out. Research use, not a diagnosis.

    \b
    Examples:
      rvsm evaluate runs/l0
      rvsm evaluate runs/l0 data/mild --split test-unseen
      rvsm evaluate runs/l0 ~/scans --json
    """
    from rvsm.experiments.evaluate import evaluate as score
    from rvsm.experiments.gather import NOTICE
    from rvsm.experiments.runs import load_run

    if data is None:
        data = Path(load_run(run)[0].data)
    with Bars() as bars:
        result = score(run, data, split, progress=bars)
    if as_json:
        typer.echo(json.dumps({"notice": NOTICE, **result}, indent=2))
    else:
        print_result(f"{run} on {data}", result)
        print_bands(result)
        typer.echo(NOTICE, err=True)


def reproduce(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path(
        "runs/reproduce"
    ),
    full: Annotated[
        bool,
        typer.Option("--full", help="Five seeds, both sets and the grid: hours, not minutes."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds; 1 quick, 5 full.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Just this seed; may be given again.")
    ] = None,
    task: Annotated[list[Task] | None, typer.Option(help="Only this task.")] = None,
    set_: Annotated[list[Range] | None, typer.Option("--set", help="Only this set.")] = None,
    method: Annotated[list[Method] | None, typer.Option(help="Only this method.")] = None,
    count: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT=N", help="Images of a split, such as train=2000."),
    ] = None,
    grid: Annotated[
        bool | None, typer.Option(help="The grid of zeros and beta; by default with --full.")
    ] = None,
    data_seed: Annotated[
        int | None, typer.Option(min=0, help="The data are a function of it; 10 by default.")
    ] = None,
    fonts: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A folder of further fonts.")
    ] = None,
    strokes: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file of further pen strokes.")
    ] = None,
    omniglot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Omniglot strokes, folder or zip.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real handwritten words instead: a task of its own."),
    ] = None,
    person: Person = None,
    tremor: Annotated[
        Path | None,
        typer.Option(metavar="LIB", help="Tremor recorded from people, by `rvsm data tremor`."),
    ] = None,
    tremor_hz: Annotated[
        str | None,
        typer.Option(metavar="LOW-HIGH", help="Frequencies of the modelled tremor, such as 3-8."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
    accelerator: Annotated[Accelerator, typer.Option(help="What trains.")] = Accelerator.cpu,
) -> None:
    """Do the paper's study: data, dense, l1, l0 and transformed-l1 networks, table, report.

    Quick by default: one seed on the headline sets, the sparse networks starting from the dense
    one. Stopped at any moment, the same command goes on where it was. Other seeds, sets, tasks or
    methods in the same folder join what is finished there.

    \b
    Examples:
      rvsm reproduce
      rvsm reproduce --seed 1 --seed 2
      rvsm reproduce --words DHSD --out runs/words
      rvsm reproduce --words ~/words --person '/(P[0-9]+)_' --out runs/own
      rvsm reproduce --words DHSD --tremor tremor.safetensors --out runs/recorded
      rvsm reproduce --task pen --method dense --method l0
      rvsm reproduce --full --out runs/full
      rvsm reproduce --out runs/tiny --count train=1000 --count val=200
    """
    from rich.console import Console

    from rvsm.experiments.config import METHODS
    from rvsm.experiments.recipes import TASKS
    from rvsm.experiments.reproduce import reproduce as study

    if seed and seeds is not None:
        raise typer.BadParameter("Give --seeds, their number, or each as --seed; not both.")
    if words is not None and task:
        raise typer.BadParameter("--words is a task of its own: leave out --task.")
    options = {
        "font_dirs": [str(folder) for folder in fonts or ()],
        "stroke_files": [str(file) for file in strokes or ()],
        "omniglot": None if omniglot is None else str(omniglot),
        "words_dir": None if words is None else str(words),
        "person": person,
        "tremor": None if tremor is None else str(tremor),
        "tremor_hz": read_hertz(tremor_hz),
    }
    tasks = [name.value for name in task] if task else TASKS
    study(
        out,
        full=full,
        seeds=sorted(set(seed)) if seed else None if seeds is None else range(seeds),
        tasks=tasks if words is None else ("words",),
        sets=[name.value for name in set_] if set_ else None,
        methods=[name for name in METHODS if not method or name in method],
        counts=read_counts(count),
        data_seed=data_seed,
        grid=grid,
        workers=workers,
        accelerator=accelerator.value,
        data_options={name: value for name, value in options.items() if value},
        console=Console(),
    )


def _config(
    file: Path | None,
    data: Path | None,
    method: Method | None,
    seed: int | None,
    epochs: int | None,
    start: Path | None,
    more: list[Path] | None,
) -> TrainConfig:
    from rvsm.experiments.config import load_config, make_config

    changes: dict[str, Any] = {
        "data": None if data is None else str(data),
        "method": None if method is None else method.value,
        "seed": seed,
        "epochs": epochs,
        "start": None if start is None else str(start),
        "more": tuple(map(str, more)) if more else None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if file is not None:
        return load_config(file, **changes)
    if data is None:
        raise typer.BadParameter(
            "No data to train on: name a data folder (rvsm train data/pen) or a --config file."
        )
    return make_config(changes)


def _refined(
    config: TrainConfig, sparsity: list[str], lam: list[str], beta: float | None, keys: list[str]
) -> TrainConfig:
    """Return the configuration with the options for single keys put in."""
    from rvsm.experiments.config import make_config

    values = config.model_dump(mode="json", exclude_none=True)
    if rules := [
        {"pattern": pattern, kind: _number(kind, value)}
        for kind, texts in (("sparsity", sparsity), ("lam", lam))
        for pattern, value in (_pair(kind, text) for text in texts)
    ]:
        values["rules"] = rules
        patterns = [rule["pattern"] for rule in rules]
        if twice := [name for name in patterns if patterns.count(name) > 1]:
            raise typer.BadParameter(
                f"{twice[0]} is named twice by --sparsity and --lam: a share of zeros or a "
                "strength, once."
            )
    if beta is not None:
        values["splitting"]["beta"] = beta
    for text in keys:
        key, value = _pair("set", text)
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise typer.BadParameter(
                    f"--set {text}: {section} is no section of the configuration."
                )
        place[name] = _value(value)
    return make_config(values)


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        lack = "name before its '='" if equals else "'='"
        raise typer.BadParameter(
            f"--{option} {text} has no {lack}: write it like --{option} NAME=VALUE."
        )
    return key, value


def read_assignments(texts: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE options."""
    return {key: _value(value) for key, value in (_pair("set", text) for text in texts or ())}


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--{option}: {text!r} is not a number.") from None


def _value(text: str) -> Any:
    """Read a value as TOML would, or as plain text where that fails."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def print_result(title: str, result: dict[str, Any]) -> None:
    """Print the scores and zeros of a run as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "images", "accuracy", "of one view", "ROC AUC", title=title)
    for split, score in result["scores"].items():
        auc = "" if score["auc"] is None else f"{score['auc']:.4f}"
        shares = (f"{score[name]:.2%}" for name in ("accuracy", "accuracy_one_view"))
        table.add_row(split, str(score["images"]), *shares, auc)
    console = Console(markup=False)
    if table.rows:
        console.print(table)
    else:
        console.print(
            f"{title}: the data have no test split, so nothing was scored; "
            "`rvsm evaluate RUN DATA` scores another folder.",
            soft_wrap=True,
        )
    console.print(
        f"Zeros: {result['fc_zeros']:.1%} of the fully connected weights, {result['zeros']:.1%} "
        f"of all; {result['nonzeros']:,} weights are left.",
        soft_wrap=True,
    )
    for split, number in result.get("skipped_images", {}).items():
        names = list(result.get("skipped_files", {}).get(split, ()))[:_NAMED]
        more = f" and {number - len(names)} more" if number > len(names) else ""
        files = "1 file" if number == 1 else f"{number} files"
        console.print(
            f"{split}: {files} could not be read; left out: {', '.join(names)}{more}.",
            soft_wrap=True,
        )
    if note := result.get("note", ""):
        console.print(note, soft_wrap=True)


def print_bands(result: dict[str, Any]) -> None:
    """Print the accuracy of each split by tremor amplitude; nothing where none is known."""
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "tremor, mm", "images", "accuracy", "shaky found", "regular found")
    for split, score in result["scores"].items():
        for band in score["bands"]:
            shares = (band[name] for name in ("accuracy", "shaky_found", "regular_found"))
            table.add_row(
                split,
                f"{band['low_mm']:g}-{band['high_mm']:g}",
                str(band["images"]),
                *("" if share is None else f"{share:.2%}" for share in shares),
            )
    if table.rows:
        Console(markup=False).print(table)
