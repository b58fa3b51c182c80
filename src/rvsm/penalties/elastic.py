"""Elastic mixes: any penalty plus a ridge."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.penalties.base import (
    Penalty,
    Scalar,
    accumulator,
    checked,
    either,
    inverse,
    positive,
    power,
    separable,
)
from rvsm.penalties.maps import beyond

_HALVINGS = 64
"""Of the logarithm of the factor that the inverse looks for: to the last digit of float64."""


@dataclass(frozen=True)
class Elastic:
    r"""A penalty plus a ridge, ``P(x) = penalty(x) + (ridge / 2) |x|^2``; elastic net with `L1`.

    The proximal map is that of `penalty`, scaled: with ``k = 1 + mu ridge``,
    ``prox(x, mu) = penalty.prox(x / k, mu / k)``. Separable if the penalty is.

    Parameters
    ----------
    penalty : Penalty
        Any penalty.
    ridge : float
        Weight of half the squared norm, finite and > 0.

    Raises
    ------
    RuleError
        If `penalty` is none or `ridge` is out of range.

    References
    ----------
    Zou and Hastie, "Regularization and variable selection via the elastic net", J. R. Stat.
    Soc. B 67 (2005).

    Examples
    --------
    >>> from rvsm.penalties import L1
    >>> Elastic(L1(), ridge=1.0).prox(torch.tensor([0.5, 1.0, -2.0]), mu=0.5)
    tensor([ 0.0000,  0.3333, -1.0000])
    """

    penalty: Penalty
    ridge: float

    def __post_init__(self) -> None:
        if isinstance(self.penalty, type) or not isinstance(self.penalty, Penalty):
            raise RuleError(f"Elastic: penalty must be a penalty such as L1(), not {self.penalty}.")
        positive("Elastic", "ridge", self.ridge)

    @property
    def separable(self) -> bool:
        """Whether the penalty is: the ridge always is."""
        return separable(self.penalty)

    def value(self, x: Tensor) -> Tensor:
        """Return ``penalty(x) + (ridge / 2) sum x^2``."""
        return self.penalty.value(x) + self.ridge / 2 * x.to(accumulator(x)).square().sum()

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return ``penalty.prox(x / k, mu / k)`` with ``k = 1 + mu ridge``."""
        wide = x.to(accumulator(x))
        shrink, strength = self._scaled(checked("mu", mu))
        u = self.penalty.prox((wide * shrink).to(wide.dtype), strength)
        if self.separable:  # x / k may round to the other side of the threshold
            u = beyond(u, wide, self.threshold(mu))
        return u.to(x.dtype)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return ``k penalty.threshold(mu / k)`` with ``k = 1 + mu ridge``."""
        shrink, strength = self._scaled(checked("mu", mu))
        return self.penalty.threshold(strength) * inverse(shrink)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return the inverse of `threshold`, by bisection.

        With ``s = 1 / k`` and M the penalty's own inverse it is ``M(t s) / s``, where s is the
        root of the increasing function ``s + ridge M(t s) - 1``.
        """
        t = checked("t", t)
        low: Scalar
        high: Scalar
        low, high = _ends(t)
        for _ in range(_HALVINGS):
            s = power(low, 0.5) * power(high, 0.5)
            too_large = s + self.ridge * self.penalty.mu_for_threshold(t * s) > 1
            low, high = either(too_large, low, s), either(too_large, s, high)
        return self.penalty.mu_for_threshold(t * high) * inverse(high)

    def _scaled(self, mu: Scalar) -> tuple[Scalar, Scalar]:
        """Return ``1 / k`` and ``mu / k``, the limit ``1 / ridge`` for an infinite mu."""
        return inverse(1 + mu * self.ridge), inverse(inverse(mu) + self.ridge)


def _ends(t: Any) -> tuple[Any, Any]:
    """Return the smallest normal number and 1, of the type of `t`."""
    if isinstance(t, Tensor):
        return torch.full_like(t, torch.finfo(t.dtype).tiny), torch.ones_like(t)
    return sys.float_info.min, 1.0
