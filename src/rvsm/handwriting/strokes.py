"""Where strokes come from: Hershey letters, font skeletons, recorded pens; one glyph a time.

A carrier is a font or a writer: something that turns characters into glyphs. Lengths are in
x-heights (the height of the letter x), y upwards, baseline at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import DataError
from rvsm.handwriting.fonts import FontFile, bundled_fonts, fonts_in
from rvsm.handwriting.skeleton import pen_paths

Array = NDArray[np.float64]

SPACING = 0.04  # x-heights between points of a stroke: 0.8 pixels at the standard size
CONTOUR_SPACING = 0.06
WORD_SPACE = 0.9
_SKELETON_SCALE = 32.0  # pixels an x-height
_OPEN_LETTERS = "cmnuvwxz"
_SKETCH_HOLES = 5.0  # in a letter that has none; loops of scripts make up to 1.3

# Hershey fonts that hold the Latin alphabet and draw each line once, by design. The others build
# bold and serifed letters from parallel lines, which a trembling pen would scatter.
HERSHEY_FAMILIES = {"Hershey Sans": "futural", "Hershey Script": "scripts"}


@dataclass(frozen=True)
class Glyph:
    """Pen strokes of one letter, its advance, and its outline if it is a filled shape.

    `strokes` and `contours` are tuples of (n, 2) arrays; `nearest` holds, for each contour point
    one after the other, the index of the nearest stroke point.
    """

    strokes: tuple[Array, ...]
    advance: float
    contours: tuple[Array, ...] = ()
    nearest: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))

    @cached_property
    def points(self) -> Array:
        """The points of all strokes."""
        return np.concatenate(self.strokes)

    @cached_property
    def stroke(self) -> NDArray[np.intp]:
        """For each of `points` the number of its stroke."""
        return _numbers(self.strokes)

    @cached_property
    def outline(self) -> Array:
        """The points of all contours."""
        return np.concatenate(self.contours)

    @cached_property
    def contour(self) -> NDArray[np.intp]:
        """For each point of `outline` the number of its contour."""
        return _numbers(self.contours)


def _numbers(parts: Sequence[Array]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


class Carrier(Protocol):
    """A font or a writer."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def draws(self, text: str) -> bool: ...
    def glyphs(self, text: str) -> list[Glyph]: ...


@dataclass
class HersheyCarrier:
    """A single-stroke font of the Hershey collection."""

    font: str
    family: str
    kind: str = "hershey"

    @property
    def name(self) -> str:
        return f"hershey-{self.font}"

    @cached_property
    def _letters(self) -> dict[str, Glyph]:
        from HersheyFonts import HersheyFonts

        collection = HersheyFonts()
        collection.load_default_font(self.font)
        raw = collection.all_glyphs
        x = np.concatenate([np.asarray(s, dtype=float) for s in raw["x"].strokes])
        base, unit = x[:, 1].max(), float(np.ptp(x[:, 1]))
        letters = {}
        for char, glyph in raw.items():
            left = min((p[0] for s in glyph.strokes for p in s), default=0.0)
            offset = np.array([left - 0.12 * unit, base])
            strokes = tuple(
                resample((np.asarray(s, dtype=float) - offset) * [1, -1] / unit, SPACING)
                for s in glyph.strokes
                if len(s) > 1
            )
            letters[char] = Glyph(strokes, float(glyph.char_width) / unit)
        return letters

    def draws(self, text: str) -> bool:
        return all(c == " " or (c in self._letters and self._letters[c].strokes) for c in text)

    def glyphs(self, text: str) -> list[Glyph]:
        return [_SPACE if c == " " else self._letters[c] for c in text]


@dataclass
class FontCarrier:
    """A filled font: drawn as its outline, or, as a pen would write it, as its skeleton."""

    file: FontFile
    outline: bool
    _cache: dict[str, Glyph] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.file.path.stem

    @property
    def family(self) -> str:
        return self.file.family

    @property
    def kind(self) -> str:
        return "outline" if self.outline else "skeleton"

    def draws(self, text: str) -> bool:
        return self.file.draws(text)

    def glyphs(self, text: str) -> list[Glyph]:
        return [self._glyph(c) for c in text]

    def _glyph(self, char: str) -> Glyph:
        if char == " ":
            return _SPACE
        if char not in self._cache:
            self._cache[char] = self._trace(char)
        return self._cache[char]

    def _trace(self, char: str) -> Glyph:
        contours = self.file.contours(char)
        strokes = tuple(resample(p, SPACING) for p in skeleton_of(contours))
        advance = self.file.advance(char)
        if not self.outline:
            return Glyph(strokes, advance)
        from scipy.spatial import KDTree

        dense = tuple(resample(c, CONTOUR_SPACING) for c in contours)
        nearest = KDTree(np.concatenate(strokes)).query(np.concatenate(dense))[1]
        return Glyph(strokes, advance, dense, np.asarray(nearest, dtype=np.intp))


