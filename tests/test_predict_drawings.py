"""A network that learned from drawings is asked about drawings, at the size of those."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from commandline import run_here
from drawings import make_folder
from rvsm.errors import RunError
from rvsm.experiments.config import make_config
from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.importing import import_set
from rvsm.experiments.predict import predict, reading_of
from rvsm.experiments.runs import load_run
from rvsm.experiments.scans import predict_scans
from rvsm.experiments.serve.answers import Oracle
from rvsm.experiments.serve.drawing import parse_drawing
from rvsm.experiments.stream import predict_to_csv
from rvsm.experiments.train import train
from rvsm.handwriting.images import GreyImage, fit, grey_of, read_grey
from rvsm.handwriting.manifest import read_manifest
from rvsm.handwriting.readers import read, redraw
from rvsm.handwriting.scans.normalise import normalise
from rvsm.handwriting.scans.ready import Asked, ready, rows_of
from rvsm.handwriting.views import view_logits
from set_layouts import black_forms, drawing, parkinsons_drawings
from tablets import stand_in

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*GPU available.*"
)

SQUARE = (256, 256)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on a folder that says that it holds spirals."""
    folder = make_folder(tmp_path_factory.mktemp("spirals"), {"train": 16, "val": 8})
    told = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(told | {"task": "spiral"}))
    config = make_config(
        {
            "data": str(folder),
            "method": "dense",
            "epochs": 1,
            "batch_size": 8,
            "network": {"size": (128, 128), "pools": ((4, 4), (4, 4), (2, 2))},
        }
    )
    return train(config, tmp_path_factory.mktemp("runs") / "dense").run_dir


def asked(run: Path, image: GreyImage) -> float:
    assert image.shape == SQUARE
    _, net = load_run(run)
    batch = to_float(torch.from_numpy(reduce_image(image, (128, 128))[None]))
    with torch.inference_mode():
        return float(view_logits(net, batch).double().mean(0).softmax(1)[0, 1])


def on_words(run: Path, folder: Path) -> Path:
    """The same network in a run that learned from words."""
    words = shutil.copytree(run, folder / "words")
    config = (words / "config.toml").read_text()
    (words / "config.toml").write_text(config.replace("    128,\n    128,", "    64,\n    256,"))
    result = json.loads((words / "result.json").read_text())
    (words / "result.json").write_text(json.dumps(result | {"task": "pen"}))
    return words


def stopped_after(files: int) -> Callable[[int, int], None]:
    """A progress bar that breaks once there are answers about so many files."""

    def stop(done: int, total: int) -> None:
        if done >= files:
            raise ZeroDivisionError

    return stop


@pytest.fixture
def file(tmp_path: Path) -> Path:
    drawing(3, "RGB", (600, 400)).save(tmp_path / "a.png", dpi=(300, 300))
    return tmp_path / "a.png"


def test_pictures_are_fitted(run: Path, file: Path, tmp_path: Path) -> None:
    (found,) = predict(run, [file], evidence=tmp_path / "seen")
    assert found.probability == pytest.approx(asked(run, read_grey(file, SQUARE)), abs=1e-6)
    assert found.evidence is not None
    with Image.open(found.evidence) as picture:
        assert picture.size == (1024, 1024)


def test_scans_are_fitted_as_they_lie(run: Path, file: Path, tmp_path: Path) -> None:
    """As `rvsm crossval` reads them: neither turned nor freed of rules, whatever their scale."""
    with Image.open(file) as picture:
        wanted = asked(run, fit(normalise(picture).grey, SQUARE))
        assert normalise(picture, deskew=True).turned_deg
        picture.save(tmp_path / "b.pdf", save_all=True, append_images=[drawing(4)], resolution=300)
    (found,) = predict(run, [file], scan=True)
    assert found.probability == pytest.approx(wanted, abs=1e-6)
    predict_to_csv(run, [file], tmp_path / "out.csv", scan=True, workers=1)
    with (tmp_path / "out.csv").open() as stream:
        assert float(next(csv.DictReader(stream))["probability"]) == pytest.approx(wanted, abs=1e-6)
    pages = list(predict_scans(run, [file, tmp_path / "b.pdf"]))
    assert [page.page.rpartition("/")[2] for page in pages] == [
        "a.png",
        "b.pdf page 1",
        "b.pdf page 2",
    ]
    assert pages[0].probability == found.probability
    told = Oracle(run).scan(file.read_bytes())
    assert told["probability"] == pytest.approx(wanted, abs=1e-6)
    assert len(told["words"]) == 1


