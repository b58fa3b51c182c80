"""The nonconvex sparse group penalty, with its joint proximal map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.base import Groups
from rvsm.groups.lifted import check_parts
from rvsm.groups.nm import NM
from rvsm.penalties import L1, Penalty
from rvsm.penalties.base import Scalar, accumulator, checked, positive, representable, separable
from rvsm.penalties.maps import soft

_SMALLEST, _INTERVALS = 1e-3, 48
"""Where s is searched: below _SMALLEST times ``|x_g|`` whole, above it in geometric intervals."""


@dataclass(frozen=True)
class SparseGroup:
    r"""Sparse group, ``P(x) = element(x) + ratio sum_g |x_g|``: zeros within groups, and of groups.

    The joint proximal map. For a convex `element` it would be the group map of the element map;
    for others that composition is not a minimiser. Here ``|u_g| = min_s (|u_g|^2 / s + s) / 2``
    splits it: for a fixed norm s, with ``k = 1 + mu ratio / s``, every element is
    ``u(s) = element.prox(x / k, mu / k)``, and s is right where ``R(s) = |u(s)|`` equals s. For
    each group by itself 48 intervals of s are searched, the best is refined by bisection, and 0
    competes last. `L1` takes its closed form.

    Parameters
    ----------
    element : Penalty
        On single weights, separable; its map takes a `mu` shaped like x, as those of
        rvsm.penalties do.
    groups : Groups
        How the tensor is cut.
    ratio : float
        Weight of the groups' norms, finite and > 0.

    Raises
    ------
    RuleError
        If one of them cannot be used.

    Notes
    -----
    Exact unless two local minima lie within one interval, 16 percent of each other in s. The map
    costs about 150 maps of `element`: to train large layers, take the penalty in two parts, one
    split and one by subgradient (see `Grouped`).

    References
    ----------
    Bui et al., "Structured sparsity of convolutional neural networks via nonconvex sparse group
    regularization", Front. Appl. Math. Stat. 6:529564 (2021); Simon et al., "A sparse-group
    lasso", J. Comput. Graph. Stat. 22 (2013), for L1.
    """

    element: Penalty
    groups: Groups
    ratio: float = 1.0

    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts("SparseGroup", "element", self.element, self.groups)
        positive("SparseGroup", "ratio", self.ratio)
        if isinstance(self.groups, NM):
            raise RuleError(
                f"SparseGroup: {self.groups} leaves weights free, which have no group; use groups "
                "that divide the tensor, such as Filters()."
            )
        if not separable(self.element):
            raise RuleError(
                f"SparseGroup: element must act on every weight by itself, not {self.element}; "
                "use a separable penalty such as L0()."
            )

    def value(self, x: Tensor) -> Tensor:
        """Return ``element(x) + ratio sum_g |x_g|``."""
        return self.element.value(x) + self.ratio * self.groups.value(L1(), x)

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return the joint minimiser; 0 at ties of a whole group."""
        wide = x.to(accumulator(x))
        mu = representable(checked("mu", mu), wide.dtype)
        if x.numel() == 0:
            return x.clone()
        if isinstance(self.element, L1):
            u = self.groups.prox(L1(), soft(wide, mu), mu * self.ratio)
        else:
            u = self._search(wide, torch.as_tensor(mu, dtype=wide.dtype, device=wide.device))
        return u.to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return that of `element`: weights up to it are zero, others may be with their group."""
        return self.element.threshold(mu)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Raise RuleError: which weights are zero depends on their groups, so none has a mu."""
        raise RuleError(
            "SparseGroup has no inverse of its threshold, since whole groups vanish too; give lam "
            "instead of sparsity, or a rule with the element penalty and "
            "subgradient=(Grouped(L1(), groups), lam2)."
        )

    def _search(self, x: Tensor, mu: Tensor) -> Tensor:
        # R(s) - s is minus the slope of the cost over s, so a minimum lies where it falls through
        # 0. A secant in every interval says which is cheapest, bisection finds its minimum.
        high = self.groups.norms(x)
        excess_high = self._excess(x, mu, high)
        cost, best, below, above = (torch.zeros_like(high) for _ in range(4))
        ratio = _SMALLEST ** (1 / (_INTERVALS - 1))
        for i in range(_INTERVALS):
            low = high * (ratio if i < _INTERVALS - 1 else 0)
            excess = self._excess(x, mu, low)
            crosses = (excess > 0) & (excess_high <= 0)
            part = torch.where(crosses, excess / (excess - excess_high), 0.5)
            s = low + (high - low) * part
            tried = self._cost(self._at(x, mu, s), x, mu)
            better = tried < cost
            cost, best = torch.where(better, tried, cost), torch.where(better, s, best)
            below, above = torch.where(better, low, below), torch.where(better, high, above)
            high, excess_high = low, excess
        low, high, s = below, above, best
        for _ in range(50 if x.dtype == torch.float64 else 22):
            grows = self._excess(x, mu, s) > 0
            low, high = torch.where(grows, s, low), torch.where(grows, high, s)
            s = (low + high) / 2
        u, refined = self._at(x, mu, best), self._at(x, mu, s)
        for other in (refined, torch.zeros_like(x)):
            better = self._cost(other, x, mu) <= self._cost(u, x, mu)
            u = torch.where(self.groups.spread(better, x), other, u)
        return u

    def _at(self, x: Tensor, mu: Tensor, s: Tensor) -> Tensor:
        """Return u(s): every element's map while the norms of its group are taken to be `s`."""
        k = 1 + mu * self.ratio / s.clamp(min=torch.finfo(s.dtype).tiny)
        k = self.groups.spread(k, x)
        return self.element.prox(x / k, mu / k)

    def _excess(self, x: Tensor, mu: Tensor, s: Tensor) -> Tensor:
        """Return ``R(s) - s``."""
        return self.groups.norms(self._at(x, mu, s)) - s

    def _cost(self, u: Tensor, x: Tensor, mu: Tensor) -> Tensor:
        """Return what each group costs at u less what it costs at 0; u has the signs of x."""
        elements = torch.vmap(self.element.value)(u.flatten()).view_as(u)
        cost = self._sums(mu * elements) - self._sums(u * x)
        norms = self.groups.norms(u)
        return cost + norms * (mu * self.ratio + norms / 2)

    def _sums(self, x: Tensor) -> Tensor:
        """Return the sum over each group of elements >= 0."""
        return self.groups.norms(x.sqrt()).square()
