"""N:M sparsity: at most n of every m neighbouring inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import Penalty, separable


@dataclass(frozen=True)
class NM:
    """N:M sparsity, such as 2:4: in every `m` consecutive inputs the `n` largest go free.

    A trimmed penalty: ``P_NM(x) = sum over blocks of P(the m - n smallest |x|)``, which is zero
    where at most `n` weights of a block are not zero. Blocks lie along the input (axis 1: columns
    of a linear layer, input channels of a convolution at each kernel position). Its proximal map
    applies that of P to the ``m - n`` smallest and leaves the others: with e(t) the least value
    of ``mu P(u) + (u - t)^2 / 2``, the objective is the least sum of ``e`` over m - n weights,
    and e rises with the size of t. Among equals the first positions count as smaller.

    The norm of a weight that goes free is inf: no target and no budget can make it zero. So
    ``sparsity=(m - n) / m`` gives exactly N:M, and more is an error.

    Parameters
    ----------
    n, m : int
        ``1 <= n < m``; `m` must divide the inputs.

    References
    ----------
    Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378 (2:4).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise RuleError(f"{self}: n and m must be numbers with 1 <= n < m.")

    def norms(self, x: Tensor) -> Tensor:
        """Return ``|x|``, and inf for the weights that go free."""
        return x.abs().masked_fill_(self.free(x), math.inf)

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Return `per_group` as it is: every weight is a group."""
        return per_group.view(x.shape)

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Return P of the ``m - n`` smallest of every block."""
        self._check(penalty)
        return penalty.value(x.masked_fill(self.free(x), 0))

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the penalty's proximal map of the ``m - n`` smallest, `x` elsewhere."""
        self._check(penalty)
        return torch.where(self.free(x), x, penalty.prox(x, mu))

    def _check(self, penalty: Penalty) -> None:
        if not separable(penalty):
            raise RuleError(
                f"{self} frees the largest weights, so each must be penalised by itself and not "
                f"by {penalty}; use a separable penalty such as L0()."
            )

    def free(self, x: Tensor) -> Tensor:
        """Return a bool tensor like `x` that marks the `n` largest of every block."""
        if x.dim() < 2 or x.shape[1] % self.m:
            inputs = f"{x.shape[1]} inputs" if x.dim() > 1 else "a vector"
            raise RuleError(
                f"{self} cannot cut {inputs} into blocks of {self.m}, shape {tuple(x.shape)}; "
                "leave the parameter out of the rule or choose an m that divides its inputs."
            )
        blocks = torch.unflatten(x.detach().abs().movedim(1, -1), -1, (-1, self.m))
        mine, other = blocks.unsqueeze(-1), blocks.unsqueeze(-2)
        # For blocks this short all pairs cost less than a sort. Of equals the later is larger.
        later = torch.ones(self.m, self.m, dtype=torch.bool, device=x.device).triu(1)
        larger = (other > mine) | ((other == mine) & later)
        free: Tensor = larger.sum(-1) < self.n
        return free.flatten(-2).movedim(-1, 1)
