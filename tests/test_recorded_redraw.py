"""rvsm.handwriting.recorded.redraw: recordings as pictures, with the person in the manifest."""

from pathlib import Path

import numpy as np
import pytest

from commandline import run_here
from rvsm.errors import DataError
from rvsm.experiments.crossval.cases import SQUARE, fitting_size, read_cases
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.readers.redraw import PEN_MM, PIXELS_PER_MM
from rvsm.handwriting.readers.redraw import redraw as drawn_of
from rvsm.handwriting.recorded.redraw import redraw
from rvsm.handwriting.timed import TimedStrokes
from tablets import spiral, stand_in, write


def picture(paths: list[np.ndarray]) -> np.ndarray:
    """Paths in mm as they are drawn, a sample every 8 ms."""
    timed = (np.column_stack([np.arange(len(path)) * 0.008, path]) for path in paths)
    return np.asarray(drawn_of(TimedStrokes(tuple(timed), in_mm=True)))


def test_a_line_is_where_and_as_wide_as_it_was() -> None:
    line = np.stack([np.linspace(0, 50, 200), np.zeros(200)], axis=1)
    ink = 1 - picture([line]) / 255.0
    assert ink.sum() / PIXELS_PER_MM**2 == pytest.approx(50 * PEN_MM, rel=0.05)
    rows, columns = np.nonzero(ink > 0.5)
    assert np.ptp(columns) / PIXELS_PER_MM == pytest.approx(50, abs=0.5)
    assert rows.mean() == pytest.approx(192, abs=1.5)


def test_up_is_up() -> None:
    high = np.stack([np.linspace(0, 10, 50), np.full(50, 20.0)], axis=1)
    ink = picture([np.linspace([0.0, 0.0], [0.1, 0.0], 5), high]) < 128
    assert ink[:192].sum() > 10 * ink[192:].sum()


def test_a_drawing_beyond_the_paper_is_whole() -> None:
    line = np.stack([np.linspace(0, 200, 500), np.zeros(500)], axis=1)
    drawn = picture([line])
    assert drawn.shape == (818, 818)
    assert np.ptp(np.nonzero(drawn < 128)[1]) / PIXELS_PER_MM == pytest.approx(200, abs=1)
    with pytest.raises(DataError, match="check its scale"):
        picture([np.stack([np.linspace(0, 4000, 6000), np.zeros(6000)], axis=1)])
    slow = np.column_stack([np.arange(9.0), np.zeros((9, 2))])
    with pytest.raises(DataError, match=r"within 0\.05 s .* times are in seconds"):
        drawn_of(TimedStrokes((slow,), in_mm=True))
    with pytest.raises(DataError, match="has no points"):
        picture([])


def test_pauses_are_not_drawn() -> None:
    """Where the recorder stopped for 0.1 s nobody knows what the pen did."""
    t = np.arange(40) * 0.008
    t[20:] += 0.1
    x = np.linspace(0, 20, 40)
    x[20:] += 20
    path = np.column_stack([t, x, np.zeros(40)])
    ink = np.asarray(drawn_of(TimedStrokes((path,), in_mm=True))) < 128
    assert not ink[:, 160:220].any()


def test_strokes_are_not_joined() -> None:
    left = np.stack([np.full(50, 0.0), np.linspace(0, 20, 50)], axis=1)
    ink = picture([left, left + np.array([30.0, 0.0])]) < 128
    assert not ink[:, 150:230].any()


def test_a_set_for_crossval(tmp_path: Path) -> None:
    root = stand_in(tmp_path / "uci", 2, 3)
    first = root / "hw_dataset" / "parkinson" / "P_0000.txt"
    (first.parent / "P_0099.txt").write_bytes(first.read_bytes())
    drawn = redraw(root, tmp_path / "set")
    assert len(drawn.rows) == 2 + 2 * 2
    assert "hw_dataset/parkinson/P_0099.txt#0" in drawn.left_out
    cases = read_cases(tmp_path / "set")
    assert cases.reading == "stored"
    assert cases.names == ["C_0000", "C_0001", "P_0001", "P_0002"]
    assert cases.labels.tolist() == [c.person.startswith("P") for c in cases.cases]
    assert fitting_size(cases) == SQUARE
    assert read_grey(tmp_path / "set" / cases.cases[0].file, (96, 96)).min() < 200
    with pytest.raises(DataError, match="already holds other files"):
        redraw(root, tmp_path / "set")


def test_nothing_to_draw(tmp_path: Path) -> None:
    t, points = spiral(3.0)
    write(tmp_path / "uci" / "control" / "C.txt", t, points, test=2)
    with pytest.raises(DataError, match="stability test"):
        redraw(tmp_path / "uci", tmp_path / "out")


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = stand_in(tmp_path / "uci", 1, 2)
    done = run_here(capfd, "data", "redraw", root, tmp_path / "set")
    assert done.code == 0, done
    assert "5 images of 1 controls and 2 patients" in done.out
    assert (
        "no file or folder"
        in run_here(capfd, "data", "redraw", root / "x", tmp_path / "b").sentence()
    )
