"""The list of a data folder: one row an image, as a CSV file or read off the folders themselves."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TextIO

from rvsm.atomic import atomic_write
from rvsm.errors import DataError

MANIFEST = "manifest.csv"
LABELS = ("regular", "shaky")
"""The two classes, in the order of the network's two outputs."""

PERSON = "person"
"""`Row.carrier_kind` where `Row.carrier` names the person who wrote or drew."""

PERSON_COLUMNS = ("person", "writer_id", "writer", "patient", "subject", "person_id")
"""Columns of a table that say whose an image is; the first that is filled counts."""

UNSPLIT = "all"
"""The split of images in a folder that is not cut into splits."""

SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".webp",
        ".pgm",
        ".ppm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".avif",
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a data folder.

    Attributes
    ----------
    file : str
        Path relative to the data folder, with forward slashes.
    split : str
        ``train``, ``val``, ``test-paper``, ``test-unseen``, ``curve``; ``test`` or ``all`` in
        folders of the user's own.
    label : str
        ``regular`` or ``shaky``.
    text, carrier, carrier_kind : str
        What is written, the font or writer, and its kind; empty where unknown.
    tremor_frequency_hz, tremor_amplitude_mm : float or None
        Of the tremor, its amplitude as RMS; 0 in regular writing, None where unknown.
    virtual_amplitude_mm : float or None
        The amplitude a regular image was matched at.
    x_height_mm, pen_mm, speed_mm_s, slant_deg : float or None
        Of the writing.
    error : str
        Why the file cannot be read; empty for a sound image.
    task, repetition : str
        What was asked for (``word``, ``spiral``, ``wave``, ...), and which of the person's tries
        it is; empty where unknown.
    """

    file: str
    split: str
    label: str
    text: str = ""
    carrier: str = ""
    carrier_kind: str = ""
    tremor_frequency_hz: float | None = None
    tremor_amplitude_mm: float | None = None
    virtual_amplitude_mm: float | None = None
    x_height_mm: float | None = None
    pen_mm: float | None = None
    speed_mm_s: float | None = None
    slant_deg: float | None = None
    error: str = ""
    task: str = ""
    repetition: str = ""


COLUMNS = tuple(field.name for field in fields(Row))
_WHERE_KNOWN = frozenset(["task", "repetition"])
NUMBERS = tuple(name for name in COLUMNS if name.endswith(("_hz", "_mm", "_mm_s", "_deg")))


def write_manifest(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows as a CSV file with a header.

    Parameters
    ----------
    path : path-like
        The file to write; the caller sees to it that it appears whole (see `datasets.make`).
    rows : iterable of Row
    """
    Path(path).write_text(manifest_text(rows), encoding="utf-8", newline="")


def manifest_text(rows: Iterable[Row]) -> str:
    """Rows as the text of a CSV file with a header."""
    return _csv_text(_table(rows))


def _table(rows: Iterable[Row]) -> list[list[str]]:
    listed = list(rows)
    # Sets that know no tasks keep the manifest they have always had, byte for byte.
    known = {name for name in _WHERE_KNOWN if any(getattr(row, name) for row in listed)}
    columns = [name for name in COLUMNS if name not in _WHERE_KNOWN or name in known]
    return [columns, *([_cell(getattr(row, name)) for name in columns] for row in listed)]


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv_text(table: Iterable[Sequence[str]], delimiter: str = ",") -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(table)
    return buffer.getvalue()


def delimiter_of(stream: TextIO) -> str:
    """What parts the cells of a table's first line; the stream stands at its start again.

    Where the comma is a decimal sign, spreadsheets write semicolons.
    """
    start = stream.readline()
    stream.seek(0)
    return max(",;\t", key=start.count)


def read_manifest(folder: str | os.PathLike[str]) -> list[Row]:
    """List the images of a data folder.

    With a ``manifest.csv`` the list is read from it (the columns ``file`` and ``label`` are
    required, without ``split`` it is ``all``; the first of `PERSON_COLUMNS` that is filled says
    whose an image is).
    Without one the folders tell: ``SPLIT/LABEL/...`` or ``LABEL/...``
    (split ``all``), where LABEL is ``regular`` or ``shaky``. Files there that are no images are
    listed too, with the reason in `Row.error`; hidden files are passed over.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    list of Row
        Sorted by file name where there is no manifest.

    Raises
    ------
    DataError
        There is no such folder, it holds no images, or only one of the two classes.
    """
    rows = list_images(folder)
    require_two_classes(rows, folder)
    return rows


