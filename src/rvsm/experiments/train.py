"""Train one network in one run folder; killed at any moment, the same call continues."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from rvsm import load, save
from rvsm.atomic import atomic_text, make_folder
from rvsm.errors import ConfigError, RunError
from rvsm.experiments.callbacks import Recorder, WholeFileIO, last_checkpoint
from rvsm.experiments.config import TrainConfig, dump_config, load_config
from rvsm.experiments.data import Batches, Split, dataset_info, load_split, read_rows
from rvsm.experiments.evaluate import count_zeros, evaluate_network, write_predictions
from rvsm.experiments.module import SparseTraining, make_network
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.network import TremorNet

VALIDATION_BATCH = 500
_LIGHTNING_WARNINGS = (
    r"`?isinstance\(treespec, LeafSpec\)`? is deprecated",  # its own use of a torch internal
    r"GPU available but not used",
)
Progress = Callable[[str, int, int], None]
"""Told (what is done, how much of it is done, how much there is)."""


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Parameters
    ----------
    run_dir
        Its folder.
    result
        The contents of its ``result.json``.
    """

    run_dir: Path
    result: dict[str, Any]


def train(
    config: TrainConfig,
    run_dir: Path,
    resume: bool = True,
    progress: Progress | None = None,
) -> RunResult:
    """Train, choose the model on the validation split, then score it on the test splits.

    Parameters
    ----------
    config
        What to train.
    run_dir
        Folder for everything the run writes. A run that was stopped there with the same
        configuration is continued after its last finished epoch, to the identical bits; a
        finished one is returned at once.
    resume
        False refuses a folder that already holds a run.
    progress
        Told how far reading and training are.

    Returns
    -------
    RunResult
        The contents of ``result.json``.

    Raises
    ------
    RunError
        If the folder holds a run with another configuration, is in use or cannot be written, or
        if the loss is not finite.
    DataError
        If the data folder cannot be used.
    ConfigError
        If a rule or option does not fit.
    """
    run_dir = Path(run_dir)
    if (run_dir / "config.toml").exists():
        _check_same(config, run_dir, resume)
        if (run_dir / "result.json").exists():
            return RunResult(run_dir, json.loads((run_dir / "result.json").read_text("utf-8")))
    data = Path(config.data)
    rows = read_rows(data)
    size = config.network.size
    splits = {
        name: load_split(data, name, size, rows=rows, progress=_part(progress, f"reading {name}"))
        for name in ("train", "val")
    }
    try:
        make_folder(run_dir)
        with _locked(run_dir), _threads(config.threads):
            for leftover in (*run_dir.glob(".*.tmp"), *run_dir.glob("checkpoints/.*.tmp")):
                leftover.unlink()
            if not (run_dir / "config.toml").exists():
                atomic_text(run_dir / "environment.json", json.dumps(environment(), indent=2))
                atomic_text(run_dir / "config.toml", dump_config(config))
            recorder, net = _fit(config, run_dir, splits["train"], splits["val"], progress)
            save(net, run_dir / "model.safetensors")
            result = _score(config, run_dir, net, recorder, splits, rows, progress)
            atomic_text(run_dir / "result.json", json.dumps(result, indent=2))
    except OSError as error:
        raise RunError(
            f"Cannot write in the run folder {run_dir}: {error.strerror or error}; free space or "
            "name another folder, then run the same command again."
        ) from error
    return RunResult(run_dir, result)


def load_run(run_dir: Path) -> tuple[TrainConfig, TremorNet]:
    """Read the network of a finished run, in evaluation mode.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    """
    run_dir = Path(run_dir)
    for name in ("config.toml", "model.safetensors"):
        if not (run_dir / name).is_file():
            raise RunError(
                f"{run_dir} holds no finished run ({name} is missing); name the folder of a run, "
                "or finish it with `rvsm train`."
            )
    config = load_config(run_dir / "config.toml")
    net = make_network(config)
    load_into(net, run_dir / "model.safetensors")
    return config, net.eval()


def load_into(net: TremorNet, path: Path) -> None:
    """Load a model file into a network of the same shape.

    Raises
    ------
    RunError
        If the shapes differ.
    """
    try:
        net.load_state_dict(load(path))
    except RuntimeError as error:
        raise RunError(
            f"The weights of {path} do not fit the network of this configuration; give both the "
            "same [network] section."
        ) from error


