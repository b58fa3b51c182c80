"""Train one network in one run folder; killed at any moment, the same call continues."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rvsm import save
from rvsm.atomic import atomic_text, make_folder
from rvsm.deploy.tracing import trace
from rvsm.errors import ConfigError, DataError, RunError
from rvsm.experiments.aside import note_on
from rvsm.experiments.callbacks import Recorder, WholeFileIO, last_checkpoint
from rvsm.experiments.config import CONFIG_FILE, TrainConfig, dump_config
from rvsm.experiments.data import (
    Batches,
    Split,
    check_size,
    first_of,
    joined,
    load_split,
    read_rows,
    usable_rows,
)
from rvsm.experiments.denormals import no_denormals
from rvsm.experiments.evaluate import (
    count_zeros,
    describe_skipped,
    evaluate_network,
    write_predictions,
    write_skipped,
)
from rvsm.experiments.module import SparseTraining
from rvsm.experiments.origin import check_unchanged, noted
from rvsm.experiments.places import MODEL_FILE, rooted, write_environment
from rvsm.experiments.probability import write_calibration
from rvsm.experiments.runs import (
    TRAINING_FILE,
    check_free,
    check_same,
    environment,
    holds_run,
    load_into,
    load_run,
    locked,
    make_network,
    network_size,
    read_result,
    resolve,
    sized,
    start_file,
)
from rvsm.handwriting.description import read_description, whole_size
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.network import TremorNet

VALIDATION_BATCH = 500
TRAINING_SPLITS = ("train", "val")
_ANY_LENGTH = 1000
"""Steps an epoch has while nobody knows how many images there are."""
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
    if holds_run(run_dir):
        if not resume:
            raise RunError(f"{run_dir} already holds a run; name a new folder, or let it resume.")
        config = check_same(config, run_dir)
        if (result := read_result(run_dir)) is not None:
            return RunResult(run_dir, result)
        check_unchanged(run_dir, Path(config.data))
    # What can be refused is refused before an hour of reading, and before anything is written.
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError('accelerator is "gpu" but torch finds none; set it to "cpu".')
    if config.start:
        start_file(config.start)
    data, size = Path(config.data), network_size(config)
    if run_dir.resolve() == data.resolve():
        raise RunError(
            f"{run_dir} holds the images to learn from; name another folder for the run."
        )
    check_size(size, whole_size(data))
    config = sized(config, size)
    teacher = _teacher(config)
    SparseTraining(make_network(config), config, _ANY_LENGTH).check_rules()
    rows = read_rows(data)
    for name in (*TRAINING_SPLITS, *_test_splits(rows)):
        usable_rows(data, rows, name)
    more = {Path(folder): read_rows(Path(folder)) for folder in config.more}
    for folder, known in more.items():
        check_size(size, whole_size(folder))
        usable_rows(folder, known, "train")
    check_free(run_dir)
    try:
        make_folder(run_dir)
        with locked(run_dir), _threads(config.threads), no_denormals():
            for leftover in (*run_dir.glob(".*.tmp"), *run_dir.glob("checkpoints/.*.tmp")):
                leftover.unlink()
            # Another process may have been training here until now.
            config = check_same(config, run_dir) if holds_run(run_dir) else resolve(config)
            splits = {
                name: load_split(
                    data, name, size, rows=rows, progress=_part(progress, f"reading {name}")
                )
                for name in TRAINING_SPLITS
            }
            others = {
                folder: load_split(
                    folder, "train", size, rows=known, progress=_part(progress, f"reading {folder}")
                )
                for folder, known in more.items()
            }
            splits["train"] = first_of(joined(splits["train"], others), config.images)
            if not holds_run(run_dir):
                write_environment(run_dir, environment() | noted(data))
                atomic_text(run_dir / CONFIG_FILE, dump_config(rooted(config)))
            recorder, net = _fit(config, run_dir, splits["train"], splits["val"], teacher, progress)
            save(net, run_dir / TRAINING_FILE)
            net = net.folded()
            layers = trace(net, torch.zeros(1, 1, *net.size)).describe()
            save(net, run_dir / MODEL_FILE, architecture=layers)
            net.to(_device(config))
            result = _score(config, run_dir, net, recorder, splits, rows, progress)
            atomic_text(run_dir / "result.json", json.dumps(result, indent=2))
    except OSError as error:
        raise RunError(
            f"Cannot write in the run folder {run_dir}: {error.strerror or error}; free space or "
            "name another folder, then run the same command again."
        ) from error
    return RunResult(run_dir, result)


def _fit(
    config: TrainConfig,
    run_dir: Path,
    train_split: Split,
    val_split: Split,
    teacher: TremorNet | None,
    progress: Any,
) -> tuple[Recorder, TremorNet]:
    """Run Lightning's trainer from the last checkpoint on and return the chosen model."""
    device = _device(config)
    batches = Batches(train_split, config.batch_size, config.seed, config.augmentation, device)
    val_batches = Batches(val_split, VALIDATION_BATCH, device=device)
    assert config.precision != "auto", "resolved before the run began"
    net = make_network(config)
    if config.start:
        load_into(net, start_file(config.start))
        net.simplify()
    module = SparseTraining(net, config, len(batches), teacher)
    recorder = Recorder(run_dir, config.select)
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    # A resumed run writes its event file anew from the rows of the checkpoint.
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    with quiet_lightning(), plain_interrupt():
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


