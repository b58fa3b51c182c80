"""Groups along the axes of a layer's weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import Penalty


@dataclass(frozen=True)
class InputChannels:
    """Everything that reads one input channel is a group: ``x[:, c]`` of a convolution.

    A linear layer behind a flattened map reads a channel with `positions` neighbouring columns.
    A channel that is zero here need not be computed by the layer before.

    Parameters
    ----------
    positions : int
        Columns a channel, rows times columns of the map that was flattened; 1 for convolutions.
    """

    positions: int = 1

    def norms(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm of every channel's weights."""
        norms: Tensor = torch.linalg.vector_norm(self._grouped(x), dim=(0, 2))
        return norms

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Return `per_group` at every weight of its channel."""
        return per_group.view(1, -1, 1).expand_as(self._grouped(x)).reshape(x.shape)

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Return ``P(norms(x))``."""
        return penalty.value(self.norms(x))

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Scale every channel so that its norm becomes the penalty's proximal map of the norm."""
        norms = self.norms(x)
        scale = torch.where(norms > 0, penalty.prox(norms, mu) / norms, 0)
        return x * self.spread(scale, x)

    def _grouped(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % self.positions:
            raise RuleError(
                f"InputChannels(positions={self.positions}) does not divide a tensor of shape "
                f"{tuple(x.shape)}; give the size of the map that the layer reads flattened."
            )
        return x.reshape(x.shape[0], x.shape[1] // self.positions, -1)