@dataclass
class RecordedCarrier:
    """Letters or whole texts recorded from one pen: `letters` maps a text to its glyph."""

    name: str
    family: str
    letters: Mapping[str, Glyph]
    kind: str = "recorded"

    def draws(self, text: str) -> bool:
        return text in self.letters or all(
            word in self.letters or all(c in self.letters for c in word) for word in text.split(" ")
        )

    def glyphs(self, text: str) -> list[Glyph]:
        if text in self.letters:
            return [self.letters[text]]
        found: list[Glyph] = []
        for place, word in enumerate(text.split(" ")):
            pieces = [word] if word in self.letters else word
            found += [_SPACE] * (place > 0) + [self.letters[piece] for piece in pieces]
        return found


_SPACE = Glyph((), WORD_SPACE)


def carriers(
    task: str,
    font_dirs: Sequence[Path] = (),
    recorded: Sequence[RecordedCarrier] = (),
) -> list[Carrier]:
    """All carriers of a task.

    Parameters
    ----------
    task : "fonts" (outlines and Hershey letters, printed) or "pen" (single strokes, written).
    font_dirs : folders of further fonts.
    recorded : carriers read from stroke files, for the task "pen".

    Raises
    ------
    DataError
        If the task is unknown or recorded strokes are given to the task "fonts".
    """
    files = bundled_fonts() + fonts_in(font_dirs)
    hershey = [HersheyCarrier(font, family) for family, font in HERSHEY_FAMILIES.items()]
    if task == "fonts":
        if recorded:
            raise DataError("recorded strokes belong to --task pen; leave them out of --task fonts")
        return [*hershey, *(FontCarrier(f, outline=True) for f in files)]
    if task == "pen":
        return [*hershey, *(FontCarrier(f, outline=False) for f in files), *recorded]
    raise DataError(f"unknown task {task!r}; choose fonts or pen")


def resample(path: Array, spacing: float) -> Array:
    """Points at equal distances of about `spacing` along a polyline, ends kept."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    n = max(2, int(np.ceil(length[-1] / spacing)) + 1)
    at = np.linspace(0.0, length[-1], n)
    return np.stack([np.interp(at, length, path[:, 0]), np.interp(at, length, path[:, 1])], axis=1)


def skeleton_of(contours: Sequence[Array]) -> list[Array]:
    """Pen paths down the middle of a filled outline, in the units of the outline."""
    ink, low = _unbroken(contours)
    paths = pen_paths(ink, min_spur=0.25 * _SKELETON_SCALE)
    if not paths:
        return [np.repeat(np.concatenate(contours).mean(axis=0, keepdims=True), 2, axis=0)]
    return [(p + 0.5) / _SKELETON_SCALE + low for p in paths]


def is_sketched(file: FontFile) -> bool:
    """Whether letters are scribbled in many lines each, with no middle for a pen to follow.

    Lines that cross leave holes: some thirty in letters that have none otherwise.
    """
    holes = [
        _topology(_pixels(file.contours(char), 4 * _SKELETON_SCALE)[0])[1] - 1
        for char in _OPEN_LETTERS
        if file.draws(char)
    ]
    return bool(holes) and float(np.mean(holes)) > _SKETCH_HOLES


def _unbroken(contours: Sequence[Array]) -> tuple[NDArray[np.bool_], Array]:
    """The ink as pixels and where its lower left corner lies, in the units of the outline.

    Hairlines of less than a pixel fall to pieces: they get a rim of a pixel where that makes as
    many pieces and holes as there are at a scale where they have a width.
    """
    plain, low = _pixels(contours, _SKELETON_SCALE)
    true = _topology(_pixels(contours, 4 * _SKELETON_SCALE)[0])
    if _topology(plain) != true:
        rimmed, _ = _pixels(contours, _SKELETON_SCALE, pen=2.0)
        if _topology(rimmed) == true:
            return rimmed, low
    return plain, low


def _pixels(
    contours: Sequence[Array], scale: float, pen: float = 0.0
) -> tuple[NDArray[np.bool_], Array]:
    from rvsm.handwriting.render import fill_mask

    points = np.concatenate(contours)
    low = points.min(axis=0) - 2.0 / scale
    size = np.ptp(points, axis=0) * scale + 4.0
    shape = (int(np.ceil(size[1])), int(np.ceil(size[0])))
    return fill_mask([(c - low) * scale for c in contours], shape, pen), low


def _topology(ink: NDArray[np.bool_]) -> tuple[int, int]:
    """Number of pieces of the ink and of the paper."""
    from scipy import ndimage

    return int(ndimage.label(ink, np.ones((3, 3)))[1]), int(ndimage.label(~ink)[1])