def environment() -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its configuration."""
    packages = {}
    for name in ("rvsm", "torch", "numpy", "lightning", "pillow", "scikit-learn", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": _git_commit(),
        "packages": packages,
    }


def _fit(
    config: TrainConfig, run_dir: Path, train_split: Split, val_split: Split, progress: Any
) -> tuple[Recorder, TremorNet]:
    """Run Lightning's trainer from the last checkpoint on and return the chosen model."""
    device = "cuda" if config.accelerator == "gpu" else "cpu"
    batches = Batches(train_split, config.batch_size, config.seed, config.augmentation, device)
    val_batches = Batches(val_split, VALIDATION_BATCH, device=device)
    net = make_network(config)
    if config.start:
        load_into(net, _start_file(config.start))
    module = SparseTraining(net, config, len(batches))
    recorder = Recorder(run_dir, config.select)
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    # A resumed run writes its event file anew from the rows of the checkpoint.
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    with _quiet_lightning():
        logger = TensorBoardLogger(run_dir, name="tensorboard", version="")
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=1,
            precision=config.precision,
            max_epochs=config.epochs,
            logger=logger,
            callbacks=[recorder, *([_EpochProgress(progress)] if progress else [])],
            plugins=[WholeFileIO()],
            default_root_dir=run_dir,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches, val_batches, ckpt_path=checkpoint, weights_only=True)
    net.to("cpu")
    net.load_state_dict(recorder.best_state or module.state_at_u())
    return recorder, net.eval()


def _score(
    config: TrainConfig,
    run_dir: Path,
    net: TremorNet,
    recorder: Recorder,
    splits: dict[str, Split],
    rows: list[Row],
    progress: Progress | None,
) -> dict[str, Any]:
    """Open the test splits, for the first time, and write what the network makes of them."""
    data = Path(config.data)
    names = sorted({row.split for row in rows} - {"train", "val"})
    tests = {
        name: load_split(
            data, name, config.network.size, rows=rows, progress=_part(progress, f"reading {name}")
        )
        for name in names
    }
    scores = {name: evaluate_network(net, split) for name, split in tests.items()}
    write_predictions(run_dir / "test_predictions.csv", tests, scores)
    info = dataset_info(data)
    last = recorder.rows[-1]
    return {
        "task": info.get("task", ""),
        "set": info.get("set", ""),
        "method": config.method,
        "seed": config.seed,
        "start": "dense" if config.start else "scratch",
        "epochs": config.epochs,
        "best_epoch": int(last["epoch"]) if recorder.best_epoch is None else recorder.best_epoch,
        "seconds": recorder.seconds,
        "split_sizes": {name: len(split) for name, split in {**splits, **tests}.items()},
        "skipped_images": {
            name: split.skipped for name, split in {**splits, **tests}.items() if split.skipped
        },
        **count_zeros(net),
        "scores": {name: score.summary() for name, score in scores.items()},
    }


class _EpochProgress(Callback):
    """Passes Lightning's progress on to a function, a step at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        done = trainer.global_step
        self._progress("training", done, int(trainer.estimated_stepping_batches))


def _check_same(config: TrainConfig, run_dir: Path, resume: bool) -> None:
    if not resume:
        raise RunError(f"{run_dir} already holds a run; name a new folder, or let it resume.")
    try:
        there = load_config(run_dir / "config.toml").model_dump()
    except ConfigError as error:
        raise RunError(
            f"{run_dir} holds a run whose config.toml cannot be read ({error}); name a new folder."
        ) from error
    wanted = config.model_dump()
    if different := [name for name in wanted if there.get(name) != wanted[name]]:
        raise RunError(
            f"{run_dir} holds a run with another configuration (different: "
            f"{', '.join(different)}); name a new folder for this one, or restore those values."
        )


def _start_file(start: str) -> Path:
    path = Path(start) / "model.safetensors"
    if not path.is_file():
        raise RunError(
            f"start names {start}, which holds no model.safetensors; name the folder of a "
            "finished run."
        )
    return path


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the system frees the lock of a killed one."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with (run_dir / ".lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"Another process is training in {run_dir}; wait for it or name another folder."
            ) from error
        yield


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says at every start: its greeting, and advice that does not apply."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _LIGHTNING_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        log.setLevel(level)


def _part(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Return the commit of the checkout this file is in, with ``+changes`` where it differs."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
