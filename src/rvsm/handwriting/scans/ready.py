"""Files as a network reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage, check_fits, fit, fitted, grey_of, read_picture
from rvsm.handwriting.manifest import PERSON, Row
from rvsm.handwriting.readers import Collection, Files, Source, redraw
from rvsm.handwriting.recorded.measure import TremorMeasure, measure_tremor
from rvsm.handwriting.render import PIXELS_PER_MM
from rvsm.handwriting.scans.normalise import normalise, to_network
from rvsm.handwriting.scans.pages import page_frames
from rvsm.handwriting.scans.pool import in_order
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.sets import is_text
from rvsm.handwriting.scans.verdict import blank_or_dot, judge_unread
from rvsm.handwriting.scans.words import whole_of
from rvsm.handwriting.strokejson import read_strokes
from rvsm.handwriting.timed import TimedStrokes

_CHUNK = 32
_OF_PAGES = frozenset([".tif", ".tiff"])


STROKES = ".json"


@dataclass(frozen=True, slots=True)
class Ready:
    """One file or recording.

    Attributes
    ----------
    file : Path
    image : ndarray of uint8, shape `Reading.size`, or None
    reason : str
        Why there is no image, or with one why it may be none of a single word, or none that the
        network knows.
    unreadable : bool
        Whether that is because it could not be read.
    tremor : TremorMeasure or None
        Of strokes over time that are long enough.
    """

    file: Path
    image: GreyImage | None
    reason: str = ""
    unreadable: bool = False
    tremor: TremorMeasure | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A file to read; of a set its row, and the source that opens what is no file of its own.

    `person` is who wrote it, empty where unknown.
    """

    file: Path
    source: Source | None = None
    row: Row | None = None
    person: str = ""


def rows_of(collection: Collection) -> list[Asked]:
    """Every picture or recording of a set."""
    root, source = collection.root, collection.source
    whole = isinstance(source, Files)
    return [
        Asked(
            root / row.file,
            None if whole else source,
            row,
            row.carrier if row.carrier_kind == PERSON else "",
        )
        for row in collection.rows
    ]


def ready(asked: Asked, how: Reading) -> Ready:
    """Read an image, or strokes over time.

    Parameters
    ----------
    asked : Asked
        A file of strokes ends in ``.json`` (see `strokejson`); a scan whose row has a task is read
        as that is.
    how : Reading

    Returns
    -------
    Ready
        A PDF and a TIFF of several pages are unreadable here, and told so.
    """
    try:
        found = _read(asked, how)
    except DataError as error:
        return Ready(asked.file, None, str(error), unreadable=True)
    doubt = "" if found.image is None else _strange(asked, how)
    return replace(found, reason=doubt) if doubt else found


def _read(asked: Asked, how: Reading) -> Ready:
    file = asked.file
    strokes = _strokes(asked)
    if strokes is not None:
        try:
            image = drawn_for_network(strokes, how)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        return Ready(file, image, tremor=measure_tremor(strokes))
    if asked.source is not None and asked.row is not None:
        picture = asked.source.picture(asked.row)
    else:
        _check_pages(file)
        picture = read_picture(file)
        if not how.scan:
            check_fits(file, picture.size, how.size)
    if not how.scan:
        return _as_it_is(asked, picture, how)
    return _scanned(asked, picture, how)


def _strange(asked: Asked, how: Reading) -> str:
    """Why the network knows nothing of such pictures, as far as that is known."""
    task = asked.row.task if asked.row else ""
    text = is_text(task) if task else not how.drawing
    if how.words is None or how.words == text:
        return ""
    told = f"this is of the task {task}" if task else "this is a drawing"
    return f"{told}, and the network learned from {'words' if how.words else 'drawings'}"


def _strokes(asked: Asked) -> TimedStrokes | None:
    if asked.source is not None and asked.row is not None:
        return asked.source.strokes(asked.row)
    return read_strokes(asked.file) if asked.file.suffix.lower() == STROKES else None


def _as_it_is(asked: Asked, picture: Image.Image, how: Reading) -> Ready:
    """A picture as training reads it, unless it shows no writing.

    One of a set, or no larger than those learned from, is what the network is for: there only a
    blank one and a dot are refused.
    """
    grey = grey_of(picture)
    reason = blank_or_dot(grey, how.size)
    if reason:
        return Ready(asked.file, None, reason)
    large = picture.height > how.size[0] or picture.width > how.size[1]
    if large and asked.row is None:
        verdict, reason = judge_unread(grey)
        if not verdict.writing:
            return Ready(asked.file, None, verdict.reason)
    return Ready(asked.file, fitted(picture, how.size), "" if how.drawing else reason)


def _scanned(asked: Asked, picture: Image.Image, how: Reading) -> Ready:
    """A picture as a scan of one word or drawing."""
    scale = None if how.dpi is None else how.dpi / 25.4
    task = "" if asked.row is None else asked.row.task
    if task:
        how = replace(how, drawing=not is_text(task))
    try:
        found = whole_of(picture, how, scale)
    except DataError as error:
        raise DataError(f"{asked.file}: {error}") from None
    return Ready(asked.file, found.image, found.reason)


def drawn_for_network(strokes: TimedStrokes, how: Reading) -> GreyImage:
    """Strokes as a network reads them.

    Of drawings as `rvsm crossval` has them: on one sheet for everybody, which is fitted. Else at 8
    pixels a mm where they fit, and scaled to fit where they do not.
    """
    if how.drawing:
        return fit(grey_of(redraw(strokes)), how.size)
    picture = redraw(strokes, PIXELS_PER_MM)
    if not strokes.in_mm:
        return fit(grey_of(picture), how.size)
    return to_network(normalise(picture, pixels_per_mm=PIXELS_PER_MM), how.size)


def _check_pages(file: Path) -> None:
    if file.suffix.lower() in _OF_PAGES and (pages := len(page_frames(file))) > 1:
        raise DataError(
            f"{file} has {pages} pages: ask about each with --pages, or save one as a picture."
        )


def _chunk(chunk: Sequence[Asked], how: Reading) -> list[Ready]:
    return [ready(asked, how) for asked in chunk]


def all_ready(asked: Sequence[Asked], how: Reading, workers: int) -> Iterator[list[Ready]]:
    """Read many files, 32 at a time, in their order.

    Parameters
    ----------
    asked : sequence of Asked
    how : Reading
    workers : int
        See `in_order`.

    Yields
    ------
    list of Ready

    Raises
    ------
    DataError
        A process was killed.
    """
    chunks = [asked[start : start + _CHUNK] for start in range(0, len(asked), _CHUNK)]
    return in_order(partial(_chunk, how=how), chunks, workers)
