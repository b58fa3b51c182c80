"""`rvsm predict --pages`: answers about the words of scans, by page and by person."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rvsm.experiments.gather import Gathered, WordAnswer


def predict_pages(
    run: Path,
    scans: list[Path],
    dpi: float | None,
    person: str | None,
    band: tuple[float, float] | None,
    evidence: Path | None,
    as_json: bool,
) -> None:
    """Print the answers of a run's network; exit code 1 where a page could not be read."""
    from rvsm.experiments.gather import NOTICE, UNSURE, gather
    from rvsm.experiments.scans import predict_scans

    band = band or UNSURE
    words = list(predict_scans(run, scans, dpi=dpi, person=person, band=band, evidence=evidence))
    pages = gather(words, lambda word: word.page, band)
    people = gather(words, lambda word: word.person, band)
    if as_json:
        parts: dict[str, list[Any]] = {"words": words, "pages": pages, "people": people}
        told = {name: [asdict(entry) for entry in entries] for name, entries in parts.items()}
        typer.echo(json.dumps({"notice": NOTICE, **told}, indent=2))
    else:
        reasons = {word.page: word.reason for word in words if word.reason}
        for page in pages:
            if page.answer != "unreadable":
                typer.echo(_line(page, reasons.get(page.name, "")))
        for one in people:
            typer.echo(_line(one, "", "person "))
        typer.echo(NOTICE, err=True)
    if why := next((word.uncalibrated for word in words if word.uncalibrated), ""):
        typer.echo(f"The probabilities are not calibrated: {why}", err=True)
    if person is not None and (nobody := [word.page for word in words if not word.person]):
        pages_of = len(dict.fromkeys(nobody))
        typer.echo(
            f"{pages_of} pages are nobody's: --person {person} is not found in {nobody[0]}",
            err=True,
        )
    _tell_unreadable(words)


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
