"""rvsm.handwriting.figures: made spirals and waves, shaky or not, as a source of images."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.errors import DataError
from rvsm.experiments.config import make_config
from rvsm.experiments.data import load_split
from rvsm.experiments.train import train
from rvsm.handwriting.datasets import make
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.figures.sampler import (
    SIZES,
    Figure,
    FigureSampler,
    frayed,
    hand,
    lumps,
    parkinsonian,
    scanned,
)
from rvsm.handwriting.figures.shapes import slow, spiral, spiral_habits, wave, wave_habits
from rvsm.handwriting.manifest import read_manifest
from rvsm.handwriting.tremor import modelled, rms

FIGURES: list[Figure] = ["spiral", "wave"]
NAMES = [f"hand-{number}" for number in range(20)]


@pytest.mark.parametrize("figure", FIGURES)
def test_the_classes_differ_in_the_tremor_alone(figure: Figure) -> None:
    """A tremor of nothing leaves the picture of the regular hand, to the pixel."""
    sampler = FigureSampler(figure, NAMES, ["one"])
    for seed in range(8):
        regular, nothing, shaky, again = (
            sampler.sample(np.random.default_rng(seed), shaky=s, amplitude_mm=a)
            for s, a in ((False, 0.8), (True, 1e-9), (True, 0.8), (True, 0.8))
        )
        np.testing.assert_array_equal(regular.image, nothing.image)
        np.testing.assert_array_equal(shaky.image, again.image)
        assert (shaky.image != regular.image).any()
        assert shaky.image.shape == SIZES[figure]
        assert regular.meta["tremor_amplitude_mm"] == 0
        assert regular.carrier == shaky.carrier in NAMES


def test_spirals_turn_and_waves_swing_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        habits = spiral_habits(rng)
        path = spiral(habits, 80.0, rng)
        inside = path[len(path) // 50 :]  # where the middle is far enough to tell the angle
        angle = np.unwrap(np.arctan2(*(inside - path[0]).T[::-1]))
        turned = (angle[-1] - angle[0]) / (2 * np.pi)
        assert abs(turned) == pytest.approx(habits.turns, abs=0.8)
        assert (turned < 0) == habits.clockwise
        assert 55 < np.ptp(path, axis=0).max() < 130
        row = wave_habits(rng)
        path = wave(row, 90.0, rng)
        level = path[:, 1] - np.polyval(np.polyfit(path[:, 0], path[:, 1], 1), path[:, 0])
        crossings = np.count_nonzero(np.diff(np.sign(level)))
        assert crossings / 2 == pytest.approx(row.waves, abs=1.8)


def test_points_lie_closer_than_a_tremor_is_long() -> None:
    """At 9 Hz and 28 mm/s a wave of tremor is 3.1 mm long; lines are steep in places."""
    rng = np.random.default_rng(1)
    for path in (
        *(spiral(spiral_habits(rng), 85.0, rng) for _ in range(10)),
        *(wave(wave_habits(rng), 85.0, rng) for _ in range(10)),
    ):
        assert np.quantile(np.hypot(*np.diff(path, axis=0).T), 0.95) < 1.2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), amplitude=st.floats(0.05, 2.0))
def test_the_tremor_has_its_size_and_its_band(seed: int, amplitude: float) -> None:
    t = np.arange(0, 20, 0.01)
    shaking, hz = parkinsonian(t, np.random.default_rng(seed), amplitude)
    assert rms(shaking) == pytest.approx(amplitude)
    assert 3 - 1e-9 <= hz <= 9 + 1e-9  # clipped in logarithms
    power = (np.abs(np.fft.rfft(shaking, axis=0)) ** 2).sum(axis=1)
    frequency = np.fft.rfftfreq(len(t), 0.01)
    assert power[(frequency > 2) & (frequency < 20)].sum() > 0.9 * power.sum()


def test_the_tremor_is_less_regular_than_that_of_words() -> None:
    """Three tremors at once have a broader band than one."""

    def width(shake: object) -> float:
        t = np.arange(0, 40, 0.01)
        widths = []
        for seed in range(12):
            displacement, _ = shake(t, np.random.default_rng(seed), 0.7)  # type: ignore[operator]
            power = (np.abs(np.fft.rfft(displacement, axis=0)) ** 2).sum(axis=1)
            frequency = np.fft.rfftfreq(len(t), 0.01)
            mean = power @ frequency / power.sum()
            widths.append(np.sqrt(power @ (frequency - mean) ** 2 / power.sum()) / mean)
        return float(np.mean(widths))

    assert width(parkinsonian) > 1.1 * width(modelled)


def test_without_an_amplitude_patients_are_drawn() -> None:
    t = np.arange(0, 5, 0.01)
    sizes = [rms(parkinsonian(t, np.random.default_rng(seed), None)[0]) for seed in range(200)]
    assert np.median(sizes) == pytest.approx(0.158, rel=0.15)


def test_slow_noise() -> None:
    at = np.linspace(0, 400, 8000)
    noise = slow(at, 2.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(1.0, abs=0.15)
    assert np.abs(np.diff(noise, 2)).max() < 0.01  # no kinks
    path = np.stack([np.arange(0, 4000, 0.5), np.zeros(8000)], axis=1)
    assert rms(lumps(path, 0.5, np.random.default_rng(1))) == pytest.approx(0.5, rel=0.15)


def test_scans_are_dark_on_white_and_inside() -> None:
    path = np.stack([np.linspace(0, 90, 400), np.zeros(400)], axis=1)
    path[:, 1] = 30 * np.sin(path[:, 0] / 10)
    for seed in range(20):
        image = scanned(path, 0.6, (128, 256), np.random.default_rng(seed))
        assert image.dtype == np.uint8
        assert 0.005 < (image < 128).mean() < 0.2
        assert (image[[0, -1]] == 255).all()
        assert (image[:, [0, -1]] == 255).all()
    ink = np.zeros((40, 40))
    ink[18:22] = 1.0
    assert not frayed(ink, 1.0, np.random.default_rng(0))[:10].any()  # paper stays paper
    np.testing.assert_array_equal(frayed(ink, 0.0, np.random.default_rng(0)), ink)


def test_a_hand_is_known_by_its_name() -> None:
    assert hand("spiral", "a").speed_mm_s == hand("spiral", "a").speed_mm_s
    assert hand("spiral", "a").speed_mm_s != hand("spiral", "b").speed_mm_s


def test_a_set_of_waves(tmp_path: Path) -> None:
    """Made, read at its own size, trained on; hands stand on one side of each split."""
    counts = {"train": 60, "val": 20, "test-paper": 0, "test-unseen": 20, "curve": 0}
    folder = tmp_path / "waves"
    made = make(folder, task="wave", set="wide", counts=counts, workers=1)
    assert made.rendered < 1.5 * 100 + 200  # nothing is thrown away but the rest of a chunk
    assert "nothing is matched" in "\n".join(made.summary())
    rows = read_manifest(folder)
    hands = {split: {row.carrier for row in rows if row.split == split} for split in counts}
    assert not hands["train"] & hands["val"]
    assert not hands["train"] & hands["test-unseen"]
    assert whole_size(folder) == (128, 256)
    split = load_split(folder, "train", (64, 128))
    assert split.images.shape == (60, 64, 128)
    assert int(split.labels.sum()) == 30
    assert not make(folder, task="wave", set="wide", counts=counts, workers=1).fresh


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*GPU available.*")
def test_a_network_is_trained_on_spirals(tmp_path: Path) -> None:
    counts = {"train": 40, "val": 20, "test-paper": 0, "test-unseen": 20, "curve": 0}
    make(tmp_path / "data", task="spiral", counts=counts, workers=1)
    shape = {"channels": [2, 2, 2], "size": [64, 64]}
    told = {"data": str(tmp_path / "data"), "method": "dense", "epochs": 1, "network": shape}
    found = train(make_config(told), tmp_path / "run")
    assert found.result["task"] == "spiral"
    assert found.result["split_sizes"]["test-unseen"] == 20
    with pytest.raises(DataError, match="256x256 pixels cannot be reduced to 32x100"):
        train(make_config({**told, "network": {"size": [32, 100]}}), tmp_path / "b")


def test_what_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task 'circle': choose fonts, pen, spiral or wave"):
        make(tmp_path / "a", task="circle")
    with pytest.raises(DataError, match="A spiral is drawn without fonts"):
        make(tmp_path / "b", task="spiral", font_dirs=[tmp_path])
