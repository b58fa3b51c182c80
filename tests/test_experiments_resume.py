"""Stopped at any moment and called again, a run ends with the bits it would have had."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from drawings import make_folder
from rvsm.errors import RunError
from rvsm.experiments.callbacks import Recorder
from rvsm.experiments.config import METHODS, TrainConfig
from rvsm.experiments.runs import load_run
from rvsm.experiments.train import RunResult, train
from training_runs import (
    EPOCHS,
    Stopped,
    assert_same,
    configure,
    logged_steps,
    metrics,
    stop_after,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run that nothing disturbed."""
    return train(configure(folder), tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("steps", [2, 8, 11])
def test_stopped_and_called_again_it_ends_the_same(
    whole: RunResult, folder: Path, tmp_path: Path, steps: int
) -> None:
    with pytest.raises(Stopped):
        train(configure(folder), tmp_path / "run", progress=stop_after(steps))
    assert len(list((tmp_path / "run").glob("checkpoints/*.ckpt"))) == (steps - 1) // 4
    train(configure(folder), tmp_path / "run")
    assert_same(tmp_path / "run", whole.run_dir)


@pytest.mark.parametrize("method", ["dense", "l0"])
def test_muon_and_averages_too_continue_to_the_same_end(
    folder: Path, tmp_path: Path, method: str
) -> None:
    config = configure(folder, method=method, optimizer="muon", muon_lr=0.02, average=0.8)
    whole = train(config, tmp_path / "whole").result
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", progress=stop_after(11))
    train(config, tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert whole["val_accuracy"] > 0.8
    _, adamw = load_run(train(configure(folder, method=method), tmp_path / "adamw").run_dir)
    _, muon = load_run(tmp_path / "run")
    assert not torch.equal(adamw.conv2.weight, muon.conv2.weight)


KILLED = """
import json, os, signal, sys, threading
from pathlib import Path
from rvsm.experiments.config import make_config
from rvsm.experiments.train import train

config, run, after_steps, delay, sent = json.loads(sys.argv[1])
steps = 0

def die():
    os.kill(os.getpid(), sent)

def progress(what, done, total):
    global steps
    steps += what == "training"
    if what == "training" and steps == after_steps:
        threading.Timer(delay, die).start() if delay else die()

train(make_config(config), Path(run), progress=progress)
"""


def train_and_kill(
    config: TrainConfig,
    run: Path,
    after_steps: int,
    delay: float = 0,
    sent: signal.Signals = signal.SIGKILL,
) -> int:
    """Train in a process that kills itself by a signal, ``delay`` seconds after so many steps.

    Returns its exit code: 0 where it came to its end before.
    """
    order = json.dumps([config.model_dump(exclude_none=True), str(run), after_steps, delay, sent])
    return subprocess.run([sys.executable, "-c", KILLED, order]).returncode


def test_killed_and_called_again_it_ends_the_same(
    whole: RunResult, folder: Path, tmp_path: Path
) -> None:
    assert train_and_kill(configure(folder), tmp_path / "run", after_steps=10) == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    train(configure(folder), tmp_path / "run")
    assert_same(tmp_path / "run", whole.run_dir)


def test_a_script_that_is_terminated_has_not_succeeded(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_and_kill(configure(folder), run, after_steps=10, sent=signal.SIGTERM) == 143
    assert list(run.glob("checkpoints/*.ckpt"))
    assert not (run / "result.json").exists()


def test_killed_between_the_last_checkpoint_and_the_logs_it_ends_with_whole_logs(
    whole: RunResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Recorder._write_metrics

    def stop_at_the_last(self: Recorder) -> None:
        if len(self.rows) == EPOCHS:
            raise Stopped
        write(self)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_write_metrics", stop_at_the_last)
        with pytest.raises(Stopped):
            train(configure(folder), tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == EPOCHS - 1
    train(configure(folder), tmp_path / "run")
    assert_same(tmp_path / "run", whole.run_dir)
    assert logged_steps(tmp_path / "run") == list(range(EPOCHS))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grad_at", ["w", "u"])
def test_killed_many_times_at_random_it_ends_the_same(
    folder: Path, tmp_path: Path, method: str, grad_at: str
) -> None:
    splitting = {"grad_at": grad_at, "end": 0.5, "heal": 0.75}
    config = configure(folder, method=method, epochs=8, splitting=splitting)
    train(config, tmp_path / "whole")
    chance = random.Random(f"{method} {grad_at}")
    codes = []
    for _ in range(5):
        steps, delay = chance.randint(1, 14), chance.uniform(0.001, 0.1)
        codes.append(train_and_kill(config, tmp_path / "killed", steps, delay))
    assert -signal.SIGKILL in codes
    train(config, tmp_path / "killed")
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_the_event_file_of_a_resumed_run_holds_every_epoch_once(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(configure(folder), tmp_path / "run", progress=stop_after(7))
    train(configure(folder), tmp_path / "run")
    assert logged_steps(tmp_path / "run") == list(range(EPOCHS))


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    data, run = make_folder(tmp_path / "data"), tmp_path / "run"
    told = {"seed": 1, "options": {"images": {"train": 32}}, "generator": "0.1.0+a"}
    (data / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(Stopped):
        train(configure(data), run, progress=stop_after(7))
    (data / "dataset.json").write_text(json.dumps(told | {"seed": 2, "generator": "0.1.0+b"}))
    with pytest.raises(RunError, match="was made anew with another seed, generator since"):
        train(configure(data), run)
    (data / "dataset.json").write_text(json.dumps(told))
    train(configure(data), run)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    whole: RunResult, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(configure(folder), run, progress=stop_after(10))
    first, second = sorted(run.glob("checkpoints/*.ckpt"))
    second.write_bytes(second.read_bytes()[:1000])
    shutil.copytree(run, tmp_path / "worse")
    train(configure(folder), run)
    assert_same(run, whole.run_dir)
    (tmp_path / "worse" / "checkpoints" / first.name).write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"No checkpoint in .* can be read"):
        train(configure(folder), tmp_path / "worse")


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let files grow no further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_spoils_no_checkpoint(whole: RunResult, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        fill = stop_after(9, lambda: stack.enter_context(file_size_limit(20_000)))
        with pytest.raises(RunError, match=r"(?s)Cannot write .*ckpt.*run the same command again"):
            train(configure(folder), run, progress=fill)
    assert [path.name for path in sorted(run.glob("checkpoints/*"))] == [
        "epoch-00000.ckpt",
        "epoch-00001.ckpt",
    ]
    assert not list(run.rglob("*.tmp"))
    train(configure(folder), run)
    assert_same(run, whole.run_dir)


def test_a_full_disk_at_the_first_checkpoint(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        fill = stop_after(2, lambda: stack.enter_context(file_size_limit(20_000)))
        with pytest.raises(RunError, match=r"Cannot write .*ckpt.*no epoch was kept: .* anew"):
            train(configure(folder), run, progress=fill)
    assert not list(run.glob("checkpoints/*"))


def test_ctrl_c_stays_ctrl_c(folder: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(configure(folder), tmp_path / "run", progress=stop_after(5, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "run" / "checkpoints" / "epoch-00000.ckpt").exists()
