"""rvsm.handwriting.morphology and ranks: what scipy and NumPy compute, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from rvsm.handwriting import morphology
from rvsm.handwriting.ranks import median, quantile
from rvsm.handwriting.scans.paper import shrunk
from rvsm.handwriting.scans.skew import crowding

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 24)))
BOXES = st.tuples(st.integers(1, 9), st.integers(1, 9))
TWINS = {
    "eroded": ndimage.binary_erosion,
    "dilated": ndimage.binary_dilation,
    "opened": ndimage.binary_opening,
    "closed": ndimage.binary_closing,
}


@pytest.mark.parametrize("name", TWINS)
@given(mask=MASKS, box=BOXES)
def test_boxes_are_scipys(name: str, mask: np.ndarray, box: tuple[int, int]) -> None:
    found = getattr(morphology, name)(mask, box)
    np.testing.assert_array_equal(found, TWINS[name](mask, np.ones(box)))


@pytest.mark.parametrize("name", TWINS)
def test_a_box_larger_than_the_mask(name: str) -> None:
    mask = np.random.default_rng(0).random((5, 9)) < 0.7
    for box in ((1, 48), (12, 1), (6, 10)):
        found = getattr(morphology, name)(mask, box)
        np.testing.assert_array_equal(found, TWINS[name](mask, np.ones(box)))


@given(mask=MASKS, steps=st.integers(1, 4))
def test_spreading_is_scipys(mask: np.ndarray, steps: int) -> None:
    before = mask.copy()
    expected = ndimage.binary_dilation(mask, iterations=steps)
    np.testing.assert_array_equal(morphology.spread(mask, steps), expected)
    np.testing.assert_array_equal(mask, before)


def slow_depths(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask]


@given(mask=MASKS)
def test_depths_are_scipys(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(morphology.depths(mask), slow_depths(mask))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 80), width=st.integers(1, 80), seed=st.integers(0, 99))
def test_depths_of_areas_and_strokes(height: int, width: int, seed: int) -> None:
    """Areas deeper than the fast way reaches, whole masks, and areas with few holes."""
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) > rng.choice([0.0, 0.001, 0.01, 0.1])
    np.testing.assert_array_equal(morphology.depths(mask), slow_depths(mask))


@given(
    values=arrays.arrays(
        np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
    ),
    share=st.floats(0.0, 1.0),
)
def test_ranks_are_numpys(values: np.ndarray, share: float) -> None:
    assert median(values) == np.median(values)
    assert quantile(values, share) == np.quantile(values, share)


@settings(max_examples=10, deadline=None)
@given(count=st.integers(65530, 65545), seed=st.integers(0, 9), share=st.floats(0.0, 1.0))
def test_ranks_of_many(count: int, seed: int, share: float) -> None:
    """About the number from which values are partitioned, not sorted; many are equal or none."""
    rng = np.random.default_rng(seed)
    for values in (rng.random(count), np.maximum(rng.normal(size=count), 0.0)):
        assert median(values) == np.median(values)
        assert quantile(values, share) == np.quantile(values, share)


def test_ranks_of_pixels() -> None:
    """Eight-bit values are not added in eight bits."""
    grey = np.array([[200, 201], [255, 250]], dtype=np.uint8)
    assert median(grey) == np.median(grey) == 225.5
    assert quantile(grey, 0.6) == np.quantile(grey, 0.6)


@given(
    count=st.integers(50, 300), seed=st.integers(0, 99), bin_size=st.sampled_from([1.0, 1.4, 2.0])
)
def test_crowding_by_one_angle_at_a_time(count: int, seed: int, bin_size: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, count), rng.integers(0, 64, count)
    angles = rng.uniform(-15, 15, 7)
    expected = []
    for degrees in angles:
        angle = np.deg2rad(degrees)
        across = (y * np.cos(angle) + x * np.sin(angle)) / bin_size
        counts = np.bincount((across - across.min()).astype(int))
        expected.append(float((counts.astype(np.float64) ** 2).sum()))
    np.testing.assert_array_equal(crowding(x, y, angles, bin_size), expected)


@given(
    grey=arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))),
    most=st.integers(2, 12),
    bright=st.booleans(),
)
def test_blocks_are_means_or_means_of_the_brightest(
    grey: np.ndarray, most: int, bright: bool
) -> None:
    step = -(-max(grey.shape) // most)
    height, width = (-(-side // step) for side in grey.shape)
    missing = ((0, height * step - grey.shape[0]), (0, width * step - grey.shape[1]))
    blocks = np.pad(grey, missing, mode="edge").reshape(height, step, width, step)
    expected = blocks.max(axis=3).mean(axis=1) if bright else blocks.mean(axis=(1, 3))
    np.testing.assert_array_equal(shrunk(grey, most, bright=bright), expected)
