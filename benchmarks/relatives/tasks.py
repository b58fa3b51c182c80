"""What is learned, and how: data, networks, one training run, and the file that runs go into."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rvsm.atomic import atomic_text

HEAL = 0.75
"""The share of the steps after which the support is fixed and the survivors train alone."""


def small_network() -> nn.Sequential:
    """Two convolutions and two linear layers of 9,736 weights, for 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def lenet() -> nn.Sequential:
    """Caffe's LeNet-5 of 430,500 weights, for 28 x 28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Images with a fixed test set, a network and the settings that every method shares."""

    name: str
    network: Callable[[], nn.Sequential]
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
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.3, random_state=0, stratify=labels)
    x, x_test = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in parts[:2])
    y, y_test = (torch.tensor(part) for part in parts[2:])
    return Task("digits", small_network, x, y, x_test, y_test, epochs=20)


def mnist(folder: Path) -> Task:
    """MNIST from the four gzipped idx files in `folder`; its own test set."""

    def read(name: str, header: int) -> Tensor:
        data = gzip.decompress((folder / name).read_bytes())
        return torch.tensor(np.frombuffer(data, np.uint8, offset=header))

    def part(prefix: str) -> tuple[Tensor, Tensor]:
        images = read(f"{prefix}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28) / 255
        return images, read(f"{prefix}-labels-idx1-ubyte.gz", 8).long()

    return Task("mnist", lenet, *part("train"), *part("t10k"), epochs=10, validation=1 / 6)


def matrices(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weights that zeros are counted in: all but the biases."""
    return [(name, p) for name, p in model.named_parameters() if p.dim() > 1]


def share_of_zeros(model: nn.Module) -> float:
    """Return the share of exact zeros among the weights."""
    ps = [p for _, p in matrices(model)]
    return sum(int((p == 0).sum()) for p in ps) / sum(p.numel() for p in ps)


@torch.no_grad()
def freeze(optimizer: Any, model: nn.Module, target: float) -> float:
    """Take the sparse result for good, cut to `target`; return its own share of zeros.

    Where a method has left too many weights the smallest go, so that all are compared at the same
    number of zeros; where it left fewer nothing comes back.
    """
    if hasattr(optimizer, "finalize"):
        optimizer.finalize()
    own = share_of_zeros(model)
    ps = [p for _, p in matrices(model)]
    sizes = torch.cat([p.abs().flatten() for p in ps])
    count = round(target * sizes.numel())
    if int((sizes == 0).sum()) < count:
        gone = torch.zeros_like(sizes, dtype=torch.bool)
        gone[sizes.argsort(stable=True)[:count]] = True
        for p, zero in zip(ps, gone.split([p.numel() for p in ps]), strict=True):
            p.masked_fill_(zero.view_as(p), 0)
    return own


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers."""
    parts = zip(x.split(1000), y.split(1000), strict=True)
    return sum(int((model(a).argmax(1) == b).sum()) for a, b in parts) / len(y)


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
        "validation": round(accuracy(model, task.x[held], task.y[held]), 5),
        "test": round(accuracy(model, task.x_test, task.y_test), 5),
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
