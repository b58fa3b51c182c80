import json
from pathlib import Path

import pytest
import torch

import rvsm
from commandline import Run, make_folder, run_apart
from rvsm.cli.guard import Bars, explain_error
from rvsm.cli.runs import print_bands
from rvsm.experiments.gather import NOTICE
from rvsm.experiments.recipes import DATA_SEED
from rvsm.handwriting.manifest import read_manifest


def test_from_images_to_answers(run: Run, tmp_path: Path) -> None:
    """Every command of a run, in the order a person gives them."""
    data, folder = make_folder(tmp_path / "data"), tmp_path / "run"
    command = ("train", data, "--out", folder, "--epochs", 2, "--sparsity", "fc.weight=0.9")
    trained = run(*command, "--set", "splitting.heal=1.0")
    assert trained.code == 0, trained.err
    assert "90.0% of the fully connected weights" in trained.out
    assert (rvsm.load(folder / "model.safetensors")["fc.weight"] == 0).float().mean() > 0.89

    evaluated = run("evaluate", folder)
    assert evaluated.code == 0, evaluated.err
    assert "test" in evaluated.out
    scored = json.loads(run("evaluate", folder, data, "--split", "val", "--json").out)
    assert list(scored["scores"]) == ["val"]
    assert scored["notice"] == NOTICE
    assert NOTICE in evaluated.err

    image = data / "test" / "shaky" / "000000.png"
    predicted = run("predict", folder, image)
    assert predicted.code == 0
    assert predicted.out.rstrip().endswith(str(image))
    assert predicted.out.split()[0] in ("shaky", "regular")
    told = json.loads(run("predict", folder, data / "test", "--json").out)
    assert len(told["files"]) == 16
    assert told["notice"] == NOTICE

    inspected = run("inspect", folder, "--json")
    layers = {row["name"]: row for row in json.loads(inspected.out)["layers"]}
    assert layers["fc.weight"]["macs"] == layers["fc.weight"]["weights"]
    assert layers["conv1.weight"]["units"] == 12
    assert "fc.weight" in run("inspect", folder / "model.safetensors").out
    looked = run("inspect", folder, "--sensitivity", "--picture", tmp_path / "sheet.png", "--json")
    assert looked.code == 0, looked.err
    curve = json.loads(looked.out)["sensitivity"]["layers"][-1]
    assert curve["name"] == "fc.weight"
    assert curve["zeros"][0] == round(0.9 * layers["fc.weight"]["weights"])
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")

    reported = run("report", folder)
    assert reported.code == 0, reported.err
    assert str(folder / "report.html") in reported.out

    again = run(*command, "--set", "splitting.heal=1.0")
    assert again.out == trained.out
    changed = run(*command, "--seed", 3)
    assert "another configuration" in changed.sentence()
    assert "already holds a run" in run(*command, "--no-resume").sentence()