def _teacher(config: TrainConfig) -> TremorNet | None:
    """Return the network whose answers are learned from, on the device of the images."""
    if not config.teacher:
        return None
    teacher = load_run(Path(config.teacher))[1]
    if teacher.size != config.network.size:
        raise ConfigError(
            f"The teacher {config.teacher} reads images of {teacher.size}, the network of "
            f"{config.network.size} pixels; name another run, or set network.size to that."
        )
    teacher.simplify()  # computes no maps that it does not read
    return teacher.to(_device(config))


def _device(config: TrainConfig) -> str:
    return "cuda" if config.accelerator == "gpu" else "cpu"


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
    data, size = Path(config.data), net.size
    try:
        tests = {
            name: load_split(
                data, name, size, rows=rows, progress=_part(progress, f"reading {name}")
            )
            for name in _test_splits(rows)
        }
    except DataError as error:
        raise DataError(
            f"{str(error).rstrip('.')}; the network is trained and kept, only its scores are "
            "missing: run the same command again when the cause is gone."
        ) from error
    scores = {name: evaluate_network(net, split) for name, split in tests.items()}
    chosen_on = evaluate_network(net, splits["val"])
    write_calibration(run_dir, chosen_on.probabilities, chosen_on.labels)
    write_predictions(run_dir / "test_predictions.csv", tests, scores)
    every = {**splits, **tests}
    write_skipped(run_dir / "skipped.csv", every)
    info = read_description(data) or {}
    chosen = next(
        (row for row in recorder.rows if row["epoch"] == recorder.best_epoch), recorder.rows[-1]
    )
    return {
        "task": info.get("task", ""),
        "set": info.get("set", ""),
        "method": config.method,
        "seed": config.seed,
        "start": "dense" if config.start else "scratch",
        "epochs": config.epochs,
        "best_epoch": int(chosen["epoch"]),
        "val_accuracy": chosen["val_accuracy"],
        "seconds": recorder.seconds,
        "split_sizes": {name: len(split) for name, split in every.items()},
        **describe_skipped(every),
        **({"note": note} if (note := note_on(rows)) else {}),
        **count_zeros(net),
        "scores": {name: score.summary() for name, score in scores.items()},
    }


def _test_splits(rows: list[Row]) -> list[str]:
    return sorted({row.split for row in rows} - set(TRAINING_SPLITS))


class _EpochProgress(Callback):
    """Passes Lightning's progress on to a function, a step at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        done = trainer.global_step
        self._progress("training", done, int(trainer.estimated_stepping_batches))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
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


@contextlib.contextmanager
def plain_interrupt() -> Iterator[None]:
    """Let Ctrl-C be Ctrl-C: Lightning ignores every further one and ends the process instead.

    SIGTERM ends the process with 143 where nobody handles it: Lightning would have it be a success.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise type(stop.__context__) from stop


def _part(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
