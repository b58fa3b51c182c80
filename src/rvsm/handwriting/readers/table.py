"""Any user's scans, listed in a CSV file: which image, and what is known of it."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rvsm.errors import DataError
from rvsm.handwriting.manifest import (
    MANIFEST,
    PERSON_COLUMNS,
    SPLIT_NAMES,
    UNSPLIT,
    Row,
    delimiter_of,
)
from rvsm.handwriting.readers.base import (
    Collection,
    Files,
    class_of,
    person_row,
)

name = "csv"
about = "a CSV file with a column file, and label, person, split, text, task where known"

_NAMES = {
    "file": ("file", "file_name", "filename", "image", "path"),
    "label": ("label", "class", "diagnosis", "group"),
    "person": (*PERSON_COLUMNS, "carrier"),
    "split": ("split", "set"),
    "text": ("text", "transcription"),
    "task": ("task", "drawing"),
    "repetition": ("repetition", "trial"),
}


def columns(path: Path) -> set[str]:
    """Columns of a CSV file, in small letters; DataError where it is no text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return set(_reader(stream).fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, error) from None


def _reader(stream: TextIO) -> csv.DictReader[str]:
    """Read a table, its columns in small letters and parted as its first line parts them."""
    reader = csv.DictReader(stream, delimiter=delimiter_of(stream))
    reader.fieldnames = [cell.strip().lower() for cell in reader.fieldnames or ()]
    return reader


def _no_table(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a CSV file in UTF-8 ({error}): save it as one.")


def records(path: Path, wanted: frozenset[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV file by column (in small letters), with their numbers; no cell is None.

    Raises
    ------
    DataError
        It is no CSV file in UTF-8, or a wanted column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = _reader(stream)
            given = reader.fieldnames or ()
            if absent := wanted - set(given):
                raise DataError(
                    f"{path} lacks the column {', '.join(sorted(absent))}: it has "
                    f"{', '.join(given) or 'none'}."
                )
            for record in reader:
                yield reader.line_num, {k: (v or "").strip() for k, v in record.items() if k}
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, error) from None
    except FileNotFoundError:
        raise DataError(f"There is no CSV file {path}: check the name.") from None


def fits(root: Path) -> bool:
    table = _table(root)
    with contextlib.suppress(DataError, OSError):
        return table is not None and bool(columns(table) & set(_NAMES["file"]))
    return False


def is_table(path: Path) -> bool:
    """Whether the name is that of a list, however its columns are called."""
    return path.suffix.lower() in {".csv", ".tsv"}


def _table(root: Path) -> Path | None:
    if root.is_file():
        return root if is_table(root) else None
    found = sorted(path for path in root.glob("*.csv") if path.name != MANIFEST)
    return found[0] if len(found) == 1 else None


def read(root: Path) -> Collection:
    """List the images; paths count from the folder of the CSV file.

    Raises
    ------
    DataError
        No single CSV file, no column that names files, labels of more than two classes or of
        unknown names, a path that leads out of the folder, or none of the files exists.
    """
    table = _table(root)
    if table is None:
        raise DataError(f"{root} is not, and does not hold, one CSV file: name the file itself.")
    folder, given = table.parent, columns(table)
    column = {
        known: next((name for name in names if name in given), "")
        for known, names in _NAMES.items()
    }
    if not column["file"]:
        raise DataError(
            f"{table} has no column that names the image files: call it file (it has "
            f"{', '.join(sorted(given)) or 'none'})."
        )
    rows, names = [], {}
    for line, record in records(table, frozenset()):
        cells = {known: record.get(name, "") for known, name in column.items()}
        row = _row(f"{table}, line {line}", folder, cells)
        rows.append(row)
        if row.label:
            names[row.label] = cells["label"]
    if not rows:
        raise DataError(f"{table} lists no images: write one line for each.")
    if all(row.error for row in rows):
        raise DataError(
            f"None of the {len(rows)} files that {table} names exists, {rows[0].file} first: paths "
            "count from the folder of the CSV file."
        )
    classes = (names.get("regular", "regular"), names.get("shaky", "shaky")) if names else None
    return Collection(name, folder, tuple(rows), classes, {}, Files(folder))


def _row(where: str, folder: Path, cells: dict[str, str]) -> Row:
    file = cells["file"].replace("\\", "/")
    if not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"{where}: the file {file!r} must be a path inside the folder.")
    label = class_of(cells["label"])
    if cells["label"] and not label:
        raise DataError(
            f"{where}: the label is {cells['label']!r}; write regular or shaky (or healthy and "
            "parkinson), or leave it empty."
        )
    error = "" if (folder / file).is_file() else f"There is no image file {file}: it is listed."
    split = cells["split"].lower()
    return person_row(
        file,
        cells["person"],
        label,
        SPLIT_NAMES.get(split, split) or UNSPLIT,
        text=cells["text"],
        task=cells["task"],
        repetition=cells["repetition"],
        error=error,
    )
