"""Which weights count, how many are zero, and the cut to an equal share of zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the weights that zeros are counted in: no biases, no batch norm."""
    return [(name, p) for name, p in model.named_parameters() if p.dim() > 1]


def size_of(model: nn.Module) -> int:
    """Return how many weights a network has."""
    return sum(p.numel() for _, p in matrices(model))


def layer_nonzeros(model: nn.Module) -> dict[str, int]:
    """Return how many weights of every layer are not zero."""
    return {name: int(torch.count_nonzero(p)) for name, p in matrices(model)}


def share_of_zeros(model: nn.Module) -> float:
    """Return the share of exact zeros among the weights."""
    return 1 - sum(layer_nonzeros(model).values()) / size_of(model)


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
def wrong_share(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of wrong answers."""
    parts = zip(x.split(1000), y.split(1000), strict=True)
    return sum(int((model(a).argmax(1) != b).sum()) for a, b in parts) / len(y)
