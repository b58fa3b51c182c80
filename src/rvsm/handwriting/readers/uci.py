"""Spirals on a tablet by 12 controls and 47 people with Parkinson's disease (UCI 395, CC BY 4.0).

``control/C_0001.txt`` and ``parkinson/P_02100001.txt`` hold lines ``X;Y;Z;Pressure;GripAngle;
Timestamp;TestID`` of one person, times in ms (Isenkul, Sakar & Kursun 2014). Tests 0 and 1 are a
static and a dynamic spiral; test 2, the stability of a pen held above a point, is left out: six
controls share one recording.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.readers.base import Collection, person_row, relative
from rvsm.handwriting.readers.redraw import redraw
from rvsm.handwriting.timed import TimedStrokes

Array = npt.NDArray[np.float64]

name = "uci-spirals"
about = "tablet recordings, control/C_0001.txt, parkinson/P_02100001.txt (UCI 395)"

CLASSES = ("control", "parkinson")
MM_PER_UNIT = 0.204
"""Pixel pitch of the tablet (Wacom Cintiq 12WX), assumed of all recordings."""

_TASKS = {0: "static-spiral", 1: "dynamic-spiral"}
_STABILITY = 2
_COLUMNS = 7
_FORM = "each line needs 7 numbers, X;Y;Z;Pressure;GripAngle;Timestamp;TestID"
_MOST_BYTES = 20_000_000
# Nine people were recorded on screens that counted more units across: the printed spiral, 369 wide
# and 338 high, came out 480 or 700 wide and as high as ever. All others lie between 340 and 425.
_STRETCHED = ((560.0, 1.85), (430.0, 1.33))


def fits(root: Path) -> bool:
    return any(
        next(folder.glob("C_*.txt"), None) is not None
        for folder in (root / "control", root / "hw_dataset" / "control")
        if folder.is_dir()
    )


def read(root: Path) -> Collection:
    """List the spirals, one row for each person and test.

    Left out, with the reason: files that cannot be read, the stability test, and recordings with
    the same points under several people, since nobody knows whose they are.

    Raises
    ------
    DataError
        There is no such folder, no recording in it, or none that can be read.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder of recordings {root}: check the name.")
    files = [path for path in sorted(root.rglob("*.txt")) if path.parent.name.lower() in CLASSES]
    if not files:
        raise DataError(
            f"{root} holds no recordings: give the folder of UCI 395, which has control/*.txt and "
            "parkinson/*.txt below it."
        )
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    tasks: dict[str, str] = {}
    owners: dict[bytes, list[Row]] = {}
    for path in files:
        file, group = relative(path, root), path.parent.name.lower()
        try:
            points = _points(path)
        except DataError as error:
            left_out[file] = str(error)
            continue
        for test in np.unique(points[:, 6]).tolist():
            part = f"{file}#{test:g}"
            if test not in _TASKS:
                tasks[part] = "stability" if test == _STABILITY else f"test {test:g}"
            if test == _STABILITY:
                left_out[part] = "the stability test: six controls share one recording"
            elif test not in _TASKS:
                left_out[part] = f"there is no test {test:g} in the set's description"
            else:
                label = "regular" if group == CLASSES[0] else "shaky"
                row = person_row(part, path.stem, label, task=_TASKS[int(test)])
                rows.append(row)
                # Whatever the clock says: a copy may have been stamped anew.
                content = np.ascontiguousarray(points[points[:, 6] == test, :5]).tobytes()
                owners.setdefault(hashlib.sha256(content).digest(), []).append(row)
    for copies in owners.values():
        for row in copies if len({row.carrier for row in copies}) > 1 else ():
            other = next(found.file for found in copies if found.carrier != row.carrier)
            left_out[row.file] = f"the same recording as {other}: nobody knows whose it is"
            tasks[row.file] = row.task
    listed = tuple(row for row in rows if row.file not in left_out)
    if not listed:
        raise DataError(
            f"None of the {len(files)} recordings in {root} can be used; the first: "
            f"{next(iter(left_out.values()))}"
        )
    return Collection(name, root, listed, CLASSES, left_out, _Recordings(root), tasks)


@dataclass(frozen=True)
class _Recordings:
    root: Path

    def strokes(self, row: Row) -> TimedStrokes:
        file, _, test = row.file.partition("#")
        points = _points(self.root / file)
        return timed(points[points[:, 6] == int(test)], stretch(points))

    def picture(self, row: Row) -> Image.Image:
        return redraw(self.strokes(row))


def stretch(points: Array) -> float:
    """By how much a person's recordings are too wide, from the static spiral (else any spiral).

    Parameters
    ----------
    points : ndarray of float, shape (n, 7)
        All lines of a file.

    Returns
    -------
    float
        1, 1.33 or 1.85.
    """
    tests = [test for test in _TASKS if (points[:, 6] == test).any()]
    if not tests:
        return 1.0
    width = float(np.ptp(points[points[:, 6] == tests[0], 0]))
    return next((factor for least, factor in _STRETCHED if width > least), 1.0)


def timed(points: Array, too_wide: float = 1.0) -> TimedStrokes:
    """Lines of one test as strokes in seconds and mm, y upwards, a new one where the pen lifted.

    Times are as stamped; what a stroke has to be cut at is left to `rvsm.handwriting.timed.cut`.

    Parameters
    ----------
    points : ndarray of float, shape (n, 7)
    too_wide : float
        Of `stretch`.
    """
    down = points[:, 3] > 0
    path = np.column_stack(
        [
            (points[:, 5] - points[0, 5]) / 1000.0,
            points[:, 0] * (MM_PER_UNIT / too_wide),
            -MM_PER_UNIT * points[:, 1],
        ]
    )
    cuts = np.flatnonzero(down[1:] != down[:-1]) + 1
    parts = zip(np.split(path, cuts), np.split(down, cuts), strict=True)
    return TimedStrokes(tuple(part for part, touching in parts if touching.all()), in_mm=True)


def _points(path: Path) -> Array:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): check the file.") from None
    return _parsed(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=128)
def _parsed(path: Path, size: int, changed: int) -> Array:
    """The lines of a file, kept for the second test that is asked for while it does not change."""
    if size > _MOST_BYTES:
        raise DataError(f"{path} is larger than 20 MB: it is no recording of one person.")
    try:
        rows = [line.split(";") for line in path.read_text(encoding="ascii").split()]
        wrong = next((n for n, row in enumerate(rows, start=1) if len(row) != _COLUMNS), None)
        if wrong is not None or not rows:
            where = f"line {wrong} has {len(rows[wrong - 1])}" if wrong else "the file is empty"
            raise DataError(f"{path} is no recording ({where}): {_FORM}.")
        points = np.array(rows, dtype=np.float64)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): check the file.") from None
    except ValueError as error:
        raise DataError(f"{path} is no recording ({error}): {_FORM}.") from None
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds values that are not finite numbers: replace the file.")
    points.setflags(write=False)
    return points
