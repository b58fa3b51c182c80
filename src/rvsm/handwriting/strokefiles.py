"""Pen strokes from files of the user's own, as letters and texts that can be written again."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting.strokes import SPACING, Glyph, RecordedCarrier, resample

Array = npt.NDArray[np.float64]

_ASCENDER, _DESCENDER, _CAPITAL = 1.75, -0.7, 1.5
_BOXES = {
    **dict.fromkeys("acemnorsuvwxz", (0.0, 1.0)),
    **dict.fromkeys("bdfhklß", (0.0, _ASCENDER)),
    **dict.fromkeys("gpqy", (_DESCENDER, 1.0)),
    **dict.fromkeys("iäöü", (0.0, 1.5)),
    "j": (_DESCENDER, 1.5),
    "t": (0.0, 1.45),
}
_SIDE = 0.15
_SMOOTH = 1.5
_MOST_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """One letter or text as one person wrote it.

    `strokes` are (n, 2) arrays in any unit, y upwards, in writing order.
    """

    writer: str
    text: str
    strokes: tuple[Array, ...]


def read_strokes(path: Path) -> list[RecordedCarrier]:
    """Read a file of pen strokes: one carrier for each writer in it.

    A CSV or TSV file has a header and one row for each point, with the columns ``x``, ``y`` (or
    ``y_down`` where y grows downwards, as on screens), ``text`` (the letter or text being
    written), a stroke number ``stroke`` or a pen state ``pen`` (0 lifted, else down), and
    optionally ``t`` and ``writer``. Rows of one writer and text belong together. A JSON file is a
    list of ``{"text": ..., "strokes": [[[x, y, t], ...], ...], "writer": ..., "y_down": ...}``,
    where t and the last two keys may be missing.

    Units of x and y do not matter: height is scaled to that of the letters (see `normalised`).
    Times only have to run forwards; texts are written again at the speed asked for.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of RecordedCarrier

    Raises
    ------
    DataError
        The file is missing or of another kind, a value is not a number, or times run backwards.
    """
    if not path.is_file():
        raise DataError(f"There is no stroke file {path}: check the name.")
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} is larger than 200 MB: cut it into several stroke files.")
    kind = path.suffix.lower()
    if kind not in {".csv", ".tsv", ".json"}:
        raise DataError(f"{path} is not a stroke file: give one ending in .csv, .tsv or .json.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _from_json(path, text) if kind == ".json" else _from_table(path, text, kind)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as {kind[1:]} in UTF-8 ({error}).") from None
    made = recorded(found)
    if not made:
        raise DataError(f"{path} holds no strokes of two points or more: record some writing.")
    return made


def recorded(recordings: Iterable[Recording]) -> list[RecordedCarrier]:
    """Carriers of recorded writing, one a writer; of equal texts the first is kept."""
    by_writer: dict[str, dict[str, Glyph]] = defaultdict(dict)
    for recording in recordings:
        strokes = [s for s in recording.strokes if len(s) > 1 and np.ptp(s, axis=0).any()]
        if strokes and recording.text.strip():
            glyph = normalised(recording.text, strokes)
            by_writer[recording.writer].setdefault(recording.text, glyph)
    return [RecordedCarrier(name, name, letters) for name, letters in by_writer.items()]


def normalised(text: str, strokes: Sequence[Array]) -> Glyph:
    """Scale strokes so that x-height is 1 and the baseline 0.

    The letters tell how high a text must be: o reaches from 0 to 1, b to 1.75, g down to -0.7,
    capitals and all else to 1.5. Jitter of the digitiser's grid is smoothed over 0.06 x-heights.

    Parameters
    ----------
    text : str
    strokes : sequence of ndarray, shapes (n, 2)
        In any unit, y upwards.

    Returns
    -------
    Glyph
    """
    boxes = [_BOXES.get(char, (0.0, _CAPITAL)) for char in text if char != " "]
    bottom, top = min(b for b, _ in boxes), max(t for _, t in boxes)
    every = np.concatenate(strokes)
    low, extent = every.min(axis=0), np.ptp(every, axis=0)
    # A dash has no height of its own: then the width of the text decides.
    width = 0.8 * len(text)
    tall = extent[1] >= 0.1 * extent[0] / max(len(text), 1)
    scale = (top - bottom) / extent[1] if tall else width / extent[0]
    shift = np.array([_SIDE, bottom if tall else 0.5])
    paths = tuple(
        _smoothed(resample((np.asarray(s, float) - low) * scale + shift, SPACING)) for s in strokes
    )
    return Glyph(paths, float(extent[0] * scale + 2 * _SIDE))


def _smoothed(path: Array) -> Array:
    if len(path) < 5:
        return path
    smooth = ndimage.gaussian_filter1d(path, _SMOOTH, axis=0, mode="nearest")
    smooth[[0, -1]] = path[[0, -1]]
    return np.asarray(smooth)


def _from_json(path: Path, text: str) -> list[Recording]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise DataError(f"{path} is not a JSON list: write [{{'text': ..., 'strokes': ...}}, ...].")
    out = []
    for number, entry in enumerate(content, start=1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise DataError(f"{where} has no 'text': name the letter or text that is written.")
        strokes = entry.get("strokes")
        if not isinstance(strokes, list):
            raise DataError(f"{where} has no list 'strokes': give [[[x, y, t], ...], ...].")
        flip = -1.0 if entry.get("y_down") else 1.0
        points = tuple(_points(where, stroke, flip) for stroke in strokes)
        out.append(Recording(str(entry.get("writer") or path.stem), entry["text"], points))
    return out


def _points(where: str, stroke: Any, flip: float) -> Array:
    try:
        points = np.array(stroke, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.full((1, 1), np.nan)
    if points.size == 0:
        return np.zeros((0, 2))
    if points.ndim != 2 or points.shape[1] not in {2, 3} or not np.isfinite(points).all():
        raise DataError(f"{where}: a stroke is not a list of [x, y] or [x, y, t] numbers.")
    if points.shape[1] == 3 and (np.diff(points[:, 2]) < 0).any():
        raise DataError(f"{where}: the times of a stroke run backwards; sort its points by time.")
    return points[:, :2] * [1.0, flip]


def _from_table(path: Path, text: str, kind: str) -> list[Recording]:
    reader = csv.DictReader(text.splitlines(), delimiter="\t" if kind == ".tsv" else ",")
    columns = set(reader.fieldnames or ())
    y = "y_down" if "y_down" in columns else "y"
    cut = "stroke" if "stroke" in columns else "pen"
    if absent := {"x", y, "text", cut} - columns:
        raise DataError(
            f"{path} lacks the column {', '.join(sorted(absent))}: a stroke file has the columns "
            "x, y (or y_down), text, and stroke or pen."
        )
    flip = -1.0 if y == "y_down" else 1.0
    texts: dict[tuple[str, str], dict[float, list[list[float]]]] = defaultdict(dict)
    lifts = 0
    for record in reader:
        where = f"{path}, line {reader.line_num}"
        mark = _number(where, record, cut)
        if cut == "pen":
            lifts += mark == 0
            if mark == 0:
                continue
            mark = float(lifts)
        owner = (record.get("writer") or path.stem, record["text"] or "")
        point = [_number(where, record, "x"), flip * _number(where, record, y)]
        if "t" in columns:
            point.append(_number(where, record, "t"))
        texts[owner].setdefault(mark, []).append(point)
    return [
        Recording(writer, text, tuple(_points(str(path), s, 1.0) for s in strokes.values()))
        for (writer, text), strokes in texts.items()
    ]


def _number(where: str, record: Mapping[str, str | None], column: str) -> float:
    text = record.get(column)
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}, not a number: correct it.")
    return value
