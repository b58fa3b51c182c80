"""Any model, any loop: handwritten digits with nine of ten weights zero.

    python examples/digits.py

Trains the same small convolutional network dense and sparse on scikit-learn's digits, prints test
accuracy at the weights that are kept, and the size of both files. Needs rvsm[handwriting] for
scikit-learn alone.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rvsm
from rvsm.optim import Cubic
from rvsm.penalties import TransformedL1

BATCH = 64


def network() -> nn.Sequential:
    """Two convolutions and two linear layers for 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epochs: int
) -> None:
    """The loop one always writes; nothing in it knows about sparsity."""
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def main(epochs: int = 30) -> dict[str, float]:
    """Return test accuracy of both networks and the sparse one's share of zeros."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.3, random_state=0, stratify=labels)
    x, x_test = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in parts[:2])
    y, y_test = (torch.tensor(part) for part in parts[2:])

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(x_test).argmax(1) == y_test).float().mean())

    dense = network()
    train(dense, torch.optim.Adam(dense.parameters(), lr=2e-3), x, y, epochs)

    sparse = network()
    steps = epochs * -(-len(x) // BATCH)
    optimizer = rvsm.RVSM(
        torch.optim.Adam(sparse.named_parameters(), lr=2e-3),
        [
            rvsm.Rule(
                "*.weight", TransformedL1(), sparsity=0.9, beta=0.1, schedule=Cubic(0, steps // 2)
            )
        ],
        heal_from=int(0.7 * steps),
    )
    train(sparse, optimizer, x, y, epochs)

    print(rvsm.report(sparse, x_test[:1]))
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("dense", dense), ("sparse", sparse)):
            path = Path(folder, name)
            rvsm.save(model, path)
            size = path.stat().st_size / 1000
            print(f"{name}: accuracy {accuracy(model):.4f}, file {size:.1f} kB")
    return {
        "dense": accuracy(dense),
        "sparse": accuracy(sparse),
        "zeros": rvsm.report(sparse).zeros,
    }


if __name__ == "__main__":
    main()
