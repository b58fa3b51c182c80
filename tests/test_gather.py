"""Answers about scans: unsure, no writing, by page and by person; the command that prints them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import logit
from typer.testing import CliRunner

import rvsm.experiments.scans as asking
import rvsm.experiments.stream as streaming
from drawings import drawn_run, other_calibration
from rvsm.cli import app
from rvsm.errors import DataError
from rvsm.experiments.gather import (
    WordAnswer,
    answer_of,
    check_band,
    gather,
    mean_probability,
    unsure,
)
from rvsm.experiments.pagestream import predict_pages_to_csv
from rvsm.experiments.predict import predict
from rvsm.experiments.probability import calibration_of
from rvsm.experiments.runs import load_run
from rvsm.experiments.scans import predict_scans
from rvsm.experiments.stream import fastest
from rvsm.handwriting.scans import words as cutting
from rvsm.handwriting.scans.pages import Page, read_pages
from rvsm.native import find_compiler
from scan_pages import make_page

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")


def word(page: str, person: str, probability: float | None) -> WordAnswer:
    return WordAnswer(page, person, None, 0, 0, probability, answer_of(probability))


def test_unsure() -> None:
    assert [answer_of(p) for p in (0.0, 0.34, 0.35, 0.5, 0.65, 0.66, 1.0)] == [
        "regular",
        "regular",
        "unsure",
        "unsure",
        "unsure",
        "shaky",
        "shaky",
    ]
    assert answer_of(None) == "no writing here"
    assert not unsure(0.51, (0.5, 0.5))
    assert [answer_of(0.9, calibrated=p) for p in (0.2, 0.4, 0.9)] == ["regular", "unsure", "shaky"]
    assert answer_of(0.6, (0.5, 0.5), 0.4) == "regular"
    for band in ((0.6, 0.7), (0.2, 0.4), (-0.1, 0.5), (0.5, 1.1), (0.7, 0.3)):
        with pytest.raises(DataError, match="band of unsure answers"):
            check_band(band)


def test_mean_in_log_odds() -> None:
    assert mean_probability([]) is None
    assert mean_probability([0.3]) == pytest.approx(0.3)
    assert mean_probability([0.9, 0.1]) == pytest.approx(0.5)
    odds = np.log([0.9 / 0.1, 0.6 / 0.4, 0.2 / 0.8]).mean()
    assert mean_probability([0.9, 0.6, 0.2]) == pytest.approx(1 / (1 + np.exp(-odds)))
    assert mean_probability([1.0, 0.0]) == pytest.approx(0.5)


def test_gathered() -> None:
    words = [
        word("p1", "anna", 0.9),
        word("p1", "anna", 0.8),
        word("p2", "anna", 0.1),
        word("p2", "anna", None),
        word("p3", "bert", None),
        WordAnswer("p4", "", None, 0, 0, None, "unreadable", "it is cut short"),
    ]
    pages = gather(words, lambda w: w.page)
    assert [(p.name, p.answer, p.words, p.answered, p.shaky) for p in pages] == [
        ("p1", "shaky", 2, 2, 2),
        ("p2", "regular", 2, 1, 0),
        ("p3", "no writing here", 1, 0, 0),
        ("p4", "unreadable", 1, 0, 0),
    ]
    people = gather(words, lambda w: w.person)
    assert [(p.name, p.answer) for p in people] == [("anna", "unsure"), ("bert", "no writing here")]
    assert people[0].probability == mean_probability([0.9, 0.8, 0.1])


def test_calibrated_probabilities_decide_about_pages_and_people() -> None:
    words = [WordAnswer("p", "a", None, 0, n, 0.8, "regular", calibrated=0.2) for n in range(2)]
    (page,) = gather(words, lambda w: w.page)
    assert (page.answer, page.shaky) == ("regular", 0)
    assert page.probability == pytest.approx(0.8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    first, second = (make_page(rng, lines=2, skew_deg=2.0).picture for _ in range(2))
    first.save(folder / "anna_1.pdf", save_all=True, append_images=[second], resolution=203.2)
    second.save(folder / "anna_2.png")
    Image.new("L", (300, 200), 240).save(folder / "bert_1.png")
    (folder / "bert_2.png").write_text("Dear Sir")
    return folder


def test_predicted_scans(run: Path, scans: Path) -> None:
    words = list(predict_scans(run, [scans], person="/([a-z]+)_"))
    pages = {page.name: page for page in gather(words, lambda w: w.page)}
    names = [str(scans / name) for name in ("anna_1.pdf", "anna_2.png", "bert_1.png", "bert_2.png")]
    assert list(pages) == [f"{names[0]} page 1", f"{names[0]} page 2", *names[1:]]
    assert pages[names[1]].words == 10
    assert pages[names[1]].answered == 10
    assert pages[names[2]].answer == "no writing here"
    assert pages[names[3]].answer == "unreadable"
    assert {w.person for w in words} == {"anna", "bert"}
    places = [(w.line, w.place) for w in words if w.page == names[1]]
    assert places == sorted(places)


def test_whole_pictures_agree_with_predict(run: Path, scans: Path, tmp_path: Path) -> None:
    """A clean word at the training scale is answered as `predict` answers it."""
    rng = np.random.default_rng(3)
    image = np.full((64, 256), 255, dtype=np.uint8)
    page = np.asarray(make_page(rng, lines=1).picture.convert("L"))
    from rvsm.handwriting.scans.normalise import normalise, to_network

    found = normalise(Image.fromarray(page[20:84, 30:280]))
    image = to_network(found)
    Image.fromarray(image).save(tmp_path / "word.png", dpi=(203.2, 203.2))
    (answer,) = predict_scans(run, [tmp_path / "word.png"], whole=True)
    (plain,) = predict(run, [tmp_path / "word.png"])
    assert answer.probability == pytest.approx(plain.probability, abs=0.05)
    (page_read,) = read_pages(tmp_path / "word.png")
    assert page_read.pixels_per_mm == pytest.approx(8.0, rel=1e-3)


def test_bad_options(run: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 2 groups"):
        list(predict_scans(run, [scans], person="(an)(na)"))
    with pytest.raises(DataError, match="is found in none of 4 paths"):
        list(predict_scans(run, [scans], person="(carla)"))
    with pytest.raises(DataError, match="There is no scan to look at"):
        list(predict_scans(run, [tmp_path]))
    with pytest.raises(DataError, match="give --dpi from 20 to 4800"):
        list(predict_scans(run, [scans], dpi=0))


def test_command(run: Path, scans: Path) -> None:
    runner = CliRunner()
    given = ["predict", str(run), str(scans), "--pages", "--person", "/([a-z]+)_"]
    result = runner.invoke(app, given)
    assert result.exit_code == 1  # one file cannot be read
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert "page 1" in lines[0]
    assert lines[3].startswith("no writing here")
    assert "person anna" in lines[4]
    assert "not a diagnosis" in result.stderr
    assert "bert_2.png is not an image" in result.stderr
    told = json.loads(runner.invoke(app, [*given, "--json"]).stdout)
    assert [person["name"] for person in told["people"]] == ["anna", "bert"]
    assert len(told["words"]) == sum(page["words"] for page in told["pages"])
    assert (told["words"][0]["line"], told["words"][0]["place"]) == (1, 1)
    assert (told["words"][-1]["line"], told["words"][-1]["place"]) == (None, None)
    assert "not a diagnosis" in told["notice"]
    assert "calibrated)" in lines[0]
    assert "nobody's" not in result.stderr


def test_calibrated_with_evidence(run: Path, scans: Path, tmp_path: Path) -> None:
    """Words are calibrated as predict calibrates images, and a page is the scaling of its mean."""
    calibration = calibration_of(run, *load_run(run))
    words = list(predict_scans(run, [scans / "anna_2.png"], evidence=tmp_path / "seen"))
    for one in words:
        assert one.calibrated == calibration(one.probability)
        with Image.open(one.evidence) as picture:
            assert picture.size == (1024, 256)
    assert len(list((tmp_path / "seen").iterdir())) == len(words)
    assert words[0].evidence.endswith("0001-anna_2-page1-line1-word1.png")
    (page,) = gather(words, lambda w: w.page)
    assert page.calibrated == pytest.approx(calibration(page.probability))


def test_answers_about_words_go_by_the_calibrated_probability(run: Path, scans: Path) -> None:
    half = (0.5, 0.5)
    image = scans / "anna_2.png"
    first = next(predict_scans(run, [image], band=half))
    with other_calibration(run, 1.0, -2 * logit(first.probability)):
        words = list(predict_scans(run, [image], band=half))
        pages = gather(words, lambda w: w.page, half)
    assert words[0].probability == first.probability
    assert words[0].answer == answer_of(1 - first.probability, half)
    for one in (*words, *pages):
        assert one.answer == answer_of(one.calibrated, half)


class Stop(Exception):
    pass


@pytest.mark.parametrize("torn", [0, 9])
def test_words_go_to_a_file_and_a_stopped_command_goes_on(
    run: Path, scans: Path, tmp_path: Path, torn: int
) -> None:
    """With the file that it was at: whether all of its words are there cannot be seen."""
    expected = list(predict_scans(run, [scans], person="/([a-z]+)_", evidence=tmp_path / "a"))
    out = tmp_path / "words.csv"
    options = {"person": "/([a-z]+)_", "evidence": tmp_path / "b", "workers": 1}

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        predict_pages_to_csv(run, [scans], out, progress=stop, **options)
    assert not out.exists()
    (part,) = tmp_path.glob(".words.csv.*.part")
    part.write_bytes(part.read_bytes()[: -torn or None])
    told: list[int] = []
    found = predict_pages_to_csv(
        run, [scans], out, progress=lambda done, _: told.append(done), **options
    )
    assert told == [1, 2, 3, 4], "the second was not known to be whole"
    again = tmp_path / "again.csv"
    predict_pages_to_csv(run, [scans], again, **options)
    for name in ("pages", "people"):
        kept = (tmp_path / f"words.{name}.csv").read_bytes()
        assert kept == (tmp_path / f"again.{name}.csv").read_bytes()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
        assert one.calibrated == pytest.approx(other.calibrated, abs=1e-6)
        assert (one.page, one.person, one.box) == (other.page, other.person, other.box)
        assert (one.line, one.place, one.answer) == (other.line, other.place, other.answer)
        assert (one.reason, one.turned) == (other.reason, other.turned)
        assert Path(one.evidence).name == Path(other.evidence).name
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(expected)
    first = rows[0]
    assert (first["person"], first["line"], first["word"]) == ("anna", "1", "1")
    assert expected[0].box == tuple(int(first[s]) for s in ("left", "top", "right", "bottom"))
    assert rows[-1]["answer"] == "unreadable"
    assert rows[-1]["left"] == ""


def test_processes_and_machine_code_say_the_same(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []

    def noted(*arguments: Any) -> Any:
        found = fastest(*arguments)
        compiled.append(found[1])
        return found

    monkeypatch.setattr(asking, "fastest", noted)
    monkeypatch.setattr(streaming, "_WORTH_COMPILING", 200)
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    words = predict_pages_to_csv(run, [scans], one, workers=1)
    predict_pages_to_csv(run, [scans], two, workers=2)
    assert one.read_bytes() == two.read_bytes()
    there = find_compiler() is not None
    monkeypatch.setenv("CC", "no-such-compiler")
    plain = list(predict_scans(run, [scans]))
    assert compiled == [there, there, False]
    assert [replace(word, probability=None, calibrated=None) for word in words] == [
        replace(word, probability=None, calibrated=None) for word in plain
    ]
    for fast, slow in zip(words, plain, strict=True):
        assert fast.probability == pytest.approx(slow.probability, abs=2e-6)


def test_nothing_is_said_of_pages_behind_an_unreadable_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = make_page(np.random.default_rng(0), lines=1).picture
    for name in ("a.tif", "b.tif"):
        page.save(tmp_path / name, save_all=True, append_images=[page, page])
    real = cutting.read_page

    def read(file: Path, number: int, dpi: float | None) -> Page:
        if file.name == "a.tif" and number == 2:
            raise DataError("It is torn: mend it.")
        return real(file, number, dpi)

    monkeypatch.setattr(cutting, "read_page", read)
    found = list(predict_scans(run, [tmp_path]))
    pages = dict.fromkeys((Path(word.page).name, word.reason) for word in found)
    assert list(pages) == [
        ("a.tif page 1", ""),
        ("a.tif", "It is torn: mend it."),
        *((f"b.tif page {number}", "") for number in (1, 2, 3)),
    ]


def test_command_with_a_file(run: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "words.csv"
    given = ["predict", str(run), str(scans), "--pages", "--out", str(out)]
    result = CliRunner().invoke(app, [*given, "--person", "/([a-z]+)_"])
    assert result.exit_code == 1  # one file cannot be read
    lines = result.stdout.splitlines()
    assert "words.csv: 5 pages, 1 unreadable, " in lines[0]
    assert "Error: 1 of 5 pages could not be read: replace what" in result.stderr
    assert "words.people.csv: 2 people" in lines[2]
    assert out.is_file()
    expected = list(predict_scans(run, [scans], person="/([a-z]+)_"))
    for name, key in (("pages", "page"), ("people", "person")):
        with (tmp_path / f"words.{name}.csv").open(encoding="utf-8", newline="") as stream:
            found = list(csv.DictReader(stream))
        gathered = gather(expected, attrgetter(key))
        assert [row[key] for row in found] == [one.name for one in gathered]
        for row, one in zip(found, gathered, strict=True):
            assert row["answer"] == one.answer
            assert [int(row[c]) for c in ("words", "answered", "shaky")] == [
                one.words,
                one.answered,
                one.shaky,
            ]
            for column in ("probability", "calibrated"):
                value = getattr(one, column)
                assert float(row[column] or "nan") == pytest.approx(
                    math.nan if value is None else value, abs=1e-5, nan_ok=True
                )
    told = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert told["out"] == str(out)
    assert len(told["pages"]) == 5
    assert "words" not in told


def test_pages_that_are_nobodys_are_told(run: Path, scans: Path) -> None:
    files = [str(scans / name) for name in ("anna_2.png", "bert_1.png")]
    given = ["predict", str(run), *files, "--pages", "--person", "/(anna)_"]
    result = CliRunner().invoke(app, given)
    assert "1 pages are nobody's: --person /(anna)_ is not found in" in result.stderr
    assert "bert_1.png" in result.stderr


def test_pages_that_lie_sideways_are_turned(run: Path, tmp_path: Path) -> None:
    picture = make_page(np.random.default_rng(7), lines=5).picture
    picture.save(tmp_path / "upright.png")
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png")
    upright = list(predict_scans(run, [tmp_path / "upright.png"]))
    sideways = list(predict_scans(run, [tmp_path / "sideways.png"]))
    assert {word.turned for word in upright} == {0}
    assert {word.turned for word in sideways} == {90}
    assert [word.box for word in sideways] == [word.box for word in upright]
    assert [word.probability for word in sideways] == [word.probability for word in upright]

    given = ["predict", str(run), str(tmp_path / "sideways.png"), "--pages"]
    out = tmp_path / "words.csv"
    result = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert "sideways.png lay sideways and was turned clockwise by 90 degrees" in result.stderr
    with out.open(encoding="utf-8", newline="") as stream:
        assert {row["turned"] for row in csv.DictReader(stream)} == {"90"}
    told = json.loads(CliRunner().invoke(app, [*given, "--turn", "270", "--json"]).stdout)
    assert {word["turned"] for word in told["words"]} == {270}
    as_it_lies = CliRunner().invoke(app, [*given, "--turn", "0"])
    assert "lay sideways" not in as_it_lies.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--dpi", "300"], "add --scan or --pages"),
        (["--person", "(x)"], "is found in none of 1 paths"),
        (["--turn", "90"], "add --pages"),
        (["--pages", "--turn", "45"], "give --turn one of 0, 90, 180, 270"),
        (["--pages", "--unsure", "half"], "write it like --unsure"),
        (["--pages", "--unsure", "0.6-0.9"], "band of unsure answers"),
        (["--pages", "--dpi", "3"], "give --dpi from 20 to 4800"),
    ],
)
def test_wrong_usage(run: Path, scans: Path, options: list[str], sentence: str) -> None:
    file = str(scans / "anna_2.png")
    result = CliRunner().invoke(app, ["predict", str(run), file, *options])
    assert result.exit_code != 0
    assert sentence in " ".join(result.output.split())
