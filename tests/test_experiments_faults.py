"""What a training run refuses, and what it leaves when it cannot go on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import rvsm
from drawings import make_folder
from rvsm.errors import ConfigError, DataError, RuleError, RunError, RvsmError
from rvsm.experiments import runs
from rvsm.experiments import train as train_module
from rvsm.experiments.config import TrainConfig, dump_config, load_config, make_config
from rvsm.experiments.module import SparseTraining
from rvsm.experiments.report import write_report
from rvsm.experiments.runs import load_run, locked, read_result
from rvsm.experiments.train import RunResult, train


def configure(folder: Path, **changes: Any) -> TrainConfig:
    values = {
        "data": str(folder),
        "epochs": 1,
        "batch_size": 16,
        "network": {"channels": [2, 3, 4]},
    }
    return make_config({**values, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(configure(folder), tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='set it to "cpu"'):
        train(configure(folder, accelerator="gpu"), tmp_path / "run")


def test_a_loss_that_is_no_number(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, method="dense", lr=1e18)
    with pytest.raises(RunError, match=r"(The loss became|not finite).*") as caught:
        train(config, tmp_path / "run")
    assert "lr" in str(caught.value)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("method", ["dense", "l0"])
def test_a_last_step_that_diverges_leaves_no_checkpoint(
    folder: Path, tmp_path: Path, method: str
) -> None:
    """One step an epoch: no loss is looked at between it and the checkpoint."""
    config = configure(folder, method=method, lr=1e30, batch_size=64, epochs=1)
    for _ in range(2):
        with pytest.raises(RunError, match=r"became .* in epoch 0, step 1; .*smaller lr") as told:
            train(config, tmp_path / "run")
    assert "nothing is kept" in str(told.value)
    assert ("beta (now 0.1)" in str(told.value)) == (method == "l0")
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert not list((tmp_path / "run").glob("*.safetensors"))
    train(configure(folder, method=method), tmp_path / "run")


def test_divergence_in_a_later_epoch_keeps_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(self: SparseTraining) -> None:
        if self.current_epoch == 1:
            raise self._diverged("The loss became nan")

    monkeypatch.setattr(SparseTraining, "check_finite", check)
    with pytest.raises(RunError, match=r"in epoch 1, .* another folder; .*last checkpoint is kept"):
        train(configure(folder, epochs=2), tmp_path / "run")
    assert [file.name for file in tmp_path.rglob("*.ckpt")] == ["epoch-00000.ckpt"]


def test_weights_that_are_no_numbers_are_not_used(whole: RunResult, tmp_path: Path) -> None:
    run = shutil.copytree(whole.run_dir, tmp_path / "run")
    for name in ("model", "training"):
        state = rvsm.load(run / f"{name}.safetensors")
        assert isinstance(state, dict)
        state["fc.weight"][1, 3] = float("nan")
        rvsm.save(state, run / f"{name}.safetensors")
    with pytest.raises(RunError, match=r"fc\.weight in .*model\.safetensors.* no numbers"):
        load_run(run)
    with pytest.raises(RunError, match=r"training\.safetensors.* no numbers"):
        train(configure(Path(load_run(whole.run_dir)[0].data), start=str(run)), tmp_path / "next")


def test_what_cannot_be_is_told_before_any_image_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(train_module, "load_split", read)
    (tmp_path / "file").write_text("")
    unmatched = [{"pattern": "fc9.weight", "sparsity": 0.5}]
    for method in ("l0", "dense"):
        with pytest.raises(RuleError, match=r"fc9\.weight.* conv1\.weight"):
            train(configure(folder, method=method, rules=unmatched), tmp_path / "run")
    with pytest.raises(DataError, match="48x128"):
        train(configure(folder, network={"size": [48, 128]}), tmp_path / "run")
    with pytest.raises(RunError, match="holds no training"):
        train(configure(folder, start=str(tmp_path)), tmp_path / "run")
    with pytest.raises(RvsmError, match="file"):
        train(configure(folder), tmp_path / "file" / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_checkpoint_is_taken_over(folder: Path, tmp_path: Path) -> None:
    """What a first command with a mistake wrote does not stand in the way of the second."""
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / "config.toml").write_text(dump_config(configure(folder, epochs=9)))
    train(configure(folder, seed=1), run, resume=False)
    assert load_config(run / "config.toml").seed == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_damaged_result_is_told(whole: RunResult, tmp_path: Path, content: str) -> None:
    run = shutil.copytree(whole.run_dir, tmp_path / "run")
    (run / "result.json").write_text(content)
    config = configure(Path(load_run(run)[0].data))
    with pytest.raises(RunError, match=r"result\.json is damaged .*delete that file"):
        train(config, run)
    (run / "result.json").unlink()
    again = train(config, run).result
    assert again["scores"] == whole.result["scores"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("scores", [], "scores: input should be an object"),
        ("scores", None, "scores: input should be an object"),
        ("scores", {"test-paper": {"accuracy": "high"}}, "scores.test-paper.accuracy: .* number"),
        ("scores", {"test-paper": {}}, "it holds no scores"),
        ("split_sizes", "many", "split_sizes: input should be an object"),
        ("zeros", "all", "zeros: input should be a valid number"),
    ],
)
def test_a_result_of_wrong_types_is_told(
    whole: RunResult, tmp_path: Path, key: str, value: object, said: str
) -> None:
    run = shutil.copytree(whole.run_dir, tmp_path / "run")
    (run / "result.json").write_text(json.dumps({**whole.result, key: value}))
    with pytest.raises(RunError, match=rf"result\.json is damaged \({said}\); delete that file"):
        read_result(run)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Shaky or regular" in page


def test_the_commit_is_that_of_a_checkout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in an environment inside somebody's repository is not of that repository."""

    def git(*words: str) -> None:
        person = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", "-C", tmp_path, *person, *words], check=True, capture_output=True)

    place = tmp_path / "venv" / "rvsm" / "runs.py"
    place.parent.mkdir(parents=True)
    place.write_text("")
    (tmp_path / ".gitignore").write_text("venv\n")
    git("init")
    git("add", ".gitignore")
    git("commit", "-m", "theirs")
    monkeypatch.setattr(runs, "__file__", str(place))
    assert runs.environment()["git_commit"] is None
    git("add", "-f", str(place))
    git("commit", "-m", "ours")
    assert len(runs.environment()["git_commit"]) == 40


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_readable_images_is_not_done_without(tmp_path: Path, split: str) -> None:
    data = make_folder(tmp_path / "data", {"train": 16, "val": 8})
    for file in (data / split / "regular").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=rf'regular images in the split "{split}" of {data}'):
        train(configure(data), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_test_split_that_cannot_be_read_costs_no_training(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"train": 16, "val": 8, "test-paper": 4})
    kept = {file: file.read_bytes() for file in (data / "test-paper" / "shaky").iterdir()}
    for file in kept:
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r'2 shaky .*"test-paper".* is trained and kept.* again'):
        train(configure(data), tmp_path / "run")
    for file, content in kept.items():
        file.write_bytes(content)

    def no_training(what: str, *_: int) -> None:
        assert what != "training"

    result = train(configure(data), tmp_path / "run", progress=no_training).result
    assert result["scores"]["test-paper"]["images"] == 4


def test_a_test_split_of_one_class_is_told_before_training(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"train": 16, "val": 8, "test-paper": 4})
    manifest = data / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",test-paper,shaky,", ",test-paper,regular,"))
    with pytest.raises(DataError, match=r'"test-paper" of .* holds only regular images'):
        train(configure(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_at_a_time(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with locked(run), pytest.raises(RunError, match="Another process is training"):
        train(configure(folder), run)
