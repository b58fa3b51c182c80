"""The thresholding maps that several penalties share, as few kernels each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from rvsm.penalties.base import representable


def soft(x: Tensor, t: float | Tensor) -> Tensor:
    """Return ``sign(x) max(|x| - t, 0)``."""
    t = representable(t, x.dtype)
    if isinstance(t, Tensor):
        return x - x.clamp(-t, t)
    return torch.nn.functional.softshrink(x, t)


def hard(x: Tensor, t: float | Tensor) -> Tensor:
    """Return `x` where ``|x| > t``, else 0."""
    if isinstance(t, Tensor):
        return beyond(x, x, t)
    return torch.nn.functional.hardshrink(x, representable(t, x.dtype))


def beyond(u: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """Return `u` where ``|x| > t``, else 0."""
    t = representable(t, x.dtype)
    if isinstance(t, Tensor):
        return torch.where(x.abs() <= t, 0.0, u)
    # The gradient of the hard threshold is the cheapest kernel that zeroes where |x| <= t.
    return cast(Tensor, torch.ops.aten.hardshrink_backward(u, x, t))


def affine(x: Tensor, slope: float | Tensor, offset: Tensor) -> Tensor:
    """Return ``slope x + offset`` with a 0-d `offset`, in one pass where `slope` is a float."""
    if isinstance(slope, Tensor):
        return (x * slope).add_(offset)
    return torch.add(offset, x, alpha=slope)


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor | float:
    """Return the polynomial with these coefficients, constant term first; one pass for each."""
    if len(coefficients) == 1:
        return coefficients[0]
    constants = [x.new_full((), c) for c in coefficients[:-1]]
    total = affine(x, coefficients[-1], constants.pop())
    for constant in reversed(constants):
        total = torch.addcmul(constant, total, x)  # out= could not be compiled
    return total


def line(
    x: Tensor, t: float | Tensor, slope: float | Tensor, floor: Tensor | None = None
) -> Tensor:
    """Return ``sign(x) slope (|x| - t)``, kept between `floor` (0 without one) and `x`.

    An infinite slope is a jump to `x` at t.
    """
    u = soft(x, t).mul_(representable(slope, x.dtype))  # a finite slope: inf times 0 is NaN
    if floor is None:
        return u.clamp_(x.clamp(max=0), x.clamp(min=0))
    return u.clamp_(torch.minimum(x, floor), torch.maximum(x, floor))
