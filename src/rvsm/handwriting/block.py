"""Max pooling, normalisation and ReLU of a training step in one go, on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rvsm import native

_MOST_CHANNELS = 2048
"""MOST in block.c."""
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Of maps; block.c has a function for each, or each pair of what is pooled and what comes of it."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Who watches a convolution wants it to be called."""


class Normalised(NamedTuple):
    """What `pool_norm_relu` returns.

    Attributes
    ----------
    maps : Tensor
        ``(B, C, h, w)``, differentiable, of the type that the next layer takes: that of the maps it
        came from, and after images that of autocast if there is one.
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
        and maps.dtype in _TYPES
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
    are a thousand times as near to those of float64. In bfloat16 the maps are read and written so,
    which loses nothing: the largest entries are exact, and a convolution would round the rest.
    """
    y, mean, var = _Block.apply(maps, pool, scale, bias, eps)  # type: ignore[no-untyped-call]
    return Normalised(y, mean, var)


def fused_first(images: Tensor, conv: nn.Conv2d, pool: tuple[int, int]) -> bool:
    """Say whether `first_pool_norm_relu` takes these images and this convolution."""
    height, width = images.shape[-2:]
    return (
        images.dim() == 4
        and images.shape[1] == 1
        and type(conv) is nn.Conv2d  # no subclass, and no parametrisation, which makes one
        and type(conv.weight) is nn.Parameter
        and conv.out_channels <= _MOST_CHANNELS
        and (conv.in_channels, conv.kernel_size, conv.padding) == (1, (3, 3), (1, 1))
        and (conv.stride, conv.dilation, conv.padding_mode) == ((1, 1), (1, 1), "zeros")
        and conv.bias is None
        and not any(getattr(conv, hooks) for hooks in _HOOKS)
        and conv.weight.requires_grad
        and conv.weight.dtype == images.dtype == torch.float32
        and conv.weight.device.type == images.device.type == "cpu"
        and pool == (2, 2)
        and height % 2 == width % 2 == 0
        and images.numel() > 4
        and torch.is_grad_enabled()
        and not images.requires_grad
        and not torch.compiler.is_compiling()
        and _library() is not None
    )


def first_pool_norm_relu(
    images: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float
) -> Normalised:
    """Return `pool_norm_relu` of ``conv2d(images, weight, padding=1)`` with a pool of (2, 2).

    The maps in between are never in memory, which they would cross six times: a fifth of a training
    step of the paper's network.

    Parameters
    ----------
    images : Tensor
        ``(B, 1, H, W)`` for which `fused_first` holds; not differentiated.
    weight : Tensor
        ``(C, 1, 3, 3)``; differentiated.
    scale, bias, eps
        As for `pool_norm_relu`.
    """
    y, mean, var = _First.apply(images, weight, scale, bias, eps)  # type: ignore[no-untyped-call]
    return Normalised(y, mean, var)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, pool: tuple[int, int], scale: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = maps.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = maps.shape
        rows, columns = pool
        y, largest = _room((images, channels, height // rows, width // columns), maps.dtype)
        sums = _sums(2, channels)
        name, sizes = f"pool_{_TYPES[maps.dtype]}", _sizes(maps)
        _call(name, maps, y, largest, sums[0], sums[1], *sizes, rows, columns)
        ctx.pool, ctx.size = pool, maps.shape
        return _normalise(ctx, y, largest, sums, scale, bias, eps, maps.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        y, largest, *_ = ctx.saved_tensors
        gradient, factors, slope_of_bias = _back(ctx, gradient)
        result = _empty(ctx.size, y.dtype)
        name = f"spread_{_TYPES[y.dtype]}"
        _call(name, gradient, y, largest, *factors, result, *_sizes(result), *ctx.pool)
        return result, None, None, slope_of_bias, None


class _First(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        images = images.contiguous()
        count, _, height, width = images.shape
        channels = len(weight)
        taps = weight.reshape(channels, 9).t().contiguous()
        y, largest = _room((count, channels, height // 2, width // 2), torch.float32)
        sums = _sums(2, channels)
        sizes = (count, height, width, channels)
        _call("convolve", images, taps, _frame(images), y, largest, sums[0], sums[1], *sizes)
        ctx.shape = weight.shape
        return _normalise(ctx, y, largest, sums, scale, bias, eps, _wanted(), images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[None, Tensor, None, Tensor, None]:
        y, largest, *_, images = ctx.saved_tensors
        gradient, factors, slope_of_bias = _back(ctx, gradient)
        channels = y.shape[1]
        count, _, height, width = images.shape
        slopes = _sums(9, channels)
        sizes = (count, height, width, channels)
        name, frame = f"correlate_{_TYPES[gradient.dtype]}", _frame(images)
        _call(name, images, frame, gradient, y, largest, *factors, slopes, *sizes)
        return None, slopes.t().float().reshape(ctx.shape), None, slope_of_bias, None


def _normalise(
    ctx: Any,
    y: Tensor,
    largest: Tensor,
    sums: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    *more: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is made of pooled maps, their mean and variance; save what the way back needs."""
    channels = y.shape[1]
    count = y.numel() // channels
    mean = sums[0] / count
    var = (sums[1] / count - mean * mean).clamp_(min=0)
    inverse = (var + eps).rsqrt()
    a = scale * inverse
    b = bias - mean * a
    out = _empty(y.shape, dtype)
    a32, b32 = a.float(), b.float()
    _call(f"rectify_{_TYPES[y.dtype]}_{_TYPES[dtype]}", y, out, a32, b32, count, channels)
    ctx.save_for_backward(y, largest, a32, b32, a, mean, inverse, *more)
    mean32, unbiased = mean.float(), (var * (count / (count - 1))).float()
    ctx.mark_non_differentiable(mean32, unbiased)
    return out, mean32, unbiased


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return a gradient laid out as y is, how it goes on to the pooled maps, and the bias's."""
    y, _, a32, b32, a, mean, inverse = ctx.saved_tensors[:7]
    channels = y.shape[1]
    count = y.numel() // channels
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    sums = _sums(2, channels)
    name = f"add_up_{_TYPES[y.dtype]}_{_TYPES[gradient.dtype]}"
    _call(name, gradient, y, a32, b32, sums[0], sums[1], count, channels)
    # With x = (y - mean) inverse the gradient is a (g - mean(g) - x mean(g x)): linear in g
    # and y, with factors and an offset for each channel.
    along = (sums[1] - mean * sums[0]) * inverse
    slope = -a * inverse * along / count
    offset = -a * sums[0] / count - slope * mean
    return gradient, (a32, b32, a32, slope.float(), offset.float()), sums[0].float()


def _wanted() -> torch.dtype:
    """Return the type in which a convolution on the CPU takes its maps now."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    dtype = torch.get_autocast_dtype("cpu")
    return dtype if dtype in _TYPES else torch.float32


def _room(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return memory for pooled maps and for which entry of each block was the largest."""
    return _empty(shape, dtype), _empty(shape, torch.int8)


def _frame(images: Tensor) -> Tensor:
    """Return zeros into which one of the images goes, with a border of one."""
    height, width = images.shape[-2:]
    return images.new_zeros(height + 2, width + 2)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def _sums(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _sizes(maps: Tensor) -> tuple[int, int, int, int]:
    images, channels, height, width = maps.shape
    return images, height, width, channels


def _call(name: str, *values: Tensor | int) -> None:
    library = _library()
    assert library is not None, "fused() said yes"
    library(name, *values)


def _library() -> native.Part | None:
    """Return block.c, compiled; None where it cannot be, which costs time alone."""
    return native.part_of("rvsm.handwriting", "block.c")
