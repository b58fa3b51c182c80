"""Groups along the output or the input of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.partition import Partition


@dataclass(frozen=True)
class Filters(Partition):
    """Everything that makes one output channel is a group: ``x[o]``.

    A filter of a convolution, a row of a linear layer, one number of a bias or of a batch norm.
    A filter that is zero, with its bias, need not be computed. A transposed convolution stores
    its input channels first: there `Filters` and `InputChannels` change places.
    """

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return `x` itself and every axis but the first."""
        if x.dim() < 1:
            raise RuleError("Filters cannot cut a single number; leave it out of the rule.")
        shaped = x.unsqueeze(1) if x.dim() == 1 else x
        return shaped, tuple(range(1, shaped.dim()))


@dataclass(frozen=True)
class InputChannels(Partition):
    """Everything that reads one input channel is a group: ``x[:, c]`` of a convolution.

    A linear layer behind a flattened map reads a channel with `positions` neighbouring columns.
    A channel that is zero here need not be computed by the layer before. In a convolution with
    ``groups > 1`` a column belongs to one channel of each of the layer's groups.

    Parameters
    ----------
    positions : int
        Columns a channel, rows times columns of the map that was flattened; 1 for convolutions.
    """

    positions: int = 1

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return `x` with its channels along the second axis, and every axis but that."""
        if x.dim() < 2 or self.positions < 1 or x.shape[1] % self.positions:
            raise RuleError(
                f"InputChannels(positions={self.positions}) does not divide a tensor of shape "
                f"{tuple(x.shape)}; give the size of the map that the layer reads flattened."
            )
        channels = x.shape[1] // self.positions
        shaped = x if self.positions == 1 else torch.unflatten(x, 1, (channels, self.positions))
        return shaped, (0, *range(2, shaped.dim()))


@dataclass(frozen=True)
class Rows(Filters):
    """Every row of a matrix is a group: all that makes one output; `Filters` for 2-d weights."""

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the matrix and its second axis."""
        _check_matrix("Rows", "Filters", x)
        return super().cut(x)


@dataclass(frozen=True)
class Columns(InputChannels):
    """Every column of a matrix is a group: all that reads one input.

    `InputChannels` for 2-d weights; with `positions`, that many neighbouring columns.
    """

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the matrix and its first axis."""
        _check_matrix("Columns", "InputChannels", x)
        return super().cut(x)


def _check_matrix(name: str, wider: str, x: Tensor) -> None:
    if x.dim() != 2:
        raise RuleError(
            f"{name} cuts matrices only, not a tensor of shape {tuple(x.shape)}; use {wider}."
        )
