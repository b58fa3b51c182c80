"""Groups that cut a tensor along its axes: one implementation for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from rvsm.penalties.base import Penalty


class Partition(ABC):
    """Disjoint groups of equal size that together are the tensor.

    A subclass says in `cut` how the tensor is reshaped and which axes of that shape a group runs
    over; norms and proximal maps follow. With ``scale = prox_{mu P}(|x_g|) / |x_g|`` the proximal
    map of ``P(|x_g|)`` is ``scale * x_g``, for every penalty of one variable.

    References
    ----------
    Yuan and Lin, "Model selection and estimation in regression with grouped variables",
    J. R. Stat. Soc. B 68 (2006), for l1; the same argument holds for any P that does not fall.
    """

    @abstractmethod
    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return `x` reshaped, and the axes of that shape which one group runs over.

        Raises
        ------
        RuleError
            If a tensor of this shape cannot be cut so.
        """

    def norms(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm of every group, shaped as `cut` leaves the other axes."""
        shaped, axes = self.cut(x)
        norms: Tensor = torch.linalg.vector_norm(shaped, dim=axes)
        return norms

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Return `per_group`, one number for each norm in their order, at every element."""
        shaped, axes = self.cut(x)
        return _beside(per_group, shaped, axes).expand_as(shaped).reshape(x.shape)

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Return ``P(norms(x))``."""
        return penalty.value(self.norms(x))

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Scale every group so that its norm becomes the penalty's proximal map of the norm."""
        shaped, axes = self.cut(x)
        scale = shrinkage(penalty, torch.linalg.vector_norm(shaped, dim=axes), mu)
        return scaled(shaped, _beside(scale, shaped, axes)).reshape(x.shape)


def shrinkage(penalty: Penalty, norms: Tensor, mu: float | Tensor) -> Tensor:
    """Return ``prox_{mu P}(norms) / norms``, 0 where a norm is 0."""
    return torch.where(norms > 0, penalty.prox(norms, mu) / norms, 0)


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Return ``scale * x`` for scales >= 0, with zeros that have no sign."""
    return (x * scale).add_(0)  # -0 + 0 = 0: a zero with a sign is stored as a value


def _beside(per_group: Tensor, shaped: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `per_group` in a shape that broadcasts against `shaped`."""
    return per_group.reshape([1 if axis in axes else n for axis, n in enumerate(shaped.shape)])
