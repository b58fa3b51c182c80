"""The pictures of a set, each normalised as its task wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import SIZE, GreyImage, fit, grey_of, read_grey
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.readers import Collection, Files
from rvsm.handwriting.scans.normalise import Isolate, Normalised, normalise
from rvsm.handwriting.scans.paper import darkness
from rvsm.handwriting.scans.template import Template, template_of

How = Literal["auto", "colour", "registration", "none"]
"""What ``--isolate`` may be: a coloured pen where there is one, only such, what no template has, or
all ink."""

_TEXTS = {"", "word"}
_PEOPLE = 40


@dataclass(frozen=True)
class SetImages:
    """Normalised pictures of a set in memory.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, h, w)
        0 is ink, 255 paper.
    rows : tuple of Row
        In the same order.
    skipped : tuple of Row
        What could not be read, the reason in `Row.error`.
    """

    images: npt.NDArray[np.uint8]
    rows: tuple[Row, ...]
    skipped: tuple[Row, ...]


def is_text(task: str) -> bool:
    """Whether pictures of a task are writing, as those without a task are taken for."""
    return task in _TEXTS


def isolations(collection: Collection, how: How) -> dict[str, Isolate]:
    """How the pens of a set are told from print, by task: what ``--isolate`` asks for.

    By registration each task has a template, found from one drawing each of up to 40 people.

    Raises
    ------
    DataError
        Of a task there are drawings of fewer than 3 people, or of different sizes.
    """
    tasks = dict.fromkeys(row.task for row in collection.rows)
    if how != "registration":
        return dict.fromkeys(tasks, how)
    return {
        task: _template([row for row in collection.rows if row.task == task], collection)
        for task in tasks
    }


def _template(rows: list[Row], collection: Collection) -> Template:
    one = list({row.carrier: row for row in rows if row.carrier and not row.error}.values())
    places = np.unique(np.linspace(0, len(one) - 1, min(len(one), _PEOPLE)).round().astype(int))
    drawings, people = [], []
    for row in (one[place] for place in places):
        with contextlib.suppress(DataError):  # told when it is to be normalised
            drawings.append(darkness(grey_of(collection.picture(row)))[0])
            people.append(row.carrier)
    return template_of(drawings, people)


def normalised(
    collection: Collection, row: Row, isolate: Isolate = "auto"
) -> tuple[Image.Image, Normalised]:
    """The picture of a row, and normalised as its task wants it.

    Words are turned level and lose ruled lines; drawings are left as they lie, and recordings,
    which have no paper, as they are drawn.

    Raises
    ------
    DataError
        The picture cannot be read, or the pen not be told from print as `isolate` asks for.
    """
    picture = collection.picture(row)
    text = is_text(row.task)
    recorded = collection.strokes(row) is not None
    return picture, normalise(picture, deskew=text, rules=text, isolate=isolate, crop=not recorded)


def images_of(
    collection: Collection,
    size: tuple[int, int] = SIZE,
    *,
    as_stored: bool = False,
    isolate: How = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> SetImages:
    """Normalise all pictures of a set and fit them into one size, their proportions kept.

    Nothing is written: sets whose terms allow no copies stay where they are. Recordings are drawn
    at one scale on sheets of one size (see `readers.redraw`), and not cropped.

    Parameters
    ----------
    collection : Collection
    size : (int, int)
        Height and width.
    as_stored : bool
        Fit image files as they are, as training reads them (see `images.read_grey`).
    isolate : {"auto", "colour", "registration", "none"}
        See `isolations`.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    SetImages

    Raises
    ------
    DataError
        None of the pictures can be read, or registration is asked for and cannot be.
    """
    images, rows, skipped = [], [], []
    pens = {} if as_stored else isolations(collection, isolate)
    for done, row in enumerate(collection.rows, start=1):
        try:
            images.append(_fitted(collection, row, size, as_stored, pens))
            rows.append(row)
        except DataError as error:
            skipped.append(replace(row, error=str(error)))
        if progress is not None and (done % 100 == 0 or done == len(collection.rows)):
            progress(done, len(collection.rows))
    if not images:
        why = f", {skipped[0].file} first: {skipped[0].error}" if skipped else ": it has no rows."
        raise DataError(f"None of the pictures of {collection.root} can be read{why}")
    return SetImages(np.stack(images), tuple(rows), tuple(skipped))


def _fitted(
    collection: Collection,
    row: Row,
    size: tuple[int, int],
    as_stored: bool,
    pens: Mapping[str, Isolate],
) -> GreyImage:
    if as_stored and isinstance(collection.source, Files):
        return read_grey(collection.root / row.file, size)
    if collection.strokes(row) is not None:
        return fit(grey_of(collection.picture(row)), size)
    return fit(normalised(collection, row, pens.get(row.task, "auto"))[1].grey, size)
