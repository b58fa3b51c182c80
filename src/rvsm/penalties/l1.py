"""The l1 penalty: the sum of absolute values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rvsm.penalties.base import Scalar, accumulator, checked
from rvsm.penalties.maps import soft


@dataclass(frozen=True)
class L1:
    """l1, ``P(x) = sum |x|``: convex, shrinks every survivor by the same amount.

    The proximal map is the soft threshold: ``u = sign(x) max(|x| - mu, 0)``.

    References
    ----------
    Tibshirani, "Regression shrinkage and selection via the lasso", J. R. Stat. Soc. B 58 (1996).

    Examples
    --------
    >>> L1().prox(torch.tensor([0.5, 1.0, -2.0]), mu=0.5)
    tensor([ 0.0000,  0.5000, -1.5000])
    """

    sharp: ClassVar[bool] = True

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of absolute values."""
        return x.abs().sum(dtype=accumulator(x))

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return ``sign(x) max(|x| - mu, 0)``."""
        return soft(x, checked("mu", mu))

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu`."""
        return checked("mu", mu)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t`."""
        return checked("t", t)
