"""The transformed l1 penalty: between l0 and l1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.penalties.base import (
    Scalar,
    accumulator,
    checked,
    either,
    positive,
    power,
    representable,
)
from rvsm.penalties.maps import affine, hard, polynomial

# G(q) of _shrunk on [0, 1], constant term first: Chebyshev interpolation in 40 digits,
# relative error below 2e-7.
_G = (
    2.24999964136,
    -0.348040783728,
    0.151333687344,
    -0.0848018599025,
    0.0468516184214,
    -0.0192596952629,
    0.00391759428656,
)

# G(q) / (1 + q) as a polynomial in z = 1 - q^2 on [0, 0.4], where the root of q is not needed:
# relative error below 4e-7.
_FAR = (
    0.999999741206,
    0.29634266228,
    0.152315324124,
    0.110932462921,
    0.0102179615743,
    0.158203500014,
)
_FAR_UP_TO = 0.47
"""The largest q_scale of _shrunk for which z at the threshold, and so beyond, is at most 0.4."""
_ROUNDED_AWAY = 1e-9


@dataclass(frozen=True)
class TransformedL1:
    r"""Transformed l1, ``P(x) = sum (a + 1)|x| / (a + |x|)``: nearly unbiased, Lipschitz.

    Tends to l0 as ``a -> 0`` and to l1 as ``a -> inf``. Its proximal map is closed: 0 up to the
    threshold, beyond it the largest root of a cubic,
    ``|u| = (2/3)(a + |x|) cos(phi/3) - 2a/3 + |x|/3`` with
    ``phi = arccos(1 - 27 mu a (a+1) / (2 (a + |x|)^3))``. It is continuous for
    ``mu <= a^2 / (2(a+1))`` and jumps at the threshold beyond.

    Parameters
    ----------
    a : float
        Shape, finite and > 0.

    Raises
    ------
    RuleError
        If `a` is not a finite number > 0.

    References
    ----------
    Zhang and Xin, "Minimization of transformed l1 penalty", Math. Program. 169 (2018), theorem 3.

    Examples
    --------
    >>> TransformedL1(a=1.0).prox(torch.tensor([0.9, 1.0, -2.0]), mu=0.5)
    tensor([ 0.0000,  0.6180, -1.8794])
    """

    a: float = 1.0

    def __post_init__(self) -> None:
        positive("TransformedL1", "a", self.a)

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``(a + 1)|x| / (a + |x|)``."""
        magnitude = x.abs().to(accumulator(x))
        return ((self.a + 1) * (magnitude / (self.a + magnitude))).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return 0 up to the threshold, the largest root of the cubic beyond it."""
        survivors = hard(x.to(accumulator(x)), self.threshold(mu))
        return _shrunk(survivors, mu, self.a).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``mu (a+1)/a`` up to ``mu = a^2/(2(a+1))``, then ``sqrt(2 mu (a+1)) - a/2``."""
        mu, a = checked("mu", mu), self.a
        jumps = mu > a * (a / (2 * (a + 1)))
        return either(jumps, power(2 * mu * (a + 1), 0.5) - a / 2, mu * ((a + 1) / a))

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return ``t a/(a+1)`` up to ``t = a/2``, then ``(t + a/2)^2 / (2(a+1))``."""
        t, a = checked("t", t), self.a
        half = t + a / 2
        return either(t > a / 2, half * (half / (2 * (a + 1))), t * (a / (a + 1)))


def _shrunk(x: Tensor, mu: float | Tensor, a: float) -> Tensor:
    r"""Return the root of largest magnitude of the cubic, for x beyond the threshold; 0 for 0.

    For x > 0 the map is the largest u with ``u - x + mu a (a+1) / (a+u)^2 = 0``. With
    ``s = a + x`` and ``q = cos(phi/2) = sqrt(1 - 27 mu a (a+1) / (4 s^3))`` it is
    ``u = x - m G(q) / (1 + q)``, where ``m = mu a (a+1) / s^2`` and
    ``G(q) = (27/4) (1 - r(q)) / (1 - q)``, ``r(q) = (1 + 2 cos((2/3) arccos q)) / 3``, falls
    smoothly from 9/4 to 2. Written as a correction to x nothing cancels, and mu = 0 returns x
    exactly. In float32 G is a polynomial; in float64 the closed form is used: with
    ``y = sin^2(arccos(q)/3)``, ``G(q) / (1 + q) = 9 / (3 - 4y)^2``. Divided by powers of a, so
    that neither a tiny nor a huge one overflows.
    """
    a_plus_1 = 1 + 1 / a
    m_scale = representable(mu * a_plus_1, x.dtype)
    q_scale = representable(mu * (27 / 4) * a_plus_1 / a, x.dtype)
    one = x.new_ones(())
    shrink = affine(x.abs(), representable(1 / a, x.dtype), one).reciprocal_()  # a / s
    m = shrink * shrink
    cube = shrink.mul_(m)
    if x.dtype == torch.float64:
        q = affine(cube, -q_scale, one).clamp_(min=0).sqrt_()
        y = torch.arccos(q).div_(3).sin_().square_()
        step = m.mul_(m_scale).mul_(9).div_(y.mul_(-4).add_(3).square_())
    elif not isinstance(q_scale, Tensor) and q_scale <= _FAR_UP_TO:
        terms = [c * q_scale**power for power, c in enumerate(_FAR)]
        # One pass for each, and terms that would round away are most of them.
        step = m.mul_(m_scale).mul_(polynomial([c for c in terms if c > _ROUNDED_AWAY], cube))
    else:
        # Not 0: the square root of zeros takes ten times as long as that of other numbers.
        q = affine(cube, -q_scale, one).clamp_(min=torch.finfo(x.dtype).tiny).sqrt_()
        step = m.mul_(m_scale).mul_(polynomial(_G, q)).div_(q.add_(1))
    return x - x.clamp(-step, step)
