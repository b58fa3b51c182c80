"""Folders, names and paths that are odd: nothing of a user's is lost, skipped or mistaken."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from commandline import Run, make_folder, run_apart
from rvsm.errors import DataError
from rvsm.experiments.config import load_config
from rvsm.experiments.places import found_data
from rvsm.experiments.recipes import DATA_SEED
from rvsm.experiments.runs import load_run, locked
from rvsm.handwriting import manifest
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.manifest import files_below, list_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "tiny")


QUICK = ("--method", "dense", "--epochs", "1")


@pytest.mark.parametrize("theirs", ["config.toml", "model.safetensors", "tensorboard/notes.txt"])
def test_a_run_overwrites_nothing_that_no_run_wrote(
    run: Run, data: Path, tmp_path: Path, theirs: str
) -> None:
    mine = tmp_path / "mine" / theirs
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (tmp_path / "mine" / ".notes.tmp").write_text("mine too")
    sentence = run("train", data, "--out", tmp_path / "mine", *QUICK).sentence()
    assert "holds no run" in sentence
    assert Path(theirs).parts[0] in sentence
    assert mine.read_text() == "mine"
    assert (tmp_path / "mine" / ".notes.tmp").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "DATA", "--out", "", *QUICK), "The word after --out is empty"),
        (("train", "DATA", "--out=", *QUICK), "--out= has no value"),
        (("data", "make", ""), "The word after make is empty"),
        (("report", ""), "The word after report is empty"),
        (("export", "DATA", "--debug", "--out", ""), "The word after --out is empty"),
        (("",), "The word after rvsm is empty"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    run: Run,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(data if word == "DATA" else word for word in words))
    assert done.code == 2
    assert told in done.sentence()
    assert not list(tmp_path.iterdir())


def test_a_run_may_stand_beside_other_files(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run("train", data, "--out", tmp_path, *QUICK).code == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_is_not_put_among_its_images(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "copy")
    before = sorted(tmp_path.rglob("*"))
    done = run("train", tmp_path / "copy", "--out", tmp_path / "copy", *QUICK)
    assert "holds the images to learn from; name another folder" in done.sentence()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_evidence_that_cannot_be_is_told_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for more in ((), ("--pages",), ("--out", tmp_path / "a.csv")):
        done = run(
            "predict", tmp_path / "no run", "a.png", "--evidence", tmp_path / "file" / "in", *more
        )
        assert "file" in done.sentence()
        assert "make the folder" in done.sentence()


def test_a_run_knows_its_data_by_any_path(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", data, "--out", tmp_path / "run", *QUICK).code == 0
    monkeypatch.chdir(data.parent)
    again = run("train", data.name, "--out", tmp_path / "run", *QUICK)
    assert again.code == 0, again
    assert load_config(tmp_path / "run" / "config.toml").data == str(data)
    shutil.copytree(data, tmp_path / "copy")
    other = run("train", tmp_path / "copy", "--out", tmp_path / "run", *QUICK)
    assert "different: data" in other.sentence()


def test_a_run_finds_its_data_from_anywhere(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(data, project / "data")
    monkeypatch.chdir(project)
    assert run("train", "data", "--out", "runs/first", *QUICK).code == 0
    dense = ("train", "data", "--out", "runs/next", "--start", "runs/first", *QUICK)
    assert run(*dense).code == 0
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", project / "runs" / "next").code == 0
    assert "gone" not in run("report", project / "runs" / "next").err
    resumed = run(
        "train", "--config", "project/runs/next/config.toml", "--out", "project/runs/next"
    )
    assert resumed.code == 0, resumed
    # The run alone in another place, then the project as a whole, with its first place gone.
    shutil.copytree(project / "runs" / "first", tmp_path / "alone")
    assert run("evaluate", tmp_path / "alone").code == 0
    moved = tmp_path / "disk" / "moved"
    shutil.copytree(project, moved)
    shutil.rmtree(project)
    scored = run("evaluate", moved / "runs" / "first")
    assert scored.code == 0, scored
    assert load_run(moved / "runs" / "first")[0].data == str(moved / "data")
    lost = run("evaluate", tmp_path / "alone").sentence()
    assert f"no data folder {project / 'data'}" in lost


def test_a_run_of_an_earlier_version_finds_its_relative_data(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "data")
    place = tmp_path / "runs" / "old"
    assert run("train", tmp_path / "data", "--out", place, *QUICK).code == 0
    config = place / "config.toml"
    config.write_text(config.read_text().replace(str(tmp_path / "data"), "data"))
    (place / "environment.json").unlink()
    monkeypatch.chdir("/")
    assert found_data("data", place) == tmp_path / "data"
    assert run("evaluate", place).code == 0


@pytest.mark.parametrize("name", ["a[/b]c", "[red]x"])
def test_brackets_in_a_path_are_no_markup(run: Run, data: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    trained = run("train", data, "--out", place, *QUICK)
    assert trained.code == 0, trained
    shutil.copytree(data, tmp_path / f"data{name}")
    scored = run("evaluate", place, tmp_path / f"data{name}")
    assert scored.code == 0, scored
    assert name in "".join((trained.out + scored.out).split("\n"))


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    real = make_folder(tmp_path / "real", {"train": 3})
    (tmp_path / "linked" / "train").mkdir(parents=True)
    for label in ("regular", "shaky"):
        (tmp_path / "linked" / "train" / label).symlink_to(real / "train" / label)
    (tmp_path / "linked" / "train" / "again").symlink_to(tmp_path / "linked")
    rows = list_images(tmp_path / "linked")
    assert [row.label for row in rows] == ["regular"] * 3 + ["shaky"] * 3
    assert not any(row.error for row in rows)


def test_what_is_no_file_is_listed_with_its_reason(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {"train": 1})
    (folder / "train" / "regular" / "gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "train" / "regular" / "pipe.png")
    errors = {Path(row.file).name: row.error for row in list_images(folder)}
    assert "link to nothing" in errors["gone.png"]
    assert "pipe" in errors["pipe.png"]
    with pytest.raises(DataError, match="a pipe or a device"):
        read_grey(folder / "train" / "regular" / "pipe.png")
    with pytest.raises(DataError, match="below a file"):
        read_grey(folder / "train" / "regular" / "000000.png" / "x")


def test_predict_says_that_a_pipe_is_no_image(run: Run, data: Path, tmp_path: Path) -> None:
    assert run("train", data, "--out", tmp_path / "run", *QUICK).code == 0
    os.mkfifo(tmp_path / "pipe.png")
    told = run("predict", tmp_path / "run", tmp_path / "pipe.png")
    assert told.code != 0
    assert "a pipe or a device" in told.out + told.err


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_not_utf8_is_listed_and_skipped(
    run: Run, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    place = os.fsencode(folder / "train" / "regular")
    shutil.copy(folder / "train" / "regular" / "000000.png", place + b"/sch\xf6n.png")
    found = [row for row in list_images(folder) if row.error]
    assert [(row.file, row.error) for row in found] == [
        (
            "train/regular/sch\\xf6n.png",
            "The name sch\\xf6n.png is not in UTF-8: rename the file.",
        )
    ]
    trained = run("train", folder, "--out", tmp_path / "run", *QUICK)
    assert trained.code == 0, trained
    assert "1 file could not be read" in trained.out.replace("\n", " ")
    assert run("data", "check", folder).code in (0, 1)
    assert (folder / manifest.MANIFEST).is_file()


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, {"train": 1})
    scan = os.scandir

    def denied(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "shaky":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read everything
    with pytest.raises(DataError, match="shaky cannot be read"):
        files_below(folder)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lr=inf", "finite"),
        ("network.kernel=1001", "less than or equal to 63"),
        ("network.channels=[1,2]", "has 2 entries"),
        ("augmentation.elastic_knot=100000000000000000000", "less than or equal"),
        ("network.channels=[1000000,1000000,100000]", "less than or equal"),
    ],
)
def test_values_beyond_all_measure(
    run: Run, data: Path, tmp_path: Path, setting: str, said: str
) -> None:
    assert said in run("train", data, "--out", tmp_path / "r", "--set", setting).sentence()
    assert not (tmp_path / "r").exists()


def test_what_does_not_fit_into_memory_is_told(run: Run, data: Path, tmp_path: Path) -> None:
    huge = "network.channels=[16,65536,65536]"
    failed = run("train", data, "--out", tmp_path / "r", *QUICK, "--set", huge)
    assert "not enough memory" in failed.sentence()


def test_options_that_contradict_one_another(run: Run, data: Path, tmp_path: Path) -> None:
    both = ("--sparsity", "fc.weight=0.5", "--lam", "fc.weight=1")
    failed = run("train", data, "--out", tmp_path / "r", *both)
    assert failed.code != 0
    assert "named twice" in failed.err
    nameless = run("train", data, "--out", tmp_path / "r", "--sparsity", "=0.5")
    assert "no name before" in nameless.err


def test_a_study_answers_for_the_data_it_has_alone(run: Run, tmp_path: Path) -> None:
    counts = {"train": 60, "val": 20, "test-paper": 12, "test-unseen": 12, "curve": 0}
    few = [part for split, n in counts.items() for part in ("--count", f"{split}={n}")]
    study = ("reproduce", "--out", tmp_path / "study", "--task", "pen", "--method", "dense")
    made = run(*study, *few, "--workers", "1")
    assert made.code == 0, made
    assert run(*study, *few).code == 0
    assert f"data seed {DATA_SEED}, not 77" in run(*study, *few, "--data-seed", "77").sentence()
    more = [text.replace("train=60", "train=80") for text in few]
    assert "60 images of train, not 80" in run(*study, *more).sentence()
    # A study that is copied without its data is still a study.
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(tmp_path / "study", moved, ignore=shutil.ignore_patterns("data"))
    again = run("reproduce", "--out", moved, *study[3:], *few)
    assert again.code == 0, again
    assert "Left out" not in again.out
    assert len(list(moved.glob("*/result.json"))) == 1


NOBODY = (
    "import os, rvsm.cli.runs, rvsm.experiments.pages, rvsm.experiments.train\n"
    "os.geteuid() or os.setuid(65534)"
)
"""The superuser may read everything; whoever runs the test may not be able to import any more."""


def test_a_file_that_may_not_be_read_is_not_to_be_written(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'data = "{data}"')
    config.chmod(0)
    told = run_apart("train", "--config", config, "--out", tmp_path / "run", before=NOBODY)
    assert f"Cannot read the configuration {config}" in told.sentence()
    assert "have it made readable for you" in told.sentence()


def test_a_second_study_of_the_same_runs_is_told_to_wait(run: Run, tmp_path: Path) -> None:
    counts = {"train": 60, "val": 20, "test-paper": 12, "test-unseen": 0, "curve": 0}
    few = [part for split, n in counts.items() for part in ("--count", f"{split}={n}")]
    out = tmp_path / "study"
    study = ("reproduce", "--out", out, "--task", "pen", "--method", "dense", "--workers", "1")
    making = out / "data" / f".pen-headline.partial-{os.getpid()}"
    making.mkdir(parents=True)
    assert f"Another process is making {out / 'data'}" in run(*study, *few).sentence()
    making.rmdir()
    (out / "pen-headline-dense-s0").mkdir()
    with locked(out / "pen-headline-dense-s0"):
        told = run(*study, *few).sentence()
    assert "Another process is training in" in told
    assert "wait until it has ended, then run the same command again" in told
    assert run(*study, *few).code == 0
