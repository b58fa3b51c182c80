"""rvsm.handwriting.differences: what is planted is found, to the digit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvsm.handwriting.differences import differences, numbers, total_variation
from rvsm.handwriting.manifest import Row


def rows(n: int = 400) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(
            f"{i}.png",
            "train",
            ("regular", "shaky")[i % 2],
            ("one", "two words")[i % 4 // 2],
            f"font{rng.integers(5)}",
            tremor_amplitude_mm=0.7 * (i % 2),
            x_height_mm=2.5 + rng.normal() + 0.8 * (i % 2),
            pen_mm=0.3,
        )
        for i in range(n)
    ]


def test_a_planted_difference_is_measured() -> None:
    found = {d.column: d for d in differences(rows())}
    assert sorted(found) == ["carrier", "letters", "text", "words", "x_height_mm"]
    heights = [(r.x_height_mm, r.label == "shaky") for r in rows()]
    shaky, regular = ([h for h, s in heights if s is which] for which in (True, False))
    expected = (np.mean(shaky) - np.mean(regular)) / np.std([h for h, _ in heights])
    assert found["x_height_mm"].value == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert found["letters"].value == found["words"].value == found["text"].value == 0
    assert found["letters"].chance == pytest.approx(0.08, abs=0.001)
    assert found["carrier"].value < 2 * found["carrier"].chance


def test_a_font_that_goes_with_a_class_is_seen() -> None:
    telling = [replace(row, carrier=f"font-{row.label}") for row in rows()]
    found = {d.column: d for d in differences(telling)}
    assert found["carrier"].value == 1
    assert found["carrier"].chance < 0.1


def test_a_split_of_one_class_and_empty_columns_are_left_out() -> None:
    assert differences([Row("a.png", "train", "shaky", "a")]) == []
    assert differences([Row("a", "train", "shaky"), Row("b", "train", "regular")]) == []
    assert list(numbers([Row("a", "all", "shaky", "ab c"), Row("b", "all", "shaky", "d")])) == [
        "letters",
        "words",
    ]


@given(st.lists(st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4), min_size=1))
def test_total_variation_is_the_largest_difference_of_any_event(a: list[int], b: list[int]) -> None:
    first, second = np.array(a, dtype=np.intp), np.array(b, dtype=np.intp)
    events = (np.array([bool(k >> i & 1) for i in range(5)]) for k in range(32))
    largest = max(abs(e[first].mean() - e[second].mean()) for e in events)
    assert total_variation(first, second) == pytest.approx(largest)
