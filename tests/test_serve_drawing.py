"""Drawings of the page: read, brought to the network's scale, measured."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.errors import DataError
from rvsm.experiments.serve.drawing import (
    CSS_PX_PER_MM,
    MAX_POINTS,
    MAX_STROKES,
    Drawing,
    is_dot,
    parse_drawing,
    percent,
    render,
    small_letters_mm,
)
from rvsm.experiments.serve.example import TREMOR_HZ, TREMOR_MM, X_HEIGHT_MM, example
from rvsm.experiments.serve.measure import measure, rested
from rvsm.handwriting.strokes import HersheyCarrier

LINE = [[0, 10, 10], [20, 30, 12], [40, 60, 11]]


def sent(strokes: object, **more: object) -> bytes:
    return json.dumps({"strokes": strokes, **more}).encode()


def drawing_of(*paths: np.ndarray) -> Drawing:
    return Drawing(tuple(paths), CSS_PX_PER_MM)


def slow_line(
    amplitude_mm: float, hz: float, *, seconds: float = 6.0, rate: float = 125.0
) -> Drawing:
    """A line along x with a sine across it of an RMS of `amplitude_mm`."""
    t = np.arange(0, seconds, 1 / rate)
    return drawing_of(
        np.column_stack([t, 12 * t, np.sqrt(2) * amplitude_mm * np.sin(2 * np.pi * hz * t)])
    )


def test_strokes_become_mm_and_seconds() -> None:
    drawing = parse_drawing(sent([LINE, [], [[1000, 5, 5]]], px_per_mm=2))
    first, second = drawing.paths
    assert first.tolist() == [[0, 5, -5], [0.02, 15, -6], [0.04, 30, -5.5]]
    assert second.tolist() == [[1.0, 2.5, -2.5]]
    assert drawing.seconds == 1.0
    assert parse_drawing(sent([LINE])).px_per_mm == pytest.approx(96 / 25.4)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "not JSON"),
        (b"null", "not JSON"),
        (b"{}", "not JSON"),
        (b'{"strokes": [[[0, NaN, 1]]]}', "not JSON"),
        (b'{"strokes": [[[0, -Infinity, 1]]]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (sent([LINE], px_per_mm="wide"), "not JSON"),
        (sent([LINE], px_per_mm=[3]), "not JSON"),
        (b'{"strokes": [[[0, 1e400, 1]]]}', "no numbers"),
        (b'{"strokes": [[[0, 1%s, 1]]]}' % (b"0" * 400), "something else"),
        (b'{"strokes": [[[0, 1%s, 1]]]}' % (b"0" * 5000), "not JSON"),
        (sent([LINE], px_per_mm=0), "no screen"),
        (sent([LINE], px_per_mm=1e9), "no screen"),
        (sent("ink"), "not lists"),
        (sent({"0": LINE}), "not lists"),
        (sent([1, 2]), "not lists"),
        (sent([]), "empty"),
        (sent([[], []]), "empty"),
        (sent([[[0, 1, 2], [1, 2]]]), "something else"),
        (sent([[[0, 1, "x"]]]), "something else"),
        (sent([[[0, 1, None]]]), "no numbers"),
        (sent([[[0, 1]]]), "not \\[ms, x, y\\]"),
        (sent([[1, 2, 3]]), "not \\[ms, x, y\\]"),
        (sent([[[[0, 1, 2]]]]), "not \\[ms, x, y\\]"),
        (sent([[[0, 1e7, 0]]]), "no screen"),
        (sent([[[0, 1, 1], [-5, 2, 2]]]), "backwards"),
        (sent([LINE, LINE]), "backwards"),
        (sent([[[0, 1, 1], [4e9, 2, 2]]]), "longer than an hour"),
        (sent([[[0, 1, 1]] * (MAX_POINTS + 1)]), "beyond 100000"),
        (sent([[[0, 1, 1]]] * (MAX_STROKES + 1)), "beyond 100000 in 2000"),
    ],
)
def test_bad_drawings_are_one_sentence(body: bytes, part: str) -> None:
    with pytest.raises(DataError, match=part) as raised:
        parse_drawing(body)
    assert str(raised.value).endswith(".")
    assert len(str(raised.value)) < 250


def test_dots_are_no_writing() -> None:
    assert is_dot(parse_drawing(sent([[[0, 5, 5]]])))
    assert is_dot(parse_drawing(sent([[[0, 5, 5], [9, 10, 10]]])))
    assert not is_dot(parse_drawing(sent([LINE])))


def word(text: str, x_height_mm: float) -> Drawing:
    """A word of the plain Hershey letters, all of one height where it has neither b nor p."""
    paths, x = [], 0.0
    for glyph in HersheyCarrier("futural", "Hershey Sans").glyphs(text):
        paths += [p * x_height_mm + [x, 0.0] for p in glyph.strokes]
        x += glyph.advance * x_height_mm
    return drawing_of(*(np.column_stack([np.zeros(len(p)), p]) for p in paths))


@pytest.mark.parametrize("text", ["xenon", "hello", "dapple", "quilt", "moving"])
def test_small_letters_are_found(text: str) -> None:
    assert small_letters_mm(word(text, 10.0)) == pytest.approx(10.0, rel=0.2)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-99, 99), st.floats(-99, 99)), min_size=1, max_size=9),
        min_size=1,
        max_size=5,
    )
)
def test_small_letters_against_a_plain_count(strokes: list[list[tuple[float, float]]]) -> None:
    paths = [np.column_stack([np.zeros(len(s)), np.array(s)]) for s in strokes]
    found = small_letters_mm(drawing_of(*paths))
    every = [y for s in strokes for _, y in s]
    height = max(every) - min(every)
    if height == 0:
        assert found == 0
        return
    # Rows as in the fast way, so that rounding decides the same way.
    rows = [(p[:, 2] - min(every)) / height * 96 - 0.5 for p in paths]
    crossed = [
        sum(min(a, b) <= row < max(a, b) for part in rows for a, b in pairwise(part))
        for row in range(96)
    ]
    padded = crossed[:1] * 2 + crossed + crossed[-1:] * 2
    smooth = [sum(padded[i : i + 5]) for i in range(96)]
    runs = "".join("x" if 2 * s >= max(smooth) else " " for s in smooth).split()
    longest = max(map(len, runs), default=0)
    assert found == pytest.approx(height * max(longest / 96, 0.3))


@pytest.mark.parametrize("x_height_mm", [1.5, 6.0, 40.0])
def test_words_come_to_the_scale_of_the_training_images(x_height_mm: float) -> None:
    rendered = render(word("moan", x_height_mm))
    rows = np.flatnonzero((rendered.image < 128).any(axis=1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(20 + 3, abs=2)  # and the pen's width
    assert rendered.scale == pytest.approx(2.5 / x_height_mm, rel=0.1)
    assert abs((rows[0] + rows[-1]) / 2 - 31.5) <= 1


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=9),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.2, 5),
)
def test_any_drawing_fits_at_any_size(
    strokes: list[list[tuple[float, float]]], times: float
) -> None:
    paths = [np.column_stack([np.zeros(len(s)), np.array(s)]) for s in strokes]
    image = render(drawing_of(*paths)).image
    assert image.shape == (64, 256)
    assert (np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]) == 255).all()
    larger = render(drawing_of(*(p * [1, times, times] for p in paths))).image
    extent = np.ptp(np.concatenate(paths), axis=0).max()
    if extent > 1e-3:
        assert np.abs(larger.astype(int) - image).mean() < 1


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 2.0), st.floats(4.5, 9.0), st.sampled_from([60.0, 125.0, 240.0]))
def test_a_known_tremor_is_measured(amplitude: float, hz: float, rate: float) -> None:
    found = measure(slow_line(amplitude, hz, rate=rate))
    assert found.rms_mm == pytest.approx(amplitude, rel=0.08)
    assert found.frequency_hz == pytest.approx(hz, abs=0.25)
    assert (found.reason, found.seconds) == ("", pytest.approx(5.8, abs=0.1))


def test_what_cannot_be_measured_says_why() -> None:
    short = measure(slow_line(0.5, 6, seconds=1.0))
    assert (short.rms_mm, short.frequency_hz) == (None, None)
    assert "too short" in short.reason
    steady = measure(slow_line(0.001, 6))
    assert steady.rms_mm == pytest.approx(0.001, abs=0.002)
    assert steady.frequency_hz is None
    assert "too small" in steady.reason
    slow = measure(slow_line(0.5, 3.2))
    assert slow.frequency_hz is None
    assert "below 4 Hz" in slow.reason
    assert measure(drawing_of(np.zeros((1, 3)))).rms_mm is None


def test_rests_are_filled_and_pauses_cut() -> None:
    path = np.array([[0.0, 0, 0], [0.01, 1, 0], [0.21, 2, 0], [5.0, 3, 0]])
    filled = rested(path)
    gaps = np.diff(filled[:, 0])
    assert gaps[:-1].max() <= 0.031
    assert gaps[-1] > 4
    assert set(filled[:, 1].tolist()) == {0, 1, 2, 3}
    still = filled[(filled[:, 0] > 0.02) & (filled[:, 0] < 0.2)]
    assert (still[:, 1] == 1).all()
    assert len(still) >= 8


def test_examples_are_what_they_say() -> None:
    for kind in ("steady", "shaky"):
        strokes, line = example(kind, np.random.default_rng(3))
        drawing = parse_drawing(sent(strokes, px_per_mm=1))
        found = measure(drawing)
        assert small_letters_mm(drawing) == pytest.approx(X_HEIGHT_MM, rel=0.3)
        assert 0 < line < np.ptp(drawing.points_mm[:, 1])
        if kind == "shaky":
            assert found.rms_mm == pytest.approx(TREMOR_MM, rel=0.15)
            assert found.frequency_hz == pytest.approx(TREMOR_HZ, abs=0.6)
        else:
            assert found.rms_mm is not None
            assert found.rms_mm < 0.25
            assert found.frequency_hz is None


def test_percent_is_never_certain() -> None:
    values = {0.0: "under 0.1 %", 1.0: "over 99.9 %", 0.5: "50 %", 0.376: "37.6 %"}
    assert {value: percent(value) for value in values} == values
