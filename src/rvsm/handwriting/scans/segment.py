"""A page cut into lines and words, from where its ink lies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.handwriting.morphology import closed
from rvsm.handwriting.scans.paper import Array, Mask

_LEAST_PIECE = 0.25  # of the height of small letters: what is smaller is a dot or a speck
_SMOOTH = 0.35
_VALLEY = 0.5
_LEAST_GAP, _MOST_GAP = 0.3, 1.6
_DOT_REACH = 1.5

Box = tuple[int, int, int, int]
"""Left, top, right and lower edge, pixels; right and lower edge lie outside."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word: its box, and line and place in the line, from 0."""

    box: Box
    line: int
    place: int


@dataclass(frozen=True, slots=True)
class Segments:
    """Words of a page in reading order, how many lines they stand in, and their letters' height.

    `x_height` is the height of small letters in pixels, 0 on an empty page.
    """

    words: tuple[Word, ...]
    lines: int
    x_height: float


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Connected ink: boxes (n, 4) as left, top, right, bottom, and pixels (n,)."""

    boxes: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]

    @property
    def heights(self) -> npt.NDArray[np.intp]:
        return self.boxes[:, 3] - self.boxes[:, 1]

    @property
    def middles(self) -> Array:
        return (self.boxes[:, 1] + self.boxes[:, 3]) / 2.0

    def taken(self, chosen: npt.NDArray[np.bool_]) -> _Pieces:
        return _Pieces(self.boxes[chosen], self.sizes[chosen])


def segment(ink: Mask) -> Segments:
    """Find the lines and words of a page that lies level and has no rules (see `normalise`).

    Connected pieces of ink make up lines where their rows crowd: peaks of the smoothed ink profile
    that a valley of less than half the smaller peak parts. Within a line pieces that overlap
    sideways belong together, and the gaps between the rest fall into those inside and between
    words at the threshold that parts them best (Otsu 1979), held between 0.3 and 1.6 heights of
    small letters. Dots and accents follow the piece next to them.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    Segments
    """
    # Faint strokes on grainy paper are broken by single pixels.
    ink = closed(np.pad(ink, 2), (3, 3))[2:-2, 2:-2]
    pieces = _pieces(ink)
    if not len(pieces.sizes):
        return Segments((), 0, 0.0)
    x_height = small_letters(pieces.heights, pieces.sizes)
    pieces = pieces.taken(pieces.heights + (pieces.boxes[:, 2] - pieces.boxes[:, 0]) > 3)
    if not len(pieces.sizes):
        return Segments((), 0, 0.0)
    body = pieces.heights >= _LEAST_PIECE * x_height
    lines = _lines(ink, pieces, body, x_height)
    if not len(lines):
        return Segments((), 0, 0.0)
    owner = np.argmin(np.abs(pieces.middles[:, None] - lines[None, :]), axis=1)
    near = np.abs(pieces.middles - lines[owner]) < _DOT_REACH * x_height + pieces.heights / 2
    parts = [pieces.taken((owner == number) & near) for number in range(len(lines))]
    gaps = [_gaps(part) for part in parts]
    every = np.concatenate([g for g in gaps if len(g)]) if any(map(len, gaps)) else np.zeros(0)
    limit = word_gap(every, x_height)
    words: list[Word] = []
    used = 0
    for part in parts:
        boxes = [box for box in _words(part, limit) if _is_word(box, part, x_height)]
        words += [Word(box, used, place) for place, box in enumerate(boxes)]
        used += bool(boxes)
    return Segments(tuple(words), used, x_height)


def small_letters(heights: npt.NDArray[np.intp], sizes: npt.NDArray[np.intp]) -> float:
    """Height of small letters from the heights of connected ink, each weighed by its pixels.

    Half of the ink of a text lies in pieces no higher than its small letters or little more:
    ascenders count for more ink but are rarer. Joined writing makes pieces of whole words, whose
    heights run to 2 small letters and more; there this errs high, by up to a half.
    """
    order = np.argsort(heights)
    weight = np.cumsum(np.sqrt(sizes[order].astype(np.float64)))
    return float(heights[order][np.searchsorted(weight, 0.4 * weight[-1])])


def letter_size(ink: Mask) -> float:
    """Height of small letters, or their width on a page that lies sideways, pixels; 0 of no ink."""
    pieces = _pieces(ink)
    if not len(pieces.sizes):
        return 0.0
    wide = pieces.boxes[:, 2] - pieces.boxes[:, 0]
    return small_letters(np.minimum(pieces.heights, wide), pieces.sizes)


def word_gap(gaps: Array, x_height: float) -> float:
    """Least gap between two words, pixels: Otsu's threshold of the gaps that are there."""
    inside = np.sort(np.minimum(gaps[gaps > 0], 3 * x_height))
    if len(inside) < 4:
        return 0.7 * x_height
    count = np.arange(1, len(inside))
    total = np.cumsum(inside)
    left = total[:-1] / count
    right = (total[-1] - total[:-1]) / (len(inside) - count)
    best = int(np.argmax(count * (len(inside) - count) * (left - right) ** 2))
    limit = float(inside[best] + inside[best + 1]) / 2
    return min(max(limit, _LEAST_GAP * x_height), _MOST_GAP * x_height)


