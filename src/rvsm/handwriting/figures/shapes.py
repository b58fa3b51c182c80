"""The middle of the line that a hand means to draw: spirals and waves, in millimetres.

No two hands draw alike: turns are uneven, rings lie off the middle, corners come and go. All of
it is slow along the path, which is what tells it from a tremor. Both classes draw the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP_MM = 0.35
"""About the distance of points along a path: a tenth of the wavelength of a fast tremor."""


@dataclass(frozen=True, slots=True)
class SpiralHabits:
    """How somebody draws spirals, from the middle outwards.

    Attributes
    ----------
    turns : float
        Times round the middle.
    power : float
        Of the radius against the angle; 1 is the spiral of Archimedes, less opens early.
    flat : float
        By how much it is narrower one way, as a share of the radius, at `flat_at` (radians).
    corners, corner_at : ndarray, shape (3,)
        How far three, four and five corners stick out, as a share of the radius, and where.
    drift : ndarray, shape (2,)
        Where the outer ring's middle lies from the inner one's, as a share of the radius.
    clockwise : bool
    """

    turns: float
    power: float
    flat: float
    flat_at: float
    corners: Array
    corner_at: Array
    drift: Array
    clockwise: bool


@dataclass(frozen=True, slots=True)
class WaveHabits:
    """How somebody draws waves, from left to right.

    Attributes
    ----------
    waves : float
        How many.
    height : float
        Of a wave, as a share of the whole length.
    form : float
        -1 zigzag, 0 sine, 1 meander.
    lean : float
        How far the crests lean over, as a share of a wave.
    slope : float
        Of the line of the middles.
    """

    waves: float
    height: float
    form: float
    lean: float
    slope: float


def spiral_habits(rng: np.random.Generator) -> SpiralHabits:
    """Draw the habits of one hand."""
    return SpiralHabits(
        turns=float(rng.uniform(2.2, 3.8)),
        power=float(np.exp(0.18 * rng.standard_normal())),
        flat=float(abs(0.09 * rng.standard_normal())),
        flat_at=float(rng.uniform(0, np.pi)),
        corners=0.018 * np.abs(rng.standard_normal(3)),
        corner_at=rng.uniform(0, 2 * np.pi, 3),
        drift=0.08 * rng.standard_normal(2),
        clockwise=bool(rng.random() < 0.3),
    )


def wave_habits(rng: np.random.Generator) -> WaveHabits:
    """Draw the habits of one hand."""
    return WaveHabits(
        waves=float(rng.uniform(2.8, 4.8)),
        height=float(rng.uniform(0.3, 0.75)),
        form=float(rng.uniform(-1, 1)),
        lean=float(0.08 * rng.standard_normal()),
        slope=float(0.06 * rng.standard_normal()),
    )


def spiral(habits: SpiralHabits, size_mm: float, rng: np.random.Generator) -> Array:
    """One spiral of this hand: its habits, varied a little, and slow wobble of its own.

    Parameters
    ----------
    habits : SpiralHabits
    size_mm : float
        About its width.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64, shape (n, 2)
        Millimetres.
    """
    turns = habits.turns + 0.15 * rng.standard_normal()
    angle = np.linspace(
        0.0, 2 * np.pi * turns, max(64, round(0.55 * np.pi * turns * size_mm / STEP_MM))
    )
    # Longer steps where the radius is large; nearly even ones along the path.
    angle = angle[-1] * np.sqrt(angle / angle[-1])
    share = angle / angle[-1]
    radius = share ** (habits.power * np.exp(0.05 * rng.standard_normal()))
    lobes = np.arange(3, 6)
    corner_at = habits.corner_at + 0.3 * rng.standard_normal(3)
    corners = (habits.corners * np.cos(lobes * (angle[:, None] - corner_at))).sum(axis=1)
    flat = habits.flat * np.cos(2 * (angle - habits.flat_at))
    wobble = 0.02 * slow(share * turns, 0.22, rng) + 0.03 * slow(share * turns, 0.6, rng)
    radius = 0.5 * size_mm * (radius * (1 + corners + flat) + wobble * np.minimum(1, 3 * share))
    way = -1.0 if habits.clockwise else 1.0
    turn = rng.normal(0, 0.3)
    path = radius[:, None] * np.stack([np.cos(angle + turn), way * np.sin(angle + turn)], axis=1)
    drift = habits.drift + 0.03 * rng.standard_normal(2)
    return np.asarray(path + 0.5 * size_mm * (share**1.5)[:, None] * drift)


def wave(habits: WaveHabits, size_mm: float, rng: np.random.Generator) -> Array:
    """One row of waves of this hand.

    Parameters
    ----------
    habits : WaveHabits
    size_mm : float
        Its length.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64, shape (n, 2)
        Millimetres.
    """
    waves = habits.waves + 0.2 * rng.standard_normal()
    height = habits.height * np.exp(0.1 * rng.standard_normal()) * size_mm / 2
    count = max(64, round(waves * np.hypot(4 * height, size_mm / waves) / STEP_MM))
    at = np.linspace(rng.uniform(-0.1, 0.35), waves, count)
    phase = 2 * np.pi * (at + 0.06 * slow(at, 0.7, rng))
    sine = np.sin(phase)
    form = float(np.clip(habits.form + 0.2 * rng.standard_normal(), -1, 1))
    pointed = 2 / np.pi * np.arcsin(0.985 * sine)
    round_ = np.tanh(2.2 * sine) / np.tanh(2.2)
    other = pointed if form < 0 else round_
    y = (1 - abs(form)) * sine + abs(form) * other
    y = y * (1 + 0.12 * slow(at, 0.8, rng)) + 0.1 * slow(at, 1.2, rng) + 0.02 * slow(at, 0.25, rng)
    x = size_mm / waves * (at + 0.02 * slow(at, 0.25, rng))
    x = x + size_mm / waves * (habits.lean * y + 0.03 * np.sin(2 * phase) * max(form, 0.0))
    return np.stack([x, height * y + habits.slope * x], axis=1)


def slow(at: Array, apart: float, rng: np.random.Generator) -> Array:
    """Smooth noise of about unit variance along `at`, its knots `apart` from each other.

    Parameters
    ----------
    at : ndarray, shape (n,)
        Not decreasing.
    apart : float
        In the units of `at`.
    rng : numpy.random.Generator
    """
    position = (at - at[0]) / apart + rng.uniform(0.5, 1.0)
    knots = rng.standard_normal(int(position[-1]) + 5)
    i = position.astype(np.intp)
    f = position - i
    # quadratic B-spline: the path has no kinks
    values = 0.5 * (1 - f) ** 2 * knots[i] + (0.75 - (f - 0.5) ** 2) * knots[i + 1]
    return np.asarray(1.3 * (values + 0.5 * f**2 * knots[i + 2]))
