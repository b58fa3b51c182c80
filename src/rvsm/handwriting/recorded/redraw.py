"""A set of recordings drawn as pictures again, as ink on paper would have shown them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rvsm.atomic import make_folder
from rvsm.errors import DataError
from rvsm.handwriting.description import write_description
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import MANIFEST, Row, write_manifest
from rvsm.handwriting.readers import read


@dataclass(frozen=True)
class Redrawn:
    """What was drawn: the manifest's rows, and what was left out and why."""

    rows: tuple[Row, ...]
    left_out: dict[str, str]


def redraw(
    folder: Path,
    out: Path,
    layout: str | None = "uci-spirals",
    progress: Callable[[int, int], None] | None = None,
) -> Redrawn:
    """Draw every recording as an image, with a manifest: a set for training and ``rvsm crossval``.

    Controls are ``regular`` and patients ``shaky``; the column `carrier` has the person. What the
    reader leaves out, copies that stand under several people among it, is not drawn.

    Parameters
    ----------
    folder : Path
        Recordings in a layout that has strokes.
    out : Path
        A new or empty folder.
    layout : str, optional
        One of `readers.LAYOUTS`; None: the first that fits.
    progress : callable, optional

    Raises
    ------
    DataError
        Nothing to draw, or `out` holds other files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already holds other files: name a new or empty folder.")
    collection = read(folder, layout)
    left_out = dict(collection.left_out)
    rows: list[Row] = []
    for number, row in enumerate(collection.rows, start=1):
        if not row.label or collection.strokes(row) is None:
            left_out[row.file] = "it has no class" if not row.label else "it has no strokes"
            continue
        name = f"{row.label}/{row.carrier}-{row.task}{row.repetition}.png"
        try:
            picture = np.asarray(collection.picture(row))
        except DataError as error:
            left_out[row.file] = str(error)
            continue
        make_folder(out / row.label)
        (out / name).write_bytes(encode_png(picture))
        rows.append(replace(row, file=name, text=row.task.replace("-", " ")))
        if progress is not None:
            progress(number, len(collection.rows))
    if not rows:
        raise DataError(f"{folder} holds no strokes of people with a class: check the folder.")
    write_manifest(out / MANIFEST, rows)
    # By this file a set that rvsm made is told from scans, which have paper and margins.
    write_description(out, {"task": "redrawn"})
    return Redrawn(tuple(rows), left_out)
