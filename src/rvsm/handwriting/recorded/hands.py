"""A hand that shakes as somebody's did: signals of any length and size out of a library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.handwriting.recorded.library import Tremor, TremorLibrary
from rvsm.handwriting.tremor import scaled

Array = npt.NDArray[np.float64]

FADE_S = 0.4
"""Over which one stretch of a recording fades into the next: a period or two of tremor."""

_SEARCH_S = 1.0
"""How far around a place drawn at random the next stretch may begin, to fall into step."""


@dataclass(frozen=True)
class RecordedHand:
    """Displacements drawn from a library; call it as one calls `tremor.modelled`.

    Each call draws a person, all equally often, one of the person's recordings, and from it
    stretches until they last as long as the writing. Stretches are joined where their phases
    agree and cross-faded. The whole is turned by a random angle, mirrored or not: a spiral
    tells no direction that writing would share.

    Parameters
    ----------
    library : TremorLibrary
        Of the people to draw from.

    Raises
    ------
    DataError
        The library is empty.
    """

    library: TremorLibrary

    def __post_init__(self) -> None:
        if not self.library.tremors:
            raise DataError(
                "No recorded tremor is left to write with: give a library of more people."
            )

    def __call__(
        self, t: Array, rng: np.random.Generator, amplitude_mm: float | None
    ) -> tuple[Array, float]:
        """Displacement at the times `t` and its frequency.

        Parameters
        ----------
        t : ndarray, shape (n,)
            Seconds, not decreasing.
        rng : numpy.random.Generator
        amplitude_mm : float or None
            RMS length of the displacements, exactly; None: as large as recorded.

        Returns
        -------
        displacement : ndarray, shape (n, 2)
            Millimetres, of mean zero where scaled.
        frequency_hz : float
            At which the recording has most power.
        """
        tremor = self._pick(rng)
        if len(t) == 0:
            return np.zeros((0, 2)), tremor.peak_hz
        rate = self.library.rate_hz
        track = strung(tremor.signals, int(np.ceil((t[-1] - t[0]) * rate)) + 2, rate, rng)
        grid = np.arange(len(track)) / rate
        angle = rng.uniform(0.0, 2.0 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        mirror = 1.0 if rng.random() < 0.5 else -1.0
        turned = track @ np.array([[c, s], [-s * mirror, c * mirror]])
        at = t - t[0]
        displacement = np.stack([np.interp(at, grid, turned[:, k]) for k in (0, 1)], axis=1)
        if amplitude_mm is not None:
            displacement = scaled(displacement, amplitude_mm)
        return displacement, tremor.peak_hz

    def _pick(self, rng: np.random.Generator) -> Tremor:
        people = self.library.people()
        person = people[int(rng.integers(len(people)))]
        own = [tremor for tremor in self.library.tremors if tremor.person == person]
        share = np.array([tremor.seconds for tremor in own])
        return own[int(rng.choice(len(own), p=share / share.sum()))]


def strung(
    signals: tuple[Array, ...], count: int, rate_hz: float, rng: np.random.Generator
) -> Array:
    """Stretches of one recording, in step with each other, until there are `count` samples.

    Parameters
    ----------
    signals : tuple of ndarray, shapes (n, 2)
    count : int
    rate_hz : float
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (count, 2)
    """
    fade = round(FADE_S * rate_hz)
    lengths = np.array([len(signal) for signal in signals], dtype=np.float64)
    track = np.zeros((0, 2))
    while len(track) < count:
        signal = signals[int(rng.choice(len(signals), p=lengths / lengths.sum()))]
        start = int(rng.integers(max(len(signal) - count - fade, 0) + 1))
        if len(track) == 0:
            track = signal[start : start + count]
            continue
        # At least half of the signal must follow, or the track would hardly grow.
        last = max(len(signal) // 2 - fade, 0)
        start = int(rng.integers(last + 1))
        reach = round(_SEARCH_S * rate_hz)
        low, high = max(start - reach, 0), min(start + reach, last)
        start = low + in_step(track[-fade:], signal[low : high + fade])
        track = crossfaded(track, signal[start:], fade)
    return track[:count]


def in_step(tail: Array, signal: Array) -> int:
    """Where in `signal` (m, 2) a stretch correlates best with `tail` (n, 2), m >= n."""
    from scipy.signal import fftconvolve

    shared = sum(fftconvolve(signal[:, k], tail[::-1, k], mode="valid") for k in (0, 1))
    power = np.convolve((signal**2).sum(axis=1), np.ones(len(tail)), mode="valid")
    return int(np.argmax(shared / np.sqrt(np.maximum(power, 1e-12))))


def crossfaded(before: Array, after: Array, fade: int) -> Array:
    """Two signals joined: over the last `fade` samples of one the other takes its place.

    The weights are raised cosines that add up to 1: what is in step keeps its size.
    """
    fade = min(fade, len(before), len(after))
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1)))[:, None]
    joint = (1 - rise) * before[len(before) - fade :] + rise * after[:fade]
    return np.concatenate([before[: len(before) - fade], joint, after[fade:]])
