"""rvsm.handwriting.strokes: fonts and writers, and the glyphs they draw."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rvsm.errors import DataError
from rvsm.handwriting.fonts import bundled_fonts
from rvsm.handwriting.strokes import (
    CONTOUR_SPACING,
    HERSHEY_FAMILIES,
    SPACING,
    Carrier,
    Glyph,
    HersheyCarrier,
    RecordedCarrier,
    _pixels,
    _unbroken,
    carriers,
    is_sketched,
    resample,
    skeleton_of,
)

Array = NDArray[np.float64]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäöüßÄÖÜ"


@lru_cache
def all_of(task: str) -> tuple[Carrier, ...]:
    return tuple(carriers(task))


def letter(x: float = 0.0) -> Glyph:
    return Glyph((np.array([[x, 0.0], [x, 1.0]]),), advance=0.7)


@pytest.mark.parametrize("task", ["fonts", "pen"])
def test_families_enough_for_25_to_train_and_8_unseen(task: str) -> None:
    found = all_of(task)
    assert len({carrier.family for carrier in found}) >= 33
    assert len({carrier.name for carrier in found}) == len(found)


def test_fonts_are_printed_and_pens_are_written() -> None:
    assert {c.kind for c in all_of("fonts")} == {"hershey", "outline"}
    assert {c.kind for c in all_of("pen")} == {"hershey", "skeleton"}
    single = {c.name for c in all_of("fonts") if c.kind == "hershey"}
    assert single == {f"hershey-{font}" for font in HERSHEY_FAMILIES.values()}


def test_folders_and_recordings_are_added(tmp_path: Path) -> None:
    (tmp_path / "Mine.ttf").write_bytes(b"not opened before it is used")
    writer = RecordedCarrier("anna", "anna", {"a": letter()})
    found = carriers("pen", [tmp_path], [writer])
    assert found[-1] is writer
    assert found[-2].name == "Mine"
    assert len(found) == len(all_of("pen")) + 2


def test_unknown_task_and_recordings_among_fonts() -> None:
    with pytest.raises(DataError, match="unknown task 'typewriter'; choose fonts or pen"):
        carriers("typewriter")
    with pytest.raises(DataError, match="--task pen"):
        carriers("fonts", recorded=[RecordedCarrier("anna", "anna", {})])


@pytest.mark.parametrize("carrier", all_of("pen"), ids=lambda c: c.name)
def test_glyphs_have_the_ink_that_draws_promises(carrier: Carrier) -> None:
    claimed = [c for c in LETTERS if carrier.draws(c)]
    assert len(claimed) >= 52
    for char in claimed[:: 1 if carrier.kind == "hershey" else 9]:
        (glyph,) = carrier.glyphs(char)
        assert glyph.strokes, char
        assert 0.05 < glyph.advance < 5
        assert glyph.contours == ()
        assert len(glyph.nearest) == 0
        for stroke in glyph.strokes:
            assert stroke.shape == (len(stroke), 2)
            assert len(stroke) >= 2
            assert np.isfinite(stroke).all()
            assert np.abs(stroke).max() < 6
        reach = np.ptp(np.concatenate(glyph.strokes), axis=0)
        assert reach.max() > 0.3, char


@pytest.mark.parametrize("name", ["DejaVuSans", "GreatVibes-Regular", "Roboto-Thin"])
def test_outlines_follow_their_nearest_stroke_points(name: str) -> None:
    carrier = next(c for c in all_of("fonts") if c.name == name)
    for glyph in carrier.glyphs("agiB"):
        points, rim = np.concatenate(glyph.strokes), np.concatenate(glyph.contours)
        assert len(glyph.nearest) == len(rim)
        distance = np.hypot(*(rim[:, None] - points[None]).transpose(2, 0, 1))
        chosen = distance[np.arange(len(rim)), glyph.nearest]
        np.testing.assert_allclose(chosen, distance.min(axis=1))
        assert chosen.max() < 0.6
        for contour in glyph.contours:
            gaps = np.hypot(*np.diff(contour, axis=0).T)
            assert gaps.max() <= CONTOUR_SPACING * 1.001


def test_glyphs_stand_on_the_line_and_x_is_one_high() -> None:
    for carrier in all_of("fonts"):
        (glyph,) = carrier.glyphs("x")
        y = np.concatenate(glyph.contours or glyph.strokes)[:, 1]
        assert y.max() == pytest.approx(1, abs=0.01), carrier.name
        assert abs(y.min()) < 0.35, carrier.name


def test_spaces_are_room_without_ink() -> None:
    for carrier in (all_of("fonts")[0], all_of("fonts")[-1]):
        assert carrier.draws("a b")
        first, space, last = carrier.glyphs("a b")
        assert first.strokes
        assert last.strokes
        assert space.strokes == ()
        assert space.advance > 0.5


def test_a_glyph_is_traced_once() -> None:
    carrier = all_of("pen")[-1]
    assert carrier.glyphs("a")[0] is carrier.glyphs("banana")[1]


def test_hershey_does_not_claim_umlauts() -> None:
    carrier = HersheyCarrier("futural", "Hershey Sans")
    assert carrier.draws("Strasse")
    assert not carrier.draws("Straße")


def test_recordings_of_letters_words_and_both() -> None:
    writer = RecordedCarrier("anna", "anna", {"a": letter(1), "n": letter(2), "hello": letter(3)})
    assert writer.draws("hello")
    assert writer.draws("anna an hello")
    assert not writer.draws("hell")
    assert not writer.draws("hello you")
    where = [g.strokes[0][0, 0] if g.strokes else None for g in writer.glyphs("na hello")]
    assert where == [2, 1, None, 3]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=10),
    st.floats(0.02, 2),
)
def test_resampled_paths_keep_their_ends_and_are_even(
    corners: list[tuple[float, float]], spacing: float
) -> None:
    path = np.array(corners)
    even = resample(path, spacing)
    np.testing.assert_allclose(even[[0, -1]], path[[0, -1]], atol=1e-9)
    assert np.hypot(*np.diff(even, axis=0).T).max() <= spacing * (1 + 1e-6)
    length = np.hypot(*np.diff(path, axis=0).T).sum()
    assert len(even) == max(2, int(np.ceil(length / spacing)) + 1)


def test_the_skeleton_of_a_bar_is_its_middle_line_in_its_own_units() -> None:
    bar = np.array([[3.0, -1.0], [6.0, -1.0], [6.0, -0.8], [3.0, -0.8], [3.0, -1.0]])
    (path,) = skeleton_of([bar])
    np.testing.assert_allclose(path[:, 1], -0.9, atol=0.05)
    assert path[:, 0].min() == pytest.approx(3.1, abs=0.15)
    assert path[:, 0].max() == pytest.approx(5.9, abs=0.15)
    assert SPACING < 0.2


def test_a_hairline_thinner_than_a_pixel_is_one_path_and_thick_ink_gets_no_rim() -> None:
    def slanting(width: float) -> list[NDArray[np.float64]]:
        corners = [[0.0, 0.0], [width, 0.0], [0.7 + width, 1.3], [0.7, 1.3], [0.0, 0.0]]
        return [np.array(corners)]

    (path,) = skeleton_of(slanting(0.015))
    along = path @ [0.7, 1.3] / np.hypot(0.7, 1.3)
    assert along.max() - along.min() == pytest.approx(np.hypot(0.7, 1.3), abs=0.15)
    for width in (0.1, 0.3):
        plain, _ = _pixels(slanting(width), 32.0)
        np.testing.assert_array_equal(_unbroken(slanting(width))[0], plain)


def bars(count: int) -> list[NDArray[np.float64]]:
    """A lattice of so many bars each way: (count - 1)^2 holes."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.06], [0.0, 0.06], [0.0, 0.0]])
    lying = [corners + np.array([0.0, place]) for place in np.linspace(0, 0.94, count)]
    return lying + [bar[::-1, ::-1] for bar in lying]


@pytest.mark.parametrize(("count", "sketched"), [(2, False), (5, True)])
def test_letters_of_many_crossing_lines_are_a_sketch(
    count: int, sketched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(iter(bundled_fonts()))
    assert not is_sketched(file)
    monkeypatch.setattr(type(file), "contours", lambda self, char: bars(count))
    assert is_sketched(file) is sketched


def test_a_speck_too_small_for_a_skeleton_is_a_point_at_its_middle() -> None:
    speck = np.array([[0.0, 0.0], [1e-4, 0.0], [1e-4, 1e-4], [0.0, 0.0]])
    paths = skeleton_of([speck])
    for path in paths:
        assert len(path) >= 2
        np.testing.assert_allclose(path, 0, atol=0.1)
