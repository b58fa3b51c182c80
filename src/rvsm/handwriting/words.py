"""Real handwritten words made shaky: their ink moved along a tremor path.

A folder of word images is read in the layout of the German handwriting set DHSD (Riaz et al.,
CC BY 4.0, Zenodo 18743313): `data.csv` with the columns file_name, text, writer_id. The images
carry no scale, so the height of small letters is measured and taken for 2.5 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting import kinematics, tremor
from rvsm.handwriting.images import SIZE, GreyImage
from rvsm.handwriting.scans.paper import cleaned
from rvsm.handwriting.skeleton import pen_paths
from rvsm.handwriting.sources import Sampler, fingerprint
from rvsm.handwriting.splits import CarrierInfo
from rvsm.handwriting.synthesis import SPEED_MM_S, X_HEIGHT_MM, Sample
from rvsm.handwriting.wordfiles import Mask, WordFile, clean, index, usable

Array = npt.NDArray[np.float64]

_X_HEIGHT_RANGE = (6.0, 36.0)
_MARGIN = 2
_FINE, _GRID = 5, 2
_TRIES = 60
_WAVES_MM = 0.3
"""The largest RMS of the smooth waves in regular words: larger ones spoil letters as a tremor does,
and what a tremor adds to ink and box the choice among candidates can balance without them."""
_LINE_MM = (20.0, 60.0)
"""Length along the paper of the wave that the line of a regular word follows: several letters."""


@dataclass(frozen=True)
class Words:
    """Source of images: the words in `folder`, split by writer and by text.

    Attributes
    ----------
    folder : Path
        Holds data.csv and the images it names.
    as_written : bool
        Leave regular words as they are, but for the noise that every hand has: for a test. To learn
        from, they get waves too, and nothing but the tremor tells the classes apart.
    """

    folder: Path
    as_written: bool = False

    def carriers(self) -> list[CarrierInfo]:
        """The writers of images that can be read and show writing."""
        writers = dict.fromkeys(word.writer for word in usable(self.folder).words)
        return [CarrierInfo(writer, writer, "words") for writer in writers]

    def texts(self) -> list[str]:
        """All different texts of those images."""
        return list(dict.fromkeys(word.text for word in usable(self.folder).words))

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """Draws from the images that these writers wrote of these texts."""
        writers, allowed = set(carriers), set(texts)
        # Not only the usable ones: every worker would have to find them out again.
        words = index(self.folder).words
        chosen = [w for w in words if w.writer in writers and w.text in allowed]
        return WordSampler(chosen, as_written=self.as_written)

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        """Whether there is a usable image that this writer wrote of one of these texts."""
        allowed = set(texts)
        return any(w.writer == carrier and w.text in allowed for w in usable(self.folder).words)

    def skipped(self) -> dict[str, dict[str, str]]:
        """Images that are missing, cannot be read or show no writing, and why."""
        return usable(self.folder).skipped

    def identity(self) -> dict[str, object]:
        """What the folder holds, by names and sizes of its files."""
        index(self.folder)
        regular = "as written" if self.as_written else "in slow waves"
        files = [fingerprint(self.folder)]
        return {"task": "words", "ink": "black", "regular": regular, "files": files}


@dataclass(frozen=True, slots=True)
class Traced:
    """A word taken apart: its ink and the pen path through it.

    Attributes
    ----------
    pixels : ndarray of int, shape (n, 2)
        Column and row of every pixel with ink.
    darkness : ndarray of float, shape (n,)
        0 to 1.
    nearest : ndarray of int, shape (n,)
        The point of the path nearest to each pixel.
    path : ndarray of float, shape (m, 2)
        Pixels (x, y), strokes one after the other in writing order.
    stroke : ndarray of int, shape (m,)
        Number of the stroke of each point.
    x_height : float
        Height of small letters, pixels.
    """

    pixels: npt.NDArray[np.intp]
    darkness: Array
    nearest: npt.NDArray[np.intp]
    path: Array
    stroke: npt.NDArray[np.intp]
    x_height: float


class WordSampler:
    """Draws words at random and lets the hand tremble or not.

    Parameters
    ----------
    words : sequence of WordFile
        All equally often; those that cannot be traced are passed over.
    as_written : bool
        As for `Words`.

    Attributes
    ----------
    shake : tremor.Shake
        The hand whose tremor it is, `tremor.modelled` unless set.

    Raises
    ------
    DataError
        There are none.
    """

    def __init__(self, words: Sequence[WordFile], *, as_written: bool = False) -> None:
        if not words:
            raise DataError(
                "No word image is left for one of the splits: give a folder in which every "
                "writer wrote many different words."
            )
        self.words = words
        self.as_written = as_written
        self.shake: tremor.Shake = tremor.modelled

    def sample(self, rng: np.random.Generator, *, shaky: bool, amplitude_mm: float) -> Sample:
        """Draw one image.

        The ink is moved by a tremor of RMS `amplitude_mm` if `shaky`, else (but `as_written`) along
        a line that waves slowly, which makes the word as tall, and by smooth waviness, which
        lengthens its strokes; both carry physiological noise, and both are scaled down, by the same
        rule, until either would fit.

        Raises
        ------
        DataError
            No image drawn in 60 tries could be read and traced.
        """
        for _ in range(_TRIES):
            word = self.words[int(rng.integers(len(self.words)))]
            traced = trace(word.path)
            if traced is not None:
                return _move(word, traced, rng, self.shake, shaky, amplitude_mm, self.as_written)
        raise DataError(
            f"None of {_TRIES} word images such as {self.words[0].path} shows writing that can be "
            "traced: check the folder."
        )


def steadily(
    t: Array, across_mm: Array, rng: np.random.Generator, amplitude_mm: float, speed_mm_s: float
) -> Array:
    """How a hand that does not tremble moves a word, in its size to a tremor's.

    Parameters
    ----------
    t : ndarray of float, shape (n,)
        Seconds.
    across_mm : ndarray of float, shape (n,)
        Where along the line the points are.
    rng : numpy.random.Generator
    amplitude_mm : float
        RMS of the tremor.
    speed_mm_s : float
        Of the pen.

    Returns
    -------
    ndarray of float, shape (n, 2)
        Millimetres, y upwards.
    """
    waves = tremor.waviness(t, rng, float(rng.uniform(0, min(amplitude_mm, _WAVES_MM))), speed_mm_s)
    line = np.sin(2 * np.pi * (across_mm / rng.uniform(*_LINE_MM) + rng.random()))
    waves[:, 1] += np.sqrt(2) * amplitude_mm * float(rng.uniform(0.1, 0.8)) * line
    return waves


def _move(
    word: WordFile,
    traced: Traced,
    rng: np.random.Generator,
    shake: tremor.Shake,
    shaky: bool,
    amplitude_mm: float,
    as_written: bool,
) -> Sample:
    mm = X_HEIGHT_MM / traced.x_height
    up = np.array([mm, -mm])
    speed = SPEED_MM_S * float(np.exp(0.2 * rng.standard_normal()))
    t = kinematics.pen_times(traced.path * up, traced.stroke, speed)
    shaking, frequency = shake(t, rng, amplitude_mm)
    steady = np.zeros_like(shaking)
    if not as_written:
        steady = steadily(t, traced.path[:, 0] * mm, rng, amplitude_mm, speed)
    noise = tremor.physiological(t, rng)
    moved = [traced.pixels + ((d + noise) / up)[traced.nearest] for d in (shaking, steady)]
    room = np.array([SIZE[1], SIZE[0]]) - 2.0 * _MARGIN
    low, high = (np.array([[pick(c) for c in m.T] for m in moved]) for pick in (np.min, np.max))
    size = (high - low).max(axis=0) + 1
    scale = float(min(rng.uniform(0.8, 1.15), (room / size).min()))
    corner = _MARGIN + rng.random(2) * (room - scale * size)
    ink = 0 if shaky else 1
    offset = corner + scale * (size / 2 - (low[ink] + high[ink]) / 2)
    displacement = ((shaking if shaky else steady) + noise) / up
    image = splat(traced, displacement, scale, offset)
    meta = {
        "tremor_frequency_hz": frequency if shaky else 0.0,
        "tremor_amplitude_mm": amplitude_mm if shaky else 0.0,
        "virtual_amplitude_mm": amplitude_mm,
        "x_height_mm": X_HEIGHT_MM,
        "speed_mm_s": speed,
    }
    return Sample(image, word.text, word.writer, meta)


def splat(traced: Traced, displacement: Array, scale: float, offset: Array) -> GreyImage:
    """Draw the ink of a word, each pixel moved with the path point nearest to it.

    The ink is moved forwards: a tremor folds a word over itself, and a picture pulled backwards
    through a folded map tears. Every pixel is moved as 5 x 5 parts on a grid twice as fine, where
    the darkest part wins; cracks where the ink was stretched are closed.

    Parameters
    ----------
    traced : Traced
    displacement : ndarray of float, shape (m, 2)
        Of the points of the path, pixels (x, y) of the source.
    scale : float
        Size of the result relative to the source.
    offset : ndarray of float, shape (2,)
        Where the source's origin comes to lie, pixels.

    Returns
    -------
    ndarray of uint8, shape (64, 256)
    """
    height, width = SIZE
    left, top = traced.pixels.min(axis=0)
    shape = np.ptp(traced.pixels, axis=0)[::-1] + 1
    at = (traced.pixels[:, 1] - top, traced.pixels[:, 0] - left)
    known = np.zeros(shape)
    known[at] = 1.0
    weight = np.maximum(ndimage.gaussian_filter(known, 1.0), 1e-6)
    steps = (np.arange(_FINE) + 0.5) / _FINE - 0.5
    parts = []
    for axis in (0, 1):
        field = np.zeros(shape)
        field[at] = displacement[traced.nearest, axis]
        # Averaged over the ink, so that strokes that cross do not tear each other apart.
        field = ndimage.gaussian_filter(field, 1.0) / weight
        slope_y, slope_x = np.gradient(field) if min(shape) > 1 else (0 * field, 0 * field)
        base = (traced.pixels[:, axis] + field[at])[:, None]
        along_x = ((axis == 0) + np.clip(slope_x[at], -2, 2))[:, None] * steps
        along_y = ((axis == 1) + np.clip(slope_y[at], -2, 2))[:, None] * steps
        place = (base + along_x)[:, None, :] + along_y[:, :, None]
        for by, apply in ((scale, np.multiply), (offset[axis], np.add), (0.5, np.add)):
            apply(place, by, out=place)
        place *= _GRID
        place -= 0.5
        parts.append(np.rint(place, out=place).astype(np.intp).reshape(-1))
    columns, rows = parts
    dark = np.repeat(traced.darkness.astype(np.float32), _FINE * _FINE)
    inside = (columns >= 0) & (columns < width * _GRID) & (rows >= 0) & (rows < height * _GRID)
    if not inside.all():
        columns, rows, dark = columns[inside], rows[inside], dark[inside]
    out = np.full(SIZE, 255, dtype=np.uint8)
    if not len(dark):
        return out
    fine = np.zeros((height * _GRID, width * _GRID), dtype=np.float32)
    np.maximum.at(fine.reshape(-1), rows * (width * _GRID) + columns, dark)
    box = _around(rows, height), _around(columns, width)
    closed = close_cracks(fine[tuple(slice(b.start * _GRID, b.stop * _GRID) for b in box)])
    # The mean of blocks of 2 x 2, in the order of numpy's and fifteen times as fast.
    upper, lower = (closed[row::_GRID, ::_GRID] + closed[row::_GRID, 1::_GRID] for row in (0, 1))
    coarse = (upper + lower) / np.float32(_GRID * _GRID)
    out[box] = np.rint(255 * (1 - coarse))
    return out


def _around(places: npt.NDArray[np.intp], full: int) -> slice:
    """Pixels along an axis beyond which there is no ink, nor will be once cracks are closed."""
    low, high = int(places.min()) // _GRID, int(places.max()) // _GRID
    return slice(max(low - 2, 0), min(high + 3, full))


def close_cracks(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey closing by a square of 3 x 3 pixels, the edges mirrored, several times scipy's speed."""

    def spread(values: npt.NDArray[np.float32], pick: np.ufunc) -> npt.NDArray[np.float32]:
        rows = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        values = pick(pick(rows[:-2], rows[1:-1]), rows[2:])
        columns = np.pad(values, ((0, 0), (1, 1)), mode="edge")
        return np.asarray(pick(pick(columns[:, :-2], columns[:, 1:-1]), columns[:, 2:]))

    return spread(spread(image, np.maximum), np.minimum)


