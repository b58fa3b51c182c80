"""The two lp penalties whose proximal maps are closed: p = 1/2 and p = 2/3."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from rvsm.penalties.base import Scalar, accumulator
from rvsm.penalties.lp import lp_threshold, mu_for_lp_threshold, share, sum_of_powers
from rvsm.penalties.maps import beyond


@dataclass(frozen=True)
class LHalf:
    r"""l1/2, ``P(x) = sum sqrt(|x|)``.

    The proximal map is the half threshold: 0 for ``|x| <= (3/2) mu^(2/3)``, beyond it
    ``u = (2/3) x (1 + cos(2 pi / 3 - (2/3) phi))`` with
    ``phi = arccos((mu / 4) (|x| / 3)^(-3/2))``.

    References
    ----------
    Xu, Chang, Xu and Zhang, "L1/2 regularization: a thresholding representation theory and a
    fast solver", IEEE Trans. Neural Netw. Learn. Syst. 23 (2012); its lambda is 2 mu.

    Examples
    --------
    >>> LHalf().prox(torch.tensor([0.5, 1.0, 2.0]), mu=0.5)
    tensor([0.0000, 0.7015, 1.8144])
    """

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``sqrt(|x|)``."""
        return sum_of_powers(x, 1 / 2)

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return 0 up to the threshold, the trigonometric root beyond it."""
        t, wide = self.threshold(mu), x.to(accumulator(x))
        # With psi = pi/2 - phi, so that mu = 0 returns x exactly:
        # u = x (1 - (4/3) sin((pi + psi) / 3) sin(psi / 3)).
        r = share(wide, t)
        third = r.mul_(r.sqrt()).mul_(math.sqrt(1 / 2)).asin_().div_(3)
        lost = third.sin().mul_(third.add_(math.pi / 3).sin_()).mul_(-4 / 3)
        return beyond(lost.add_(1).mul_(wide), wide, t).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``(3/2) mu^(2/3)``."""
        return lp_threshold(mu, 1 / 2)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return ``(2 t / 3)^(3/2)``."""
        return mu_for_lp_threshold(t, 1 / 2)


@dataclass(frozen=True)
class LTwoThirds:
    r"""l2/3, ``P(x) = sum |x|^(2/3)``.

    The proximal map is 0 for ``|x| <= 2 (2 mu / 3)^(3/4)``. Beyond it ``u = x s^3`` with s the
    larger real root of the quartic ``s^4 - s + c = 0``, ``c = (2/3) mu |x|^(-4/3)``, by Ferrari's
    formula: m is the real root of ``m^3 - 4 c m - 1 = 0`` by Cardano's, and
    ``s = (sqrt(m) + sqrt(2 / sqrt(m) - m)) / 2``.

    References
    ----------
    Cao, Sun and Xu, "Fast image deconvolution using closed-form thresholding formulas of Lq
    (q = 1/2, 2/3) regularization", J. Vis. Commun. Image Represent. 24 (2013).

    Examples
    --------
    >>> LTwoThirds().prox(torch.tensor([0.5, 1.0, 2.0]), mu=0.5)
    tensor([0.0000, 0.6061, 1.7219])
    """

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``|x|^(2/3)``."""
        return sum_of_powers(x, 2 / 3)

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return 0 up to the threshold, the root of the quartic beyond it."""
        t, wide = self.threshold(mu), x.to(accumulator(x))
        r = share(wide, t)
        # (4 c / 3)^3 = (4/27) r^4: at most 4/27, so Cardano's root is real and nothing cancels.
        cubed = r.square_().square_().mul_(4 / 27)
        larger = (0.25 - cubed).sqrt_().add_(0.5).pow_(1 / 3)
        m = cubed.pow_(1 / 3).div_(larger).add_(larger)
        root = m.sqrt()
        s = (2 / root).sub_(m).sqrt_().add_(root).div_(2).clamp_(max=1)
        return beyond((s * s).mul_(s).mul_(wide), wide, t).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``2 (2 mu / 3)^(3/4)``."""
        return lp_threshold(mu, 2 / 3)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return ``(3/2) (t / 2)^(4/3)``."""
        return mu_for_lp_threshold(t, 2 / 3)
