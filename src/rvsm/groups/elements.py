"""Single weights: unstructured sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rvsm.penalties.base import Penalty


@dataclass(frozen=True)
class Elements:
    """Every element is a group of its own: unstructured sparsity."""

    def norms(self, x: Tensor) -> Tensor:
        """Return ``|x|``."""
        return x.abs()

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Return `per_group` as it is."""
        return per_group.view(x.shape)

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Return ``P(x)``."""
        return penalty.value(x)

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the penalty's own proximal map."""
        return penalty.prox(x, mu)
