"""The list of a data folder: one row an image, as a CSV file or read off the folders themselves."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.images import read_grey

MANIFEST = "manifest.csv"
LABELS = ("regular", "shaky")
"""The two classes, in the order of the network's two outputs."""

UNSPLIT = "all"
"""The split of images in a folder that is not cut into splits."""

_SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
_SUFFIXES = frozenset(
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


COLUMNS = tuple(field.name for field in fields(Row))
NUMBERS = tuple(name for name in COLUMNS if name.endswith(("_hz", "_mm", "_mm_s", "_deg")))


def write_manifest(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows as a CSV file with a header.

    Parameters
    ----------
    path : path-like
        The file to write; the caller sees to it that it appears whole (see `datasets.make`).
    rows : iterable of Row
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (getattr(row, name) for name in COLUMNS)
        writer.writerow(
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values]
        )
    Path(path).write_text(buffer.getvalue(), encoding="utf-8", newline="")


def read_manifest(folder: str | os.PathLike[str]) -> list[Row]:
    """List the images of a data folder.

    With a ``manifest.csv`` the list is read from it (the columns ``file``, ``split`` and
    ``label`` are required). Without one the folders tell: ``SPLIT/LABEL/...`` or ``LABEL/...``
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
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"There is no data folder {root}: make one with `rvsm data make {root}`.")
    rows = _read_csv(root / MANIFEST) if (root / MANIFEST).is_file() else _walk(root)
    sound = [row for row in rows if not row.error]
    if not sound:
        raise DataError(
            f"{root} holds no images: put them into {root}/train/regular and {root}/train/shaky "
            f"(or {root}/regular and {root}/shaky)."
        )
    if len(found := {row.label for row in sound}) == 1:
        missing = next(label for label in LABELS if label not in found)
        raise DataError(
            f"{root} holds only images labelled {found.pop()!r}: add {missing!r} ones, since two "
            "classes are needed to tell them apart."
        )
    return rows


def verify(rows: Iterable[Row], folder: str | os.PathLike[str]) -> list[Row]:
    """Try to read every image and note in `Row.error` which cannot be read.

    Parameters
    ----------
    rows : iterable of Row
    folder : path-like
        What `Row.file` is relative to.

    Returns
    -------
    list of Row
        The same rows in the same order, errors filled in.
    """
    root = Path(folder)
    return [
        row if row.error else replace(row, error=_why_unreadable(root / row.file)) for row in rows
    ]


def _why_unreadable(path: Path) -> str:
    try:
        read_grey(path)
    except DataError as error:
        return str(error)
    return ""


def _walk(root: Path) -> list[Row]:
    rows = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        depth = next((i for i, part in enumerate(parts[:-1]) if part.lower() in LABELS), None)
        if depth is None or depth > 1:
            continue
        split = _SPLIT_NAMES.get(parts[0].lower(), parts[0]) if depth else UNSPLIT
        known = path.suffix.lower() in _SUFFIXES
        error = "" if known else f"{path} is not an image file: take it out of the folder."
        rows.append(Row("/".join(parts), split, parts[depth].lower(), error=error))
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            absent = {"file", "split", "label"} - set(reader.fieldnames or ())
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
    file = Path(words["file"])
    if not words["file"] or file.is_absolute() or ".." in file.parts:
        raise DataError(
            f"{path}, line {line}: the file {words['file']!r} must be a path inside the folder."
        )
    return Row(**words, **numbers)  # type: ignore[arg-type]
