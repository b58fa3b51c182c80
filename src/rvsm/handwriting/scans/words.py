"""Scans as a network reads them: whole pages cut into words, or pictures of one word each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage, fit
from rvsm.handwriting.letters import height_of_letters
from rvsm.handwriting.scans.normalise import Normalised, normalise, to_network
from rvsm.handwriting.scans.pages import Page, page_count, read_page
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.segment import Segments, segment
from rvsm.handwriting.scans.verdict import judge, page_of_words

_MARGIN = 3
_LETTERS = 2.0
"""Heights of small letters that a word is wide at least for its own height to be believed."""


@dataclass(frozen=True)
class ScannedWord:
    """One word cut out of a page, at the size a network reads.

    `reason` says why there is none, or what makes one doubtful, `turned` by how many degrees
    clockwise the page, which lay sideways, was turned; boxes are of the turned page.
    """

    box: tuple[int, int, int, int] | None
    line: int
    place: int
    image: GreyImage | None
    reason: str = ""
    turned: int = 0


def whole_of(
    picture: Image.Image, how: Reading, pixels_per_mm: float | None, turn: int = 0
) -> ScannedWord:
    """Normalise a picture of one word or drawing, and cut nothing.

    Parameters
    ----------
    picture : PIL.Image.Image
    how : Reading
        Letters of a word give the scale where nothing else does; a drawing is fitted.
    pixels_per_mm : float or None
        By default what the picture states.
    turn : {0, 90, 180, 270}
        By how much to turn it clockwise, degrees.

    Returns
    -------
    ScannedWord
        One without an image where there is no writing.
    """
    text = not how.drawing
    found = normalise(
        picture,
        deskew=text,
        rules=text,
        isolate=how.isolate,
        turn=turn,
        pixels_per_mm=pixels_per_mm,
    )
    verdict = judge(found)
    if not verdict.writing:
        return ScannedWord(None, 0, 0, None, verdict.reason, found.quarters_deg)
    of_page = partial(ScannedWord, found.box, 0, 0, turned=found.quarters_deg)
    if how.drawing:
        return of_page(fit(found.grey, how.size))
    height = height_of_letters(found.ink) if how.letters else None
    large = picture.height > how.size[0] or picture.width > how.size[1]
    return of_page(to_network(found, how.size, height), page_of_words(found.ink) if large else "")


def words_of(
    page: Page, how: Reading, *, whole: bool = False, turn: int | None = None
) -> list[ScannedWord]:
    """Normalise a page and cut it into words.

    Parameters
    ----------
    page : Page
    how : Reading
    whole : bool
        Take the page for one word, and cut nothing; of drawings that is always so.
    turn : {0, 90, 180, 270}, optional
        By how much to turn the page clockwise, degrees; by default one that lies sideways is
        turned, but not a `whole` one.

    Returns
    -------
    list of ScannedWord
        In reading order; one without an image where the page holds no writing.
    """
    if whole or how.drawing:
        return [whole_of(page.picture, how, page.pixels_per_mm, turn or 0)]
    found = normalise(
        page.picture,
        deskew=True,
        rules=True,
        squares=True,
        crop=False,
        turn=turn,
        pixels_per_mm=page.pixels_per_mm,
    )
    of_page = partial(ScannedWord, turned=found.quarters_deg)
    verdict = judge(found)
    if not verdict.writing:
        return [of_page(None, 0, 0, None, verdict.reason)]
    segments = segment(found.ink)
    if not segments.words:
        return [of_page(None, 0, 0, None, "there is nothing of the form of words")]
    height = _height(found, segments)
    return [
        of_page(word.box, word.line, word.place, _cut(found, height, word.box, how))
        for word in segments.words
    ]


@dataclass(frozen=True)
class AskedPage:
    """A page of a file, its number from 1."""

    file: Path
    number: int


@dataclass(frozen=True)
class CutPage:
    """A page and its words; `error` says why it cannot be read."""

    asked: AskedPage
    name: str
    words: list[ScannedWord]
    error: str = ""


def pages_in(file: Path) -> list[AskedPage]:
    """The pages of a file, one of a file that cannot be read."""
    try:
        count = page_count(file)
    except DataError:
        count = 1
    return [AskedPage(file, number) for number in range(1, max(1, count) + 1)]


def cut_page(asked: AskedPage, how: Reading, whole: bool, turn: int | None) -> CutPage:
    """Read a page and cut it into words, see `words_of`."""
    try:
        page = read_page(asked.file, asked.number, how.dpi)
    except DataError as error:
        return CutPage(asked, str(asked.file), [], str(error))
    return CutPage(asked, page.name, words_of(page, how, whole=whole, turn=turn))


def _height(found: Normalised, segments: Segments) -> float:
    """Height of the page's small letters, measured in every word as in those of training."""
    heights = [
        height_of_letters(found.ink[top:bottom, left:right])
        for left, top, right, bottom in (word.box for word in segments.words)
        if right - left >= _LETTERS * segments.x_height
    ]
    return float(np.median(heights)) if heights else segments.x_height


def _cut(
    found: Normalised, height_px: float, box: tuple[int, int, int, int], how: Reading
) -> GreyImage:
    height, width = found.grey.shape
    left, top, right, bottom = box
    rows = slice(max(0, top - _MARGIN), min(height, bottom + _MARGIN))
    columns = slice(max(0, left - _MARGIN), min(width, right + _MARGIN))
    part = replace(found, grey=found.grey[rows, columns], ink=found.ink[rows, columns], box=box)
    return to_network(part, how.size, height_px)
