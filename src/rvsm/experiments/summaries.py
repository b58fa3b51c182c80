"""What is known of pages and people, in CSV files beside that of every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rvsm.atomic import atomic_write
from rvsm.experiments.csvfile import text_of
from rvsm.experiments.gather import Gathered

COLUMNS = ("answer", "probability", "calibrated", "answered", "shaky")
"""After the page or person, and before how many words or files there are."""


def summary_path(out: Path, name: str) -> Path:
    """Where what is gathered by `name` goes: ``words.people.csv`` beside ``words.csv``."""
    return out.with_name(f"{out.stem}.{name}{out.suffix}")


def own_files(out: Path) -> frozenset[Path]:
    """All that an earlier command wrote there, which is nothing to look at."""
    return frozenset(
        path.resolve() for path in (out, *(summary_path(out, name) for name in ("pages", "people")))
    )


def write_summaries(out: Path, of: str, gathered: Mapping[str, Sequence[Gathered]]) -> None:
    """Write a file for each kind of what was gathered; none of an empty one.

    Parameters
    ----------
    out : Path
        The file of the answers.
    of : str
        What the answers are about: ``words`` or ``files``.
    gathered : mapping
        ``pages`` or ``people`` to the answers for them.

    Raises
    ------
    RvsmError
        A file cannot be written.
    """
    for name, entries in gathered.items():
        if entries:
            heading = ("page" if name == "pages" else "person", *COLUMNS, of)
            with atomic_write(summary_path(out, name)) as stream:
                stream.write(text_of([heading, *map(_row, entries)]))


def _row(entry: Gathered) -> tuple[str, ...]:
    numbers = (entry.probability, entry.calibrated)
    counts = (entry.answered, entry.shaky, entry.words)
    told = ("" if value is None else f"{value:.6f}" for value in numbers)
    return (entry.name, entry.answer, *told, *map(str, counts))
