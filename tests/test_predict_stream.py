"""rvsm predict: calibrated, explained, and streamed to a CSV file that loses nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from scipy.special import expit, logit

import rvsm
import rvsm.experiments.probability as probabilities
import rvsm.experiments.stream as streaming
from commandline import run_here
from drawings import draw, drawn_run, other_calibration
from rvsm.errors import DataError, RvsmError
from rvsm.experiments.evaluate import evaluate_network
from rvsm.experiments.gather import NOTICE
from rvsm.experiments.predict import people_of, predict
from rvsm.experiments.probability import FILE, calibration_of
from rvsm.experiments.runs import load_run
from rvsm.experiments.stream import predict_to_csv
from rvsm.handwriting.scans import ready as reading
from tablets import stand_in

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory)


@pytest.fixture(scope="module")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy drawings among files that are none, and a blank sheet."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    for number in range(70):
        file = root / f"s{number % 3}" / f"word {number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        draw(rng, 3.0 * (number % 2)).save(file)
    Image.new("L", (200, 90), 250).save(root / "blank.png")
    (root / "empty.png").write_bytes(b"")
    (root / "letter,\nwith a line feed.txt").write_text("Dear Sir")
    (root / "cut.png").write_bytes((root / "blank.png").read_bytes()[:60])
    (root / "link.png").symlink_to(root / "nowhere.png")
    (root / ".hidden.png").write_text("hidden")
    return root


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_keeps_its_calibration(run: Path) -> None:
    told = json.loads((run / FILE).read_text("utf-8"))
    assert told["split"] == "val"
    config, net = load_run(run)
    kept = calibration_of(run, config, net)
    probability = 0.8
    expected = expit(told["slope"] * logit(probability) + told["offset"])
    assert kept(probability) == pytest.approx(expected)
    assert kept(1.0) is not None
    # An older run has none: it is fitted when it is first asked for, to the same numbers.
    (run / FILE).unlink()
    again = calibration_of(run, config, net)
    assert again(probability) == pytest.approx(kept(probability), abs=1e-6)
    assert (run / FILE).is_file()
    # One of another model, or damaged, is not believed.
    (run / FILE).write_text(json.dumps({**told, "model": "x", "slope": 9.0}))
    assert calibration_of(run, config, net)(probability) == pytest.approx(expected, abs=1e-6)
    (run / FILE).write_text("{")
    assert calibration_of(run, config, net)(probability) == pytest.approx(expected, abs=1e-6)


def test_a_run_whose_data_are_gone(run: Path, tmp_path: Path) -> None:
    config, net = load_run(run)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    gone = config.model_copy(update={"data": str(tmp_path / "gone")})
    found = calibration_of(copy, gone, net)
    assert found(0.8) is None
    assert "validation images cannot be read" in found.why


def test_calibration_does_not_use_the_test_splits(run: Path) -> None:
    from rvsm.experiments.calibration import fit_platt
    from rvsm.experiments.data import load_split

    config, net = load_run(run)
    split = load_split(Path(config.data), "val", config.network.size)
    score = evaluate_network(net, split)
    platt = fit_platt(logit(score.probabilities), score.labels)
    told = json.loads((run / FILE).read_text("utf-8"))
    assert told["slope"] == pytest.approx(platt.slope, rel=1e-4)
    assert told["images"] == len(split)


def test_what_is_no_single_picture(run: Path, tmp_path: Path) -> None:
    """Pages are told what to ask with; an even ground gets no answer."""
    rng = np.random.default_rng(0)
    first, second = draw(rng, 0.0), draw(rng, 3.0)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "b.pdf")
    (tmp_path / "c.json").write_text('{"strokes": []}')
    Image.new("L", (300, 100), 255).save(tmp_path / "d.png")
    preview = TiffImagePlugin.ImageFileDirectory_v2()
    preview[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "e.tif", True) as out:
        first.save(out, format="TIFF")
        out.newFrame()
        first.resize((64, 16)).save(out, format="TIFF", tiffinfo=preview)
    predict_to_csv(run, [tmp_path], tmp_path / "out.csv", workers=1)
    found = lines(tmp_path / "out.csv")
    assert [line["answer"] for line in found[:4]] == [*["unreadable"] * 3, "no writing here"]
    assert found[4]["probability"]  # its second frame is a preview
    told = ["has 2 pages: ask about each with --pages", "is a PDF: ask with", "holds no strokes"]
    for line, words in zip(found, [*told, "there is no ink"], strict=False):
        assert words in line["reason"]


def test_scans_near_a_half_are_unsure(run: Path, garbage: Path, tmp_path: Path) -> None:
    """Of scans by default, of images where it is asked for; the file and `predict` agree."""
    asked = [garbage / "s0", garbage / "s1"]
    for scan, band, low, high in (
        (False, None, 0.5, 0.5),
        (True, None, 0.35, 0.65),
        (False, (0.1, 0.9), 0.1, 0.9),
        (True, (0.0, 1.0), 0.0, 1.0),
    ):
        out = tmp_path / "out.csv"
        predict_to_csv(run, asked, out, scan=scan, band=band, workers=1)
        found = predict(run, asked, scan=scan, band=band)
        assert [line["answer"] for line in lines(out)] == [one.label for one in found]
        for one in found:
            assert one.probability is not None
            assert one.calibrated is not None
            unsure = low <= one.calibrated <= high
            assert (one.label == "unsure") == unsure
            assert unsure or one.label == ("shaky" if one.calibrated > 0.5 else "regular")
    with pytest.raises(DataError, match="band of unsure answers"):
        predict_to_csv(run, asked, tmp_path / "no.csv", band=(0.6, 0.9))


def test_the_calibrated_probability_decides(
    run: Path, garbage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it the network's own is told; where nothing is calibrated it decides itself."""
    asked = [garbage / "s0" / "word 00.png", garbage / "s1" / "word 01.png"]
    before = predict(run, asked)
    probability = before[0].probability
    with other_calibration(run, 1.0, -2 * logit(probability)):
        (found, _) = predict(run, asked)
        predict_to_csv(run, asked, tmp_path / "a.csv", workers=1)
    assert found.probability == probability
    assert found.calibrated == pytest.approx(1 - probability)
    assert found.label == ("shaky" if probability < 0.5 else "regular")
    assert lines(tmp_path / "a.csv")[0]["answer"] == found.label

    none = probabilities.Calibration(None, "they are gone")
    monkeypatch.setattr("rvsm.experiments.predict.calibration_of", lambda *_: none)
    (found, _) = predict(run, asked)
    assert (found.calibrated, found.uncalibrated) == (None, "they are gone")
    assert found.label == ("shaky" if probability > 0.5 else "regular")


