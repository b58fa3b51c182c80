"""rvsm.handwriting.render: ink where it is asked for, as wide as it is asked for."""

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rvsm.handwriting.render import HEIGHT, WIDTH, draw_outline, draw_strokes, fill_mask

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


def ink(image: Image) -> Array:
    """Coverage of each pixel, 0 to 1."""
    return 1 - image.astype(np.float64) / 255


def square(left: float, bottom: float, side: float, *, clockwise: bool = False) -> Array:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * side + [left, bottom]
    return corners[::-1] if clockwise else corners


def group(*parts: Array) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(parts)), [len(p) for p in parts])


def line(*points: tuple[float, float], pen: float = 4.0) -> Image:
    path = np.array(points, dtype=float)
    return draw_strokes(path, group(path), pen)


def test_shape_type_and_paper() -> None:
    image = line((50, 32), (200, 32))
    assert image.shape == (HEIGHT, WIDTH) == (64, 256)
    assert image.dtype == np.uint8
    assert image[0, 0] == 255
    assert image[32, 100] == 0


def test_y_points_upwards() -> None:
    assert line((50, 10), (200, 10))[53:55, 100].max() == 0
    assert line((50, 10), (200, 10))[10, 100] == 255


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 14), st.floats(20, 44), st.floats(-0.2, 0.2))
def test_the_pen_is_as_wide_as_asked(pen: float, height: float, slope: float) -> None:
    end = height + slope * 40 + 0.13  # never quite level: level lines are snapped to pixels
    covered = ink(line((100, height), (140, end), pen=pen))[:, 115:125].sum(axis=0)
    angle = np.arctan2(end - height, 40)
    np.testing.assert_allclose(covered * np.cos(angle), pen, atol=0.12)


def test_the_pen_is_round() -> None:
    dot = ink(line((100, 32), (100.01, 32.01), pen=20))
    assert dot.sum() == pytest.approx(np.pi * 100, rel=0.02)
    row, column = np.nonzero(dot > 0.5)
    assert np.hypot(row + 0.5 - 32, column + 0.5 - 100).max() < 10.5


def test_the_pen_is_lifted_between_strokes() -> None:
    first, second = np.array([[20.0, 32], [60, 33]]), np.array([[120.0, 32], [160, 33]])
    image = draw_strokes(np.concatenate([first, second]), group(first, second), 4.0)
    assert (image[:, 65:115] == 255).all()
    assert image[32, 40] < 50
    assert image[32, 140] < 50


def test_ink_beyond_the_edge_is_cut_off() -> None:
    image = line((-50, 31), (300, 33))
    assert image.shape == (64, 256)
    assert (ink(image).sum(axis=0) > 3.5).all()


def test_an_outline_is_filled_but_for_its_hole() -> None:
    rim, hole = square(40.3, 10.3, 40), square(50.3, 20.3, 20, clockwise=True)
    image = draw_outline(np.concatenate([rim, hole]), group(rim, hole))
    assert image[32, 45] == 0
    assert image[34, 60] == 255
    assert ink(image).sum() == pytest.approx(40**2 - 20**2, rel=0.02)


def test_overlapping_contours_of_one_direction_make_no_hole() -> None:
    one, other = square(40.3, 10.3, 30), square(55.3, 15.3, 30)
    image = draw_outline(np.concatenate([one, other]), group(one, other))
    assert image[34, 62] == 0


@pytest.mark.parametrize("grow", [0.5, 1.0, 2.5])
def test_growing_adds_a_rim_all_round(grow: float) -> None:
    rim = square(40.0, 10.0, 40) @ np.array([[1, 0.03], [-0.03, 1]])
    thin, bold = (ink(draw_outline(rim, group(rim), g)).sum() for g in (0.0, grow))
    side = 40 * np.hypot(1, 0.03)
    assert bold - thin == pytest.approx(4 * side * grow + np.pi * grow**2, rel=0.03)


def test_an_image_outlives_the_next_one() -> None:
    first = line((50, 10), (200, 12))
    kept = first.copy()
    line((50, 50), (200, 52), pen=9)
    np.testing.assert_array_equal(first, kept)


def test_a_users_plot_settings_do_not_change_images() -> None:
    x = np.linspace(20, 230, 400)
    path = np.stack([x, 32 + 10 * np.sin(x / 5)], axis=1)
    plain = draw_strokes(path, group(path), 3.0)
    settings_of_a_user = {
        "path.simplify": False,
        "path.simplify_threshold": 1.0,
        "path.snap": False,
        "path.sketch": (5.0, 10.0, 2.0),
        "lines.antialiased": False,
    }
    with mpl.rc_context(settings_of_a_user):
        np.testing.assert_array_equal(draw_strokes(path, group(path), 3.0), plain)


def test_masks_start_at_the_lower_edge() -> None:
    mask = fill_mask([square(2, 1, 10), square(4, 3, 4, clockwise=True)], (20, 30))
    assert mask.shape == (20, 30)
    assert mask.dtype == np.bool_
    assert mask[1:11, 2:12].sum() == mask.sum() == 10**2 - 4**2
    assert not mask[4, 5]
