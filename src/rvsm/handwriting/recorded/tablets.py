"""Pen movements that a digitising tablet recorded, in the layout of UCI 395.

A file holds one person: a line a sample, ``X;Y;Z;Pressure;GripAngle;Timestamp;TestID``, the
timestamp in milliseconds. The folder above it names the group, ``control`` or ``parkinson``
(Isenkul, Sakar & Kursun 2014; CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError

Array = npt.NDArray[np.float64]

MM_PER_UNIT = 0.204
"""Assumed: the published files name no unit; the printed spiral is then 75 mm across."""

GROUPS = ("control", "patient")
TASKS = {0: "static spiral", 1: "dynamic spiral", 2: "stability"}
_FOLDERS = {"control": "control", "parkinson": "patient"}
_COLUMNS = 7
# Of the printed spiral the static test shows all widths lie between 340 and 425 units, but nine
# patients' tablets counted columns more finely (474 to 712): their tremor would be too wide too.
_WIDTH, _WIDEST = 369.0, 450.0
_MOST_BYTES = 50_000_000


@dataclass(frozen=True)
class TabletRecording:
    """One test of one person.

    Attributes
    ----------
    person, group, task : str
        Who; ``control`` or ``patient``; one of `TASKS`.
    time_s : ndarray of float, shape (n,)
        As stamped: uneven, and a stamp may repeat or run backwards.
    points_mm : ndarray of float, shape (n, 2)
    down : ndarray of bool, shape (n,)
        Whether the pen touches.
    """

    person: str
    group: str
    task: str
    time_s: Array
    points_mm: Array
    down: npt.NDArray[np.bool_]


def read_tablets(folder: Path) -> tuple[list[TabletRecording], dict[str, str]]:
    """Read every recording below a folder that has ``control/*.txt`` and ``parkinson/*.txt``.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    recordings : list of TabletRecording
    skipped : dict of str to str
        Files that cannot be read, and why.

    Raises
    ------
    DataError
        There is no such folder, no recording in it, or none that can be read.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder of recordings {folder}: check the name.")
    files = [
        (file, group)
        for name, group in _FOLDERS.items()
        for file in sorted(folder.rglob(f"{name}/*.txt"))
    ]
    if not files:
        raise DataError(
            f"{folder} holds no recordings: give the folder of UCI 395, which has control/*.txt "
            "and parkinson/*.txt below it."
        )
    recordings: list[TabletRecording] = []
    skipped: dict[str, str] = {}
    for file, group in files:
        try:
            recordings += read_tablet(file, group)
        except DataError as error:
            skipped[file.relative_to(folder).as_posix()] = str(error)
    if not recordings:
        raise DataError(
            f"None of the {len(files)} recordings in {folder} can be read; the first: "
            f"{next(iter(skipped.values()))}"
        )
    return recordings, skipped


def read_tablet(path: Path, group: str) -> list[TabletRecording]:
    """Read the tests of one person's file.

    Raises
    ------
    DataError
        The file is no table of seven numbers a line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is larger than 50 MB: it is no recording of one person.")
        lines = path.read_text(encoding="ascii").split()
        rows = [[float(value) for value in line.split(";")] for line in lines]
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): check the file.") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{path} is no recording ({error}): each line needs {_COLUMNS} numbers, "
            "X;Y;Z;Pressure;GripAngle;Timestamp;TestID."
        ) from None
    wrong = next((n for n, row in enumerate(rows, start=1) if len(row) != _COLUMNS), None)
    if wrong is not None or not rows:
        where = f"line {wrong} has {len(rows[wrong - 1])}" if wrong else "the file is empty"
        raise DataError(
            f"{path} is no recording ({where}): each line needs {_COLUMNS} numbers, "
            "X;Y;Z;Pressure;GripAngle;Timestamp;TestID."
        )
    table = np.array(rows)
    if not np.isfinite(table).all():
        raise DataError(f"{path} holds values that are not finite numbers: replace the file.")
    mm = np.array([MM_PER_UNIT / _stretch(table), MM_PER_UNIT])
    return [
        TabletRecording(
            path.stem,
            group,
            TASKS.get(int(test), f"test {test:g}"),
            part[:, 5] / 1000.0,
            part[:, :2] * mm,
            part[:, 3] > 0,
        )
        for test in np.unique(table[:, 6])
        for part in [table[table[:, 6] == test]]
    ]


def _stretch(table: Array) -> float:
    """By how much columns are finer than rows, from how wide the static spiral is."""
    static = table[table[:, 6] == 0]
    width = float(np.ptp(static[:, 0])) if len(static) else 0.0
    return width / _WIDTH if width > _WIDEST else 1.0


def without_copies(
    recordings: Sequence[TabletRecording],
) -> tuple[list[TabletRecording], list[str]]:
    """Leave out recordings that stand under several people: nobody knows whose they are.

    Returns
    -------
    kept : list of TabletRecording
    copies : list of str
        ``person: task`` of those left out.
    """
    owners: dict[bytes, set[str]] = {}
    for r in recordings:
        owners.setdefault(_content(r), set()).add(r.person)
    kept = [r for r in recordings if len(owners[_content(r)]) == 1]
    copies = [f"{r.person}: {r.task}" for r in recordings if len(owners[_content(r)]) > 1]
    return kept, copies


def _content(recording: TabletRecording) -> bytes:
    return recording.time_s.tobytes() + recording.points_mm.tobytes()