def list_images(folder: str | os.PathLike[str]) -> list[Row]:
    """List the images of a data folder as `read_manifest` does, whatever is wrong with them.

    Raises
    ------
    DataError
        There is no such folder, or its manifest is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"There is no data folder {root}: make one with `rvsm data make {root}`.")
    return _read_csv(root / MANIFEST) if (root / MANIFEST).is_file() else _walk(root)


def require_two_classes(rows: Sequence[Row], folder: str | os.PathLike[str]) -> None:
    """Raise DataError unless there are sound images of both classes."""
    sound = [row for row in rows if not row.error]
    if rows and not sound:
        raise DataError(
            f"None of the {len(rows)} images of {folder} can be read, {rows[0].file} first "
            f"({rows[0].error}): replace the damaged ones and run `rvsm data check {folder}`."
        )
    if not sound:
        raise DataError(
            f"{folder} holds no images: put them into {folder}/train/regular and "
            f"{folder}/train/shaky (or {folder}/regular and {folder}/shaky)."
        )
    if len(found := {row.label for row in sound}) == 1:
        missing = next(label for label in LABELS if label not in found)
        damaged = len(rows) - len(sound)
        told = f" ({damaged} files cannot be read)" if damaged else ""
        raise DataError(
            f"{folder} holds only images labelled {found.pop()!r}{told}: add {missing!r} ones, "
            "since two classes are needed to tell them apart."
        )


def note_errors(folder: str | os.PathLike[str], errors: Mapping[str, str]) -> bool:
    """Write into a folder's manifest which files cannot be read, and why.

    Only the column ``error`` changes, or is added; other columns, the user's own among them, stay
    as they are. A folder without a manifest gets one where there is an error to be noted.

    Parameters
    ----------
    folder : path-like
    errors : mapping of str to str
        Reasons by `Row.file`; a file that is not in it can be read.

    Returns
    -------
    bool
        Whether anything had to be written.

    Raises
    ------
    RvsmError
        The folder cannot be written.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        if not errors:
            return False
        rows = [replace(row, error=errors.get(row.file, "")) for row in _walk(path.parent)]
        with atomic_write(path) as stream:
            stream.write(_csv_text(_table(rows)).encode())
        return True
    before = path.read_bytes()
    mark = "\ufeff" if before.startswith(codecs.BOM_UTF8) else ""
    text = io.StringIO(before.decode("utf-8-sig"), newline="")
    delimiter = delimiter_of(text)
    table = list(csv.reader(text, delimiter=delimiter))
    name, changed = table[0].index("file"), False
    if "error" not in table[0]:
        table[0].append("error")
    column = table[0].index("error")
    for record in filter(None, table[1:]):
        record += [""] * (len(table[0]) - len(record))
        told = errors.get(record[name], "")
        changed |= record[column] != told
        record[column] = told
    if changed:
        with atomic_write(path) as stream:
            stream.write((mark + _csv_text(table, delimiter)).encode())
    return changed


def unlisted(folder: str | os.PathLike[str]) -> list[str]:
    """Images in a folder that its manifest does not list; none where it has no manifest."""
    root = Path(folder)
    if not (root / MANIFEST).is_file():
        return []
    listed = {row.file for row in _read_csv(root / MANIFEST)}
    return [row.file for row in _walk(root) if not row.error and row.file not in listed]


def files_below(root: Path) -> list[Path]:
    """Everything below a folder that is no folder, sorted; hidden ones are passed over.

    Links to folders are followed, but for those that lead back to where they stand.

    Raises
    ------
    DataError
        A folder may not be read.
    """

    def denied(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): permit it, or leave it out."
        )

    found = []
    for place, folders, names in os.walk(root, followlinks=True, onerror=denied):
        here = Path(place).resolve()
        folders[:] = [
            name for name in folders
            if not name.startswith(".") and not here.is_relative_to(Path(place, name).resolve())
        ]  # fmt: skip
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _walk(root: Path) -> list[Row]:
    rows = []
    for path in files_below(root):
        parts = path.relative_to(root).parts
        depth = next((i for i, part in enumerate(parts[:-1]) if part.lower() in LABELS), None)
        if depth is None or depth > 1:
            continue
        split = SPLIT_NAMES.get(parts[0].lower(), parts[0]) if depth else UNSPLIT
        known = path.suffix.lower() in SUFFIXES
        shown = [os.fsencode(part).decode("utf-8", "backslashreplace") for part in parts]
        error = ""
        if not path.is_file():
            error = f"{shown[-1]} is no file but a pipe or a link to nothing: take it away."
        elif not known:
            error = f"{shown[-1]} is no image file: take it out of the folder."
        elif shown != list(parts):
            error = f"The name {shown[-1]} is not in UTF-8: rename the file."
        rows.append(Row("/".join(shown), split, shown[depth].lower(), error=error))
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter_of(stream))
            absent = {"file", "label"} - set(reader.fieldnames or ())
            if absent:
                raise DataError(
                    f"{path} lacks the column {', '.join(sorted(absent))}: add it, or delete the "
                    "manifest to have the folders read instead."
                )
            return [_row(path, reader.line_num, record) for record in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}): save it as one.") from None


def _row(path: Path, line: int, record: dict[str, str | None]) -> Row:
    numbers: dict[str, float | None] = {}
    for name in NUMBERS:
        text = record.get(name)
        try:
            numbers[name] = float(text) if text else None
        except ValueError:
            raise DataError(
                f"{path}, line {line}: {name} is {text!r}, not a number: correct or empty it."
            ) from None
    words = {name: record.get(name) or "" for name in COLUMNS if name not in NUMBERS}
    if words["label"] not in LABELS:
        raise DataError(
            f"{path}, line {line}: the label is {words['label']!r}; it must be regular or shaky."
        )
    if person := next((record[name] for name in PERSON_COLUMNS if record.get(name)), ""):
        words |= {"carrier": person, "carrier_kind": PERSON}
    words["split"] = words["split"] or UNSPLIT
    file = Path(words["file"])
    if not words["file"] or file.is_absolute() or ".." in file.parts:
        raise DataError(
            f"{path}, line {line}: the file {words['file']!r} must be a path inside the folder."
        )
    return Row(**words, **numbers)  # type: ignore[arg-type]
