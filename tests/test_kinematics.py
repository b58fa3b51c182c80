"""rvsm.handwriting.kinematics: when the pen is where, at the speed that was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rvsm.handwriting.kinematics import pen_times

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@st.composite
def writings(draw: st.DrawFn) -> tuple[Array, Index]:
    """Strokes of 2 to 12 points within 30 millimetres, which may stand still or turn back."""
    lengths = draw(st.lists(st.integers(2, 12), min_size=1, max_size=5))
    place = st.tuples(st.floats(0, 30), st.floats(0, 8))
    points = draw(st.lists(place, min_size=sum(lengths), max_size=sum(lengths)))
    return np.array(points), np.repeat(np.arange(len(lengths)), lengths)


def segments(points: Array, stroke: Index) -> tuple[Array, NDArray[np.bool_]]:
    """Length of each step in millimetres, and whether it is on paper."""
    step = np.diff(points, axis=0)
    return np.hypot(step[:, 0], step[:, 1]), stroke[1:] == stroke[:-1]


def one_stroke(points: Array) -> Index:
    return np.zeros(len(points), dtype=np.intp)


def arc(radius: float, turns: float = 1.0, spacing: float = 0.1) -> Array:
    """An arc, which starts at the origin and heads to the right."""
    angle = np.arange(0, 2 * np.pi * turns, spacing / radius)
    return radius * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)


@settings(max_examples=100, deadline=None)
@given(writings(), st.floats(1, 100))
def test_time_never_runs_back_and_the_mean_speed_on_paper_is_exact(
    writing: tuple[Array, Index], speed: float
) -> None:
    points, stroke = writing
    t = pen_times(points, stroke, speed)
    assert t.shape == (len(points),)
    assert t[0] == 0
    assert np.isfinite(t).all()
    assert (np.diff(t) >= 0).all()
    length, on_paper = segments(points, stroke)
    seconds = float(np.diff(t)[on_paper].sum())
    assert seconds * speed == pytest.approx(float(length[on_paper].sum()), rel=1e-6, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(writings(), st.floats(1, 100))
def test_pen_lifts_take_time_and_are_fast(writing: tuple[Array, Index], speed: float) -> None:
    points, stroke = writing
    length, on_paper = segments(points, stroke)
    seconds = np.diff(pen_times(points, stroke, speed))[~on_paper]
    np.testing.assert_allclose(seconds, 0.06 + length[~on_paper] / (2.5 * speed), atol=1e-9)


def test_slower_at_both_ends() -> None:
    points = np.stack([np.linspace(0, 10, 101), np.zeros(101)], axis=1)
    step = np.diff(pen_times(points, one_stroke(points), 14.0))
    assert step[0] == pytest.approx(step[-1])
    assert step[0] > 1.7 * step[50]
    np.testing.assert_allclose(step[10:90], step[50])


def test_each_stroke_slows_down_at_its_own_ends() -> None:
    one = np.stack([np.linspace(0, 4, 41), np.zeros(41)], axis=1)
    points = np.concatenate([one, one + np.array([4.0, 0.0])])
    step = np.diff(pen_times(points, np.repeat([0, 1], 41).astype(np.intp), 14.0))
    np.testing.assert_allclose(step[:40], step[41:])
    np.testing.assert_allclose(step[:40], step[39::-1])
    assert step[39] > 1.7 * step[20]


def test_slower_in_curves() -> None:
    straight = np.stack([np.arange(-5, 0, 0.1), np.zeros(50)], axis=1)
    curve = arc(0.5, turns=0.5)
    points = np.concatenate([straight, curve])
    step = np.diff(pen_times(points, one_stroke(points), 14.0))
    length, _ = segments(points, one_stroke(points))
    speed = length / step
    assert speed[55:60].max() < 0.75 * speed[20:40].min()


@pytest.mark.parametrize(("tight", "wide"), [(0.5, 1.0), (1.0, 4.0), (0.6, 3.0)])
def test_two_thirds_power_law(tight: float, wide: float) -> None:
    circles = [arc(tight, turns=2), arc(wide, turns=2)]
    points = np.concatenate(circles)
    stroke = np.repeat([0, 1], [len(c) for c in circles]).astype(np.intp)
    length, _ = segments(points, stroke)
    speed = length / np.diff(pen_times(points, stroke, 14.0))
    middles = [len(circles[0]) // 2, len(circles[0]) + len(circles[1]) // 2]
    law = ((0.3 + 1 / tight) / (0.3 + 1 / wide)) ** (-1 / 3)
    assert speed[middles[0]] / speed[middles[1]] == pytest.approx(law, rel=0.01)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_walk(count: int) -> None:
    points = np.zeros((count, 2))
    np.testing.assert_array_equal(pen_times(points, one_stroke(points), 14.0), np.zeros(count))


def test_a_pen_that_stands_still() -> None:
    points = np.zeros((5, 2))
    np.testing.assert_array_equal(pen_times(points, one_stroke(points), 14.0), np.zeros(5))