@lru_cache(maxsize=6000)
def trace(path: Path) -> Traced | None:
    """Take a word apart: clean it, measure its x-height, follow its strokes.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Traced or None
        None where the file cannot be read or shows no writing.
    """
    try:
        found = clean(path)
    except DataError:
        return None
    if found is None:
        return None
    darkness, ink, rules = found.darkness, found.ink, found.rules
    height = x_height(ink)
    paths = [p for p in pen_paths(ink, min_spur=0.25 * height) if len(p) >= 2]
    if not paths:
        return None
    points = np.concatenate(paths)
    stroke = np.repeat(np.arange(len(paths)), [len(p) for p in paths])
    # The faint rim of the strokes belongs to them; specks and rules farther off do not. Ink is
    # brought to black as that of scans is: pencils and pens tell writers apart, not hands.
    darkness = 1.0 - cleaned(np.where(rules, 0.0, darkness), ink) / 255.0
    belongs = darkness > 0
    rows, columns = np.nonzero(belongs)
    from scipy.spatial import KDTree

    pixels = np.stack([columns, rows], axis=1)
    nearest = np.asarray(KDTree(points).query(pixels)[1], dtype=np.intp)
    return Traced(pixels, darkness[belongs], nearest, points, stroke, height)


def x_height(ink: Mask) -> float:
    """Height of small letters in pixels, from how the ink is spread over the rows.

    Small letters fill the rows between baseline and mean line more densely than ascenders and
    descenders fill theirs: the height is that of the rows around the fullest one that hold at
    least half as much ink, less the thickness that a pen adds.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    float
        Kept between 6 and 36.
    """
    profile = ndimage.uniform_filter1d(ink.sum(axis=1).astype(np.float64), 3)
    full = profile >= 0.5 * profile.max()
    centre = int(profile.argmax())
    start, stop = centre, centre
    # One sparse row between two full ones belongs to the letters.
    while start > 0 and full[max(start - 2, 0) : start].any():
        start -= 1
    while stop < len(full) - 1 and full[stop + 1 : stop + 3].any():
        stop += 1
    return float(np.clip(stop - start + 1, *_X_HEIGHT_RANGE))
