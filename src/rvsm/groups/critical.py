"""The strength at which everything is zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rvsm.groups.base import Groups
from rvsm.groups.elements import Elements
from rvsm.penalties.base import Penalty, separable

_ELEMENTS = Elements()

_PRECISION = 1e-9


@torch.no_grad()
def critical_mu(penalty: Penalty, x: Tensor, groups: Groups = _ELEMENTS) -> float:
    """Return the mu at and above which ``groups.prox(penalty, x, mu)`` is all zero.

    With ``lam = beta critical_mu`` a rule zeroes the whole tensor. Follows from the inverse of
    the threshold at the largest norm; where the penalty is not separable, from bisection.

    Parameters
    ----------
    penalty : Penalty
        Any penalty.
    x : Tensor
        Any finite tensor.
    groups : Groups
        How the penalty sees it; single elements by default.

    Returns
    -------
    float
        0 where `x` is zero already; infinity where something survives any mu, as with
        ``L1MinusL2(alpha=1)``. At most a few roundings too large, and 1e-9 of itself where it
        comes from bisection.
    """

    def survives(mu: float) -> bool:
        return bool((groups.prox(penalty, x, mu) != 0).any())

    if not survives(0.0):
        return 0.0
    if separable(penalty):
        largest = float(groups.norms(x).max())
        mu, step = penalty.mu_for_threshold(largest), torch.finfo(torch.float64).eps
        while survives(mu) and mu < math.inf:  # where threshold and norm round apart
            mu, step = mu * (1 + step), 2 * step
        return mu
    low, high = 0.0, torch.finfo(torch.float32).max
    if survives(high):
        return math.inf
    while True:
        # Halves the exponent's range first, so that neither end of it takes long.
        middle = math.sqrt(low * high) if low > 0 else high * 2.0**-32
        if not low < middle < high or high <= low * (1 + _PRECISION):
            return high
        low, high = (middle, high) if survives(middle) else (low, middle)
