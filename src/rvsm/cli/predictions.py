"""`rvsm predict` of images and strokes: lines, JSON, or a CSV file of thousands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rvsm.cli.guard import Bars

if TYPE_CHECKING:
    from rvsm.experiments.gather import Gathered
    from rvsm.experiments.predict import Prediction
    from rvsm.handwriting.recorded.measure import TremorMeasure


def print_predictions(
    run: Path,
    images: list[Path],
    as_json: bool,
    **options: Any,
) -> None:
    """Print the answers of a run's network; exit code as `end` has it."""
    from rvsm.experiments.gather import NOTICE
    from rvsm.experiments.predict import people_of, predict

    predictions = predict(run, images, **options)
    people = people_of(predictions, options["scan"], options["band"])
    unreadable = [found for found in predictions if found.error]
    if as_json:
        files = [_plain(found) for found in predictions]
        told = {"notice": NOTICE, "files": files, "people": [asdict(one) for one in people]}
        typer.echo(json.dumps(told, indent=2))
    else:
        for found in predictions:
            if not found.error:
                typer.echo(_line(found))
        for one in people:
            typer.echo(gathered_line(one, "files", "person "))
    strangers = [str(found.file) for found in predictions if not found.person]
    tell_nobodys(options["person"], strangers, "files")
    if why := next((found.uncalibrated for found in predictions if found.uncalibrated), ""):
        typer.echo(f"The probabilities are not calibrated: {why}", err=True)
    if len(unreadable) < len(predictions):
        typer.echo(NOTICE, err=True)
    end([str(found.error) for found in unreadable])


def stream(run: Path, images: list[Path], out: Path, as_json: bool, **options: Any) -> None:
    """Write a CSV file; exit code as `end` has it."""
    from rvsm.experiments.gather import NOTICE
    from rvsm.experiments.stream import predict_to_csv
    from rvsm.experiments.summaries import summary_path

    with Bars() as bars:
        done = predict_to_csv(run, images, out, progress=bars.named("predicting"), **options)
    if as_json:
        counts = {"unreadable": done.unreadable, "no_writing": done.no_writing}
        told = {"notice": NOTICE, "out": str(out), "files": done.files, **counts}
        typer.echo(json.dumps(told | {"people": [asdict(one) for one in done.people]}, indent=2))
    else:
        typer.echo(
            f"{out}: {done.files} files, {done.unreadable} unreadable, {done.no_writing} without "
            f"writing" + (f"; {done.went_on} were answered before" if done.went_on else "")
        )
        if done.people:
            typer.echo(f"{summary_path(out, 'people')}: {len(done.people)} people")
    tell_nobodys(options["person"], done.nobodys, "files")
    if done.uncalibrated:
        typer.echo(f"The probabilities are not calibrated: {done.uncalibrated}", err=True)
    typer.echo(NOTICE, err=True)
    end(lost_in(out, done.unreadable, done.files, "files"))


def lost_in(out: Path, unreadable: int, files: int, of: str) -> list[str]:
    """One sentence on what could not be read of all that a CSV file names; none where all was."""
    if not unreadable:
        return []
    return [
        f"{unreadable} of {files} {of} could not be read: replace what {out} calls unreadable, or "
        "take it out."
    ]


def end(errors: Sequence[str]) -> None:
    """Name what could not be read: exit code 1 where that is anything, whatever was answered."""
    for error in errors:
        typer.echo(f"Error: {error}", err=True)
    if errors:
        raise typer.Exit(1)


def tell_nobodys(person: str | None, names: list[str], of: str) -> None:
    """Say how many files or pages --person left without a person."""
    if person is not None and names:
        typer.echo(
            f"{len(names)} {of} are nobody's: --person {person} is not found in {names[0]}",
            err=True,
        )


def gathered_line(entry: Gathered, of: str, what: str = "", reason: str = "") -> str:
    """The answer for a page or a person, by its words or files."""
    if entry.probability is None:
        return f"{entry.answer:15}        {what}{entry.name}" + (f" ({reason})" if reason else "")
    counts = f"{entry.shaky} of {entry.answered} {of} shaky"
    known = _calibrated(entry.calibrated)
    return f"{entry.answer:15} {entry.probability:.3f}{known}  {what}{entry.name} ({counts})"


def _plain(found: Prediction) -> dict[str, object]:
    drawn = None if found.evidence is None else str(found.evidence)
    return asdict(found) | {"file": str(found.file), "evidence": drawn}


def _line(found: Prediction) -> str:
    if found.probability is None:
        return f"{'no writing here':15} {found.file} ({found.reason})"
    known = _calibrated(found.calibrated)
    doubt = f" ({found.reason})" if found.reason else ""
    tremor = _tremor(found.tremor)
    return f"{found.label:8} {found.probability:.3f}{known}  {found.file}{tremor}{doubt}"


def _calibrated(probability: float | None) -> str:
    return "" if probability is None else f" ({probability:.3f} calibrated)"


def _tremor(found: TremorMeasure | None) -> str:
    if found is None:
        return ""
    size = found.rms_mm
    shown = f"{found.relative:.2%} of its size" if size is None else f"{size:.2f} mm"
    if found.frequency_hz is None:
        return f", {shown} RMS, no tremor frequency: {found.reason}"
    return f", tremor {found.frequency_hz:.1f} Hz, {shown} RMS"
