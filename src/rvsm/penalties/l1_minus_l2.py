"""l1 minus a multiple of l2, on a whole tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import Scalar, accumulator, checked, representable
from rvsm.penalties.maps import soft


@dataclass(frozen=True)
class L1MinusL2:
    r"""l1 - alpha l2, ``P(x) = |x|_1 - alpha |x|_2`` of the tensor as a whole: not separable.

    Free for a single nonzero element at alpha = 1, and l1 at alpha = 0. The proximal map with
    ``z = soft(x, mu)``, the soft threshold of `L1`, is

    - ``z (1 + alpha mu / |z|_2)`` if ``max |x| > mu``;
    - otherwise only the first element of the largest magnitude survives, as
      ``max |x| - (1 - alpha) mu`` in magnitude, and not even that from
      ``mu = max |x| / (1 - alpha)`` on.

    So with alpha = 1 one element survives any mu.

    Parameters
    ----------
    alpha : float
        Weight of the l2 norm, 0 <= alpha <= 1.

    Raises
    ------
    RuleError
        If `alpha` is out of range.

    References
    ----------
    Lou and Yan, "Fast L1-L2 minimization via a proximal operator", J. Sci. Comput. 74 (2018),
    lemma 1.

    Examples
    --------
    >>> L1MinusL2().prox(torch.tensor([0.5, 1.0, -2.0]), mu=0.5)
    tensor([ 0.0000,  0.6581, -1.9743])
    """

    alpha: float = 1.0

    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise RuleError(f"L1MinusL2: alpha must be a number from 0 to 1, not {self.alpha!r}.")

    def value(self, x: Tensor) -> Tensor:
        """Return ``|x|_1 - alpha |x|_2``."""
        wide = x.to(accumulator(x))
        norm: Tensor = torch.linalg.vector_norm(wide)
        return wide.abs().sum() - self.alpha * norm

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the closed form of Lou and Yan; the first of several largest elements counts."""
        wide = x.to(accumulator(x))
        mu = representable(checked("mu", mu), wide.dtype)
        if x.numel() == 0:
            return x.clone()
        z = soft(wide, mu)
        largest = z.abs().max()
        direction = z / largest  # so that its norm is at least 1 and cannot underflow
        several = z + direction * (self.alpha * mu / torch.linalg.vector_norm(direction))
        magnitude = wide.abs().flatten()
        first = magnitude.argmax().view(1)
        left = (magnitude[first] - (1 - self.alpha) * mu).clamp(min=0).to(wide.dtype)
        single = torch.zeros_like(magnitude).scatter_(0, first, left).view_as(wide).copysign(wide)
        return torch.where(largest > 0, several, single).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu`: elements up to mu are 0 beside a larger one."""
        return checked("mu", mu)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t`."""
        return checked("t", t)
