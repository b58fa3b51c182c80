"""Tablet recordings drawn as pictures again, as ink on paper would have shown them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rvsm.atomic import make_folder
from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage, encode_png
from rvsm.handwriting.manifest import LABELS, MANIFEST, Row, write_manifest
from rvsm.handwriting.recorded.library import USED_TASKS
from rvsm.handwriting.recorded.residual import unbroken
from rvsm.handwriting.recorded.tablets import GROUPS, read_tablets, without_copies

Array = npt.NDArray[np.float64]

PAPER_MM, PIXELS_PER_MM = 96.0, 4.0
"""Side of the square that is drawn, one scale for everybody, and how finely."""

PEN_MM = 0.5
_FINE = 4


@dataclass(frozen=True)
class Redrawn:
    """What was drawn: the manifest's rows, and what was left out and why."""

    rows: tuple[Row, ...]
    left_out: dict[str, str]


def redraw(
    folder: Path,
    out: Path,
    *,
    tasks: Sequence[str] = USED_TASKS,
    progress: Callable[[int, int], None] | None = None,
) -> Redrawn:
    """Draw every recording as an image, with a manifest: a set for ``rvsm crossval``.

    Controls are ``regular`` and patients ``shaky``; the column `carrier` has the person. Copies
    that stand under several people are left out (see `tablets.without_copies`).

    Parameters
    ----------
    folder : Path
        See `tablets.read_tablets`.
    out : Path
        A new or empty folder.
    tasks : sequence of str
    progress : callable, optional

    Raises
    ------
    DataError
        Nothing to draw, or `out` holds other files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already holds other files: name a new or empty folder.")
    recordings, left_out = read_tablets(folder)
    kept, copies = without_copies([r for r in recordings if r.task in tasks])
    left_out |= dict.fromkeys(copies, "the same recording stands under another person")
    rows = []
    for number, recording in enumerate(kept, start=1):
        strokes = [p for _, p in unbroken(recording.time_s, recording.points_mm, recording.down)]
        if not strokes:
            left_out[f"{recording.person}: {recording.task}"] = "it has no stroke"
            continue
        label = LABELS[GROUPS.index(recording.group)]
        name = f"{label}/{recording.person}-{recording.task.replace(' ', '-')}.png"
        make_folder(out / label)
        (out / name).write_bytes(encode_png(picture(strokes)))
        rows.append(
            Row(name, "all", label, recording.task, recording.person, carrier_kind="tablet")
        )
        if progress is not None:
            progress(number, len(kept))
    if not rows:
        raise DataError(f"{folder} holds no recording of {' or '.join(tasks)}: check the folder.")
    write_manifest(out / MANIFEST, rows)
    return Redrawn(tuple(rows), left_out)


def picture(strokes: Sequence[Array]) -> GreyImage:
    """Strokes in mm, y upwards, as dark ink on white, their box centred on the paper.

    Every line is drawn alike: no pressure, which would tell one tablet from another.

    Parameters
    ----------
    strokes : sequence of ndarray, shapes (n, 2)

    Returns
    -------
    ndarray of uint8, shape (384, 384)
    """
    scale, side = PIXELS_PER_MM * _FINE, round(PAPER_MM * PIXELS_PER_MM)
    points = np.concatenate(strokes)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    image = Image.new("L", (side * _FINE, side * _FINE), 255)
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        at = ((stroke - middle) * [1.0, -1.0] + PAPER_MM / 2) * scale
        draw.line([(x, y) for x, y in at.tolist()], 0, round(PEN_MM * scale), joint="curve")
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))
