"""rvsm.handwriting.skeleton: paths run down the middle of the ink, as a pen would go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from rvsm.handwriting.skeleton import pen_paths

Array = NDArray[np.float64]
Ink = NDArray[np.bool_]


def blank() -> Ink:
    return np.zeros((80, 80), dtype=bool)


def extent(path: Array) -> Array:
    return np.asarray(np.ptp(path, axis=0))


def test_a_bar_is_one_path_from_left_to_right() -> None:
    ink = blank()
    ink[38:43, 10:71] = True
    (path,) = pen_paths(ink, min_spur=8)
    np.testing.assert_allclose(path[:, 1], 40, atol=1)
    assert (np.diff(path[:, 0]) > 0).all()
    assert path[0, 0] < 15
    assert path[-1, 0] > 65


def test_an_upright_bar_begins_at_its_low_row() -> None:
    ink = blank()
    ink[10:71, 38:43] = True
    (path,) = pen_paths(ink, min_spur=8)
    np.testing.assert_allclose(path[:, 0], 40, atol=1)
    assert path[0, 1] < 15
    assert path[-1, 1] > 65


def test_a_cross_is_two_paths_that_go_straight_on() -> None:
    ink = blank()
    ink[38:43, 10:71] = True
    ink[10:71, 38:43] = True
    first, second = pen_paths(ink, min_spur=8)
    across, down = (first, second) if extent(first)[0] > 30 else (second, first)
    assert extent(across)[0] > 50
    assert extent(across)[1] < 4
    assert extent(down)[1] > 50
    assert extent(down)[0] < 4


def test_a_tee_keeps_its_bar_whole() -> None:
    ink = blank()
    ink[10:15, 10:71] = True
    ink[10:71, 38:43] = True
    paths = pen_paths(ink, min_spur=8)
    assert len(paths) == 2
    assert sorted(int(extent(p).argmax()) for p in paths) == [0, 1]
    assert min(extent(p).max() for p in paths) > 45


def test_a_ring_is_one_closed_path() -> None:
    row, column = np.mgrid[:80, :80]
    radius = np.hypot(row - 40, column - 40)
    (path,) = pen_paths((radius > 22) & (radius < 28), min_spur=8)
    np.testing.assert_allclose(np.hypot(*(path - 40).T), 25, atol=1.5)
    assert np.hypot(*(path[0] - path[-1])) < 2
    angle = np.unwrap(np.arctan2(*(path - 40).T))
    assert abs(angle[-1] - angle[0]) == pytest.approx(2 * np.pi, rel=0.03)


def test_short_spurs_are_cut_and_long_ones_kept() -> None:
    ink = blank()
    ink[40, 5:76] = True
    ink[34:40, 30] = True
    ink[15:40, 55] = True
    kept = pen_paths(ink, min_spur=10)
    assert len(kept) == 2
    assert not any((np.abs(p - [30, 35]).max(axis=1) < 2).any() for p in kept)
    assert len(pen_paths(ink, min_spur=2)) == 3


def test_separate_marks_come_in_the_order_of_writing() -> None:
    ink = blank()
    for left in (60, 10, 35):
        ink[20:60, left : left + 4] = True
    starts = [path[0, 0] for path in pen_paths(ink, min_spur=8)]
    assert len(starts) == 3
    assert starts == sorted(starts)


def test_a_dot_is_a_path_and_no_ink_is_none() -> None:
    ink = blank()
    assert pen_paths(ink, min_spur=8) == []
    ink[40, 30] = True
    (path,) = pen_paths(ink, min_spur=8)
    np.testing.assert_allclose(path, [[30, 40], [30, 40]])


rectangles = st.lists(
    st.tuples(st.integers(2, 60), st.integers(2, 60), st.integers(3, 18), st.integers(3, 18)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(rectangles)
def test_paths_stay_in_the_ink_and_no_part_is_lost(boxes: list[tuple[int, int, int, int]]) -> None:
    ink = blank()
    for top, left, height, width in boxes:
        ink[top : top + height, left : left + width] = True
    points = np.concatenate(pen_paths(ink, min_spur=0))
    column, row = np.rint(points).astype(int).T
    assert (distance_transform_edt(~ink)[row, column] <= 1).all()
    drawn = np.ones_like(ink)
    drawn[row, column] = False
    assert distance_transform_edt(drawn)[ink].max() <= 14  # half a diagonal of the largest box
