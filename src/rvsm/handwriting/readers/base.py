"""What every reader gives: rows of a manifest, and the picture or the strokes behind a row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import read_picture
from rvsm.handwriting.manifest import LABELS, PERSON, SUFFIXES, UNSPLIT, Row
from rvsm.handwriting.timed import TimedStrokes

_SHOWN = 12
_REGULAR = frozenset(
    ["regular", "healthy", "control", "controls", "normal", "hc", "steady", "no", "0"]
)
_SHAKY = frozenset(
    [
        "shaky",
        "parkinson",
        "parkinsons",
        "patient",
        "patients",
        "pd",
        "tremor",
        "essential-tremor",
        "et",
        "yes",
        "1",
    ]
)


class Source(Protocol):
    """Opens what a row stands for."""

    def picture(self, row: Row) -> Image.Image:
        """The picture as stored, or the strokes redrawn; DataError where it cannot be read."""

    def strokes(self, row: Row) -> TimedStrokes | None:
        """The strokes, None where only a picture is known."""


@dataclass(frozen=True)
class Collection:
    """A set of handwriting or drawings, read where it lies.

    Attributes
    ----------
    layout : str
        Name of the reader.
    root : Path
    rows : tuple of Row
        One for each picture or recording. `Row.carrier` is the person (`carrier_kind` says so),
        `Row.split` the split as published (``all`` where there is none), `Row.label` ``regular``
        or ``shaky``, or empty where unknown. `Row.file` is a path below `root`; what comes after
        a ``#`` is the part of that file.
    classes : (str, str) or None
        What the set calls regular and shaky.
    left_out : dict of str to str
        Recordings and files that are there and not among the rows, and why.
    source : Source
    tasks_left_out : dict of str to str
        The task of each of `left_out` whose task is known.
    """

    layout: str
    root: Path
    rows: tuple[Row, ...]
    classes: tuple[str, str] | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    source: Source = field(default_factory=lambda: Files(Path()), repr=False)
    tasks_left_out: dict[str, str] = field(default_factory=dict)

    def picture(self, row: Row) -> Image.Image:
        """The picture of a row, as stored; of recordings, the strokes drawn.

        Raises
        ------
        DataError
            It cannot be read.
        """
        if row.error:
            raise DataError(row.error)
        return self.source.picture(row)

    def strokes(self, row: Row) -> TimedStrokes | None:
        """The strokes of a row, None where only a picture is known."""
        return self.source.strokes(row)

    def persons(self) -> list[str]:
        """The people, in the order of the rows."""
        known = (row.carrier for row in self.rows if row.carrier_kind == PERSON and row.carrier)
        return list(dict.fromkeys(known))

    def summary(self) -> list[str]:
        """A few lines that a person reads: how many of what, by whom."""
        names = dict(zip(LABELS, self.classes or LABELS, strict=True))
        counts = Counter(
            (row.task or "picture", row.split, names.get(row.label, "no label"))
            for row in self.rows
        )
        lines = [f"{self.root}: {len(self.rows)} rows in the layout {self.layout}"]
        lines += [
            f"  {number:6} {label:10} {task}" + (f", split {split}" if split != UNSPLIT else "")
            for (task, split, label), number in sorted(counts.items())[:_SHOWN]
        ]
        if (more := len(counts) - _SHOWN) > 0:
            lines.append(f"  and {more} more kinds")
        people = self.persons()
        named = f": {', '.join(people[:5])}{', ...' if people[5:] else ''}" if people else ""
        lines.append(f"  {len(people)} people{named}")
        missing = sum(bool(row.error) for row in self.rows)
        if missing:
            lines.append(f"  {missing} files are missing")
        reasons = Counter(self.left_out.values())
        lines += [f"  left out: {n} ({why})" for why, n in list(reasons.items())[:_SHOWN]]
        return lines

    def chosen(self, keep: Callable[[Row], bool]) -> Collection:
        """The same set with the rows for which `keep` holds."""
        return replace(self, rows=tuple(row for row in self.rows if keep(row)))


class Reader(Protocol):
    """One published layout."""

    name: str
    about: str

    def fits(self, root: Path) -> bool:
        """Whether a file or folder looks like this layout, by names alone."""

    def read(self, root: Path) -> Collection:
        """List what is there; DataError where it is not this layout after all."""


@dataclass(frozen=True)
class Files:
    """Source of rows that are image files below a folder."""

    root: Path

    def picture(self, row: Row) -> Image.Image:
        return read_picture(self.root / row.file)

    def strokes(self, row: Row) -> TimedStrokes | None:
        return None


def image_files(root: Path, pattern: str = "*") -> Iterator[Path]:
    """Image files below a folder by their names, sorted, hidden ones left out."""
    for path in sorted(root.rglob(pattern)):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def relative(path: Path, root: Path) -> str:
    """The name of a file below a folder, with forward slashes."""
    return path.relative_to(root).as_posix()


def class_of(name: str) -> str:
    """``regular`` or ``shaky`` for what sets call their classes, empty for anything else."""
    plain = name.strip().lower().replace("_", "-").replace("'", "")
    return "regular" if plain in _REGULAR else "shaky" if plain in _SHAKY else ""


def person_row(
    file: str,
    person: str,
    label: str,
    split: str = UNSPLIT,
    *,
    text: str = "",
    task: str = "",
    repetition: str = "",
    error: str = "",
) -> Row:
    """A row whose carrier is a person."""
    return Row(
        file,
        split,
        label,
        text,
        carrier=person,
        carrier_kind=PERSON if person else "",
        error=error,
        task=task,
        repetition=repetition,
    )


def require_rows(rows: Iterable[Row], root: str | os.PathLike[str], wanted: str) -> tuple[Row, ...]:
    """The rows, or DataError that says what was looked for."""
    listed = tuple(rows)
    if not listed:
        raise DataError(f"{root} holds none of the files of this layout: {wanted}.")
    return listed
