"""The lp penalties, 0 < p < 1, by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import Scalar, accumulator, at_least, checked, power, representable
from rvsm.penalties.maps import beyond

_STEPS = 6
"""Newton steps: they leave nothing but rounding, for every p from 0.01 to 0.999 (tested)."""


@dataclass(frozen=True)
class Lp:
    r"""lp, ``P(x) = sum |x|^p`` with 0 < p < 1: infinitely steep at 0.

    Tends to l0 as ``p -> 0`` and to l1 as ``p -> 1``. Beyond the threshold the proximal map is
    the larger root of ``u - |x| + mu p u^(p-1) = 0``. As a share ``v = u / |x|`` it solves
    ``h(v) = v - 1 + c v^(p-1) = 0`` with ``c = mu p |x|^(p-2)``: h is convex and its slope at the
    root at least ``1 - p/2``, so Newton's method from v = 1 falls monotonically to the root; a
    bound below, the share at the threshold ``2 (1-p) / (2-p)``, guards it against rounding.
    `LHalf` and `LTwoThirds` are the closed forms for two values of p.

    Parameters
    ----------
    p : float
        Exponent, 0 < p < 1.

    Raises
    ------
    RuleError
        If `p` is out of range.

    References
    ----------
    Marjanovic and Solo, "On lq optimization and matrix completion", IEEE Trans. Signal Process.
    60 (2012).

    Examples
    --------
    >>> Lp(p=0.3).prox(torch.tensor([0.5, 1.0, 2.0]), mu=0.5)
    tensor([0.0000, 0.8290, 1.9044])
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise RuleError(
                f"Lp: p must be a number between 0 and 1, not {self.p!r}; those limits are L0 "
                "and L1."
            )

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``|x|^p``."""
        return sum_of_powers(x, self.p)

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return 0 up to the threshold, the larger root beyond it."""
        t, wide, p = self.threshold(mu), x.to(accumulator(x)), self.p
        least = 2 * (1 - p) / (2 - p)
        c = share(wide, t).pow_(2 - p).mul_((1 - least) * least ** (1 - p))
        v = torch.ones_like(wide)
        for _ in range(_STEPS):
            w = v.pow(p - 2).mul_(c)
            slope = (w * (p - 1)).add_(1)
            v = w.mul_(v).mul_(p - 2).add_(1).div_(slope).clamp_(least, 1)
        return beyond(v.mul_(wide), wide, t).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``(2-p)/(2(1-p)) (2 mu (1-p))^(1/(2-p))``."""
        return lp_threshold(mu, self.p)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return ``(2 (1-p) t / (2-p))^(2-p) / (2 (1-p))``."""
        return mu_for_lp_threshold(t, self.p)


def sum_of_powers(x: Tensor, p: float) -> Tensor:
    """Return the sum of ``|x|^p``, with derivative 0 at 0."""
    magnitude = x.abs().to(accumulator(x))
    nonzero = magnitude > 0
    powers = torch.where(nonzero, magnitude, 1).pow(p)
    return torch.where(nonzero, powers, 0).sum()


def lp_threshold(mu: Scalar, p: float) -> Scalar:
    """Return the threshold of lp: where the root costs as much as 0."""
    mu = checked("mu", mu)
    return power(2 * (1 - p) * mu, 1 / (2 - p)) * ((2 - p) / (2 * (1 - p)))


def mu_for_lp_threshold(t: Scalar, p: float) -> Scalar:
    """Return the inverse of `lp_threshold`."""
    u = checked("t", t) * (2 * (1 - p) / (2 - p))
    return u * power(u, 1 - p) / (2 * (1 - p))


def share(x: Tensor, t: float | Tensor) -> Tensor:
    """Return ``t / |x|``, at most 1, as a new tensor; 0 for t = 0.

    The maps of lp are homogeneous: ``u / x`` depends on this share alone.
    """
    t = representable(t, x.dtype)
    floor = at_least(t, torch.finfo(x.dtype).tiny)
    return x.abs().clamp_(min=floor).reciprocal_().mul_(t).clamp_(max=1)
