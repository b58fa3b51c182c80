"""Max pooling, normalisation and ReLU of a training step in one go, on a CPU."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rvsm import native

_MOST_CHANNELS = 2048
"""MOST in block.c."""


class Normalised(NamedTuple):
    """What `pool_norm_relu` returns.

    Attributes
    ----------
    maps : Tensor
        ``(B, C, h, w)``, differentiable.
    mean, var : Tensor
        Of the pooled maps, ``(C,)``; `var` divides by the number of places less one.
    """

    maps: Tensor
    mean: Tensor
    var: Tensor


def fused(maps: Tensor, pool: tuple[int, int]) -> bool:
    """Say whether `pool_norm_relu` takes these maps: see its notes; a C compiler is needed."""
    rows, columns = pool
    return (
        maps.requires_grad
        and maps.device.type == "cpu"
        and maps.dtype == torch.float32
        and maps.shape[1] <= _MOST_CHANNELS
        and rows in (1, 2)
        and columns in (1, 2)
        and maps.shape[-2] % rows == 0
        and maps.shape[-1] % columns == 0
        and maps.numel() // (rows * columns) > maps.shape[1]
        and not torch.compiler.is_compiling()
        and _library() is not None
    )


def pool_norm_relu(
    maps: Tensor, pool: tuple[int, int], scale: Tensor, bias: Tensor, eps: float
) -> Normalised:
    r"""Return ``max(scale (y - mean) / sqrt(var + eps) + bias, 0)`` of the pooled maps y.

    What ``relu(batch_norm(max_pool2d(maps, pool)))`` computes while training, where ``mean`` and
    ``var`` are those of the batch.

    Parameters
    ----------
    maps : Tensor
        ``(B, C, H, W)`` for which `fused` holds; differentiated.
    pool : (int, int)
        Rows and columns of a block, each 1 or 2.
    scale : Tensor
        ``(C,)``; not differentiated.
    bias : Tensor
        ``(C,)``; differentiated.
    eps : float
        Added to the variance.

    Returns
    -------
    Normalised

    Notes
    -----
    torch takes seven passes over the memory for it, and as many back: with them, half of a
    training step of the paper's network. Here it is two and two, in C, on one thread. What is kept
    for the way back are the pooled maps and a byte for each that says which entry was the largest;
    of equal ones the first receives the gradient. Sums are taken in float64, so that the gradients
    are a thousand times as near to those of float64.
    """
    y, mean, var = _Block.apply(maps, pool, scale, bias, eps)  # type: ignore[no-untyped-call]
    return Normalised(y, mean, var)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, pool: tuple[int, int], scale: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = maps.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = maps.shape
        rows, columns = pool
        shape = (images, channels, height // rows, width // columns)
        y, largest = _empty(shape), _empty(shape, torch.int8)
        sums = torch.empty(2, channels, dtype=torch.float64)
        _call("pool", maps, y, largest, sums[0], sums[1], *_sizes(maps), rows, columns)
        count = y.numel() // channels
        mean = sums[0] / count
        var = (sums[1] / count - mean * mean).clamp_(min=0)
        inverse = (var + eps).rsqrt()
        a = scale * inverse
        b = bias - mean * a
        out = _empty(shape)
        a32, b32 = a.float(), b.float()
        _call("rectify", y, out, a32, b32, count, channels)
        ctx.save_for_backward(y, largest, a32, b32, a, mean, inverse)
        ctx.pool, ctx.size = pool, maps.shape
        mean32, unbiased = mean.float(), (var * (count / (count - 1))).float()
        ctx.mark_non_differentiable(mean32, unbiased)
        return out, mean32, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        y, largest, a32, b32, a, mean, inverse = ctx.saved_tensors
        channels = y.shape[1]
        count = y.numel() // channels
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        sums = torch.empty(2, channels, dtype=torch.float64)
        _call("add_up", gradient, y, a32, b32, sums[0], sums[1], count, channels)
        # With x = (y - mean) inverse the gradient is a (g - mean(g) - x mean(g x)): linear in g
        # and y, with factors and an offset for each channel.
        along = (sums[1] - mean * sums[0]) * inverse
        slope = -a * inverse * along / count
        offset = -a * sums[0] / count - slope * mean
        result = _empty(ctx.size)
        factors = (a32, slope.float(), offset.float())
        _call(
            "spread", gradient, y, largest, a32, b32, *factors, result, *_sizes(result), *ctx.pool
        )
        return result, None, None, sums[0].float(), None


def _empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _sizes(maps: Tensor) -> tuple[int, int, int, int]:
    images, channels, height, width = maps.shape
    return images, height, width, channels


def _call(name: str, *values: Tensor | int) -> None:
    """Call a function of block.c, which trusts sizes and layouts."""
    function = getattr(_library(), name)
    function(
        *(
            ctypes.c_void_p(v.data_ptr()) if isinstance(v, Tensor) else ctypes.c_long(v)
            for v in values
        )
    )


def _library() -> ctypes.CDLL | None:
    """Return block.c, compiled; None where it cannot be, which costs time alone."""
    return native.part_of("rvsm.handwriting", "block.c")
