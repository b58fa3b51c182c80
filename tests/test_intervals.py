"""Intervals of shares."""

import numpy as np
import pytest

from rvsm.handwriting.intervals import wilson


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), Table I, method 3: 81 of 263, and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_matches_the_textbook() -> None:
    low, high = wilson(np.array([0.9, 1.0]), np.array([100.0, 10.0]))
    assert low == pytest.approx([0.8256, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.9448, 1.0], abs=1e-4)