def test_inspect_of_what_is_no_run(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        rvsm.save({"w": torch.ones(4, 6)}, tmp_path / "runs" / name / "model.safetensors")
    several = run("inspect", tmp_path / "runs").sentence()
    assert str(tmp_path / "runs" / "a") in several
    assert "holds several runs" in several
    model = tmp_path / "runs" / "a" / "model.safetensors"
    assert "4x3 blocks" in run("inspect", model, "--block", "4x3").out
    for options in (("--sensitivity",), ("--block", "4"), ("--split", "test")):
        assert run("inspect", model, *options).code == 2


def test_inspect_without_the_images_of_the_run(run: Run, tmp_path: Path) -> None:
    data, folder = make_folder(tmp_path / "data"), tmp_path / "run"
    assert run("train", data, "--out", folder, "--method", "dense", "--epochs", 1).code == 0
    data.rename(tmp_path / "moved")
    shown = run("inspect", folder, "--json")
    assert "--data names images" in shown.err
    assert json.loads(shown.out)["total"]["dead_units"] is None
    again = json.loads(run("inspect", folder, "--json", "--data", tmp_path / "moved").out)
    assert again["total"]["dead_units"] is not None
    assert str(data) in run("inspect", folder, "--sensitivity").err


def test_bands_of_amplitude_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    band = {"low_mm": 0.4, "high_mm": 0.55, "images": 20, "accuracy": 0.95}
    band |= {"shaky_found": 0.9, "regular_found": None}
    scores = {"test": {"bands": []}, "curve": {"bands": [band]}}
    print_bands({"scores": scores})
    words = capsys.readouterr().out.split()
    for part in ("curve", "0.4-0.55", "20", "95.00%", "90.00%"):
        assert part in words
    print_bands({"scores": {"test": {"bands": []}}})
    assert capsys.readouterr().out == ""


def test_own_images_without_splits(run: Run, tmp_path: Path) -> None:
    """Trained on some, scored on others: those of the training are no test of its own run."""
    make_folder(tmp_path / "drawn", {"train": 16})
    data = (tmp_path / "drawn" / "train").rename(tmp_path / "own")
    trained = run("train", data, "--out", tmp_path / "run", "--method", "dense", "--epochs", 1)
    assert trained.code == 0, trained.err
    own = json.loads(run("evaluate", tmp_path / "run", "--json").out)
    assert {name: score["images"] for name, score in own["scores"].items()} == {"test": 4}
    other = (tmp_path / "own").rename(tmp_path / "other")
    whole = json.loads(run("evaluate", tmp_path / "run", other, "--json").out)
    assert {name: score["images"] for name, score in whole["scores"].items()} == {"all": 32}


def test_data_make_and_check(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    splits = ("train", "val", "test-paper", "test-unseen", "curve")
    counts = [word for split in splits for word in ("--count", f"{split}=20")]
    made = run("data", "make", folder, "--task", "pen", "--seed", 5, "--workers", 1, *counts)
    assert made.code == 0, made.err
    assert "seed 5" in made.out
    assert len((folder / "manifest.csv").read_text().splitlines()) == 101
    assert (
        "already there"
        in run("data", "make", folder, "--task", "pen", "--seed", 5, "--workers", 1, *counts).out
    )
    checked = run("data", "check", folder, "--json")
    assert checked.code == 0, checked.out
    assert json.loads(checked.out)["images"]["train"] == {"regular": 10, "shaky": 10}
    shown = run("data", "check", folder).out
    for column in ("x_height_mm", "letters", "words", "slant_deg", "pen_mm", "carrier", "text"):
        assert column in shown
    copied = (folder / "train" / "shaky" / "000000.png").read_bytes()
    (folder / "test-unseen" / "shaky" / "000000.png").write_bytes(copied)
    (folder / "val" / "shaky" / "000000.png").write_bytes(b"junk")
    faulty = run("data", "check", folder)
    assert faulty.code == 1
    assert "equal files" in faulty.out
    assert "val/shaky/000000.png" in faulty.out
    assert "lists 1 unreadable files" in " ".join(faulty.out.split())
    assert sum(bool(row.error) for row in read_manifest(folder)) == 1


def test_options_that_do_not_go_together(run: Run, tmp_path: Path) -> None:
    words = ("data", "make", tmp_path / "set", "--words", tmp_path)
    strokes = tmp_path / "none.csv"
    assert "leave out --words" in run(*words, "--fonts", tmp_path, "--strokes", strokes).sentence()
    wrong = run(*words, "--task", "pen")
    assert wrong.code == 2
    assert "leave out --task or --words" in " ".join(wrong.err.replace("│", " ").split())


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == f"rvsm {rvsm.__version__}"
    for command in ("train", "evaluate", "predict", "report", "reproduce", "inspect"):
        shown = run(command, "--help")
        assert shown.code == 0
        assert "Examples:" in shown.out
    assert "rvsm reproduce" in run("--help").out


def test_help_tells_the_data_seed_of_the_study(run: Run) -> None:
    shown = " ".join(run("reproduce", "--help").out.split())
    assert f"a function of it; {DATA_SEED} by default" in shown


def test_a_run_without_a_test_split_has_no_scores(run: Run, tmp_path: Path) -> None:
    """What it learned from, or was chosen by, is no test; asked for by name it is scored."""
    data = make_folder(tmp_path / "data", {"train": 8, "val": 4})
    folder = tmp_path / "run"
    trained = run("train", data, "--out", folder, "--method", "dense", "--epochs", 1)
    assert trained.code == 0, trained.err
    assert "no test split, so nothing was scored" in trained.out
    assert "accuracy" not in trained.out
    sentence = run("evaluate", folder).sentence()
    assert f"{data} has no test split" in sentence
    assert "--split val" in sentence
    named = run("evaluate", folder, "--split", "val")
    assert named.code == 0, named.err
    assert "val" in named.out


def test_help_needs_no_torch() -> None:
    done = run_apart("train", "--help", before="sys.modules['torch'] = None")
    assert done.code == 0, done.err


def test_a_path_that_starts_like_an_option(run: Run, tmp_path: Path) -> None:
    rvsm.save({"w": torch.ones(3)}, tmp_path / "--debug")
    assert run("inspect", "--", tmp_path / "--debug").code == 0


def test_faults_of_our_own_keep_their_traceback() -> None:
    assert explain_error(ZeroDivisionError())[0] is None
    assert explain_error(ModuleNotFoundError(name="rvsm.missing"))[0] is None


def test_sentences_for_the_systems_errors() -> None:
    sentence, code = explain_error(PermissionError(13, "Permission denied", "/x/y"))
    assert (sentence, code) == (
        "Error: Cannot use /x/y: permission denied: have it permitted to you, or choose another "
        "path.",
        1,
    )
    assert "memory" in str(explain_error(MemoryError())[0])
    assert explain_error(KeyboardInterrupt())[1] == 130


def test_progress_without_a_terminal_is_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        for done in range(1, 6):
            bars("reading", done, 5)
        bars.named("writing")(1, 1)
    assert capfd.readouterr().err == "reading: 5\nwriting: 1\n"
