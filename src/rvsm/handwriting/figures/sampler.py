"""One drawing of a figure, as it looks once it was scanned and normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from rvsm.handwriting import kinematics, tremor
from rvsm.handwriting.figures.shapes import (
    Array,
    slow,
    spiral,
    spiral_habits,
    wave,
    wave_habits,
)
from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.render import draw_strokes
from rvsm.handwriting.synthesis import Sample

Figure = Literal["spiral", "wave"]
SIZES: dict[str, tuple[int, int]] = {"spiral": (256, 256), "wave": (128, 256)}
"""Rows and columns of the pictures."""

_FILL = (0.72, 0.96)
_HABITS: dict[str, Callable[[np.random.Generator], Any]] = {
    "spiral": spiral_habits,
    "wave": wave_habits,
}
_DRAW: dict[str, Callable[[Any, float, np.random.Generator], Array]] = {
    "spiral": spiral,
    "wave": wave,
}


@dataclass(frozen=True, slots=True)
class Hand:
    """Somebody who draws: habits, size in mm, speed in mm/s, width of the pen in mm."""

    name: str
    habits: Any
    size_mm: float
    speed_mm_s: float
    pen_mm: float


def hand(figure: Figure, name: str) -> Hand:
    """The hand of this name; equal names give equal hands."""
    rng = np.random.default_rng(list(f"{figure} {name}".encode()))
    return Hand(
        name,
        _HABITS[figure](rng),
        size_mm=float(85 * np.exp(0.15 * rng.standard_normal())),
        speed_mm_s=float(28 * np.exp(0.4 * rng.standard_normal())),
        pen_mm=float(0.65 * np.exp(0.3 * rng.standard_normal())),
    )


def parkinsonian(
    t: Array, rng: np.random.Generator, amplitude_mm: float | None
) -> tuple[Array, float]:
    """A `Shake` as irregular as hands with Parkinson's disease draw: three tremors at once.

    Their frequencies are log-normal about 4.5 Hz (log sd 0.3, 3 to 9 Hz), apart from each other by
    a third of that spread, and their shares random: what tablets record of such drawings has its
    peak at 3.9 Hz (10th and 90th percentile 3.1 and 7.5), and it is broad.

    Parameters
    ----------
    t : (n,) seconds, not decreasing.
    rng : source of randomness.
    amplitude_mm : RMS, met exactly; None draws one as `tremor.modelled` does.
    """
    if amplitude_mm is None:
        own = tremor.OWN_LOG_SD * rng.standard_normal()
        amplitude_mm = float(tremor.OWN_MEDIAN_MM * np.exp(own))
    middle = 4.5 * np.exp(0.3 * rng.standard_normal())
    parts = np.clip(middle * np.exp(0.3 * rng.standard_normal(3)), 3.0, 9.0)
    shares = rng.dirichlet(np.ones(3))
    shaking = sum(
        (tremor.tremor(t, rng, float(s), float(f)) for s, f in zip(shares, parts, strict=True)),
        start=np.zeros((len(t), 2)),
    )
    return tremor.scaled(shaking, amplitude_mm), float(shares @ parts)


def lumps(path: Array, amplitude_mm: float, rng: np.random.Generator) -> Array:
    """Slow deviations from a path, knots 14 mm apart along it, of about this RMS length."""
    step = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(step)])
    noise = np.stack([slow(along, 14.0, rng), slow(along, 14.0, rng)], axis=1)
    return np.asarray(amplitude_mm / 2**0.5 * noise)


class FigureSampler:
    """Draws figures by some hands.

    Parameters
    ----------
    figure : {"spiral", "wave"}
    names : sequence of str
        Of the hands, all equally often.
    tries : sequence of str
        What the manifest calls one drawing.

    Attributes
    ----------
    shake : tremor.Shake
        The hand whose tremor it is, `parkinsonian` unless set.
    """

    def __init__(self, figure: Figure, names: Sequence[str], tries: Sequence[str]) -> None:
        self.figure = figure
        self.hands = [hand(figure, name) for name in names]
        self.tries = tries
        self.shake: tremor.Shake = parkinsonian

    def sample(self, rng: np.random.Generator, *, shaky: bool, amplitude_mm: float) -> Sample:
        """Draw one picture.

        Both classes have slow wobble, smooth waves of 9 to 16 mm and physiological noise. The
        tremor comes and goes along the path, RMS `amplitude_mm` over all of it.

        Parameters
        ----------
        rng : source of randomness; equal states give equal pictures.
        shaky : whether the hand trembles.
        amplitude_mm : RMS amplitude of the tremor.
        """
        drawer = self.hands[int(rng.integers(len(self.hands)))]
        size = drawer.size_mm * float(np.exp(0.08 * rng.standard_normal()))
        speed = drawer.speed_mm_s * float(np.exp(0.2 * rng.standard_normal()))
        pen = drawer.pen_mm * float(np.exp(0.15 * rng.standard_normal()))
        path = _DRAW[self.figure](drawer.habits, size, rng)
        stroke = np.zeros(len(path), dtype=np.intp)
        t = kinematics.pen_times(path, stroke, speed)
        shaking, frequency = self.shake(t, rng, amplitude_mm)
        bursts = np.exp(rng.uniform(0, 0.8) * slow(t, 2.5, rng))
        shaking = tremor.scaled(shaking * bursts[:, None], amplitude_mm)
        own = tremor.physiological(t, rng) + lumps(path, float(rng.uniform(0.1, 0.6)), rng)
        own += tremor.waviness(t, rng, float(rng.uniform(0.1, 0.4)), speed)
        image = scanned(path + own + (shaking if shaky else 0.0), pen, SIZES[self.figure], rng)
        meta = {
            "tremor_frequency_hz": frequency if shaky else 0.0,
            "tremor_amplitude_mm": amplitude_mm if shaky else 0.0,
            "virtual_amplitude_mm": amplitude_mm,
            "pen_mm": pen,
            "speed_mm_s": speed,
        }
        text = self.tries[int(rng.integers(len(self.tries)))]
        return Sample(image, text, drawer.name, meta)


def scanned(
    path: Array, pen_mm: float, shape: tuple[int, int], rng: np.random.Generator
) -> GreyImage:
    """A path as a scan shows it: fitted into the picture, its edges frayed by paper and threshold.

    Parameters
    ----------
    path : ndarray, shape (n, 2)
        Millimetres.
    pen_mm : float
    shape : (int, int)
        Rows and columns; the drawing fills 72 to 96 % of one of them.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint8
        Dark on white.
    """
    room = np.array([shape[1], shape[0]], dtype=np.float64)
    low, extent = path.min(axis=0), np.ptp(path, axis=0)
    scale = float(rng.uniform(*_FILL) * (room / extent).min())
    points = (path - low - extent / 2) * scale + room / 2
    stroke = np.zeros(len(points), dtype=np.intp)
    ink = 1.0 - draw_strokes(points, stroke, max(pen_mm * scale, 0.9), shape) / 255.0
    if rng.random() < 0.75:
        ink = frayed(ink, float(rng.uniform(0.1, 0.9)), rng)
    return np.asarray(np.rint(255 * (1 - ink)), dtype=np.uint8)


def frayed(ink: Array, roughness: float, rng: np.random.Generator) -> Array:
    """Ink whose edges are rough, and thin here and there, as a threshold leaves a faint pen.

    Parameters
    ----------
    ink : ndarray of float, 0 to 1
    roughness : float
        0 changes nothing but the sharpness of the edges.
    """
    fine = ndimage.uniform_filter(rng.standard_normal(ink.shape, dtype=np.float32), 2) * 2.0
    coarse = Image.fromarray(rng.standard_normal((9, 9), dtype=np.float32))
    pressed = np.asarray(coarse.resize(ink.shape[::-1], Image.Resampling.BICUBIC))
    level = 0.4 + 0.12 * roughness * pressed + 0.22 * roughness * fine
    return np.asarray(np.clip((ink - level) * 3.0 + 0.5, 0.0, 1.0) * (ink > 0.02))
