"""The images of a study: which class, whose, and what they look like to a classifier."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.experiments.crossval.metrics import Ints
from rvsm.handwriting.description import DATASET
from rvsm.handwriting.manifest import COLUMNS, LABELS, MANIFEST, Row
from rvsm.handwriting.readers import Collection, is_own, read
from rvsm.handwriting.scans.sets import How, images_of

_WIDE = 1.6
SQUARE, WORD = (96, 96), (32, 128)
"""Rows and columns that a network reads of drawings and of words."""

READINGS = ("stored", "normalised")
"""How pictures are read: fitted as they are, as training reads them, or normalised as scans."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One image: its file, relative to the data folder; 0 or 1; and whose it is."""

    file: str
    label: int
    person: str


@dataclass(frozen=True)
class Cases:
    """The images of a set that can be read.

    Attributes
    ----------
    collection : Collection
        Its rows are the images, in the order of `cases`.
    cases : tuple of Case
    reading : str
        One of `READINGS`.
    skipped : dict of str to str
        What cannot be read or was left out, and why.
    """

    collection: Collection
    cases: tuple[Case, ...]
    reading: str
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.collection.root

    @property
    def classes(self) -> tuple[str, str]:
        """What the set calls class 0 and class 1."""
        return self.collection.classes or (LABELS[0], LABELS[1])

    @property
    def labels(self) -> Ints:
        return np.array([case.label for case in self.cases], dtype=np.int64)

    @property
    def names(self) -> list[str]:
        """Everybody, in order; `people` counts in it."""
        return sorted({case.person for case in self.cases})

    @property
    def people(self) -> Ints:
        number = {name: i for i, name in enumerate(self.names)}
        return np.array([number[case.person] for case in self.cases], dtype=np.int64)

    def both_classes(self) -> list[str]:
        """People with images of both classes."""
        of = [{c.person for c in self.cases if c.label == label} for label in (0, 1)]
        return sorted(of[0] & of[1])

    def fingerprint(self) -> str:
        """Digest of names, classes, people and contents: a study goes on with the same images."""
        digest = hashlib.sha256()
        content = lru_cache(maxsize=None)(lambda name: (self.folder / name).read_bytes())
        for case in self.cases:
            digest.update(f"{case.file}\n{case.label}\n{case.person}\n".encode())
            # Of a recording the part behind # is one of several in a file.
            digest.update(hashlib.sha256(content(case.file.partition("#")[0])).digest())
        return digest.hexdigest()[:16]


def read_cases(
    folder: Path,
    by: str = "person",
    pattern: str | None = None,
    layout: str | None = None,
    task: str | None = None,
) -> Cases:
    """List the images of a set, with class and person.

    The set is read in any layout of `readers.LAYOUTS`, and its pictures are normalised as scans.
    Folders that rvsm made (they have a dataset.json), whose images are black ink on white at one
    scale, are read as training reads them. All splits are taken together: the folds are cut anew.

    Parameters
    ----------
    folder : Path
    by : str
        Column of the manifest that must not stand on both sides of a split; by default the person.
    pattern : str, optional
        Regular expression that finds the person in each file's path (see `readers.person_pattern`).
    layout : str, optional
        One of `readers.LAYOUTS`; by default the first that fits.
    task : str, optional
        Only images of it, such as ``spiral``.

    Returns
    -------
    Cases
        The images with a class that are not noted as unreadable.

    Raises
    ------
    DataError
        No such folder, no images, one class only, nobody knows whose an image is, or a pattern
        that does not work.
    """
    if not folder.exists():
        raise DataError(f"There is no data folder {folder}: check the name.")
    made = layout is None and is_own(folder) and (folder / DATASET).is_file()
    found = read(folder, layout, pattern)
    skipped = dict(found.left_out) | {row.file: row.error for row in found.rows if row.error}
    skipped |= {row.file: "it has no class" for row in found.rows if not (row.error or row.label)}
    if task is not None:
        known = found.tasks_left_out | {row.file: row.task for row in found.rows}
        skipped = {file: why for file, why in skipped.items() if known.get(file, task) == task}
    rows = [row for row in found.rows if not row.error and row.label]
    if task is not None:
        tasks = sorted({row.task for row in rows if row.task})
        rows = [row for row in rows if row.task == task]
        if not rows:
            raise DataError(
                f"{folder} holds no task {task}: choose among {', '.join(tasks) or 'none'}."
            )
    present = {row.label for row in rows}
    if not rows:
        raise DataError(
            f"{folder} holds no images of two classes: give it a manifest.csv, or folders named "
            "healthy and parkinson (or regular and shaky)."
        )
    if len(present) == 1:
        only = (found.classes or LABELS)[LABELS.index(present.pop())]
        raise DataError(
            f"{folder} holds only images of class {only}: two classes are needed to tell them "
            "apart."
        )
    people = _people(found, rows, by) if pattern is None else [row.carrier for row in rows]
    if unknown := [row.file for row, who in zip(rows, people, strict=True) if not who]:
        raise DataError(
            f"Nobody knows whose {len(unknown)} of {len(rows)} images are, {unknown[0]} first: "
            f"add a column {by} to {folder / MANIFEST}, or read it off the file names by --person "
            "REGEX."
        )
    cases = tuple(
        Case(row.file, LABELS.index(row.label), who) for row, who in zip(rows, people, strict=True)
    )
    reading = READINGS[0] if made else READINGS[1]
    return Cases(replace(found, rows=tuple(rows)), cases, reading, skipped)


