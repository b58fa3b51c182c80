"""What a penalty is, and the checks every penalty shares."""

from __future__ import annotations

import math
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from rvsm.errors import RuleError

Scalar = TypeVar("Scalar", float, Tensor, float | Tensor)
"""A Python float, or a 0-d tensor that is never read by the host."""


@runtime_checkable
class Penalty(Protocol):
    """A penalty P on a tensor, the sum of one even function over its elements.

    Any class with these four methods works wherever rvsm asks for a penalty; it need not inherit
    from this one. Penalties hold parameters, never state.

    A penalty that looks at the tensor as a whole says so with an attribute ``separable = False``,
    and is never handed a piece of one. One whose map compares with its threshold and keeps or
    subtracts, so that no rounding of a formula decides who survives, says ``sharp = True``: exact
    targets then look for fewer ties.
    """

    def value(self, x: Tensor) -> Tensor:
        """Return P(x) as a 0-d tensor, in float32 where `x` is float16 or bfloat16.

        Differentiable in `x` (with derivative 0 at 0) where P is; that is how
        ``Rule(subgradient=...)`` takes its subgradient.
        """
        ...

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return argmin_u ``mu * P(u) + |u - x|^2 / 2`` as a new tensor like `x`; 0 at ties.

        Keep no reference to it: the optimizer writes over it.

        `mu` is a float >= 0 (anything else raises RuleError) or a 0-d tensor (not checked: that
        would wait for the device).
        """
        ...

    def threshold(self, mu: Scalar) -> Scalar:
        """Return the largest t such that ``prox(x, mu) = 0`` for all ``|x| <= t``.

        Of a penalty that is not separable: such that elements up to t are 0 beside a larger one.
        """
        ...

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return the `mu` whose threshold is `t`: the inverse of `threshold`."""
        ...


def checked(name: str, number: Scalar) -> Scalar:
    """Return `number` if it is a tensor or a float >= 0, else raise RuleError naming `name`."""
    if not isinstance(number, Tensor) and not number >= 0:  # "not >=" also catches NaN
        raise RuleError(f"{name} must be a number >= 0, not {number!r}.")
    return number


def separable(penalty: Penalty) -> bool:
    """Return whether `penalty` acts on every element by itself."""
    return bool(getattr(penalty, "separable", True))


def roundings(penalty: Penalty) -> int:
    """Return how far above the last zeroed magnitude a weight lies that is sure to survive.

    In roundings of its type, with a threshold halfway.
    """
    return 4 if getattr(penalty, "sharp", False) else 32


def either(condition: bool | Tensor, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` where `condition` holds, else `no`; both are of one type."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)  # type: ignore[return-value]
    return yes if condition else no


def power(number: Scalar, exponent: float) -> Scalar:
    """Return ``number ** exponent`` of a number >= 0."""
    return number**exponent  # type: ignore[no-any-return]


def at_least(number: Scalar, floor: float) -> Scalar:
    """Return the larger of the two."""
    return number.clamp(min=floor) if isinstance(number, Tensor) else max(number, floor)


def inverse(number: Scalar) -> Scalar:
    """Return 1 / `number`, infinity at 0."""
    if isinstance(number, Tensor):
        return number.reciprocal()
    return 1 / number if number else math.inf


def representable(number: Scalar, dtype: torch.dtype) -> Scalar:
    """Return `number` cut down to the largest finite value of `dtype`; a tensor in that type.

    Kernels refuse scalars their tensor's type cannot hold; a threshold at the largest finite
    value zeroes the same numbers as a larger one.
    """
    largest = torch.finfo(dtype).max
    if isinstance(number, Tensor):
        return number.to(dtype).clamp(max=largest)
    return min(number, largest)


def positive(owner: str, name: str, number: float) -> None:
    """Raise RuleError unless the parameter `name` of penalty `owner` is finite and > 0."""
    if not (math.isfinite(number) and number > 0):
        raise RuleError(f"{owner}: {name} must be a finite number > 0, not {number!r}.")


def accumulator(x: Tensor) -> torch.dtype:
    """Return the type in which to add up `x`: its own, float32 for half-precision tensors."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
