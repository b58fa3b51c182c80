"""The l0 penalty: how many weights are not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rvsm.penalties.base import Scalar, accumulator, checked, power
from rvsm.penalties.maps import hard


@dataclass(frozen=True)
class L0:
    """l0, ``P(x) = number of nonzero elements``: keep or kill, never shrink.

    The proximal map is the hard threshold: ``u = x`` if ``|x| > sqrt(2 mu)``, else 0.

    References
    ----------
    Dinh and Xin, "Convergence of a relaxed variable splitting method for learning sparse neural
    networks via l1, l0, and transformed-l1 penalties", arXiv 1812.05719.

    Examples
    --------
    >>> L0().prox(torch.tensor([0.5, 1.0, -2.0]), mu=0.5)
    tensor([ 0.,  0., -2.])
    """

    sharp: ClassVar[bool] = True

    def value(self, x: Tensor) -> Tensor:
        """Return the number of nonzero elements; its derivative is zero wherever it exists."""
        return torch.count_nonzero(x).to(accumulator(x))

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return `x` where ``|x| > sqrt(2 mu)``, else 0."""
        return hard(x, self.threshold(mu))

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``sqrt(2 mu)``."""
        return power(2 * checked("mu", mu), 0.5)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return ``t^2 / 2``."""
        t = checked("t", t)
        return t * t / 2
