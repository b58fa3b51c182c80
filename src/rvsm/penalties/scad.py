"""The smoothly clipped absolute deviation penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import Scalar, accumulator, at_least, either, inverse, positive
from rvsm.penalties.capped_l1 import capped_threshold, mu_for_capped_threshold
from rvsm.penalties.maps import line, soft


@dataclass(frozen=True)
class SCAD:
    r"""Smoothly clipped absolute deviation: l1 up to `knee`, flat from ``a knee`` on.

    ``P(x) = sum p(x_i)`` with k = knee and slope 1 at 0::

        p(x) = |x|                                           |x| <= k
               (2 a k |x| - x^2 - k^2) / (2 (a - 1) k)       k < |x| <= a k
               k (a + 1) / 2                                 a k < |x|

    With ``knee = mu`` the product ``mu P`` is Fan and Li's penalty of parameters
    ``(lambda, a)`` for ``lambda = mu``. Tends to l1 as ``knee -> inf``.

    The proximal map for ``mu < (a - 1) k`` is the soft threshold up to ``|x| = k + mu``, x from
    ``a k`` on and a line between. For larger mu the objective is concave between k and ``a k``,
    and the lower of the other two minima counts: the soft threshold up to
    ``|x| = (mu + k (a + 1)) / 2`` and x beyond; from ``mu = k (a + 1)`` on it is the hard
    threshold at ``sqrt(mu k (a + 1))``.

    Parameters
    ----------
    a : float
        Where the penalty becomes flat, in units of `knee`; finite and > 2.
    knee : float
        Where it leaves l1, in units of the weights; finite and > 0.

    Raises
    ------
    RuleError
        If `a` or `knee` is out of range.

    References
    ----------
    Fan and Li, "Variable selection via nonconcave penalized likelihood and its oracle
    properties", J. Am. Stat. Assoc. 96 (2001).

    Examples
    --------
    >>> SCAD(a=3.0).prox(torch.tensor([0.5, 1.0, 2.0, 4.0]), mu=0.5)
    tensor([0.0000, 0.5000, 1.6667, 4.0000])
    """

    a: float = 3.7
    knee: float = 1.0

    def __post_init__(self) -> None:
        positive("SCAD", "knee", self.knee)
        if not (math.isfinite(self.a) and self.a > 2):
            raise RuleError(f"SCAD: a must be a finite number > 2, not {self.a!r}.")

    @property
    def _cap(self) -> float:
        return self.knee * (self.a + 1) / 2

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of the three pieces."""
        magnitude = x.abs().to(accumulator(x)).clamp(max=self.a * self.knee)
        above = (magnitude - self.knee).clamp(min=0)
        return (magnitude - above * (above / (2 * (self.a - 1) * self.knee))).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the lowest of the minima of the three pieces; the smaller one at ties."""
        t, wide, concave_from = self.threshold(mu), x.to(accumulator(x)), (self.a - 1) * self.knee
        jump = either(mu > 2 * self._cap, t, self._cap + mu / 2)
        start = either(mu < concave_from, mu * (self.a / (self.a - 1)), jump)
        slope = inverse(at_least(1 - mu / concave_from, 0))
        return line(wide, start, slope, floor=soft(wide, mu)).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu` up to ``knee (a+1)``, then ``sqrt(mu knee (a+1))``."""
        return capped_threshold(mu, self._cap)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t` up to ``knee (a+1)``, then ``t^2 / (knee (a+1))``."""
        return mu_for_capped_threshold(t, self._cap)
