"""How large the images are that a network reads, where nobody says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drawings import make_folder
from rvsm.errors import ConfigError, DataError
from rvsm.experiments.config import TrainConfig, load_config, make_config
from rvsm.experiments.runs import load_run, network_size
from rvsm.experiments.train import train
from training_runs import Stopped, assert_same, stop_after

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]

STEPS = 4


def configure(folder: Path, **changes: Any) -> TrainConfig:
    values = {"data": str(folder), "method": "dense", "epochs": 2, "batch_size": 4}
    return make_config({**values, "network": {"channels": [2, 2, 2]}, **changes})


@pytest.fixture(scope="module")
def spirals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the task whose images are square."""
    folder = make_folder(tmp_path_factory.mktemp("spirals"), {"train": 4 * STEPS, "val": 4})
    (folder / "dataset.json").write_text(json.dumps({"task": "spiral"}))
    return folder


def size_in(run: Path) -> tuple[int, int] | None:
    return load_config(run / "config.toml").network.size


def test_it_is_half_that_of_the_images(spirals: Path, tmp_path: Path) -> None:
    run, other, named = tmp_path / "run", tmp_path / "other", tmp_path / "named"
    with pytest.raises(Stopped):
        train(configure(spirals), run, progress=stop_after(STEPS + 1))
    assert size_in(run) == (128, 128)
    train(configure(spirals), run)
    train(configure(spirals, network={"channels": [2, 2, 2], "size": [128, 128]}), other)
    assert_same(run, other)
    assert load_run(run)[1].size == (128, 128)
    again = train(configure(spirals), run)
    assert again.result == train(load_config(run / "config.toml"), run).result
    train(configure(spirals, network={"channels": [2, 2, 2], "size": [64, 32]}, epochs=1), named)
    assert size_in(named) == (64, 32)
    assert train(configure(spirals, epochs=1), named), "goes on with what the run there has"


@pytest.mark.parametrize(
    ("task", "size"),
    [("pen", (32, 128)), ("", (32, 128)), ("wave", (64, 128)), ("drawing", (128, 128))],
)
def test_of_every_task(tmp_path: Path, task: str, size: tuple[int, int]) -> None:
    assert network_size(configure(tmp_path)) == (32, 128)
    (tmp_path / "dataset.json").write_text(json.dumps({"task": task}))
    assert network_size(configure(tmp_path)) == size
    assert network_size(configure(tmp_path, network={"size": [16, 8]})) == (16, 8)


def test_a_run_that_starts_from_another_reads_what_that_one_reads(
    spirals: Path, tmp_path: Path
) -> None:
    """Its weights fit nothing else."""
    start, run = tmp_path / "start", tmp_path / "run"
    squashed = configure(spirals, network={"channels": [2, 2, 2], "size": [32, 128]}, epochs=1)
    train(squashed, start)
    train(configure(spirals, start=str(start), epochs=1), run)
    assert size_in(run) == (32, 128)
    (start / "config.toml").unlink()
    train(configure(spirals, start=str(start), epochs=1), run)
    with pytest.raises(ConfigError, match=r"start.config.toml"):
        train(configure(spirals, start=str(start), epochs=1), tmp_path / "third")


def test_a_size_that_does_not_fit_names_one_that_does(spirals: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"256x256 .* to 48x48; .* such as \[128, 128\]"):
        train(configure(spirals, network={"size": [48, 48]}), tmp_path / "run")
    with pytest.raises(ConfigError, match="leave nothing of a 128x128 image; give smaller pools"):
        train(configure(spirals, network={"pools": [[64, 2], [4, 2], [1, 1]]}), tmp_path / "run")
