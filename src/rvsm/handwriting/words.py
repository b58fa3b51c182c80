"""Real handwritten words made shaky: their ink moved along a tremor path.

A folder of word images is read in the layout of the German handwriting set DHSD (Riaz et al.,
CC BY 4.0, Zenodo 18743313): `data.csv` with the columns file_name, text, writer_id; or in any that
`readers.read` knows. The height of small letters is measured and taken for 2.5 mm, whatever scale
the images have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.handwriting import kinematics, tremor
from rvsm.handwriting.images import SIZE
from rvsm.handwriting.scans.normalise import X_HEIGHT_PX
from rvsm.handwriting.sources import Sampler, fingerprint
from rvsm.handwriting.splits import CarrierInfo
from rvsm.handwriting.synthesis import SPEED_MM_S, X_HEIGHT_MM, Sample
from rvsm.handwriting.wordfiles import WordFile, index, usable
from rvsm.handwriting.wordink import Traced, splat, trace

Array = npt.NDArray[np.float64]

_MARGIN = 2
_SIZES = (0.8, 1.15)
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
        Holds data.csv and the images it names, or a set in another layout (see `wordfiles.index`).
    as_written : bool
        Leave regular words as they are, but for the noise that every hand has: for a test. To learn
        from, they get waves too, and nothing but the tremor tells the classes apart.
    person : str, optional
        Regular expression that finds the writer in each image's path.
    """

    folder: Path
    as_written: bool = False
    person: str | None = None

    def carriers(self) -> list[CarrierInfo]:
        """The writers of images that can be read and show writing."""
        writers = dict.fromkeys(word.writer for word in usable(self.folder, self.person).words)
        return [CarrierInfo(writer, writer, "words") for writer in writers]

    def texts(self) -> list[str]:
        """All different texts of those images."""
        return list(dict.fromkeys(word.text for word in usable(self.folder, self.person).words))

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """Draws from the images that these writers wrote of these texts."""
        writers, allowed = set(carriers), set(texts)
        # Not only the usable ones: every worker would have to find them out again.
        words = index(self.folder, self.person).words
        chosen = [w for w in words if w.writer in writers and w.text in allowed]
        return WordSampler(chosen, as_written=self.as_written)

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        """Whether there is a usable image that this writer wrote of one of these texts."""
        allowed = set(texts)
        return any(
            w.writer == carrier and w.text in allowed
            for w in usable(self.folder, self.person).words
        )

    def skipped(self) -> dict[str, dict[str, str]]:
        """Images that are missing, cannot be read or show no writing, and why."""
        return usable(self.folder, self.person).skipped

    def identity(self) -> dict[str, object]:
        """What the folder holds, by names and sizes of its files."""
        index(self.folder, self.person)
        regular = "as written" if self.as_written else "in slow waves"
        files = [fingerprint(self.folder)]
        return {
            "task": "words",
            "ink": "black",
            "size": "x-height",
            "regular": regular,
            "files": files,
            **({"person": self.person} if self.person is not None else {}),
        }


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
        lengthens its strokes; both carry physiological noise. Small letters become about 2.5 mm
        high, at 8 pixels a mm, as in scans (`to_network`) and drawn words; a word that would be
        too long or high then is smaller, and both classes by the same rule.

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
    wanted = X_HEIGHT_PX / traced.x_height * rng.uniform(*_SIZES)
    scale = float(min(wanted, (room / size).min()))
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
