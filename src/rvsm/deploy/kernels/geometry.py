"""Shapes: how a feature map lies in memory, what follows a layer, and the layer itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import RvsmError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pair = tuple[int, int]
Order = Literal["channels", "places"]

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Plane:
    """How a feature map lies in memory, as float32: of one image, or of several side by side.

    Place (c, y, x) of image l is at ``origin + c * plane + y * line + x * column + l``.

    Parameters
    ----------
    channels, height, width : int
        Size of the map, each >= 1.
    top, bottom, left, right : int
        Rows and columns around each channel that hold zeros.
    pitch : int
        Places of a row of one channel, at least left + width + right; 0 means exactly that.
    order : str
        What lies together: all of a channel ("channels") or all channels of a place ("places").
    lanes : int
        Images whose values of the same place lie together.
    """

    channels: int
    height: int
    width: int
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    pitch: int = 0
    order: Order = "channels"
    lanes: int = 1

    def __post_init__(self) -> None:
        tight = self.left + self.width + self.right
        if self.pitch == 0:
            object.__setattr__(self, "pitch", tight)
        borders = (self.top, self.bottom, self.left, self.right)
        if min(self.channels, self.height, self.width, self.lanes) < 1 or min(borders) < 0:
            raise RvsmError(f"{self}: sizes must be at least 1 and borders at least 0.")
        if self.pitch < tight:
            raise RvsmError(f"{self}: the pitch must be at least {tight} or 0.")

    @property
    def rows(self) -> int:
        """Rows of a channel, borders included."""
        return self.top + self.height + self.bottom

    @property
    def plane(self) -> int:
        """Floats from channel to channel."""
        return self.lanes * (self.rows * self.pitch if self.order == "channels" else 1)

    @property
    def line(self) -> int:
        """Floats from row to row of a channel."""
        return self.pitch * self.lanes * (1 if self.order == "channels" else self.channels)

    @property
    def column(self) -> int:
        """Floats from column to column of a row."""
        return self.lanes * (self.channels if self.order == "places" else 1)

    @property
    def size(self) -> int:
        """Floats of the whole map."""
        return self.channels * self.rows * self.pitch * self.lanes

    @property
    def origin(self) -> int:
        """Index of channel 0, row 0, column 0."""
        return self.top * self.line + self.left * self.column


@dataclass(frozen=True)
class Epilogue:
    """What follows the sum of products: bias, then residual, then activation, then max pooling.

    Parameters
    ----------
    bias : ndarray of shape (outputs,), optional
    activation : str
        One of "none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh".
    slope : float
        Of leaky_relu, for negative arguments.
    residual : bool
        Add a second input that lies as the output does.
    pool : pair of int, optional
        Height and width of a max pooling whose stride is its kernel; rows and columns that do not
        fill a window are dropped.
    """

    bias: Floats | None = None
    activation: Literal["none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh"] = "none"
    slope: float = 0.01
    residual: bool = False
    pool: Pair | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise RvsmError(
                f"{self.activation!r} is no activation of the kernels; use one of "
                f"{', '.join(ACTIVATIONS)}."
            )
        if self.pool is not None and (min(self.pool) < 1 or self.residual):
            raise RvsmError(
                f"A pooling of {self.pool} cannot be fused here; it needs sizes of at least 1 and "
                "no residual input."
            )

    @property
    def monotone(self) -> bool:
        """Say whether the activation commutes with the maximum."""
        return self.activation != "leaky_relu" or self.slope >= 0


@dataclass(frozen=True)
class Emitted:
    """C source of a layer.

    Attributes
    ----------
    name : str
        Of the function ``static void name(const float *in, float *out[, const float *residual]
        [, float *scratch])``.
    code : str
        Constant tables and the function; needs `prelude()` before it.
    residual : bool
        Whether the function takes the residual.
    scratch : int
        Floats of the scratch argument, 64-byte aligned, contents ignored; 0: no such argument.
    """

    name: str
    code: str
    residual: bool = False
    scratch: int = 0


@dataclass(frozen=True)
class Taps:
    """The nonzeros of a weight: output, input channel (of the whole map), kernel row and column."""

    output: Ints
    channel: Ints
    row: Ints
    column: Ints
    value: Floats


@dataclass(frozen=True)
class Layer:
    """A convolution of one feature map into another, checked.

    out[o, y, x] = sum over c, i, j of
    weight[o, c, i, j] * in[first(o) + c, y * s0 + i * d0 - top, x * s1 + j * d1 - left],
    where first(o) is the first channel of the group of o.
    """

    source: Plane
    target: Plane
    weight: Floats
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int
    epilogue: Epilogue
    taps: Taps = field(init=False)

    def __post_init__(self) -> None:
        if self.weight.ndim != 4 or self.weight.dtype != np.float32:
            raise RvsmError("A convolution's weight must be float32 of four dimensions.")
        outputs, per_group = self.weight.shape[:2]
        source, target = self.source, self.target
        if not np.isfinite(self.weight).all():
            raise RvsmError(
                "The weight holds infinities or NaN; such a network cannot be compiled."
            )
        if (
            self.groups < 1
            or outputs % self.groups
            or per_group * self.groups != source.channels
            or outputs != target.channels
        ):
            raise RvsmError(
                f"A weight of shape {self.weight.shape} in {self.groups} groups does not fit "
                f"{source.channels} channels in and {target.channels} out; check the layer."
            )
        if min(self.weight.shape[2:] + self.stride + self.dilation) < 1 or min(self.padding) < 0:
            raise RvsmError("Kernel, stride and dilation must be at least 1, padding at least 0.")
        if self.epilogue.bias is not None and self.epilogue.bias.shape != (outputs,):
            raise RvsmError(f"The bias must hold {outputs} values, one an output.")
        height, width = self.size
        pool = self.epilogue.pool or (1, 1)
        if (target.height, target.width) != (height // pool[0], width // pool[1]):
            raise RvsmError(
                f"The layer makes a map of {height} x {width} before pooling {pool}, which does "
                f"not fit a target of {target.height} x {target.width}."
            )
        if source.lanes != target.lanes:
            raise RvsmError(
                f"{source.lanes} images lie side by side in the source and {target.lanes} in the "
                "target; let them be as many."
            )
        self._check_border()
        per = outputs // self.groups
        output, channel, row, column = np.nonzero(self.weight)
        value = self.weight[output, channel, row, column]
        channel = channel + output // per * per_group
        object.__setattr__(self, "taps", Taps(output, channel, row, column, value))

    def _check_border(self) -> None:
        source = self.source
        last = [
            (size - 1) * stride + (kernel - 1) * dilation - before
            for size, stride, kernel, dilation, before in zip(
                self.size, self.stride, self.kernel, self.dilation, self.padding[::2], strict=True
            )
        ]
        if (
            source.top < self.padding[0]
            or source.left < self.padding[2]
            or source.bottom < last[0] - (source.height - 1)
            or source.right < last[1] - (source.width - 1)
        ):
            raise RvsmError(
                f"The border of {source} is narrower than the padding {self.padding}; widen it."
            )

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def size(self) -> Pair:
        """Height and width of the output before pooling."""
        top, bottom, left, right = self.padding
        spans = (self.source.height + top + bottom, self.source.width + left + right)
        sizes = [
            (span - (kernel - 1) * dilation - 1) // stride + 1
            for span, kernel, dilation, stride in zip(
                spans, self.kernel, self.dilation, self.stride, strict=True
            )
        ]
        if min(sizes) < 1:
            raise RvsmError(f"A kernel of {self.kernel} is larger than the padded map {spans}.")
        return sizes[0], sizes[1]

    @property
    def needed(self) -> Pair:
        """Height and width of the part of the output that pooling does not drop."""
        ph, pw = self.epilogue.pool or (1, 1)
        return self.target.height * ph, self.target.width * pw

    @property
    def density(self) -> float:
        """Share of the weights that are not zero."""
        return self.taps.value.size / self.weight.size

    def row_shift(self, row: Ints) -> Ints:
        """Return source row minus stride times output row, for kernel rows `row`."""
        return row * self.dilation[0] - self.padding[0]

    def column_shift(self, column: Ints) -> Ints:
        """Return source column minus stride times output column, for kernel columns."""
        return column * self.dilation[1] - self.padding[2]
