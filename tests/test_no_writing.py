"""rvsm predict of what is no single word: blank paper, noise, a photograph, a dot, a page."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from commandline import run_here
from drawings import draw, drawn_run
from rvsm.experiments.stream import predict_to_csv
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.ready import Asked, ready
from scan_pages import make_page

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*GPU available.*"
)


def dot(size: tuple[int, int], paper: int = 255) -> Image.Image:
    picture = Image.new("L", size, paper)
    ImageDraw.Draw(picture).ellipse((30, 30, 36, 36), fill=20)
    return picture


def photo() -> Image.Image:
    import skimage.data

    return Image.fromarray(skimage.data.astronaut())


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))


NOTHING = {
    "paper": (Image.new("RGB", (300, 200), (235, 228, 205)), "there is no ink"),
    "small": (Image.new("L", (60, 60), 225), "there is no ink"),
    "noise": (noise(), "not clean paper"),
    "photo": (photo(), "not clean paper"),
    "dot": (dot((300, 200)), "no more than a dot"),
    "small dot": (dot((100, 60), 230), "no more than a dot"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_answer_about_what_is_no_writing(name: str, tmp_path: Path) -> None:
    picture, reason = NOTHING[name]
    picture.save(tmp_path / "a.png")
    found = ready(Asked(tmp_path / "a.png"), Reading())
    assert found.image is None
    assert not found.unreadable
    assert reason in found.reason


def test_words_are_read_as_training_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faint = draw(rng, 2.0).point(lambda value: 235 - (255 - value) // 5)
    for number, picture in enumerate(
        (
            draw(rng, 2.0),
            draw(rng, 2.0).resize((1024, 256)).convert("RGB"),
            faint,
            faint.resize((512, 128)),
            Image.eval(draw(rng, 0.0), lambda value: 255 - value).resize((300, 75)),
        )
    ):
        file = tmp_path / f"{number}.png"
        picture.save(file)
        found = ready(Asked(file), Reading())
        assert (found.reason, found.unreadable) == ("", False)
        np.testing.assert_array_equal(found.image, read_grey(file))
    Image.new("L", (4000, 20), 255).save(tmp_path / "thin.png")
    assert "too long and thin" in ready(Asked(tmp_path / "thin.png"), Reading()).reason


def test_a_page_asked_about_as_a_word_is_told_of_pages(
    tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    run, folder = drawn_run(tmp_path_factory), tmp_path_factory.mktemp("pages")
    make_page(np.random.default_rng(0), lines=6).picture.save(folder / "a.png")
    hint = r"it looks like a page of \d+ words: ask with --pages"
    for scan in (False, True):
        out = folder / "out.csv"
        predict_to_csv(run, [folder / "a.png"], out, scan=scan, workers=1)
        with out.open() as stream:
            (line,) = csv.DictReader(stream)
        assert line["probability"]
        assert re.fullmatch(hint, line["reason"])
        done = run_here(capfd, "predict", run, folder / "a.png", *(["--scan"] if scan else []))
        assert re.search(rf"\({hint}\)", done.out)
    drawing = Reading(scan=True, drawing=True)
    assert ready(Asked(folder / "a.png"), drawing).reason == ""
