"""The problem zoo: small problems that every optimizer test can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Problem:
    """A model and its loss on fixed data, the same at every build.

    Attributes
    ----------
    build : callable
        Returns a fresh model and a function that evaluates the loss of a model.
    weights : str
        Pattern of the weights worth making sparse.
    lipschitz : float or None
        Lipschitz constant of the gradient, where it is known.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]
    weights: str
    lipschitz: float | None = None

    def __str__(self) -> str:
        return self.name


def _least_squares_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, dtype=torch.float64, generator=generator)
    truth = torch.zeros(20, dtype=torch.float64)
    truth[:4] = torch.tensor([2.0, -1.5, 1.0, 0.7], dtype=torch.float64)
    return x, x @ truth + 0.05 * torch.randn(60, dtype=torch.float64, generator=generator)


def _linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(20, 1, bias=False, dtype=torch.float64)


def _least_squares() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x, y = _least_squares_data()
    return _linear(), lambda model: (model(x).squeeze(1) - y).square().mean() / 2


def _logistic() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x, y = _least_squares_data()
    labels = (y > 0).double()
    return _linear(), lambda model: nn.functional.binary_cross_entropy_with_logits(
        model(x).squeeze(1), labels
    )


def _mlp() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(2)
    x = torch.randn(64, 10)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    return model, lambda model: nn.functional.cross_entropy(model(x), labels)


def _convolutional() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(3)
    x = torch.randn(16, 1, 8, 8).to(memory_format=torch.channels_last)
    labels = (x.mean(dim=(1, 2, 3)) > 0).long()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 2),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    return model, lambda model: nn.functional.cross_entropy(model(x), labels)


_X = _least_squares_data()[0]
_LARGEST = float(torch.linalg.eigvalsh(_X.T @ _X / len(_X)).max())

LEAST_SQUARES = Problem("least-squares", _least_squares, "weight", lipschitz=_LARGEST)
LOGISTIC = Problem("logistic", _logistic, "weight", lipschitz=_LARGEST / 4)
MLP = Problem("mlp", _mlp, "*.weight")
CONVOLUTIONAL = Problem("convolutional", _convolutional, "[046].weight")

SMOOTH = [LEAST_SQUARES, LOGISTIC]
EVERY = [LEAST_SQUARES, LOGISTIC, MLP, CONVOLUTIONAL]


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> list[float]:
    """Take `steps` full-batch steps; return the loss before each."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(model: nn.Module) -> Tensor:
    """Return a copy of all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
