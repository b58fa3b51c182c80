"""`rvsm predict --pages`: answers about the words of scans, by page and by person."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rvsm.cli.guard import Bars

if TYPE_CHECKING:
    from rvsm.experiments.gather import Gathered, WordAnswer


def predict_pages(
    run: Path,
    scans: list[Path],
    band: tuple[float, float] | None,
    out: Path | None,
    as_json: bool,
    *,
    person: str | None,
    turn: int | None,
    **options: Any,
) -> None:
    """Print the answers of a run's network; exit code 1 where a page could not be read."""
    from rvsm.experiments.gather import NOTICE, UNSURE, gather

    band = band or UNSURE
    words = _words(run, scans, out, band=band, person=person, turn=turn, **options)
    pages = gather(words, lambda word: word.page, band)
    people = gather(words, lambda word: word.person, band)
    if as_json:
        parts: dict[str, list[Any]] = {"words": words, "pages": pages, "people": people}
        told = {name: [asdict(entry) for entry in entries] for name, entries in parts.items()}
        typer.echo(json.dumps({"notice": NOTICE, **told}, indent=2))
    else:
        reasons = {word.page: word.reason for word in words if word.reason}
        if out is not None:
            lost = sum(page.answer == "unreadable" for page in pages)
            answered = sum(page.answered for page in pages)
            typer.echo(
                f"{out}: {len(pages)} pages, {lost} unreadable, {answered} words with an answer"
            )
        for page in pages if out is None else ():
            if page.answer != "unreadable":
                typer.echo(_line(page, reasons.get(page.name, "")))
        for one in people:
            typer.echo(_line(one, "", "person "))
        typer.echo(NOTICE, err=True)
    if why := next((word.uncalibrated for word in words if word.uncalibrated), ""):
        typer.echo(f"The probabilities are not calibrated: {why}", err=True)
    if turn is None:
        for name, degrees in {word.page: word.turned for word in words if word.turned}.items():
            typer.echo(
                f"{name} lay sideways and was turned clockwise by {degrees} degrees", err=True
            )
    if person is not None and (nobody := [word.page for word in words if not word.person]):
        pages_of = len(dict.fromkeys(nobody))
        typer.echo(
            f"{pages_of} pages are nobody's: --person {person} is not found in {nobody[0]}",
            err=True,
        )
    _tell_unreadable(words)


def _words(run: Path, scans: list[Path], out: Path | None, **options: Any) -> list[WordAnswer]:
    from rvsm.experiments.pagestream import predict_pages_to_csv
    from rvsm.experiments.scans import predict_scans

    if out is None:
        return list(predict_scans(run, scans, **options))
    with Bars() as bars:
        return predict_pages_to_csv(run, scans, out, progress=bars.named("predicting"), **options)


def _tell_unreadable(words: list[WordAnswer]) -> None:
    unreadable = [word.reason for word in words if word.answer == "unreadable"]
    for reason in unreadable:
        typer.echo(f"Error: {reason}", err=True)
    if unreadable:
        raise typer.Exit(1)


def _line(entry: Gathered, reason: str, what: str = "") -> str:
    if entry.probability is None:
        return f"{entry.answer:15}        {what}{entry.name}" + (f" ({reason})" if reason else "")
    words = f"{entry.shaky} of {entry.answered} words shaky"
    known = "" if entry.calibrated is None else f" ({entry.calibrated:.3f} calibrated)"
    return f"{entry.answer:15} {entry.probability:.3f}{known}  {what}{entry.name} ({words})"


def read_band(text: str | None) -> tuple[float, float] | None:
    """Read the two ends of the band of unsure answers."""
    if text is None:
        return None
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise typer.BadParameter(
            f"--unsure {text} is not LOW-HIGH: write it like --unsure 0.35-0.65."
        ) from None
