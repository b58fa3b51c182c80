"""Strokes over time in a JSON file, as a page, a tablet or a program records them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.timed import TimedStrokes

_MOST_BYTES = 20_000_000
_FORM = 'write {"in_mm": true, "strokes": [[[seconds, x, y], ...], ...]}, y upwards'


def read_strokes(path: str | os.PathLike[str]) -> TimedStrokes:
    """Read strokes with time stamps.

    Parameters
    ----------
    path : path-like
        ``{"in_mm": true, "strokes": [[[t, x, y], ...], ...]}``: seconds, x, and y upwards, one
        list each time the pen was down. Without ``in_mm`` the scale is unknown.

    Returns
    -------
    TimedStrokes
        Times from the first point.

    Raises
    ------
    DataError
        The file is missing, too large, or not of this form.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file} is larger than 20 MB: it is no record of one drawing.")
        told = json.loads(file.read_text("utf-8"))
        paths = [np.array(points, dtype=np.float64) for points in told["strokes"] if points]
        in_mm = told.get("in_mm", False)
    except OSError as error:
        raise DataError(f"{file} cannot be opened ({error.strerror}): check the file.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} holds no strokes ({error}): {_FORM}.") from None
    sound = all(p.ndim == 2 and p.shape[1] == 3 and np.isfinite(p).all() for p in paths)
    if not paths or not sound or not isinstance(in_mm, bool):
        raise DataError(f"{file} holds no strokes of finite numbers: {_FORM}.")
    start = np.array([paths[0][0, 0], 0.0, 0.0])
    return TimedStrokes(tuple(points - start for points in paths), in_mm)
