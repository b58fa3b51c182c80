"""Capped l1: l1 up to a cap, constant beyond; and the threshold of every penalty with a cap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from rvsm.penalties.base import Scalar, accumulator, checked, either, positive, power
from rvsm.penalties.maps import line, soft


@dataclass(frozen=True)
class CappedL1:
    r"""Capped l1, ``P(x) = sum min(|x|, theta)``: large weights cost no more.

    Slope 1 at 0; tends to l1 as ``theta -> inf``, and ``P / theta`` to l0 as ``theta -> 0``. The
    proximal map is the lower of the two minima, one on each side of the corner: the soft
    threshold for ``|x| <= theta + mu/2`` and x beyond, if ``mu <= 2 theta``; the hard threshold
    at ``sqrt(2 mu theta)`` otherwise. It always jumps.

    Parameters
    ----------
    theta : float
        Where the cost stops growing, in units of the weights; finite and > 0.

    Raises
    ------
    RuleError
        If `theta` is not a finite number > 0.

    References
    ----------
    Zhang, "Analysis of multi-stage convex relaxation for sparse regularization", J. Mach. Learn.
    Res. 11 (2010); the map: Gong et al., "A general iterative shrinkage and thresholding
    algorithm for non-convex regularized optimization problems", ICML 2013.

    Examples
    --------
    >>> CappedL1(theta=1.0).prox(torch.tensor([0.5, 1.0, 1.5]), mu=0.5)
    tensor([0.0000, 0.5000, 1.5000])
    """

    theta: float = 1.0

    def __post_init__(self) -> None:
        positive("CappedL1", "theta", self.theta)

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``min(|x|, theta)``."""
        return x.abs().to(accumulator(x)).clamp(max=self.theta).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the soft threshold or x, whichever costs less; 0 at ties."""
        t, wide = self.threshold(mu), x.to(accumulator(x))
        jump = either(mu > 2 * self.theta, t, self.theta + mu / 2)
        return line(wide, jump, math.inf, floor=soft(wide, mu)).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu` up to ``2 theta``, then ``sqrt(2 mu theta)``."""
        return capped_threshold(mu, self.theta)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t` up to ``2 theta``, then ``t^2 / (2 theta)``."""
        return mu_for_capped_threshold(t, self.theta)


def capped_threshold(mu: Scalar, cap: float) -> Scalar:
    """Return the threshold of a penalty of slope 1 at 0 that is concave up to its maximum `cap`.

    0 stops being a stationary point at ``x = mu``, and costs more than staying at x, which costs
    ``mu cap``, from ``x = sqrt(2 mu cap)`` on.
    """
    mu = checked("mu", mu)
    return either(mu > 2 * cap, power(mu, 0.5) * math.sqrt(2 * cap), mu)


def mu_for_capped_threshold(t: Scalar, cap: float) -> Scalar:
    """Return the inverse of `capped_threshold`."""
    t = checked("t", t)
    return either(t > 2 * cap, t * (t / (2 * cap)), t)
