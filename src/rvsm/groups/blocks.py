"""Rectangular blocks of a weight matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.partition import Partition


@dataclass(frozen=True)
class Blocks(Partition):
    """Blocks of `rows` by `columns` neighbouring weights: the shape fast kernels skip.

    The weight of a convolution counts as the matrix ``x.flatten(1)``: a row a filter, its columns
    in the order input channel, kernel row, kernel column.

    Parameters
    ----------
    rows, columns : int
        Size of a block, each >= 1; they must divide the matrix.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise RuleError(f"{self}: rows and columns must be numbers of weights >= 1.")

    def cut(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return `x` as (block row, row, block column, column), and the axes of a block."""
        matrix = x.flatten(1) if x.dim() > 1 else x
        if x.dim() < 2 or matrix.shape[0] % self.rows or matrix.shape[1] % self.columns:
            raise RuleError(
                f"{self} does not divide a tensor of shape {tuple(x.shape)}; choose rows that "
                "divide its first size and columns that divide the product of the others."
            )
        split = torch.unflatten(matrix, 1, (-1, self.columns))
        return torch.unflatten(split, 0, (-1, self.rows)), (1, 3)
