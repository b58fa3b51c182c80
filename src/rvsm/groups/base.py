"""What a partition of a tensor into groups is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rvsm.penalties.base import Penalty


@runtime_checkable
class Groups(Protocol):
    """A partition of a tensor's elements, and what a scalar penalty means on it.

    A penalty acts on the Euclidean norms of the groups: its value is ``P(norms)``, its proximal
    map scales each group so that the norm becomes the map of the norm. Any class with these four
    methods works; `Partition` writes three of them where groups lie along axes.
    """

    def norms(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm of every group, a tensor with one element per group.

        inf marks a group that the penalty leaves free: no target makes it zero.

        Raises
        ------
        RuleError
            If a tensor of this shape cannot be cut so.
        """
        ...

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Return `per_group`, one element per group in the order of ``norms(x)``, as a tensor
        like `x` that holds it at every element of the group.
        """
        ...

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Return ``P(norms(x))`` as a 0-d tensor."""
        ...

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return argmin_u ``mu * P(norms(u)) + |u - x|^2 / 2`` as a new tensor like `x`."""
        ...
