"""rvsm predict of strokes over time: their form, the unit of their times, their tremor."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from commandline import run_here
from drawings import draw, drawn_run
from rvsm.errors import DataError
from rvsm.experiments.predict import predict
from rvsm.experiments.serve.drawing import parse_drawing
from rvsm.experiments.serve.store import Store
from rvsm.experiments.stream import predict_to_csv
from rvsm.handwriting.strokejson import read_strokes
from tablets import shake, spiral, stand_in

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory)


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_strokes_and_sets_go_to_a_file_too(run: Path, tmp_path: Path) -> None:
    """With their tremor, as `predict` has it, whoever reads them."""
    t, points = spiral(6.0)
    for name, in_mm in (("a", True), ("b", False)):
        path = np.column_stack([t + 3.0, points + shake(t, 0.6, 5.0)])
        told = json.dumps({"in_mm": in_mm, "strokes": [path.tolist()]})
        (tmp_path / f"{name}.json").write_text(told)
    (tmp_path / "c.json").write_text('{"strokes": [[[0, 0, 0], [0.4, 5, 5]]]}')
    asked = [tmp_path / f"{name}.json" for name in "abc"]
    out = tmp_path / "out.csv"
    predict_to_csv(run, asked, out, workers=1)
    mm, unknown, short = lines(out)
    assert float(mm["tremor_hz"]) == pytest.approx(5.0, abs=0.2)
    assert float(mm["tremor_mm"]) == pytest.approx(0.6, rel=0.1)
    assert unknown["tremor_mm"] == ""
    assert float(unknown["tremor_of_size"]) == pytest.approx(float(mm["tremor_of_size"]), rel=1e-3)
    assert short["tremor_hz"] == ""
    assert short["probability"]
    recordings = stand_in(tmp_path / "uci", 12, 12)
    found = predict(run, [recordings], layout="uci-spirals")
    files = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.csv"
        predict_to_csv(run, [recordings], out, layout="uci-spirals", workers=workers)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert len(found) > 32
    for one, line in zip(found, lines(out), strict=True):
        assert (str(one.file), one.label) == (line["file"], line["answer"])
        assert one.tremor is not None
        told = float(line["tremor_hz"]) if line["tremor_hz"] else None
        assert told == pytest.approx(one.tremor.frequency_hz, abs=1e-5)
        assert line["tremor_reason"] == one.tremor.reason
    assert any(line["tremor_hz"] for line in lines(out))
    assert mm["reason"] == ""
    # The network learned from words.
    assert "task static-spiral, and the network learned from words" in lines(out)[0]["reason"]


def test_strokes_are_measured(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    t, points = spiral(6.0)
    path = np.column_stack([t + 3.0, points + shake(t, 0.6, 5.0)])
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"in_mm": True, "strokes": [path.tolist()]}))
    (found,) = predict(run, [file])
    assert found.tremor is not None
    assert found.tremor.frequency_hz == pytest.approx(5.0, abs=0.2)
    assert found.tremor.rms_mm == pytest.approx(0.6, rel=0.1)
    assert found.probability is not None
    done = run_here(capfd, "predict", run, file)
    assert "tremor 5.0 Hz, 0.6" in done.out
    told = json.loads(run_here(capfd, "predict", run, file, "--json").out)
    assert told["files"][0]["tremor"]["rms_mm"] == pytest.approx(0.6, rel=0.1)
    ruled = np.column_stack([t, 15 * t, np.zeros_like(t)])
    file.write_text(json.dumps({"in_mm": True, "strokes": [ruled.tolist()]}))
    done = run_here(capfd, "predict", run, file)
    assert "0.00 mm RMS, no tremor frequency: the movement is too small" in done.out
    recorded = predict(run, [stand_in(tmp_path / "uci", 1, 1)], layout="uci-spirals")
    assert len(recorded) == 3
    assert all(one.tremor is not None for one in recorded)
    file.write_text(
        '{"strokes": [[[0, 0, 0], [0.1, 2, 3], [0.2, 4, 0], [0.3, 6, 3]]], "in_mm": true}'
    )
    done = run_here(capfd, "predict", run, file)
    assert f"Error: {file}: The recording has no four points within 0.05 s" in done.err


def test_the_unit_of_times_is_told_by_their_steps(tmp_path: Path) -> None:
    t, points = spiral(3.0)
    file = tmp_path / "mine.json"
    told = [np.column_stack([unit * t, points]).tolist() for unit in (1.0, 1e3, 1e6)]
    file.write_text(json.dumps({"in_mm": True, "strokes": [told[0]]}))
    (seconds,) = read_strokes(file).paths
    file.write_text(json.dumps({"in_mm": True, "strokes": [told[1]]}))
    (milliseconds,) = read_strokes(file).paths
    assert milliseconds == pytest.approx(seconds)
    file.write_text(json.dumps({"in_mm": True, "strokes": [told[2]]}))
    with pytest.raises(DataError, match=r"neither seconds nor milliseconds"):
        read_strokes(file)


def test_drawings_as_the_page_kept_them(tmp_path: Path) -> None:
    """Milliseconds, and pixels with y downwards."""
    file = tmp_path / "kept.json"
    strokes = [[[500 + 10 * n, 2 * n, 40 - 4 * n] for n in range(8)]]
    file.write_text(json.dumps({"drawing": {"strokes": strokes, "px_per_mm": 4.0}, "answer": {}}))
    found = read_strokes(file)
    assert found.in_mm
    n = np.arange(8.0)
    assert found.paths[0] == pytest.approx(np.stack([n / 100, n / 2, n - 10], axis=1))


def test_all_that_the_page_keeps_is_asked_about_again(run: Path, tmp_path: Path) -> None:
    """Answers beside scans are no strokes; what else is called JSON is looked at."""
    t, points = spiral(3.0)
    path = np.column_stack([1e3 * t, 4.0 * points])
    sent = json.dumps({"strokes": [path.tolist()], "px_per_mm": 4.0}).encode()
    store = Store(tmp_path)
    drawing = store.drawing("", parse_drawing(sent), {"words": []})
    picture = io.BytesIO()
    draw(np.random.default_rng(0), 0.0).save(picture, "PNG")
    scan = store.scan(picture.getvalue(), {"words": []})
    (tmp_path / "my-scan.json").write_text("{}")
    found = predict(run, [tmp_path], scan=True)
    assert [one.file.name for one in found] == sorted([drawing, scan, "my-scan.json"])
    assert [one.file.name for one in found if one.error] == ["my-scan.json"]
    named = predict(run, [(tmp_path / scan).with_suffix(".json")])
    assert named[0].error is not None


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"strokes": []}', '{"strokes": [[[0, 1]]]}', '{"strokes": [[[0, 1, NaN]]]}',
     '{"drawing": {"strokes": [[[0, 1, 2]]], "px_per_mm": 0}}', '{"drawing": [], "strokes": []}',
     '{"strokes": [[["a", 1, 2]]]}', '{"strokes": [[[0, 1, 2]]], "in_mm": 3}', "[" * 100000],
)  # fmt: skip
def test_files_without_strokes(run: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    (found,) = predict(run, [file])
    assert found.error is not None
    assert "holds no strokes" in found.error
    assert found.error.count(str(file)) == 1
