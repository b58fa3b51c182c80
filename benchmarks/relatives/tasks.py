"""What is learned, and how: data, networks, one training run, and the file that runs go into."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rvsm.atomic import atomic_text

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.architectures import shared, small_network
from benchmarks.frontier import data
from benchmarks.frontier.counting import freeze, share_of_zeros, wrong_share

HEAL = 0.75
"""The share of the steps after which the support is fixed and the survivors train alone."""


@dataclass(frozen=True)
class Task:
    """Images with a fixed test set, a network and the settings that every method shares."""

    name: str
    network: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    epochs: int
    batch: int = 64
    lr: float = 0.05
    validation: float = 0.25

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the indices to train on and to validate on; the seed decides."""
        rows = np.arange(len(self.y))
        parts = train_test_split(
            rows, test_size=self.validation, random_state=seed, stratify=self.y.numpy()
        )
        return torch.tensor(parts[0]), torch.tensor(parts[1])

    @property
    def steps(self) -> int:
        """Return the steps of a run."""
        return self.epochs * math.ceil(round(len(self.y) * (1 - self.validation)) / self.batch)


def digits() -> Task:
    """scikit-learn's 1,797 digits; 30 % are the test set."""
    found = data.digits()
    return Task("digits", small_network, *found.train, *found.test, epochs=20)


def mnist(folder: Path) -> Task:
    """MNIST from the four gzipped idx files in `folder`; its own test set."""
    found = data.idx(folder, "mnist")
    return Task("mnist", shared.LeNet5, *found.train, *found.test, epochs=10, validation=1 / 6)


def train(
    task: Task,
    build: Callable[[nn.Module], Any],
    seed: int,
    target: float,
    *,
    heal: float | None = HEAL,
    lr: float | None = None,
    only_zeros: bool = False,
) -> dict[str, float]:
    """Train once; every method sees the same split, initial weights, batches and rates.

    Parameters
    ----------
    build : callable
        Makes the optimizer of a model.
    target : float
        Share of zeros of the result; 0 for a dense network.
    heal : float, optional
        The share of the steps before the support is fixed; to the end by default None.
    lr : float, optional
        First rate in place of the task's; it falls to 0 along half a cosine.
    only_zeros : bool
        Stop where the support would be fixed.

    Returns
    -------
    dict
        Accuracy on the validation and test set, the share of zeros, and that before the cut.
    """
    rows, held = task.split(seed)
    torch.manual_seed(seed)
    model = task.network()
    optimizer = build(model)
    generator = torch.Generator().manual_seed(seed)
    frozen_at = task.steps if heal is None else int(heal * task.steps)
    step, own = 0, 0.0
    while step < task.steps:
        for part in torch.randperm(len(rows), generator=generator).split(task.batch):
            for group in optimizer.param_groups:
                rate = task.lr if lr is None else lr
                group["lr"] = rate * (1 + math.cos(math.pi * step / task.steps)) / 2
            batch = rows[part]
            optimizer.zero_grad()
            cross_entropy(model(task.x[batch]), task.y[batch]).backward()
            optimizer.step()
            step += 1
            if step == frozen_at and target:
                own = freeze(optimizer, model, target)
                if only_zeros:
                    return {"own": round(own, 4)}
    return {
        "validation": round(1 - wrong_share(model, task.x[held], task.y[held]), 5),
        "test": round(1 - wrong_share(model, task.x_test, task.y_test), 5),
        "zeros": round(share_of_zeros(model), 5),
        "own": round(own, 5),
    }


class Runs:
    """Runs by name, in a JSON file that is written after every one: what is there is not rerun.

    With `only_read` a run that is not there is a KeyError.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self.path, self.only_read = path, only_read
        self.told: dict[str, Any] = {}
        self.found: dict[str, dict[str, float]] = {}
        if path.exists():
            self.told = json.loads(path.read_text("utf-8"))
            self.found = self.told.pop("runs")

    def __call__(self, name: str, *args: Any, **options: Any) -> dict[str, float]:
        """Return the run of that name, made now by `train` if there is none."""
        if name not in self.found and not self.only_read:
            self.found[name] = train(*args, **options)
            print(name, self.found[name], flush=True)
            self.write(self.told)
        return self.found[name]

    def write(self, told: dict[str, Any]) -> None:
        """Write what is told and every run, one a line."""
        runs = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in self.found.items())
        head = "".join(f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in told.items())
        atomic_text(self.path, f'{{\n{head} "runs": {{\n{runs}\n }}\n}}\n')