def _people(found: Collection, rows: list[Row], by: str) -> list[str]:
    """What must not be torn apart, of each row: the person, or another column."""
    if by == "person":
        return [row.carrier for row in rows]
    manifest = found.root / MANIFEST
    if found.layout == "folders" and manifest.is_file():
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            records = {record["file"]: record for record in csv.DictReader(stream)}
        columns = set(next(iter(records.values()), {}))
    else:
        records = {
            row.file: {name: str(getattr(row, name) or "") for name in COLUMNS} for row in rows
        }
        columns = {name for name in COLUMNS if any(record[name] for record in records.values())}
    if by not in columns:
        raise DataError(
            f"{manifest if manifest.is_file() else found.root} has no column {by}: add it, or "
            f"choose --by among {', '.join(sorted(columns - {'file', 'split', 'label'}))}."
        )
    return [records[row.file].get(by) or "" for row in rows]


def fitting_size(cases: Cases) -> tuple[int, int]:
    """`SQUARE` for drawings, `WORD` where images are much wider than high, by their median."""
    ratios = []
    for row in cases.collection.rows[:: max(1, len(cases.cases) // 50)]:
        try:
            width, height = cases.collection.picture(row).size
        except DataError:
            continue
        ratios.append(width / height)
    return WORD if ratios and float(np.median(ratios)) > _WIDE else SQUARE


def load_ink(
    cases: Cases,
    size: tuple[int, int],
    progress: Progress | None = None,
    isolate: How = "auto",
) -> tuple[Cases, npt.NDArray[np.uint8]]:
    """Read all images at one size, and leave out those that cannot be read.

    Parameters
    ----------
    cases : Cases
    size : (int, int)
        Rows and columns.
    progress : callable, optional
        Called with (read, in all).
    isolate : {"auto", "colour", "registration", "none"}
        How pens are told from print, see `scans.sets.isolations`.

    Returns
    -------
    cases : Cases
    ink : ndarray of uint8, shape (n, rows, columns)
        255 is ink.

    Raises
    ------
    DataError
        Those that can be read are not of both classes, or of images that are read as training
        reads them print is to be taken away.
    """
    stored = cases.reading == READINGS[0]
    if stored and isolate != "auto":
        raise DataError(
            f"{cases.folder} is in the form that rvsm writes and read as it is, so nothing can be "
            "told from print: leave out --isolate, or give --layout."
        )
    loaded = images_of(cases.collection, size, as_stored=stored, isolate=isolate, progress=progress)
    skipped = cases.skipped | {row.file: row.error for row in loaded.skipped}
    by_file = {case.file: case for case in cases.cases}
    kept = tuple(by_file[row.file] for row in loaded.rows)
    if len({case.label for case in kept}) < 2:
        reason = next(iter(skipped.values()), "none was found")
        raise DataError(
            f"Of the {len(cases.cases)} images in {cases.folder} too few can be read to have both "
            f"classes ({reason})"
        )
    collection = replace(cases.collection, rows=loaded.rows)
    return Cases(collection, kept, cases.reading, skipped), 255 - loaded.images


def copies_across(cases: Cases, ink: npt.NDArray[np.uint8]) -> list[tuple[str, str]]:
    """Pairs of files of two people that are one picture: a test may hold what training held.

    Parameters
    ----------
    cases : Cases
    ink : ndarray of uint8, shape (n, rows, columns)
        Of `load_ink`.

    Returns
    -------
    list of (str, str)
        Each with the first of its kind.
    """
    first: dict[bytes, Case] = {}
    found = []
    for case, image in zip(cases.cases, ink, strict=True):
        same = first.setdefault(hashlib.sha256(image.tobytes()).digest(), case)
        if same.person != case.person:
            found.append((same.file, case.file))
    return found
