"""rvsm.handwriting.tremor: amplitude, frequency and smoothness are what was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.handwriting import tremor
from rvsm.handwriting.tremor import Array

STEP_S = 0.005
SECONDS = np.arange(0, 60, STEP_S)


def power(displacement: Array) -> tuple[Array, Array]:
    """Frequencies in Hz and the power at them, both axes together."""
    window = np.hanning(len(displacement))[:, None]
    spectrum = np.abs(np.fft.rfft(displacement * window, axis=0)) ** 2
    return np.fft.rfftfreq(len(displacement), STEP_S), spectrum.sum(axis=1)


def share(displacement: Array, low: float, high: float) -> float:
    """Share of the power between two frequencies."""
    hertz, strength = power(displacement)
    return float(strength[(hertz >= low) & (hertz <= high)].sum() / strength.sum())


times = st.lists(st.floats(0, 0.2), min_size=2, max_size=60).map(
    lambda steps: np.cumsum(np.array(steps) + 1e-3)
)
seeds = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(times, seeds, st.floats(0.01, 3))
def test_rms_is_exact_and_the_mean_zero(t: Array, seed: int, amplitude: float) -> None:
    moved = tremor.tremor(t, np.random.default_rng(seed), amplitude)
    assert moved.shape == (len(t), 2)
    assert tremor.rms(moved) == pytest.approx(amplitude, rel=1e-9)
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-9 * amplitude)


@settings(max_examples=25, deadline=None)
@given(st.floats(3, 12), seeds)
def test_spectrum_peaks_at_the_frequency(frequency: float, seed: int) -> None:
    moved = tremor.tremor(SECONDS, np.random.default_rng(seed), 1.0, frequency)
    hertz, strength = power(moved)
    smooth = np.convolve(strength, np.hanning(61), mode="same")  # over half a hertz
    assert hertz[smooth.argmax()] == pytest.approx(frequency, rel=0.12)
    assert share(moved, 0.7 * frequency, 1.3 * frequency) > 0.75


def test_second_harmonic() -> None:
    moved = tremor.tremor(SECONDS, np.random.default_rng(0), 1.0, 5.0)
    assert 0.001 < share(moved, 8.5, 11.5) < 0.1
    assert share(moved, 14, 100) < 0.01


def test_motion_is_an_ellipse_that_is_neither_line_nor_circle() -> None:
    second = SECONDS[:200]
    ratios = []
    for seed in range(40):
        moved = tremor.tremor(second, np.random.default_rng(seed), 1.0, 6.0)
        small, large = np.linalg.eigvalsh(np.cov(moved.T))
        ratios.append(np.sqrt(small / large))
    assert 0.3 < float(np.median(ratios)) < 0.8


def test_bursts() -> None:
    moved = tremor.tremor(SECONDS, np.random.default_rng(3), 1.0, 6.0)
    a_second = np.sqrt((moved**2).sum(axis=1).reshape(60, -1).mean(axis=1))
    assert a_second.max() / a_second.min() > 1.4


def test_equal_seeds_give_equal_tremor() -> None:
    first, again, other = (
        tremor.tremor(SECONDS, np.random.default_rng(seed), 0.5) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_no_times_no_displacement() -> None:
    rng = np.random.default_rng(0)
    empty = np.zeros(0)
    for moved in (
        tremor.tremor(empty, rng, 1.0),
        tremor.physiological(empty, rng),
        tremor.waviness(empty, rng, 1.0, 14.0),
    ):
        assert moved.shape == (0, 2)
    assert tremor.rms(np.zeros((0, 2))) == 0.0


def test_one_time_and_no_amplitude_stay_at_rest() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(tremor.tremor(np.zeros(1), rng, 1.0), np.zeros((1, 2)))
    np.testing.assert_array_equal(tremor.tremor(SECONDS, rng, 0.0), np.zeros((len(SECONDS), 2)))


@given(st.floats(0, 1e3), seeds)
def test_frequency_stays_in_the_range_of_kinetic_tremor(amplitude: float, seed: int) -> None:
    assert 4.0 <= tremor.draw_frequency(np.random.default_rng(seed), amplitude) <= 12.0


def test_frequency_falls_with_amplitude_and_differs_between_people() -> None:
    rng = np.random.default_rng(0)
    drawn = {
        amplitude: [tremor.draw_frequency(rng, amplitude) for _ in range(2000)]
        for amplitude in (0.4, 0.7, 1.0)
    }
    medians = {amplitude: float(np.median(values)) for amplitude, values in drawn.items()}
    assert medians[0.4] > medians[0.7] > medians[1.0]
    assert medians[0.7] == pytest.approx(tremor.FREQUENCY_HZ, rel=0.02)
    assert np.std(np.log(drawn[0.7])) == pytest.approx(tremor.FREQUENCY_LOG_SD, rel=0.1)


def test_physiological_noise_is_small_and_fast() -> None:
    moved = [tremor.physiological(SECONDS, np.random.default_rng(seed)) for seed in range(100)]
    sizes = [tremor.rms(m) for m in moved]
    assert float(np.median(sizes)) == pytest.approx(0.03, rel=0.2)
    assert max(sizes) < 0.12
    assert min(share(m, 5.5, 30) for m in moved[:10]) > 0.9


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(7, 30), st.floats(0.05, 1))
def test_waves_are_as_long_as_they_say(seed: int, speed: float, amplitude: float) -> None:
    moved = tremor.waviness(SECONDS, np.random.default_rng(seed), amplitude, speed)
    assert tremor.rms(moved) == pytest.approx(amplitude, rel=1e-9)
    shortest, longest = tremor.WAVELENGTH_MM
    resolution = 3 / 60  # hertz: half the main lobe of the window over a minute
    assert share(moved, speed / longest - resolution, speed / shortest + resolution) > 0.99
