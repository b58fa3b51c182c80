"""`rvsm predict --pages`: answers about the words of scans, by page and by person."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rvsm.cli.guard import Bars
from rvsm.cli.predictions import end, gathered_line, lost_in, tell_nobodys

if TYPE_CHECKING:
    from rvsm.experiments.gather import WordAnswer


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
    """Print the answers of a run's network; exit code as `predictions.end` has it."""
    from rvsm.experiments.gather import NOTICE, UNSURE, gather
    from rvsm.experiments.summaries import summary_path

    band = band or UNSURE
    words = _words(run, scans, out, band=band, person=person, turn=turn, **options)
    pages = gather(words, lambda word: word.page, band)
    people = gather(words, lambda word: word.person, band)
    lost = sum(page.answer == "unreadable" for page in pages)
    if as_json:
        parts = {"pages": pages, "people": people}
        told = {name: [asdict(entry) for entry in entries] for name, entries in parts.items()}
        if out is None:  # they fill the CSV file where there is one
            told = {"words": [_told(word) for word in words]} | told
        named = {} if out is None else {"out": str(out)}
        typer.echo(json.dumps({"notice": NOTICE, **named, **told}, indent=2))
    elif out is not None:
        answered = sum(page.answered for page in pages)
        typer.echo(f"{out}: {len(pages)} pages, {lost} unreadable, {answered} words with an answer")
        typer.echo(f"{summary_path(out, 'pages')}: {len(pages)} pages")
        if people:
            typer.echo(f"{summary_path(out, 'people')}: {len(people)} people")
    else:
        reasons = {word.page: word.reason for word in words if word.reason}
        for page in pages:
            if page.answer != "unreadable":
                typer.echo(gathered_line(page, "words", reason=reasons.get(page.name, "")))
        for one in people:
            typer.echo(gathered_line(one, "words", "person "))
    typer.echo(NOTICE, err=True)
    if why := next((word.uncalibrated for word in words if word.uncalibrated), ""):
        typer.echo(f"The probabilities are not calibrated: {why}", err=True)
    if turn is None:
        for name, degrees in {word.page: word.turned for word in words if word.turned}.items():
            typer.echo(
                f"{name} lay sideways and was turned clockwise by {degrees} degrees", err=True
            )
    strangers = list(dict.fromkeys(word.page for word in words if not word.person))
    tell_nobodys(person, strangers, "pages")
    if out is not None:
        end(lost_in(out, lost, len(pages), "pages"))
    end([word.reason for word in words if word.answer == "unreadable"])


def _told(word: WordAnswer) -> dict[str, Any]:
    """A word as JSON can hold it, lines and words counted from 1 as in the CSV file."""
    line, place = word.numbers
    return asdict(word) | {"line": line, "place": place}


def _words(run: Path, scans: list[Path], out: Path | None, **options: Any) -> list[WordAnswer]:
    from rvsm.experiments.pagestream import predict_pages_to_csv
    from rvsm.experiments.scans import predict_scans

    if out is None:
        return list(predict_scans(run, scans, **options))
    with Bars() as bars:
        return predict_pages_to_csv(run, scans, out, progress=bars.named("predicting"), **options)


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
