"""What a penalty is, and the checks every penalty shares."""

from __future__ import annotations

import math
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from rvsm.errors import RuleError

Scalar = TypeVar("Scalar", float, Tensor)
"""A Python float, or a 0-d tensor that is never read by the host."""


@runtime_checkable
class Penalty(Protocol):
    """A penalty P on a tensor, the sum of one even function over its elements.

    Any class with these four methods works wherever rvsm asks for a penalty; it need not inherit
    from this one. Penalties hold parameters, never state.
    """

    def value(self, x: Tensor) -> Tensor:
        """Return P(x) as a 0-d tensor, in float32 where `x` is float16 or bfloat16.

        Differentiable in `x` (with derivative 0 at 0) where P is; that is how
        ``Rule(subgradient=...)`` takes its subgradient.
        """
        ...

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return argmin_u ``mu * P(u) + |u - x|^2 / 2`` as a new tensor like `x`; 0 at ties.

        `mu` is a float >= 0 (anything else raises RuleError) or a 0-d tensor (not checked: that
        would wait for the device).
        """
        ...

    def threshold(self, mu: Scalar) -> Scalar:
        """Return the largest t such that ``prox(x, mu) = 0`` for all ``|x| <= t``."""
        ...

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return the `mu` whose threshold is `t`: the inverse of `threshold`."""
        ...


def checked(name: str, number: Scalar) -> Scalar:
    """Return `number` if it is a tensor or a float >= 0, else raise RuleError naming `name`."""
    if not isinstance(number, Tensor) and not number >= 0:  # "not >=" also catches NaN
        raise RuleError(f"{name} must be a number >= 0, not {number!r}.")
    return number


def representable(number: float, dtype: torch.dtype) -> float:
    """Return `number` cut down to the largest finite value of `dtype`.

    Kernels refuse scalars their tensor's type cannot hold; a threshold at the largest finite
    value zeroes the same numbers as a larger one.
    """
    return min(number, torch.finfo(dtype).max)


def positive(owner: str, name: str, number: float) -> None:
    """Raise RuleError unless the parameter `name` of penalty `owner` is finite and > 0."""
    if not (math.isfinite(number) and number > 0):
        raise RuleError(f"{owner}: {name} must be a finite number > 0, not {number!r}.")


def accumulator(x: Tensor) -> torch.dtype:
    """Return the type in which to add up `x`: its own, float32 for half-precision tensors."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
