"""The log-sum penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rvsm.penalties.base import (
    Scalar,
    accumulator,
    at_least,
    checked,
    either,
    positive,
    representable,
)
from rvsm.penalties.maps import beyond

_STEPS = 6
"""Newton steps for the threshold: 5 leave nothing but rounding, for every mu (tested)."""


@dataclass(frozen=True)
class LogSum:
    r"""Log-sum, ``P(x) = sum eps log(1 + |x| / eps)``: never flat, yet nearly unbiased.

    Slope 1 at 0; tends to l1 as ``eps -> inf``, and ``P / (eps log(1 + 1/eps))`` to l0 as
    ``eps -> 0``. The usual ``sum log(1 + |x| / eps)`` is ``P / eps``.

    Beyond the threshold the proximal map is the larger root of a quadratic,
    ``|u| = (|x| - eps + sqrt((|x| + eps)^2 - 4 mu eps)) / 2``. For ``mu <= eps`` it is continuous
    with threshold mu. For larger mu it jumps at the t where root and 0 cost the same,
    ``mu eps log(1 + u/eps) + u^2/2 = t u`` with u the root at t: no closed form, so Newton's
    method from above, where the left side minus the right is concave and falls with slope -u,
    which converges without safeguards. To overlook 0 here is a known fault of other libraries.

    Parameters
    ----------
    eps : float
        Where the penalty bends, in units of the weights; finite and > 0.

    Raises
    ------
    RuleError
        If `eps` is not a finite number > 0.

    References
    ----------
    Candès, Wakin and Boyd, "Enhancing sparsity by reweighted l1 minimization", J. Fourier Anal.
    Appl. 14 (2008); the map: Prater-Bennette, Shen and Tripp, "The proximity operator of the
    log-sum penalty", J. Sci. Comput. 93 (2022).

    Examples
    --------
    >>> LogSum(eps=1.0).prox(torch.tensor([0.5, 1.0, 3.0]), mu=0.75)
    tensor([0.0000, 0.5000, 2.8028])
    """

    eps: float = 1.0

    def __post_init__(self) -> None:
        positive("LogSum", "eps", self.eps)

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``eps log(1 + |x| / eps)``."""
        wide = x.abs().to(accumulator(x))
        return (torch.log1p(wide * representable(1 / self.eps, wide.dtype)) * self.eps).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return 0 up to the threshold, the larger root of the quadratic beyond it."""
        t, wide = self.threshold(mu), x.to(accumulator(x))
        shift, steep = representable(mu, wide.dtype), representable(4 * mu / self.eps, wide.dtype)
        # With r = eps / (eps + |x|) nothing cancels, and mu = 0 returns x exactly:
        # |u| = |x| - 2 mu r / (1 + sqrt(1 - 4 mu r^2 / eps)).
        magnitude = wide.abs()
        r = (magnitude * representable(1 / self.eps, wide.dtype)).add_(1).reciprocal_()
        root = (r * r).mul_(-steep).add_(1).clamp_(min=0).sqrt_().add_(1)
        u = magnitude.sub_(r.mul_(shift).mul_(2).div_(root)).clamp_(min=0).copysign_(wide)
        return beyond(u, wide, t).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu` up to ``eps``, then the t at which the map jumps."""
        mu = checked("mu", mu)
        jump: Scalar = self.eps * _jump(at_least(mu / self.eps, 1))
        return either(mu > self.eps, jump, mu)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t` up to ``eps``, then the mu whose map jumps at t."""
        t = checked("t", t)
        mu: Scalar = self.eps * _mu_of_jump(at_least(t / self.eps, 1))
        return either(t > self.eps, mu, t)


def _jump(m: Any) -> Any:
    """Return the t at which ``m log(1 + u) + u^2/2 = t u``, for m >= 1 and eps = 1."""
    if not isinstance(m, Tensor) and (m == 1 or m == math.inf):
        return m
    f = _functions(m)
    # Keeping u = t is better than 0 from the second bound on, any root u from the first on.
    t = f.minimum(m, m**0.5 * (2 * f.log1p(m)) ** 0.5)
    for _ in range(_STEPS):
        u = at_least(_root(t, m), 1e-30)
        t = m * (f.log1p(u) / u) + u / 2
    # Near m = 1 the quotient loses digits; the root exists from the lower bound on.
    t = f.minimum(f.maximum(t, 2 * m**0.5 - 1), m)
    return either(m == math.inf, m, t)


def _mu_of_jump(t: Any) -> Any:
    """Return the inverse of `_jump`, for t >= 1."""
    if not isinstance(t, Tensor) and (t == 1 or t == math.inf):
        return t
    f = _functions(t)
    # From below: 0 is no worse than u = t.
    m = f.maximum(t, t * (t / (2 * f.log1p(t))))
    for _ in range(_STEPS):
        u = at_least(_root(t, m), 1e-30)
        m = u * ((t - u / 2) / f.log1p(u))
    return either(t == math.inf, t, f.maximum(m, t))


def _root(t: Any, m: Any) -> Any:
    """Return the larger root of ``u - t + m / (1 + u)``."""
    under = at_least(1 - 4 * (m / (t + 1)) / (t + 1), 0)
    return (t - 1 + (t + 1) * under**0.5) / 2


def _functions(number: float | Tensor) -> Any:
    """Return the functions of the number's type: torch's, or Python's under the same names."""
    return torch if isinstance(number, Tensor) else _Floats


class _Floats:
    log1p = staticmethod(math.log1p)
    minimum = staticmethod(min)
    maximum = staticmethod(max)
