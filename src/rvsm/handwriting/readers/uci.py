"""Spirals on a tablet by 12 controls and 47 people with Parkinson's disease (UCI 395, CC BY 4.0).

``control/C_0001.txt`` and ``parkinson/P_02100001.txt`` hold lines ``X;Y;Z;Pressure;GripAngle;
Timestamp;TestID`` of one person, times in ms. Tests 0 and 1 are a static and a dynamic spiral; test
2, the stability of a pen held above a point, is left out: six controls share one recording.
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
from rvsm.handwriting.readers.base import (
    Collection,
    TimedStrokes,
    person_row,
    relative,
    require_rows,
)
from rvsm.handwriting.readers.redraw import redraw

Array = npt.NDArray[np.float64]

name = "uci-spirals"
about = "tablet recordings, control/C_0001.txt, parkinson/P_02100001.txt (UCI 395)"

CLASSES = ("control", "parkinson")
MM_PER_UNIT = 0.204
"""Pixel pitch of the tablet (Wacom Cintiq 12WX), assumed of all recordings."""

_TASKS = {0: "static-spiral", 1: "dynamic-spiral"}
_STABILITY = 2
_COLUMNS = 7
_PAUSE_S = 0.1
_MOST_BYTES = 20_000_000
# Nine people were recorded on screens that counted more units across: the printed spiral, 369 wide
# and 338 high, came out 480 or 700 wide and as high as ever.
_STRETCHED = ((560.0, 1.85), (430.0, 1.33))


def fits(root: Path) -> bool:
    return any(
        folder.glob("C_*.txt") and next(folder.glob("C_*.txt"), None) is not None
        for folder in (root / "control", root / "hw_dataset" / "control")
        if folder.is_dir()
    )


def read(root: Path) -> Collection:
    """List the spirals, one row for each person and test.

    Of two recordings with the same points under two names the first is kept.

    Raises
    ------
    DataError
        A file that is not of this form, or none at all.
    """
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    for path in sorted(root.rglob("*_*.txt")):
        group = path.parent.name.lower()
        if group not in CLASSES:
            continue
        file = relative(path, root)
        points = _points(path)
        for test in np.unique(points[:, 6]).astype(int).tolist():
            part = f"{file}#{test}"
            chosen = points[points[:, 6] == test]
            if test == _STABILITY:
                left_out[part] = "the stability test: six controls share one recording"
            elif test not in _TASKS:
                left_out[part] = f"there is no test {test} in the set's description"
            else:
                digest = hashlib.sha256(np.ascontiguousarray(chosen[:, :5]).tobytes()).digest()
                if (first := seen.setdefault(digest, part)) != part:
                    left_out[part] = f"the same recording as {first}"
                    continue
                label = "regular" if group == CLASSES[0] else "shaky"
                rows.append(person_row(part, path.stem, label, task=_TASKS[test]))
    listed = require_rows(rows, root, "it wants control/C_0001.txt and parkinson/P_02100001.txt")
    return Collection(name, root, listed, CLASSES, left_out, _Recordings(root))


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
    """Lines of one test as strokes in seconds and mm, y upwards.

    The pen counts as lifted where 0.1 s pass without a point. Lines whose clock ran backwards are
    put in order; of two at one time the first is kept.
    """
    time = points[:, 5]
    order = np.argsort(time, kind="stable")
    order = order[np.concatenate([[True], np.diff(time[order]) > 0])]
    seconds = (time[order] - time[order[0]]) / 1000.0
    x = points[order, 0] * (MM_PER_UNIT / too_wide)
    path = np.column_stack([seconds, x, -MM_PER_UNIT * points[order, 1]])
    cuts = np.flatnonzero(np.diff(seconds) > _PAUSE_S) + 1
    return TimedStrokes(tuple(np.split(path, cuts)), in_mm=True)


@lru_cache(maxsize=128)
def _points(path: Path) -> Array:
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} is larger than 20 MB: it is not a recording of this set.")
    try:
        lines = path.read_text(encoding="ascii").split()
        points = np.array([line.split(";") for line in lines], dtype=np.float64)
    except ValueError:
        points = np.zeros((0, 0))
    if points.ndim != 2 or points.shape[1] != _COLUMNS or not np.isfinite(points).all():
        raise DataError(
            f"{path} does not hold lines of seven numbers, X;Y;Z;Pressure;GripAngle;Timestamp;"
            "TestID: take it from the publishers again."
        )
    points.setflags(write=False)
    return points
