"""Attention heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.partition import Partition


@dataclass(frozen=True)
class Heads(Partition):
    """Every attention head's share of a projection is a group.

    Along `axis` the weight holds `parts` stacked projections, each of `count` heads side by side:

    - q, k or v projection: ``Heads(count)``, the rows (and biases) of each head;
    - packed q, k, v (``in_proj_weight``): ``Heads(count, parts=3)``, a head's rows in all three;
    - output projection: ``Heads(count, axis=1)``, the columns that read each head.

    With grouped queries give the number of key-value heads: a group is then a key-value head
    with all the queries that read it. `Tied` joins the projections of a layer.

    Parameters
    ----------
    count : int
        Heads, >= 1.
    axis : int
        Axis of the weight along which the heads lie: 0 or 1.
    parts : int
        Projections stacked along `axis`, >= 1.
    """

    count: int
    axis: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.parts < 1 or self.axis not in (0, 1):
            raise RuleError(f"{self}: count and parts must be >= 1 and axis 0 or 1.")

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return `x` with `axis` split into (part, head, within the head)."""
        if x.dim() <= self.axis or x.shape[self.axis] % (self.parts * self.count):
            raise RuleError(
                f"{self} does not divide a tensor of shape {tuple(x.shape)}; give the number of "
                "heads, the axis they lie along and how many projections are stacked."
            )
        shaped = torch.unflatten(x, self.axis, (self.parts, self.count, -1))
        return shaped, tuple(axis for axis in range(shaped.dim()) if axis != self.axis + 1)
