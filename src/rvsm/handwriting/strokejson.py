"""Strokes over time in a JSON file, as a page, a tablet or a program records them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.timed import Array, TimedStrokes

_MOST_BYTES = 20_000_000
_MS_STEPS = (1.0, 200.0)
"""Medians from one point to the next that are milliseconds, as recorders take from 5 to 1000 points
a second; less are seconds, and no unit is guessed of more."""

_NOT_OF_THE_FORM = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_FORM = 'write {"in_mm": true, "strokes": [[[seconds, x, y], ...], ...]}, y upwards'


def read_strokes(path: str | os.PathLike[str]) -> TimedStrokes:
    """Read strokes with time stamps.

    Parameters
    ----------
    path : path-like
        ``{"in_mm": true, "strokes": [[[t, x, y], ...], ...]}``: seconds, x, and y upwards, one
        list each time the pen was down. Without ``in_mm`` the scale is unknown. Times in
        milliseconds are told by the steps between them. What the page of ``rvsm serve`` once
        kept is read too: ``{"drawing": {"strokes": ..., "px_per_mm": 3.78}}``, milliseconds and y
        downwards.

    Returns
    -------
    TimedStrokes
        Times from the first point.

    Raises
    ------
    DataError
        The file is missing, too large, or not of this form, or the unit of its times is neither
        of the two.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file} is larger than 20 MB: it is no record of one drawing.")
        told = json.loads(file.read_text("utf-8"))
        in_mm, unit, scale = told.get("in_mm", False), None, np.ones(3)
        if "drawing" in told:
            told = told["drawing"]
            mm = 1.0 / float(told["px_per_mm"])
            in_mm, unit, scale = True, 1e-3, np.array([1.0, mm, -mm])
        paths = [np.array(points, dtype=np.float64) for points in told["strokes"] if points]
    except OSError as error:
        raise DataError(f"{file} cannot be opened ({error.strerror}): check the file.") from None
    except _NOT_OF_THE_FORM as error:
        raise DataError(f"{file} holds no strokes ({error}): {_FORM}.") from None
    sound = all(p.ndim == 2 and p.shape[1] == 3 and np.isfinite(p).all() for p in paths)
    if not paths or not sound or not np.isfinite(scale).all() or not isinstance(in_mm, bool):
        raise DataError(f"{file} holds no strokes of finite numbers: {_FORM}.")
    start = np.array([paths[0][0, 0], 0.0, 0.0])
    scale[0] = unit or _seconds(paths, file)
    return TimedStrokes(tuple((points - start) * scale for points in paths), in_mm)


def _seconds(paths: list[Array], file: Path) -> float:
    """The unit of the times, in seconds."""
    steps = np.concatenate([np.diff(points[:, 0]) for points in paths])
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    low, high = _MS_STEPS
    if step <= high:
        return 1.0 if step < low else 1e-3
    raise DataError(
        f"The times in {file} go on by {step:g} from point to point, which are neither seconds nor "
        "milliseconds: give them in seconds."
    )