def test_forms_are_taken_away_as_in_an_import(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The network sees the image that `rvsm data import` made of the same scan."""
    scans, made = black_forms(tmp_path / "scans"), tmp_path / "made"
    import_set(scans, made, task="spiral", person=r"/(p\d)", isolate="registration", workers=1)
    template = made / "template-spiral.png"
    wanted = [asked(run, read_grey(made / row.file, SQUARE)) for row in read_manifest(made)]
    found = predict(run, [scans], scan=True, template=template)
    assert [one.probability for one in found] == pytest.approx(wanted, abs=1e-6)
    plain = [one.probability for one in predict(run, [scans], scan=True)]
    assert plain != pytest.approx(wanted, abs=1e-4)
    # By two processes, which take a chunk each: files are named over and over.
    out = tmp_path / "out.csv"
    predict_to_csv(run, [scans] * 6, out, scan=True, template=template)
    with out.open() as stream:
        told = [float(row["probability"]) for row in csv.DictReader(stream)]
    assert told == pytest.approx(wanted * 6, abs=1e-6)
    # The form itself is nobody's drawing.
    shutil.copy(template, scans / "form.png")
    done = run_here(capfd, "predict", run, scans, "--scan", "--template", scans / "form.png")
    assert (done.code, len(done.out.splitlines())) == (0, 6)


def test_a_stopped_command_does_not_go_on_with_another_form(run: Path, tmp_path: Path) -> None:
    scans = black_forms(tmp_path / "scans")
    form = Image.new("L", (300, 300), 255)
    for number in range(2):
        ImageDraw.Draw(form).rectangle((50, 50, 150, 90 + number), outline=0)
        form.save(tmp_path / f"{number}.png")
    out, went_on = tmp_path / "out.csv", []
    for number in (0, 1, 1):
        options = {"scan": True, "template": tmp_path / f"{number}.png", "workers": 1}
        with pytest.raises(ZeroDivisionError):
            predict_to_csv(run, [scans] * 6, out, progress=stopped_after(32), **options)
        went_on.append(predict_to_csv(run, [scans] * 6, out, **options).went_on if number else 0)
    assert went_on == [0, 32, 32]


def test_what_is_wrong_with_a_template(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scans = black_forms(tmp_path / "scans", 2)
    for name, size in (("other", (300, 200)), ("blank", (300, 300))):
        form = Image.new("L", size, 255)
        if name == "other":
            ImageDraw.Draw(form).rectangle((50, 50, 150, 90), outline=0)
        form.save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("Dear Sir")

    def told(name: str, *how: str) -> str:
        given = ("predict", run, scans, "--template", tmp_path / f"{name}.png")
        done = run_here(capfd, *given, *how)
        assert done.code
        assert not done.out
        return done.err

    for more in ((), ("--out", tmp_path / "out.csv")):
        assert "text.png is not an image" in told("text", "--scan", *more)
        assert "There is no image file" in told("gone", "--scan", *more)
        assert "blank.png shows no print" in told("blank", "--scan", *more)
    both = told("other", "--scan").splitlines()
    for line, file in zip(both, sorted(scans.rglob("*.png")), strict=True):
        assert f"{file}: The picture is 300x300 pixels, the template 300x200" in line
    assert "--template is for scans: add --scan." in told("other")
    assert "give --scan for --pages" in told("other", "--pages")


def test_a_run_is_told_of_drawings(run: Path, file: Path, tmp_path: Path) -> None:
    """By `drawing`, or by the rows of a set; of a run on words they have the size of words."""
    words = on_words(run, tmp_path)
    how = reading_of(words, load_run(words)[0], scan=True, dpi=None)
    assert (how.drawing, how.size, how.letters) == (False, (64, 256), True)
    told = reading_of(words, load_run(words)[0], scan=True, dpi=None, drawing=True)
    assert told.drawing
    with Image.open(file) as picture:
        fitted = fit(normalise(picture).grey)
        word = ready(Asked(file), how).image
        assert word is not None
        assert not np.array_equal(word, fitted)
        assert np.array_equal(ready(Asked(file), told).image, fitted)
    folder = parkinsons_drawings(tmp_path / "set")
    for asked in rows_of(read(folder))[:3]:
        with Image.open(asked.file) as picture:
            fitted = fit(normalise(picture).grey)
        found = ready(asked, how)
        assert np.array_equal(found.image, fitted)
        assert found.reason == "this is of the task spiral, and the network learned from words"
    drawings = reading_of(run, load_run(run)[0], scan=True, dpi=None)
    assert asked.row is not None
    for row, reason in (
        (asked.row, ""),
        (replace(asked.row, task=""), ""),
        (replace(asked.row, task="word"), "task word, and the network learned from drawings"),
    ):
        assert ready(replace(asked, row=row), drawings).reason.endswith(reason)
    assert ready(replace(asked, row=replace(asked.row, task="")), how).reason == ""


def test_everything_that_asks_is_told(
    run: Path, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = on_words(run, tmp_path)
    (wanted,) = predict(words, [file], scan=True, drawing=True)
    (other,) = predict(words, [file], scan=True)
    assert wanted.probability is not None
    assert other.probability != pytest.approx(wanted.probability, abs=1e-6)
    assert wanted.reason == "this is a drawing, and the network learned from words"
    assert (other.reason, predict(run, [file], scan=True)[0].reason) == ("", "")
    out = tmp_path / "out.csv"
    predict_to_csv(words, [file], out, scan=True, drawing=True, workers=1)
    with out.open() as stream:
        told = float(next(csv.DictReader(stream))["probability"])
    assert told == pytest.approx(wanted.probability, abs=1e-6)
    (page,) = predict_scans(words, [file], drawing=True)
    assert page.probability == pytest.approx(wanted.probability, abs=1e-6)
    answer = Oracle(words, drawing=True).scan(file.read_bytes())
    assert answer["probability"] == pytest.approx(wanted.probability, abs=1e-6)
    for how in (["--scan", "--json"], ["--pages", "--json", "--workers", 1]):
        done = run_here(capfd, "predict", words, file, "--drawing", *how)
        assert str(wanted.probability)[:8] in done.out, done


def test_recordings_are_drawn_on_one_sheet(run: Path, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "uci", 1, 0)
    (found,) = predict(run, [folder], layout="uci-spirals")
    collection = read(folder, "uci-spirals")
    strokes = collection.strokes(collection.rows[0])
    assert strokes is not None
    wanted = asked(run, fit(grey_of(redraw(strokes)), SQUARE))
    assert found.probability == pytest.approx(wanted, abs=1e-6)


def test_the_page_is_drawn_on(run: Path) -> None:
    angle = np.linspace(0, 6 * np.pi, 400)
    points = np.column_stack(
        [20 * angle, 200 + 9 * angle * np.cos(angle), 9 * angle * np.sin(angle)]
    )
    sent = json.dumps({"strokes": [points.tolist()], "px_per_mm": 3.78}).encode()
    told = Oracle(run).drawing(parse_drawing(sent), explain=False)
    assert told["probability"] is not None
    assert told["x_height_mm"] is None


def test_a_run_whose_images_nobody_knows(run: Path, file: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    result = (copy / "result.json").read_text()
    (copy / "result.json").write_text("{")
    assert predict(copy, [file])[0].probability is not None  # the data say it too
    (copy / "result.json").write_text(json.dumps(json.loads(result) | {"task": "pen"}))
    for ask in (lambda: predict(copy, [file]), lambda: Oracle(copy)):
        with pytest.raises(RunError, match="reads 128x128 pixels, no whole fraction of the 64x256"):
            ask()
