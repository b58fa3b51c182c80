"""Train LeNet-5 on MNIST to the zeros of the benchmark, layer by layer.

python benchmarks/inference/train.py FOLDER [--epochs 6]

FOLDER holds the four gzipped idx files. Writes lenet-5-high.safetensors (zeros 60/97/99.5/95 %) and
lenet-5-low.safetensors (30/85/96/80 %) beside this file: networks that networks.py measures beside
those whose zeros are at random places. The last network is kept; the test images are read once,
afterwards.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.architectures import shared
from benchmarks.frontier.data import Data, idx

import rvsm
from rvsm.deploy.tracing import trace
from rvsm.optim import Cubic
from rvsm.penalties import L0

HERE = Path(__file__).parent
LAYERS = ("conv1", "conv2", "fc1", "fc2")
ZEROS = {"high": (0.6, 0.97, 0.995, 0.95), "low": (0.3, 0.85, 0.96, 0.8)}
BATCH = 64


def train(data: Data, zeros: Sequence[float], epochs: int) -> tuple[nn.Module, float]:
    """Return the network and its test error."""
    torch.manual_seed(0)
    model, (x, y) = shared.LeNet5(), data.train
    steps = epochs * (len(y) // BATCH)
    rise = Cubic(0, steps // 2)
    rules = [
        rvsm.Rule(f"{layer}.weight", L0(), sparsity=share, beta=0.01, schedule=rise)
        for layer, share in zip(LAYERS, zeros, strict=True)
    ]
    base = torch.optim.SGD(model.named_parameters(), lr=0.02, momentum=0.9)
    optimizer = rvsm.RVSM(base, rules, grad_at="u", heal_from=3 * steps // 4)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(y))
        for chosen in order.split(BATCH)[: len(y) // BATCH]:
            base.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            step += 1
    optimizer.finalize()
    model.eval()
    x, y = data.test
    with torch.no_grad():
        wrong = sum(
            int((model(a).argmax(1) != b).sum())
            for a, b in zip(x.split(500), y.split(500), strict=True)
        )
    return model, wrong / len(y)


def main() -> None:
    """Train both networks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = idx(options.folder, "mnist")
    for name, zeros in ZEROS.items():
        model, error = train(data, zeros, options.epochs)
        found = [float((p == 0).double().mean()) for p in model.parameters() if p.dim() > 1]
        told = {"test_error": f"{error:.4f}", "epochs": str(options.epochs), "data": "MNIST"}
        rvsm.save(
            trace(model, torch.zeros(1, 1, 28, 28)), HERE / f"lenet-5-{name}.safetensors", told
        )
        print(name, [round(share, 4) for share in found], f"test error {error:.2%}", flush=True)


if __name__ == "__main__":
    main()
