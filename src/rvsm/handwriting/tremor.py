"""Displacements of a writing hand over time: tremor, physiological noise, slow waviness.

Times are seconds, displacements millimetres, frequencies hertz. The model follows the
published description of pathological action tremor: one dominant frequency that wanders a
little, bursts of amplitude, a second harmonic, and a motion along an ellipse that slowly turns
(Elble 2013; Deuschl 2022). The RMS amplitude of a trace is sqrt(mean(dx^2 + dy^2)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import DataError

Array = NDArray[np.float64]

Shake = Callable[[Array, np.random.Generator, float | None], tuple[Array, float]]
"""A hand: from times (n,), randomness and an RMS amplitude in mm, None for one of its own, to the
displacements (n, 2) in mm and their frequency in Hz. `modelled` is one, and
`rvsm.handwriting.recorded.hands.RecordedHand` another."""

FREQUENCY_HZ = 7.0  # median over people at an RMS amplitude of 0.7 mm
FREQUENCY_LOG_SD = 0.15
FREQUENCY_FALL = -0.6  # large tremors are slow ones: f ~ amplitude^-0.6
FREQUENCY_RANGE_HZ = (4.0, 12.0)
WAVELENGTH_MM = (9.0, 16.0)
PHYSIOLOGICAL_MEDIAN_MM = 0.03
# Of 47 people with Parkinson's disease who drew a spiral (UCI 395): median, 10th and 90th
# percentile 0.158, 0.079 and 0.335 mm.
OWN_MEDIAN_MM, OWN_LOG_SD = 0.158, 0.56
_GRID_S = 0.04


def draw_frequency(rng: np.random.Generator, amplitude_mm: float) -> float:
    """Draw the tremor frequency in Hz of a person whose tremor has this RMS amplitude in mm.

    Log-normal about 7 Hz (amplitude / 0.7 mm)^-0.6, clipped to 4-12 Hz, the range of kinetic
    tremor; that the frequency falls as the amplitude grows is the common finding.
    """
    median = FREQUENCY_HZ * (max(amplitude_mm, 1e-3) / 0.7) ** FREQUENCY_FALL
    value = median * np.exp(FREQUENCY_LOG_SD * rng.standard_normal())
    low, high = FREQUENCY_RANGE_HZ
    return float(min(max(value, low), high))


def rms(displacement: Array) -> float:
    """Root mean square length of the displacement vectors, in the units of the input."""
    if len(displacement) == 0:
        return 0.0
    squares = np.einsum("ij,ij->i", displacement, displacement)
    return float(np.sqrt(squares.sum() / len(squares)))


@dataclass(frozen=True)
class Modelled:
    """A `Shake`: `tremor` at a frequency drawn for its amplitude.

    Without an amplitude it is drawn as people with Parkinson's disease have it, log-normally about
    0.158 mm.

    Parameters
    ----------
    hertz : (float, float), optional
        The lowest and the highest frequency, drawn log-uniformly whatever the amplitude.

    Raises
    ------
    DataError
        If they are no range from 1 to 25 Hz.
    """

    hertz: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.hertz is not None and not 1 <= self.hertz[0] <= self.hertz[1] <= 25:
            raise DataError(
                f"A tremor of {self.hertz[0]:g} to {self.hertz[1]:g} Hz cannot be: give two "
                "frequencies from 1 to 25 Hz, the lower first, such as 3 and 8."
            )

    def __call__(
        self, t: Array, rng: np.random.Generator, amplitude_mm: float | None
    ) -> tuple[Array, float]:
        """Return displacements and their frequency, as `Shake` says."""
        if amplitude_mm is None:
            amplitude_mm = float(OWN_MEDIAN_MM * np.exp(OWN_LOG_SD * rng.standard_normal()))
        if self.hertz is None:
            frequency = draw_frequency(rng, amplitude_mm)
        else:
            frequency = float(np.exp(rng.uniform(*np.log(self.hertz))))
        return tremor(t, rng, amplitude_mm, frequency), frequency


modelled = Modelled()
"""The hand that everything is shaken by unless another is named."""


def tremor(
    t: Array,
    rng: np.random.Generator,
    amplitude_mm: float,
    frequency_hz: float | None = None,
) -> Array:
    """Displacement of a trembling hand at the times `t`.

    d(t) = e(t) R(theta(t)) [cos(phi), q sin(phi)] plus a second harmonic, where
    phi = 2 pi * integral of f(t), e(t) is a log-normal burst envelope (correlation time 0.5 s),
    theta turns slowly and q is the axis ratio of the ellipse.

    Parameters
    ----------
    t : (n,) array of seconds, not decreasing.
    rng : source of randomness; equal seeds give equal tremor.
    amplitude_mm : RMS length of the returned displacements, exactly.
    frequency_hz : mean frequency; drawn with `draw_frequency` when None.

    Returns
    -------
    (n, 2) array of millimetres with mean zero.
    """
    frequency = draw_frequency(rng, amplitude_mm) if frequency_hz is None else frequency_hz
    if len(t) == 0:
        return np.zeros((0, 2))
    grid = _grid(t)
    wander = 1.0 + 0.06 * _slow_noise(len(grid), 0.6, rng)
    phase_grid = 2.0 * np.pi * np.cumsum(frequency * wander) * _GRID_S + rng.uniform(0, 2 * np.pi)
    envelope_grid = np.exp(0.3 * _slow_noise(len(grid), 0.5, rng))
    angle_grid = rng.uniform(0, np.pi) + 0.35 * _slow_noise(len(grid), 1.0, rng)
    phase = np.interp(t, grid, phase_grid)
    envelope = np.interp(t, grid, envelope_grid)
    angle = np.interp(t, grid, angle_grid)
    ratio = rng.uniform(0.2, 0.75)
    harmonic = rng.uniform(0.05, 0.2)
    shift = rng.uniform(0, 2 * np.pi)
    major = envelope * (np.cos(phase) + harmonic * np.cos(2 * phase + shift))
    minor = envelope * ratio * (np.sin(phase) + harmonic * np.sin(2 * phase + shift))
    c, s = np.cos(angle), np.sin(angle)
    return scaled(np.stack([c * major - s * minor, s * major + c * minor], axis=1), amplitude_mm)


def physiological(t: Array, rng: np.random.Generator) -> Array:
    """Physiological noise that every hand has: 7-12 Hz, about 0.03 mm RMS (log-normal)."""
    amplitude = PHYSIOLOGICAL_MEDIAN_MM * np.exp(0.35 * rng.standard_normal())
    return tremor(t, rng, float(amplitude), frequency_hz=float(rng.uniform(7.0, 12.0)))


def waviness(t: Array, rng: np.random.Generator, amplitude_mm: float, speed_mm_s: float) -> Array:
    """Smooth waviness of an untrembling hand: waves of 9 to 16 mm on paper, longer than a tremor's.

    It lengthens strokes as a tremor does, so that the length of the ink tells nothing. Two sines
    an axis; RMS length `amplitude_mm`; at the pen speed `speed_mm_s` (mm/s) their frequencies are
    speed / wavelength.
    """
    if len(t) == 0:
        return np.zeros((0, 2))
    frequency = speed_mm_s / rng.uniform(*WAVELENGTH_MM, size=4)
    shift = rng.uniform(0, 2 * np.pi, size=4)
    waves = np.sin(2 * np.pi * t[:, None] * frequency + shift) * [1.0, 1.0, 0.7, 0.7]
    return scaled(waves[:, :2] + waves[:, 2:], amplitude_mm)


def scaled(displacement: Array, amplitude_mm: float) -> Array:
    """The displacements less their mean, at an RMS length of `amplitude_mm`; all zero stays so."""
    centred: Array = displacement - displacement.sum(axis=0) / len(displacement)
    size = rms(centred)
    return centred * (amplitude_mm / size) if size > 0 else centred


def _grid(t: Array) -> Array:
    return np.arange(t[0] - _GRID_S, t[-1] + 2 * _GRID_S, _GRID_S)


def _slow_noise(n: int, correlation_s: float, rng: np.random.Generator) -> Array:
    """Unit-variance noise with a Gaussian-like correlation over `correlation_s`, as knots."""
    step = max(1, round(correlation_s / _GRID_S))
    knots = rng.standard_normal(n // step + 5)
    position = np.arange(n) / step + rng.uniform(0.5, 1.0)
    i = position.astype(np.intp)
    f = position - i
    a, b, c = knots[i], knots[i + 1], knots[i + 2]
    # quadratic B-spline: continuous slope, so the tremor has no kinks
    return 1.3 * (0.5 * (1 - f) ** 2 * a + (0.75 - (f - 0.5) ** 2) * b + 0.5 * f**2 * c)
