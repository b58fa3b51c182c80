"""rvsm.handwriting.recorded: what is taken out of a recording is its tremor and nothing else."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.errors import DataError
from rvsm.handwriting.recorded import residual
from rvsm.handwriting.recorded.library import extract
from rvsm.handwriting.recorded.tablets import MM_PER_UNIT, read_tablet, read_tablets, without_copies
from rvsm.handwriting.tremor import rms
from tablets import shake, spiral, stand_in, write

UCI = (
    Path(os.environ.get("RVSM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "uci-pd-spirals"
)
STEADY_MM = 0.02
"""The largest residual of a spiral without tremor that is drawn at 20 mm/s."""


def down(t: np.ndarray) -> np.ndarray:
    return np.ones(len(t), dtype=bool)


@pytest.mark.parametrize("seconds", [10.0, 20.0, 40.0])
def test_a_steady_spiral_leaves_next_to_nothing(seconds: float) -> None:
    t, points = spiral(seconds)
    (piece,) = residual.pieces(t, points, down(t))
    assert residual.pooled_rms([piece]) < STEADY_MM


@settings(max_examples=12, deadline=None)
@given(hz=st.floats(3.8, 10.5), size=st.floats(0.1, 2.0))
def test_known_tremor_comes_back(hz: float, size: float) -> None:
    """Within 10 % (and the residual of the spiral itself) in size, 0.2 Hz in frequency."""
    t, points = spiral(20.0)
    found = residual.pieces(t, points + shake(t, size, hz), down(t))
    assert residual.pooled_rms(found) == pytest.approx(size, rel=0.1, abs=STEADY_MM)
    assert residual.peak_hz(found) == pytest.approx(hz, abs=0.2)


def test_a_tablet_grid_adds_less_than_its_step() -> None:
    t, points = spiral(20.0)
    grid = np.rint(points / MM_PER_UNIT) * MM_PER_UNIT
    assert residual.pooled_rms(residual.pieces(t, grid, down(t))) < 0.06


def test_uneven_stamps_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    t, points = spiral(20.0, rate_hz=133.0)
    moved = points + shake(t, 0.4, 5.0)
    order = np.sort(rng.choice(len(t), size=int(0.9 * len(t)), replace=False))
    found = residual.pieces(t[order], moved[order], down(t)[order])
    assert residual.pooled_rms(found) == pytest.approx(0.4, rel=0.1)
    repeated = t.copy()
    repeated[1::5] = repeated[0::5][: len(repeated[1::5])]  # every fifth stamp stands twice
    again = residual.pieces(repeated, moved, down(t))
    assert residual.pooled_rms(again) == pytest.approx(0.4, rel=0.1)
    assert residual.peak_hz(again) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("fault", ["pause", "jump", "backwards", "lifted"])
def test_a_break_rings_into_neither_side(fault: str) -> None:
    t, points = spiral(20.0)
    middle, on = len(t) // 2, down(t)
    if fault == "pause":
        t = t + np.where(np.arange(len(t)) >= middle, 0.7, 0.0)
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    elif fault == "jump":
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    elif fault == "backwards":
        t = t - np.where(np.arange(len(t)) >= middle, 3.0, 0.0)
    else:
        on[middle : middle + 3] = False
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    found = residual.pieces(t, points, on)
    assert len(found) == 2
    assert residual.pooled_rms(found) < STEADY_MM
    assert max(np.abs(p.residual_mm).max() for p in found) < 5 * STEADY_MM


def test_a_pen_that_stops_dead_leaves_no_ringing() -> None:
    """A start and stop at full speed: what the filter makes of them is cut off."""
    t = np.arange(0, 6, 1 / 133)
    points = np.stack([20.0 * t, np.zeros_like(t)], axis=1)
    (piece,) = residual.pieces(t, points, down(t))
    assert np.abs(piece.residual_mm).max() < 1e-3


@pytest.mark.parametrize(("hz", "kept"), [(1.0, 0.0), (1.5, 0.01), (6.0, 1.0), (25.0, 0.01)])
def test_the_band(hz: float, kept: float) -> None:
    t = np.arange(0, 10, 1 / residual.RATE_HZ)
    wave = shake(t, 1.0, hz)
    inside = residual.bandpassed(wave)[200:-200]
    assert rms(inside) == pytest.approx(kept, abs=0.02)
    if kept == 1.0:  # zero phase
        assert np.corrcoef(inside[:, 0], wave[200:-200, 0])[0, 1] > 0.999


@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_too_short(n: int) -> None:
    t, points = spiral(10.0)
    assert residual.pieces(t[:n], points[:n], down(t)[:n]) == []


def test_reading_the_layout(tmp_path: Path) -> None:
    recordings, skipped = read_tablets(stand_in(tmp_path))
    assert not skipped
    assert [r.task for r in recordings if r.person == "P_0000"] == [
        "static spiral",
        "dynamic spiral",
        "stability",
    ]
    assert {r.group for r in recordings if r.person.startswith("C")} == {"control"}
    assert recordings[0].time_s[1] - recordings[0].time_s[0] == pytest.approx(1 / 133, abs=1e-3)


def test_columns_that_are_finer_than_rows_are_put_right(tmp_path: Path) -> None:
    t, points = spiral(8.0)
    write(tmp_path / "a.txt", t, points)
    write(tmp_path / "b.txt", t, points * [1.9, 1.0])
    plain, wide = (read_tablet(tmp_path / f, "patient")[0].points_mm for f in ("a.txt", "b.txt"))
    assert np.ptp(wide[:, 0]) == pytest.approx(369 * MM_PER_UNIT, abs=0.5)
    np.testing.assert_array_equal(wide[:, 1], plain[:, 1])
    assert np.ptp(plain[:, 0]) == pytest.approx(np.ptp(points[:, 0]), abs=0.5)


def test_copies_belong_to_nobody(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    first = root / "hw_dataset" / "parkinson" / "P_0000.txt"
    (first.parent / "P_0099.txt").write_bytes(first.read_bytes())
    kept, copies = without_copies(read_tablets(root)[0])
    assert {c.partition(":")[0] for c in copies} >= {"P_0000", "P_0099"}
    assert not {r.person for r in kept if r.task == "static spiral"} & {"P_0000", "P_0099"}
    found = extract(root)
    assert "P_0099: static spiral" in found.left_out
    assert "stability" not in {t.task for t in found.library.tremors}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("1;2;3\n", "has 3"),
        ("1;2;3;4;5;6;x\n", "is no recording"),
        ("1;2;3;4;5;nan;0\n", "not finite"),
        ("\x00\xff", "is no recording"),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, text: str, told: str) -> None:
    bad = stand_in(tmp_path, 1, 1) / "hw_dataset" / "control" / "C_9999.txt"
    bad.write_bytes(text.encode("latin-1"))
    recordings, skipped = read_tablets(tmp_path)
    assert recordings
    assert list(skipped) == ["hw_dataset/control/C_9999.txt"]
    assert told in skipped["hw_dataset/control/C_9999.txt"]


def test_folders_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        read_tablets(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no recordings"):
        read_tablets(tmp_path)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "C.txt").write_text("nothing")
    with pytest.raises(DataError, match="None of the 1"):
        read_tablets(tmp_path)
    t, points = spiral(2.0)
    write(tmp_path / "control" / "C.txt", t, points)
    with pytest.raises(DataError, match="long enough"):
        extract(tmp_path)


@pytest.mark.skipif(not UCI.is_dir(), reason=f"the UCI recordings are not at {UCI}")
@pytest.mark.slow
def test_the_real_recordings() -> None:
    """Medians of data/README.md, within 10 %; nine tablets of patients counted columns finely."""
    found = extract(UCI)
    assert len(found.library.people("control")) == 12
    assert len(found.library.people("patient")) == 47
    assert {n for n in found.left_out if "dynamic" in n} == {
        "H_P000-0024: dynamic spiral",
        "H_P000-0025: dynamic spiral",
    }
    for task, group, median in (
        ("static spiral", "control", 0.089),
        ("static spiral", "patient", 0.158),
        ("dynamic spiral", "control", 0.084),
        ("dynamic spiral", "patient", 0.194),
    ):
        sizes = [t.rms_mm for t in found.library.tremors if (t.task, t.group) == (task, group)]
        assert np.median(sizes) == pytest.approx(median, rel=0.1)
    peaks = [t.peak_hz for t in found.library.tremors if t.group == "patient"]
    assert 3.3 < np.median(peaks) < 4.3
    assert 20 <= len(found.library.trembling()) <= 47
