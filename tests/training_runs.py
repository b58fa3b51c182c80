"""Short training runs on drawings, for the tests of training and of resuming it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rvsm.experiments.config import TrainConfig, make_config

EPOCHS = 4
STEPS = 16


def configure(folder: Path, **changes: Any) -> TrainConfig:
    values = {
        "data": str(folder),
        "epochs": EPOCHS,
        "batch_size": 16,
        "lr": 0.01,
        "network": {"channels": [4, 6, 6], "dropout": 0.1},
        "splitting": {"end": 0.5, "heal": 0.75},
    }
    return make_config({**values, **changes})


def metrics(run: Path) -> list[dict[str, str]]:
    """Read the rows of the log without the times, which no two runs share."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def assert_same(run: Path, other: Path) -> None:
    model = "model.safetensors"
    assert (run / model).read_bytes() == (other / model).read_bytes()
    assert metrics(run) == metrics(other)
    predictions = "test_predictions.csv"
    assert (run / predictions).read_bytes() == (other / predictions).read_bytes()


def logged_steps(run: Path) -> list[int]:
    """Read from the event file for which epochs it holds a validation loss."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (events,) = (run / "tensorboard").glob("events.*")
    return [
        event.step
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
        if value.tag == "val_loss"
    ]


class Stopped(Exception):
    pass


def stop_after(steps: int, action: Callable[[], None] | None = None) -> Any:
    """Return a progress function that stops the training, or acts, after so many steps."""

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == steps:
            if action is None:
                raise Stopped
            action()

    return progress
