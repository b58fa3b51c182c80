"""What a training run refuses, and what it leaves when it cannot go on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import rvsm
from drawings import make_folder
from rvsm.errors import ConfigError, RuleError, RunError, RvsmError
from rvsm.experiments.config import TrainConfig, make_config
from rvsm.experiments.runs import load_run, locked
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
        with pytest.raises(RunError, match=r"became .* in epoch 0, step 1; .*smaller lr"):
            train(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert not list((tmp_path / "run").glob("*.safetensors"))


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


def test_folders_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RvsmError, match="file"):
        train(configure(folder), tmp_path / "file" / "run")


def test_one_process_at_a_time(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with locked(run), pytest.raises(RunError, match="Another process is training"):
        train(configure(folder), run)


def test_a_pattern_that_matches_nothing(folder: Path, tmp_path: Path) -> None:
    rules = [{"pattern": "fc9.weight", "sparsity": 0.5}]
    with pytest.raises(RuleError, match=r"fc9\.weight"):
        train(configure(folder, rules=rules), tmp_path / "run")
