"""What compiled code does, one step after the other, on the values of one sample.

A value is a map ``(channels, height, width)`` or a vector ``(features,)``. Signals ``(channels,
length)`` are maps of height 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
"""float64 while layers are folded into each other, float32 afterwards."""

Shape: TypeAlias = tuple[int, ...]
Window: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Activation:
    """A function of single elements.

    Parameters
    ----------
    kind
        ``none``, ``relu``, ``leaky_relu``, ``clamp``, ``sigmoid``, ``tanh``, ``silu``, ``gelu`` or
        ``gelu_tanh``.
    low, high
        Bounds of ``clamp``; `low` is the slope of ``leaky_relu``.
    """

    kind: str = "none"
    low: float = 0.0
    high: float = 0.0

    @property
    def rises(self) -> bool:
        """Whether a larger argument never gives a smaller value, so that it commutes with max."""
        if self.kind == "leaky_relu":
            return self.low >= 0
        return self.kind in ("none", "relu", "clamp", "sigmoid", "tanh")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: reads values, writes one."""

    output: str
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Conv(Step):
    """A convolution, and what is done to its sums before they are stored.

    In this order: plus bias, plus the second input where there is one, activation, max pooling.
    """

    weight: Floats
    bias: Floats
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    activation: Activation = field(default_factory=Activation)
    pool: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Linear(Step):
    """``activation(weight @ x + bias)`` of a vector."""

    weight: Floats
    bias: Floats
    activation: Activation = field(default_factory=Activation)


@dataclass(frozen=True, kw_only=True)
class Pool(Step):
    """The largest or the mean of rectangles of a map.

    Attributes
    ----------
    rows, columns
        First and one past the last row (column) of each output row (column), inside the map.
    dilation
        Only every so many rows and columns.
    divisors
        ``(rows, columns)``: what sums are divided by; None takes the largest.
    source_shape
        Of the map it reads.
    """

    source_shape: Shape
    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    dilation: tuple[int, int] = (1, 1)
    divisors: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Affine(Step):
    """``activation(scale * x + shift)``, channel by channel."""

    scale: Floats
    shift: Floats
    activation: Activation = field(default_factory=Activation)


@dataclass(frozen=True, kw_only=True)
class Pointwise(Step):
    """An activation, of the sum of two values where there are two."""

    activation: Activation


@dataclass(frozen=True, kw_only=True)
class Concat(Step):
    """Channels of several values, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Select(Step):
    """Some channels."""

    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Flatten(Step):
    """A map as a vector, row-major."""


@dataclass(frozen=True, kw_only=True)
class Softmax(Step):
    """Softmax over the channels, or its logarithm."""

    log: bool
