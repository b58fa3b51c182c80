"""Measure what re-estimating the statistics of batch norm at u is worth.

OMP_NUM_THREADS=1 python benchmarks/batchnorm/run.py [--seeds 5] [--epochs 10]

Trains a small convolutional network with batch norm on scikit-learn's digits, dense and at three
shares of zeros, and writes results.json beside this file: test accuracy at w, at u, and at u with
statistics estimated from the training images. Nothing is chosen by the test set: the settings are
the same for every share, the last epoch is taken, and every seed trains once.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rvsm
from rvsm.atomic import atomic_write
from rvsm.optim import Cubic
from rvsm.penalties import L0

BATCH = 64
SPARSITIES = (0.8, 0.9, 0.95)
BETA = 0.1


def network() -> nn.Sequential:
    """Three convolutions with batch norm and a linear layer, for 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images and labels."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        images / 16, labels, test_size=0.3, random_state=seed, stratify=labels
    )
    as_images = [torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in (x, x_test)]
    return as_images[0], torch.tensor(y), as_images[1], torch.tensor(y_test)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation mode."""
    training = model.training
    model.eval()
    right = float((model(x).argmax(1) == y).float().mean())
    model.train(training)
    return right


def train(seed: int, sparsity: float, epochs: int) -> dict[str, float]:
    """Train one network; sparsity 0 is the dense one."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = data(seed)
    model = network()
    steps = epochs * -(-len(x) // BATCH)
    optimizer = rvsm.RVSM(
        torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
        [rvsm.Rule("[037].weight", L0(), sparsity=sparsity, beta=BETA,
                   schedule=Cubic(0, steps // 2))],
        budget="global",
        model=model,
    )  # fmt: skip
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    found = {"at_w": accuracy(model, x_test, y_test)}
    with optimizer.sparse_weights():
        found["at_u"] = accuracy(model, x_test, y_test)
    with optimizer.sparse_weights(recalibrate=x.split(256)):
        found["at_u_recalibrated"] = accuracy(model, x_test, y_test)
    counts = optimizer.zeros().values()
    found["zeros"] = sum(zeros for zeros, _ in counts) / sum(n for _, n in counts)
    return found


def summary(runs: list[dict[str, float]]) -> dict[str, object]:
    """Mean, standard deviation and every value of each measure."""
    return {
        key: {
            "mean": round(statistics.mean(run[key] for run in runs), 4),
            "std": round(statistics.stdev(run[key] for run in runs), 4),
            "values": [round(run[key], 4) for run in runs],
        }
        for key in runs[0]
    }


def main() -> None:
    """Train, print and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    results = {}
    for sparsity in (0.0, *SPARSITIES):
        runs = [train(seed, sparsity, options.epochs) for seed in range(options.seeds)]
        results[str(sparsity)] = summary(runs)
        print(sparsity, {key: round(statistics.mean(run[key] for run in runs), 4)
                         for key in runs[0]}, flush=True)  # fmt: skip
    report = {
        "what": "test accuracy on scikit-learn's digits (30 % held out), by share of zeros",
        "settings": {
            "epochs": options.epochs,
            "batch": BATCH,
            "lr": 0.05,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "beta": BETA,
            "penalty": "L0",
            "budget": "global",
            "seeds": options.seeds,
        },
        "machine": {"torch": torch.__version__, "processor": platform.machine(), "threads": 1},
        "processor_seconds": round(time.process_time() - started, 1),
        "results": results,
    }
    with atomic_write(Path(__file__).with_name("results.json")) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
