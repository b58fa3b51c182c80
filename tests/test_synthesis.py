"""rvsm.handwriting.synthesis: two classes that differ in their tremor and in nothing else."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from rvsm.errors import DataError
from rvsm.handwriting import synthesis, texts, tremor
from rvsm.handwriting.render import PIXELS_PER_MM
from rvsm.handwriting.strokes import SPACING, Glyph, carriers, resample
from rvsm.handwriting.synthesis import SPEED_MM_S, X_HEIGHT_MM, Generator, Sample

Array = NDArray[np.float64]
TASKS = ("fonts", "pen")
seeds = st.integers(0, 2**32)


@dataclass
class Bars:
    """A font whose every letter is an upright bar with a foot, one x-height high."""

    name: str = "bars"
    family: str = "bars"
    kind: str = "skeleton"

    def draws(self, text: str) -> bool:
        return text.isascii()

    def glyphs(self, text: str) -> list[Glyph]:
        bar = resample(np.array([[0.1, 1.0], [0.1, 0.0], [0.6, 0.0]]), SPACING)
        return [Glyph((), 0.9) if c == " " else Glyph((bar,), 0.7) for c in text]


@dataclass(frozen=True)
class Drawn:
    """What is put together for a drawing: points in millimetres and how far they are moved."""

    points: Array
    displacement: Array
    pen_mm: float


@lru_cache
def generator(task: str) -> Generator:
    """A few fonts and words: enough to be real, few enough to be fast."""
    return Generator(task, carriers(task)[::9], texts.words()[::60])


def draw(task: str, seed: int, *, shaky: bool, amplitude_mm: float = 0.6) -> Sample:
    return generator(task).sample(
        np.random.default_rng(seed), shaky=shaky, amplitude_mm=amplitude_mm
    )


@lru_cache
def pairs(task: str) -> list[tuple[Sample, Sample]]:
    """Regular and shaky images of the same seeds."""
    return [(draw(task, s, shaky=False), draw(task, s, shaky=True)) for s in range(120)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """Every drawing of the test, with those that did not fit: the last one is the latest image."""
    seen: list[Drawn] = []
    original = synthesis._displaced

    def spy(layout: Any, displacement: Array, pen_mm: float) -> Any:
        seen.append(Drawn(layout.points, displacement, pen_mm))
        return original(layout, displacement, pen_mm)

    monkeypatch.setattr(synthesis, "_displaced", spy)
    return seen


def box(image: NDArray[np.uint8]) -> Array:
    """Left, upper, right and lower edge of the ink, pixels."""
    rows, columns = np.nonzero(image < 128)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shaky", [False, True])
def test_equal_seeds_give_equal_images(task: str, shaky: bool) -> None:
    first, again, other = (draw(task, seed, shaky=shaky) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.text, first.carrier, first.meta) == (again.text, again.carrier, again.meta)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("task", TASKS)
def test_images_do_not_depend_on_those_before(task: str) -> None:
    fonts, words = carriers(task)[::20], texts.words()[::200]
    fresh = Generator(task, fonts, words)
    used = Generator(task, fonts, words)
    for seed in range(3):
        used.sample(np.random.default_rng(seed), shaky=True, amplitude_mm=0.5)
    one, other = (
        g.sample(np.random.default_rng(9), shaky=True, amplitude_mm=0.5) for g in (fresh, used)
    )
    np.testing.assert_array_equal(one.image, other.image)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(TASKS), seeds, st.booleans(), st.floats(0.05, 1.2))
def test_labels_and_numbers(task: str, seed: int, shaky: bool, amplitude: float) -> None:
    sample = draw(task, seed, shaky=shaky, amplitude_mm=amplitude)
    meta = sample.meta
    assert sample.image.shape == (64, 256)
    assert sample.image.dtype == np.uint8
    assert meta["tremor_amplitude_mm"] == (amplitude if shaky else 0)
    assert meta["virtual_amplitude_mm"] == amplitude
    if shaky:
        assert 4 <= meta["tremor_frequency_hz"] <= 12
    else:
        assert meta["tremor_frequency_hz"] == 0
    assert 0.7 * X_HEIGHT_MM <= meta["x_height_mm"] <= 1.3 * X_HEIGHT_MM
    assert 0.03 < meta["pen_mm"] < 0.6 * meta["x_height_mm"]
    assert 0.5 < meta["speed_mm_s"] / SPEED_MM_S < 2
    assert abs(meta["slant_deg"]) <= 25
    assert all(type(value) is float for value in meta.values())


@pytest.mark.parametrize("task", TASKS)
def test_texts_and_carriers_are_those_given(task: str) -> None:
    words = set(texts.words()[::60])
    names = {carrier.name for carrier in carriers(task)[::9]}
    for sample in (sample for pair in pairs(task) for sample in pair):
        assert set(sample.text.split(" ")) <= words
        assert sample.carrier in names
    assert len({sample.carrier for sample, _ in pairs(task)}) == len(names)
    assert any(" " in sample.text for sample, _ in pairs(task))


@pytest.mark.parametrize("task", TASKS)
def test_what_a_tremor_does_to_the_picture_is_shared_out(task: str) -> None:
    alike = [
        (regular.meta, shaky.meta)
        for regular, shaky in pairs(task)
        if regular.meta["slant_deg"] == shaky.meta["slant_deg"]
    ]
    assert len(alike) > 0.7 * len(pairs(task))  # the others did not fit in one class
    for regular, shaky in alike:
        same = ("virtual_amplitude_mm", "x_height_mm", "speed_mm_s")
        assert [regular[name] for name in same] == [shaky[name] for name in same]
        assert 0.3 < shaky["pen_mm"] / regular["pen_mm"] < 4


@pytest.mark.parametrize("task", TASKS)
def test_the_line_of_writing_drifts_until_a_steady_text_is_as_tall(task: str) -> None:
    tall = np.array([[np.ptp(box(image.image)[1::2]) for image in pair] for pair in pairs(task)])
    assert np.median(tall[:, 0] / tall[:, 1]) == pytest.approx(1, abs=0.1)


def test_letters_leave_the_line_in_one_piece_and_never_steeply() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        letters = np.sort(rng.uniform(0, rng.uniform(6, 30), 8))
        place, y = np.repeat(letters, 25), rng.uniform(0, 2, 200)
        drift = synthesis._drift(place, y, 9.0, rng)
        assert not drift[:, 0].any()
        assert not np.ptp(drift.reshape(8, 25, 2), axis=1).any()
        steps = np.abs(np.diff(drift[::25, 1]))
        assert np.all(steps <= 0.6 * np.diff(letters) + 1e-9)
        assert 2.0 < np.ptp(y + drift[:, 1]) <= 9.0


def test_a_letter_is_moved_by_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Array] = []
    original = synthesis._drift

    def spy(place: Array, *rest: Any) -> Array:
        seen.append(place)
        return original(place, *rest)

    monkeypatch.setattr(synthesis, "_drift", spy)
    bars = Generator("pen", [Bars()], ["iiiiii"])
    for shaky in (False, True):
        bars.sample(np.random.default_rng(1), shaky=shaky, amplitude_mm=0.5)
        letters = seen[-1].reshape(6, -1)
        assert not np.ptp(letters, axis=1).any()
        assert np.all(np.diff(letters[:, 0]) > 0)


@pytest.mark.parametrize("task", TASKS)
def test_both_classes_share_sizes_and_positions(task: str) -> None:
    regular, shaky = (np.array([box(pair[k].image) for pair in pairs(task)]) for k in (0, 1))
    for edge in range(4):
        assert ks_2samp(regular[:, edge], shaky[:, edge]).pvalue > 0.01


@pytest.mark.parametrize("task", TASKS)
def test_no_ink_touches_the_edge(task: str) -> None:
    for pair in pairs(task):
        for sample in pair:
            frame = np.concatenate(
                [sample.image[[0, -1]].ravel(), sample.image[:, [0, -1]].ravel()]
            )
            assert frame.min() > 128
            assert np.ptp(box(sample.image)[[0, 2]]) > 4 * PIXELS_PER_MM


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(TASKS), seeds, st.floats(0.05, 1.2))
def test_the_amplitude_written_is_the_amplitude_drawn(
    task: str, seed: int, amplitude: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("physiological", "waviness"):
            patch.setattr(tremor, name, lambda t, *_: np.zeros((len(t), 2)))
        patch.setattr(synthesis, "_drift", lambda place, *_: np.zeros((len(place), 2)))
        seen: list[Array] = []
        original = synthesis._displaced

        def spy(layout: Any, displacement: Array, *rest: Any) -> Any:
            seen.append(displacement)
            return original(layout, displacement, *rest)

        patch.setattr(synthesis, "_displaced", spy)
        sample = draw(task, seed, shaky=True, amplitude_mm=amplitude)
    assert tremor.rms(seen[-1]) == pytest.approx(sample.meta["tremor_amplitude_mm"], rel=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_steady_hands_wave_the_same_whatever_the_amplitude(
    task: str, drawn: list[Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "_drift", lambda place, *_: np.zeros((len(place), 2)))
    sizes: dict[float, list[float]] = {0.1: [], 1.0: []}
    for amplitude, found in sizes.items():
        for seed in range(60):
            draw(task, seed, shaky=False, amplitude_mm=amplitude)
            found.append(tremor.rms(drawn[-1].displacement))
    assert max(sizes[0.1] + sizes[1.0]) < 0.7
    assert np.mean(sizes[0.1]) == pytest.approx(np.mean(sizes[1.0]), rel=0.15)


def test_x_height_is_what_is_written(drawn: list[Drawn]) -> None:
    bars = Generator("fonts", [Bars()], ["iiiiii", "iiiiiiii"])
    heights = []
    for seed in range(100):
        sample = bars.sample(np.random.default_rng(seed), shaky=True, amplitude_mm=0.3)
        first = drawn[-1].points[: len(Bars().glyphs("i")[0].strokes[0])]
        bar = first[0, 1] - first[: len(first) * 2 // 3 + 1, 1].min()
        assert bar == pytest.approx(sample.meta["x_height_mm"], rel=0.04)  # turned by 3 degrees
        heights.append(sample.meta["x_height_mm"])
    assert min(heights) < 0.8 * X_HEIGHT_MM
    assert max(heights) > 1.2 * X_HEIGHT_MM
    assert float(np.exp(np.mean(np.log(heights)))) == pytest.approx(
        X_HEIGHT_MM * 0.91**0.5, rel=0.06
    )


@pytest.mark.parametrize("shaky", [False, True])
def test_eight_pixels_are_a_millimetre(shaky: bool, drawn: list[Drawn]) -> None:
    bars = Generator("pen", [Bars()], ["iiiiii"])
    for seed in range(20):
        sample = bars.sample(np.random.default_rng(seed), shaky=shaky, amplitude_mm=0.5)
        last = drawn[-1]
        wanted = np.ptp(last.points + last.displacement, axis=0) + last.pen_mm
        left, upper, right, lower = box(sample.image)
        np.testing.assert_allclose([right - left, lower - upper], wanted * 8, atol=2)
        assert last.pen_mm == sample.meta["pen_mm"]


def test_an_outline_moves_as_a_whole_where_strokes_cross() -> None:
    shift = np.array([[0, 0], [0, 0], [5, 5], [0, 0], [0, 0], [9, 9]], dtype=float)
    contour = np.array([0, 0, 0, 0, 0, 1])
    smooth = synthesis._smooth_along(shift, contour)
    np.testing.assert_allclose(smooth[:5], 1)
    np.testing.assert_allclose(smooth[5], 9)  # contours keep to themselves


def test_no_font_draws_the_text() -> None:
    with pytest.raises(DataError, match="no font draws all letters of any of the texts; add"):
        Generator("pen", carriers("pen")[:3], ["字字字"])
    with pytest.raises(DataError, match="no font draws"):
        Generator("pen", [Bars()], ["", "  "])
    with pytest.raises(DataError, match="no font draws"):
        Generator("fonts", [], ["word"])


def test_fonts_draw_only_what_they_can() -> None:
    hershey, *others = carriers("pen")
    mixed = Generator("pen", [hershey, others[-1]], ["Größe", "window"])
    for seed in range(30):
        sample = mixed.sample(np.random.default_rng(seed), shaky=False, amplitude_mm=0.5)
        assert sample.carrier != hershey.name or sample.text == "window"


def test_a_text_that_never_fits() -> None:
    never = Generator("fonts", [Bars()], ["i" * 60])
    with pytest.raises(DataError, match=r"no text of 1 fonts fitted .* 3 to 9 letters"):
        never.sample(np.random.default_rng(0), shaky=True, amplitude_mm=0.5)
