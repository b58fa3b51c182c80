"""The minimax concave penalty."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rvsm.penalties.base import Scalar, accumulator, at_least, inverse, positive
from rvsm.penalties.capped_l1 import capped_threshold, mu_for_capped_threshold
from rvsm.penalties.maps import line


@dataclass(frozen=True)
class MCP:
    r"""Minimax concave penalty: from the slope of l1 at 0 to no slope at `gamma`.

    ``P(x) = sum p(x_i)`` with ``p(x) = |x| - x^2 / (2 gamma)`` for ``|x| <= gamma`` and
    ``gamma / 2`` beyond: slope 1 at 0. ``mu P`` is Zhang's penalty of parameters
    ``(lambda, gamma')`` for ``mu = lambda`` and ``gamma = gamma' lambda``. Tends to l1 as
    ``gamma -> inf``, and ``2 P / gamma`` to l0 as ``gamma -> 0``.

    The proximal map is the firm threshold for ``mu < gamma``: 0 up to mu, x from gamma on, a line
    between. For ``mu >= gamma`` the objective is concave up to gamma, no minimum lies between,
    and the map is the hard threshold at ``sqrt(mu gamma)``.

    Parameters
    ----------
    gamma : float
        Where the penalty becomes flat, in units of the weights; finite and > 0.

    Raises
    ------
    RuleError
        If `gamma` is not a finite number > 0.

    References
    ----------
    Zhang, "Nearly unbiased variable selection under minimax concave penalty", Ann. Stat. 38
    (2010); the firm threshold: Gao and Bruce, "WaveShrink with firm shrinkage", Stat. Sin. 7
    (1997).

    Examples
    --------
    >>> MCP(gamma=2.0).prox(torch.tensor([0.5, 1.0, 1.5, 3.0]), mu=0.5)
    tensor([0.0000, 0.6667, 1.3333, 3.0000])
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        positive("MCP", "gamma", self.gamma)

    def value(self, x: Tensor) -> Tensor:
        """Return the sum of ``|x| - x^2 / (2 gamma)``, ``gamma / 2`` beyond gamma."""
        magnitude = x.abs().to(accumulator(x)).clamp(max=self.gamma)
        return (magnitude * (1 - magnitude / self.gamma / 2)).sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the firm threshold for ``mu < gamma``, the hard one otherwise."""
        t, wide = self.threshold(mu), x.to(accumulator(x))
        slope = inverse(at_least(1 - mu / self.gamma, 0))
        return line(wide, t, slope).to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return `mu` up to `gamma`, then ``sqrt(mu gamma)``."""
        return capped_threshold(mu, self.gamma / 2)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return `t` up to `gamma`, then ``t^2 / gamma``."""
        return mu_for_capped_threshold(t, self.gamma / 2)