def test_lines_are_those_of_predict(run: Path, garbage: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    done = predict_to_csv(run, [garbage], out, workers=1)
    found, expected = lines(out), predict(run, [garbage])
    assert [row["file"] for row in found] == [str(p.file) for p in expected]
    for row, one in zip(found, expected, strict=True):
        if one.error:
            assert (row["answer"], row["reason"]) == ("unreadable", one.error)
        elif one.probability is None:
            assert (row["answer"], row["reason"]) == ("no writing here", one.reason)
        else:
            assert row["answer"] == one.label
            assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-5)
            assert float(row["calibrated"]) == pytest.approx(one.calibrated, abs=1e-5)
    assert done.files == 75
    assert (done.unreadable, done.no_writing) == (4, 1)
    assert not list(tmp_path.glob(".*"))


def test_scans_and_processes(run: Path, garbage: Path, tmp_path: Path) -> None:
    """Two processes write what one does; a blank sheet gets no answer."""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    predict_to_csv(run, [garbage], one, scan=True, workers=1)
    told: list[int] = []
    predict_to_csv(
        run, [garbage], two, scan=True, workers=2, progress=lambda done, _: told.append(done)
    )
    assert two.read_bytes() == one.read_bytes()
    assert told == [0, 32, 64, 75]
    blank = next(row for row in lines(one) if row["file"].endswith("blank.png"))
    assert (blank["answer"], blank["probability"]) == ("no writing here", "")
    assert "hardly any ink" in blank["reason"]


