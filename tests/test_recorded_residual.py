"""rvsm.handwriting.recorded: what is taken out of a recording is its tremor and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting.readers import Collection, read, uci
from rvsm.handwriting.readers.uci import MM_PER_UNIT
from rvsm.handwriting.recorded import residual
from rvsm.handwriting.recorded.library import extract
from rvsm.handwriting.recorded.measure import measure_tremor
from rvsm.handwriting.timed import TimedStrokes
from rvsm.handwriting.tremor import rms
from tablets import shake, spiral, stand_in, write

UCI = DATA / "uci-pd-spirals"
STEADY_MM = 0.02
"""The largest residual of a spiral without tremor that is drawn at 20 mm/s."""


def timed(t: np.ndarray, points: np.ndarray) -> TimedStrokes:
    return TimedStrokes((np.column_stack([t, points]),), in_mm=True)


@pytest.mark.parametrize("seconds", [10.0, 20.0, 40.0])
def test_a_steady_spiral_leaves_next_to_nothing(seconds: float) -> None:
    t, points = spiral(seconds)
    (piece,) = residual.pieces(timed(t, points))
    assert residual.pooled_rms([piece]) < STEADY_MM


@settings(max_examples=12, deadline=None)
@given(hz=st.floats(3.8, 10.0), size=st.floats(0.1, 2.0))
def test_known_tremor_comes_back(hz: float, size: float) -> None:
    """Within 10 % (and the residual of the spiral itself) in size, 0.2 Hz in frequency."""
    t, points = spiral(20.0)
    found = residual.pieces(timed(t, points + shake(t, size, hz)))
    assert residual.pooled_rms(found) == pytest.approx(size, rel=0.1, abs=STEADY_MM)
    assert residual.peak_hz(found) == pytest.approx(hz, abs=0.2)


def test_a_tablet_grid_adds_less_than_its_step() -> None:
    t, points = spiral(20.0)
    grid = np.rint(points / MM_PER_UNIT) * MM_PER_UNIT
    assert residual.pooled_rms(residual.pieces(timed(t, grid))) < 0.06


def test_uneven_stamps_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    t, points = spiral(20.0, rate_hz=133.0)
    moved = points + shake(t, 0.4, 5.0)
    order = np.sort(rng.choice(len(t), size=int(0.9 * len(t)), replace=False))
    found = residual.pieces(timed(t[order], moved[order]))
    assert residual.pooled_rms(found) == pytest.approx(0.4, rel=0.1)
    repeated = t.copy()
    repeated[1::5] = repeated[0::5][: len(repeated[1::5])]  # every fifth stamp stands twice
    again = residual.pieces(timed(repeated, moved))
    assert residual.pooled_rms(again) == pytest.approx(0.4, rel=0.1)
    assert residual.peak_hz(again) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("fault", ["pause", "jump", "backwards", "lifted"])
def test_a_break_rings_into_neither_side(fault: str) -> None:
    t, points = spiral(20.0)
    middle = len(t) // 2
    if fault == "pause":
        t = t + np.where(np.arange(len(t)) >= middle, 0.7, 0.0)
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    elif fault == "jump":
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    elif fault == "backwards":
        t = t - np.where(np.arange(len(t)) >= middle, 3.0, 0.0)
    else:
        points = points + np.where(np.arange(len(t)) >= middle, 15.0, 0.0)[:, None]
    strokes = timed(t, points)
    if fault == "lifted":
        (path,) = strokes.paths
        strokes = TimedStrokes((path[:middle], path[middle + 3 :]), in_mm=True)
    found = residual.pieces(strokes)
    assert len(found) == 2
    assert residual.pooled_rms(found) < STEADY_MM
    assert max(np.abs(p.residual_mm).max() for p in found) < 5 * STEADY_MM


def test_a_pen_that_stops_dead_leaves_no_ringing() -> None:
    """A start and stop at full speed: what the filter makes of them is cut off."""
    t = np.arange(0, 6, 1 / 133)
    points = np.stack([20.0 * t, np.zeros_like(t)], axis=1)
    (piece,) = residual.pieces(timed(t, points))
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
    assert residual.pieces(timed(t[:n], points[:n])) == []


def strokes_of(collection: Collection, person: str) -> TimedStrokes:
    found = collection.strokes(next(row for row in collection.rows if row.carrier == person))
    assert found is not None
    return found


def test_reading_the_layout(tmp_path: Path) -> None:
    collection = read(stand_in(tmp_path))
    assert collection.layout == "uci-spirals"
    tasks = [row.task for row in collection.rows if row.carrier == "P_0000"]
    assert tasks == ["static-spiral", "dynamic-spiral"]
    assert {row.label for row in collection.rows if row.carrier.startswith("C")} == {"regular"}
    (path,) = strokes_of(collection, "C_0000").paths
    assert path[1, 0] - path[0, 0] == pytest.approx(1 / 133, abs=1e-3)


def test_a_lifted_pen_begins_a_stroke(tmp_path: Path) -> None:
    root = stand_in(tmp_path, 1, 0)
    file = root / "hw_dataset" / "control" / "C_0000.txt"
    lines = file.read_text().split()
    for place in range(500, 520):
        lines[place] = lines[place].replace(";300;", ";0;")
    file.write_text("\n".join(lines))
    strokes = strokes_of(uci.read(root), "C_0000")
    assert [len(path) for path in strokes.paths] == [500, len(lines) - 520]


def test_columns_that_are_finer_than_rows_are_put_right(tmp_path: Path) -> None:
    t, points = spiral(8.0)
    write(tmp_path / "parkinson" / "a.txt", t, points)
    write(tmp_path / "parkinson" / "b.txt", t, points * [1.85, 1.0])
    collection = uci.read(tmp_path)
    plain, wide = (strokes_of(collection, name).paths[0] for name in "ab")
    shape = wide - wide.mean(axis=0) - plain + plain.mean(axis=0)
    assert np.abs(shape).max() < MM_PER_UNIT
    assert np.ptp(plain[:, 1]) == pytest.approx(np.ptp(points[:, 0]), abs=0.5)


def test_copies_belong_to_nobody(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    first = root / "hw_dataset" / "parkinson" / "P_0000.txt"
    stamped_anew = first.read_text().replace(";1600", ";1700")
    (first.parent / "P_0099.txt").write_text(stamped_anew)
    collection = read(root)
    assert not {"P_0000", "P_0099"} & {row.carrier for row in collection.rows}
    found = extract(root)
    for one, other in (("P_0000", "P_0099"), ("P_0099", "P_0000")):
        told = found.left_out[f"hw_dataset/parkinson/{one}.txt#0"]
        assert f"the same recording as hw_dataset/parkinson/{other}.txt#0" in told
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
    collection = read(tmp_path)
    assert collection.persons() == ["C_0000", "P_0000"]
    assert told in collection.left_out["hw_dataset/control/C_9999.txt"]


def test_folders_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        extract(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no recordings"):
        extract(tmp_path)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "C.txt").write_text("nothing")
    with pytest.raises(DataError, match="None of the 1"):
        extract(tmp_path)
    t, points = spiral(2.0)
    write(tmp_path / "control" / "C.txt", t, points)
    with pytest.raises(DataError, match="long enough"):
        extract(tmp_path)


@settings(max_examples=6, deadline=None)
@given(hz=st.floats(4.3, 10.0), size=st.floats(0.1, 2.0), scale=st.floats(0.1, 30.0))
def test_the_measure_of_strokes(hz: float, size: float, scale: float) -> None:
    """The same whatever the unit, and no millimetres where it is unknown."""
    t, points = spiral(10.0)
    moved = points + shake(t, size, hz)
    known = measure_tremor(timed(t, moved))
    unknown = measure_tremor(
        TimedStrokes((np.column_stack([t + 7.0, scale * moved]),), in_mm=False)
    )
    assert known is not None
    assert unknown is not None
    assert known.rms_mm == pytest.approx(size, rel=0.1, abs=STEADY_MM)
    assert unknown.rms_mm is None
    for found in (known, unknown):
        assert found.frequency_hz == pytest.approx(hz, abs=0.2)
        assert found.relative == pytest.approx(known.rms_mm / np.ptp(moved, axis=0).max(), rel=1e-6)
        assert found.seconds == pytest.approx(10.0 - 2 * residual.END_S, abs=0.05)


def test_what_is_no_tremor_has_no_frequency() -> None:
    """A ruler's stroke, a steady hand, and plain writing's movement of 3.4 Hz."""
    t, points = spiral(6.0)
    ruler = np.stack([15.0 * t, np.zeros_like(t)], axis=1)
    for in_mm in (True, False):
        for moved, why in (
            (ruler, "too small"),
            (points, "too small"),
            (points + shake(t, 0.8, 3.4), "below 4 Hz"),
        ):
            found = measure_tremor(TimedStrokes((np.column_stack([t, moved]),), in_mm))
            assert found is not None
            assert found.frequency_hz is None
            assert why in found.reason
    found = measure_tremor(timed(t, points + shake(t, 0.1, 5.0)))
    assert found is not None
    assert (found.frequency_hz, found.reason) == (pytest.approx(5.0, abs=0.2), "")


def test_strokes_too_short_to_measure() -> None:
    t, points = spiral(2.0)
    assert measure_tremor(timed(t, points)) is None
    assert measure_tremor(TimedStrokes((), in_mm=True)) is None


@pytest.mark.skipif(not UCI.is_dir(), reason=f"the UCI recordings are not at {UCI}")
@pytest.mark.slow
def test_the_real_recordings() -> None:
    """Medians of data/README.md, within 10 %; nine tablets of patients counted columns finely."""
    found = extract(UCI)
    assert len(found.library.people("control")) == 12
    assert len(found.library.people("patient")) == 47
    assert {name for name, why in found.left_out.items() if "same recording" in why} == {
        "hw_dataset/parkinson/H_P000-0024.txt#1",
        "hw_dataset/parkinson/H_P000-0025.txt#1",
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
    shaking = found.library.trembling()
    assert (len(shaking.tremors), len(shaking.people())) == (24, 17)