def _pieces(ink: Mask) -> _Pieces:
    labels, count = ndimage.label(ink, structure=np.ones((3, 3)))
    found = ndimage.find_objects(labels, count)
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in found]
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return _Pieces(np.array(boxes, dtype=np.intp).reshape(-1, 4), sizes)


def _lines(ink: Mask, pieces: _Pieces, body: npt.NDArray[np.bool_], x_height: float) -> Array:
    """Rows at which lines of writing lie."""
    profile = np.zeros(len(ink))
    for left, top, right, bottom in pieces.boxes[body]:
        # A piece counts where its ink is, evened out over its width.
        profile[top:bottom] += min(right - left, 20 * x_height)
    profile = ndimage.gaussian_filter1d(profile, max(1.0, _SMOOTH * x_height))
    inner = profile[1:-1]
    peaks = 1 + np.flatnonzero((inner >= profile[:-2]) & (inner > profile[2:]))
    if not len(peaks):
        return np.zeros(0)
    kept = [int(peaks[0])]
    for peak in peaks[1:].tolist():
        valley = profile[kept[-1] : peak].min()
        if valley < _VALLEY * min(profile[kept[-1]], profile[peak]):
            kept.append(peak)
        elif profile[peak] > profile[kept[-1]]:
            kept[-1] = peak
    return np.array(kept, dtype=np.float64)


def _merged(part: _Pieces) -> list[list[int]]:
    """Boxes of pieces that overlap sideways, joined, from left to right."""
    out: list[list[int]] = []
    for left, top, right, bottom in part.boxes[np.argsort(part.boxes[:, 0])].tolist():
        if out and left < out[-1][2]:
            last = out[-1]
            out[-1] = [last[0], min(last[1], top), max(last[2], right), max(last[3], bottom)]
        else:
            out.append([left, top, right, bottom])
    return out


def _gaps(part: _Pieces) -> Array:
    joined = _merged(part)
    gaps = [after[0] - before[2] for before, after in pairwise(joined)]
    return np.array(gaps, dtype=np.float64)


def _words(part: _Pieces, limit: float) -> list[Box]:
    words: list[list[int]] = []
    for left, top, right, bottom in _merged(part):
        if words and left - words[-1][2] < limit:
            last = words[-1]
            words[-1] = [last[0], min(last[1], top), max(last[2], right), max(last[3], bottom)]
        else:
            words.append([left, top, right, bottom])
    return [(word[0], word[1], word[2], word[3]) for word in words]


def _is_word(box: Box, part: _Pieces, x_height: float) -> bool:
    """Whether a box holds more than a dot: some piece with the height of a letter, or a width."""
    tall, wide = box[3] - box[1], box[2] - box[0]
    return tall >= 0.5 * x_height and wide >= 0.3 * x_height and tall + wide >= 1.2 * x_height