def test_machine_code_says_the_same(
    run: Path, garbage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rvsm.native import find_compiler

    if find_compiler() is None:
        pytest.skip("no C compiler is installed")
    plain = tmp_path / "plain.csv"
    assert not predict_to_csv(run, [garbage], plain, workers=1).compiled
    monkeypatch.setattr(streaming, "_WORTH_COMPILING", 1)
    fast = tmp_path / "fast.csv"
    assert predict_to_csv(run, [garbage], fast, workers=1).compiled
    for a, b in zip(lines(plain), lines(fast), strict=True):
        assert a["answer"] == b["answer"]
        if a["probability"]:
            assert float(a["probability"]) == pytest.approx(float(b["probability"]), abs=2e-6)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not predict_to_csv(run, [garbage], tmp_path / "c.csv", workers=1).compiled


def test_a_run_tells_its_layers(run: Path) -> None:
    """To load them takes none of what tracing imports, which is two seconds of a command."""
    code = (
        "import sys, rvsm; net = rvsm.load_network(sys.argv[1]); print(len(net.graph.nodes)); "
        "print('torch._dynamo' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(run / "model.safetensors")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert told == ["12", "False"]
    described = rvsm.load_network(run / "model.safetensors")
    config, net = load_run(run)
    images = torch.rand(3, 1, *config.network.size)
    assert torch.allclose(described(images), net(images), atol=1e-5)


class Stop(Exception):
    pass


@pytest.mark.parametrize("torn", [0, 7])
def test_a_stopped_command_goes_on(
    run: Path, garbage: Path, tmp_path: Path, torn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predict_to_csv(run, [garbage], whole, workers=1)

    def stop(done: int, total: int) -> None:
        if done >= 32:
            raise Stop

    with pytest.raises(Stop):
        predict_to_csv(run, [garbage], out, workers=1, progress=stop)
    assert not out.exists()
    (part,) = tmp_path.glob(".out.csv.*.part")
    if torn:  # the last line is half there
        part.write_bytes(part.read_bytes()[:-torn])
    read: list[Path] = []
    real = reading.ready
    monkeypatch.setattr(reading, "ready", lambda one, how: read.append(one.file) or real(one, how))
    done = predict_to_csv(run, [garbage], out, workers=1)
    assert done.went_on == (31 if torn else 32)
    assert len(read) == 75 - done.went_on
    assert done.unreadable == 4
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_kill_9_in_the_middle(run: Path, garbage: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predict_to_csv(run, [garbage], whole, workers=1)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from rvsm.experiments.stream import predict_to_csv\n"
        "run, data, out = map(Path, sys.argv[1:])\n"
        "wait = lambda done, total: time.sleep(600) if done >= 32 else None\n"
        "predict_to_csv(run, [data], out, workers=1, progress=wait)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run), str(garbage), str(out)])
    part: list[Path] = []
    for _ in range(1200):
        part = [p for p in tmp_path.glob(".out.csv.*.part") if p.read_bytes().count(b"word") > 9]
        if part or child.poll() is not None:
            break
        time.sleep(0.1)
    assert part, "the command wrote nothing in two minutes"
    # Meanwhile nobody else may write there.
    with pytest.raises(RvsmError, match="Another process is writing"):
        predict_to_csv(run, [garbage], out, workers=1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert predict_to_csv(run, [garbage], out, workers=1).went_on == 32
    assert out.read_bytes() == whole.read_bytes()


def test_another_model_does_not_go_on(run: Path, garbage: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    def stop(done: int, total: int) -> None:
        if done >= 32:
            raise Stop

    with pytest.raises(Stop):
        predict_to_csv(run, [garbage], out, workers=1, progress=stop)
    assert predict_to_csv(run, [garbage], out, scan=True, workers=1).went_on == 0


def test_where_nothing_can_be_written(
    run: Path, garbage: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = run_here(capfd, "predict", run, garbage, "--out", tmp_path / "no" / "a.csv").sentence()
    assert "no such file or folder" in told
    assert "is a folder" in run_here(capfd, "predict", run, garbage, "--out", tmp_path).sentence()
    (tmp_path / "file").write_text("x")
    told = run_here(capfd, "predict", run, garbage, "--out", tmp_path / "file" / "a").sentence()
    assert "file" in told
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no image to look at"):
        predict_to_csv(run, [empty], tmp_path / "a.csv")


def test_the_command(
    run: Path, garbage: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.csv"
    done = run_here(capfd, "predict", run, garbage, "--out", out, "--workers", 1)
    assert done.code == 1, done
    assert "75 files, 4 unreadable, 1 without writing" in done.out
    assert "Error: 4 of 75 files could not be read: replace what" in done.err
    assert done.err.count("Error") == 1
    done = run_here(capfd, "predict", run, garbage / "s1", garbage / "blank.png", "--out", out)
    assert done.code == 0, done
    assert "Research use, not a diagnosis." in done.err
    assert run_here(capfd, "predict", run, garbage, "--dpi", 300).code == 2
    assert run_here(capfd, "predict", run, garbage, "--pages", "--scan").code == 2
    only = garbage / "empty.png"
    assert run_here(capfd, "predict", run, only, "--out", tmp_path / "b.csv").code == 1


def test_people_have_answers_of_their_own(
    run: Path, garbage: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by --person or known to a layout; a stopped command gathers the same."""
    out = tmp_path / "a.csv"
    found = predict(run, [garbage], person="/(s[0-9])/")
    people = people_of(found, False, None)
    assert [one.name for one in people] == ["s0", "s1", "s2"]
    assert sum(one.words for one in people) == 70
    options = {"person": "/(s[0-9])/", "workers": 1}
    predict_to_csv(run, [garbage], out, **options)
    assert [row["person"] for row in lines(out)] == [one.person for one in found]
    summary = tmp_path / "a.people.csv"
    for row, one in zip(lines(summary), people, strict=True):
        assert (row["person"], row["answer"]) == (one.name, one.answer)
        assert float(row["calibrated"]) == pytest.approx(one.calibrated, abs=1e-5)
        assert (int(row["files"]), int(row["shaky"])) == (one.words, one.shaky)

    def stop(done: int, total: int) -> None:
        if done >= 32:
            raise Stop

    again = tmp_path / "b.csv"
    with pytest.raises(Stop):
        predict_to_csv(run, [garbage], again, progress=stop, **options)
    assert predict_to_csv(run, [garbage], again, **options).went_on == 32
    assert (tmp_path / "b.people.csv").read_bytes() == summary.read_bytes()

    done = run_here(capfd, "predict", run, garbage / "s1", garbage / "blank.png", "--person", "s1")
    assert " person s1 (" in done.out
    assert "1 files are nobody's: --person s1 is not found in" in done.err
    given = ("predict", run, garbage / "s1", "--person", "/(s[0-9])/", "--out", again, "--json")
    told = json.loads(run_here(capfd, *given).out)
    assert (told["files"], [one["name"] for one in told["people"]]) == (23, ["s1"])
    assert told["notice"] == NOTICE

    known = predict(run, [stand_in(tmp_path / "uci", 1, 1)], layout="uci-spirals")
    assert len({one.person for one in known} - {""}) == 2


def test_what_was_written_beside_the_scans_is_not_looked_at(
    run: Path, garbage: Path, tmp_path: Path
) -> None:
    (tmp_path / "anna.png").write_bytes((garbage / "s1" / "word 01.png").read_bytes())
    out = tmp_path / "out.csv"
    for _ in range(2):
        assert predict_to_csv(run, [tmp_path], out, person="(anna)", workers=1).files == 1
    assert (tmp_path / "out.people.csv").is_file()


def test_pictures_inside_a_file(run: Path, tmp_path: Path) -> None:
    """Of an idx set, whose pictures are no files of their own."""
    import gzip
    import struct

    rng = np.random.default_rng(0)
    images = np.stack([255 - np.asarray(draw(rng, 0.0).convert("L").resize((56, 28)))] * 3)
    for name, values in (("images-idx3", images), ("labels-idx1", np.array([0, 1, 0], np.uint8))):
        head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(
            f">{values.ndim}I", *values.shape
        )
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    found = predict(run, [tmp_path], layout="idx")
    assert len(found) == 3
    assert all(one.error is None and one.probability is not None for one in found)
    predict_to_csv(run, [tmp_path], tmp_path / "out.csv", layout="idx", workers=1)
    assert [line["answer"] for line in lines(tmp_path / "out.csv")] == [f.label for f in found]


def test_a_stated_resolution_gives_the_scale_of_scans(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    draw(rng, 2.0).resize((512, 128)).save(tmp_path / "a.png")
    asked = reading.Asked(tmp_path / "a.png")
    sizes = []
    for dpi in (None, 406.4, 812.8):  # 16 and 32 pixels a mm
        image = reading.ready(asked, reading.Reading(True, dpi)).image
        assert image is not None
        sizes.append(np.ptp(np.nonzero(image < 128)[1]))
    assert sizes[0] >= sizes[1] > 1.8 * sizes[2]
    done = run_here(capfd, "predict", run, tmp_path / "a.png", "--scan", "--dpi", 406.4)
    assert done.code == 0, done
    told = run_here(capfd, "predict", run, tmp_path, "--scan", "--dpi", 0).sentence()
    assert "give --dpi from 20 to 4800" in told


def test_single_words_are_read_at_the_size_of_those_learned_from(tmp_path: Path) -> None:
    """A short word fills its image no more than a long one; a drawing does."""
    from test_words import zigzag

    heights = {}
    for letters in (2, 4, 8):
        for times in (1, 4):
            picture = Image.fromarray(zigzag(16, 9, letters))
            size = (picture.width * times, picture.height * times)
            picture.resize(size).save(tmp_path / "a.png")
            for by_letters in (False, True):
                how = reading.Reading(True, letters=by_letters)
                image = reading.ready(reading.Asked(tmp_path / "a.png"), how).image
                assert image is not None
                joints = np.ptp(np.nonzero(image < 128)[1]) / letters / 18
                heights[by_letters, letters, times] = 17 * joints
    by_letters = [value for key, value in heights.items() if key[0]]
    assert by_letters == pytest.approx([20] * 6, abs=4)
    assert heights[False, 2, 1] > 1.2 * heights[False, 8, 1]


def test_evidence_goes_with_a_file(run: Path, garbage: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    predict_to_csv(run, [garbage / "s1"], out, evidence=tmp_path / "seen", workers=1)
    found = lines(out)
    assert len(found) > 3
    assert all(Path(line["evidence"]).is_file() for line in found)
    names = [Path(line["evidence"]).name for line in found]
    assert names[:2] == ["0001-word_01.png", "0002-word_04.png"]
    assert len(set(names)) == len(names)


def test_evidence_is_drawn(run: Path, garbage: Path, tmp_path: Path) -> None:
    image = garbage / "s1" / "word 01.png"
    found = predict(run, [image, garbage / "empty.png"], evidence=tmp_path / "seen")
    assert [p.name for p in (tmp_path / "seen").iterdir()] == ["0001-word_01.png"]
    assert found[0].evidence == tmp_path / "seen" / "0001-word_01.png"
    assert found[1].evidence is None
    with Image.open(found[0].evidence) as picture:
        assert picture.size == (1024, 256)
        colours = np.ptp(np.asarray(picture).astype(int), axis=2)
    assert colours.max() > 60
