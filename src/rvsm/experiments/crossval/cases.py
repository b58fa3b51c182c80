"""The images of a study: which class, whose, and what they look like to a classifier."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvsm.errors import ConfigError, DataError
from rvsm.experiments.crossval.metrics import Ints
from rvsm.handwriting.images import describe, read_grey
from rvsm.handwriting.manifest import MANIFEST, list_images

NEGATIVE = ("regular", "healthy", "control", "controls", "normal")
POSITIVE = ("shaky", "parkinson", "parkinsons", "patient", "patients", "tremor", "pd")
"""Names of class folders, in any case."""

PERSON_COLUMNS = ("person", "writer_id", "writer", "carrier")
"""Columns of a manifest that say whose an image is; the first that is filled counts."""

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"})
_WIDE = 1.6
SQUARE, WORD = (96, 96), (32, 128)
"""Rows and columns that a network reads of drawings and of words."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One image: its file, relative to the data folder; 0 or 1; and whose it is."""

    file: str
    label: int
    person: str


@dataclass(frozen=True)
class Cases:
    """The images of a folder that can be read.

    Attributes
    ----------
    folder : Path
    cases : tuple of Case
    classes : (str, str)
        What the folder calls class 0 and class 1.
    skipped : dict of str to str
        Files that cannot be read, and why.
    """

    folder: Path
    cases: tuple[Case, ...]
    classes: tuple[str, str]
    skipped: dict[str, str]

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
        for case in self.cases:
            digest.update(f"{case.file}\n{case.label}\n{case.person}\n".encode())
            digest.update(hashlib.sha256((self.folder / case.file).read_bytes()).digest())
        return digest.hexdigest()[:16]


def read_cases(folder: Path, by: str = "person", pattern: str | None = None) -> Cases:
    """List the images of a folder, with class and person.

    With a ``manifest.csv`` the columns ``file`` and ``label`` are read, and the person from the
    column `by`; for ``person`` any of `PERSON_COLUMNS` will do. Without one, the folders tell the
    class (`NEGATIVE`, `POSITIVE`) and `pattern` the person. All splits are taken together: the
    folds are cut anew.

    Parameters
    ----------
    folder : Path
    by : str
        Column of the manifest that must not stand on both sides of a split.
    pattern : str, optional
        Regular expression searched in each file's path below the folder; its first group, or the
        whole match, is the person.

    Returns
    -------
    Cases
        The images that are not noted as unreadable.

    Raises
    ------
    DataError
        No such folder, no images, one class only, or nobody knows whose an image is.
    ConfigError
        `pattern` is no regular expression.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data folder {folder}: check the name.")
    found = _listed(folder, by) if (folder / MANIFEST).is_file() else _walked(folder)
    cases, skipped, classes = found
    if pattern is not None:
        cases = [Case(c.file, c.label, _person(c.file, pattern)) for c in cases]
    present = {case.label for case in cases}
    if not cases:
        raise DataError(
            f"{folder} holds no images of two classes: give it a manifest.csv, or folders named "
            f"{NEGATIVE[1]} and {POSITIVE[1]} (or {NEGATIVE[0]} and {POSITIVE[0]})."
        )
    if len(present) == 1:
        raise DataError(
            f"{folder} holds only images of class {classes[present.pop()]}: two classes are "
            "needed to tell them apart."
        )
    if unknown := [case.file for case in cases if not case.person]:
        raise DataError(
            f"Nobody knows whose {len(unknown)} of {len(cases)} images are, {unknown[0]} first: "
            f"add a column {by} to {folder / MANIFEST}, or read it off the file names by --person "
            "REGEX."
        )
    return Cases(folder, tuple(cases), classes, skipped)


_Found = tuple[list[Case], dict[str, str], tuple[str, str]]


def _listed(folder: Path, by: str) -> _Found:
    rows = list_images(folder)  # which says what is wrong with the file
    with (folder / MANIFEST).open(encoding="utf-8-sig", newline="") as stream:
        records = list(csv.DictReader(stream))
    columns = set(records[0]) if records else set()
    if by != "person" and by not in columns:
        raise DataError(
            f"{folder / MANIFEST} has no column {by}: add it, or choose --by among "
            f"{', '.join(sorted(columns - {'file', 'split', 'label'}))}."
        )
    wanted = PERSON_COLUMNS if by == "person" else (by,)
    cases = []
    for row, record in zip(rows, records, strict=True):
        person = next((value for c in wanted if (value := record.get(c) or "")), "")
        if not row.error:
            cases.append(Case(row.file, int(row.label == "shaky"), person))
    return cases, {row.file: row.error for row in rows if row.error}, ("regular", "shaky")


def _walked(folder: Path) -> _Found:
    cases: list[Case] = []
    called = {0: NEGATIVE[0], 1: POSITIVE[0]}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        for part in parts[:-1]:
            label = 0 if part.lower() in NEGATIVE else 1 if part.lower() in POSITIVE else None
            if label is not None:
                called[label] = part
                cases.append(Case("/".join(parts), label, ""))
                break
    return cases, {}, (called[0], called[1])


def _person(file: str, pattern: str) -> str:
    try:
        found = re.search(pattern, file)
    except re.error as error:
        raise ConfigError(
            f"--person {pattern!r} is no regular expression ({error}): write one such as "
            r"'V\d+[HP]E'."
        ) from None
    return (found.group(1 if found.re.groups else 0) or "") if found else ""


def fitting_size(cases: Cases) -> tuple[int, int]:
    """`SQUARE` for drawings, `WORD` where images are much wider than high, by their median."""
    ratios = []
    for case in cases.cases[:: max(1, len(cases.cases) // 50)]:
        try:
            width, height = describe(cases.folder / case.file)[1]
        except DataError:
            continue
        ratios.append(width / height)
    return WORD if ratios and float(np.median(ratios)) > _WIDE else SQUARE


def load_ink(
    cases: Cases, size: tuple[int, int], progress: Progress | None = None
) -> tuple[Cases, npt.NDArray[np.uint8]]:
    """Read all images at one size, and leave out those that cannot be read.

    Parameters
    ----------
    cases : Cases
    size : (int, int)
        Rows and columns.
    progress : callable, optional
        Called with (read, in all).

    Returns
    -------
    cases : Cases
    ink : ndarray of uint8, shape (n, rows, columns)
        255 is ink.
    """
    kept: list[Case] = []
    ink: list[npt.NDArray[np.uint8]] = []
    skipped = dict(cases.skipped)
    for number, case in enumerate(cases.cases, start=1):
        try:
            ink.append(255 - read_grey(cases.folder / case.file, size))
            kept.append(case)
        except DataError as error:
            skipped[case.file] = str(error)
        if progress is not None:
            progress(number, len(cases.cases))
    require_classes(cases, kept, skipped)
    return Cases(cases.folder, tuple(kept), cases.classes, skipped), np.stack(ink)


def require_classes(cases: Cases, kept: Sequence[Case], skipped: dict[str, str]) -> None:
    """Raise DataError unless readable images of both classes are left."""
    if len({case.label for case in kept}) < 2:
        reason = next(iter(skipped.values()), "none was found")
        raise DataError(
            f"Of the {len(cases.cases)} images in {cases.folder} too few can be read to have both "
            f"classes ({reason})"
        )
