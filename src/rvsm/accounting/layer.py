"""The account of one parameter tensor: its zeros, the groups they make, and its bytes."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from rvsm.accounting.formats import bytes_by_format
from rvsm.accounting.units import Units
from rvsm.deploy.container import NAMES
from rvsm.deploy.files import check_whole, stored
from rvsm.errors import RvsmError
from rvsm.groups import Blocks, Filters, InputChannels, Partition

PATTERNS = ((1, 4), (2, 4), (4, 8))
"""The N:M patterns looked for, the tightest first: each implies the next."""


@dataclass(frozen=True)
class Layer:
    """The account of one parameter tensor.

    Attributes
    ----------
    name, shape, dtype, weights
        Name, shape, type and number of elements.
    nonzeros, zeros
        Elements with (w != 0), and the share of the others, 0 to 1.
    filters, zero_filters
        Slices along the first axis (output channels, or the rows of a linear layer), and how many
        are wholly zero; None for tensors with one axis or none. A transposed convolution has its
        inputs first.
    inputs, zero_inputs
        The same along the second axis (input channels, or columns).
    kernels, zero_kernels
        The same of single kernels ``w[o, i]``; None where they are single weights.
    blocks, zero_blocks
        The same of the report's blocks on the matrix ``w.flatten(1)``. Where the block does not
        divide the matrix, those at its edge hold what is left.
    pattern
        The tightest N:M pattern of `PATTERNS` that the tensor holds along its inputs, such as
        "2:4"; None without one, or where M does not divide the inputs.
    macs, effective_macs
        Multiply-adds of the example's pass with this tensor, and those of them with a nonzero
        weight; None without an example or where no product used the tensor.
    units, constant_units, unused_units, dead_units
        Outputs of the layer in the pass of the samples; those whose value never changed; those
        the model's output does not depend on; those in either state. None without samples, or
        where the layer's use could not be followed.
    bytes, coding
        Bytes in each format (`rvsm.accounting.formats`), and which `rvsm.save` picks.
    sparse_bytes
        Bytes as `rvsm.save` stores the tensor, file header apart.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weights: int
    nonzeros: int
    zeros: float
    filters: int | None
    zero_filters: int | None
    inputs: int | None
    zero_inputs: int | None
    kernels: int | None
    zero_kernels: int | None
    blocks: int | None
    zero_blocks: int | None
    pattern: str | None
    macs: int | None
    effective_macs: int | None
    units: int | None
    constant_units: int | None
    unused_units: int | None
    dead_units: int | None
    bytes: dict[str, int]
    coding: str
    sparse_bytes: int

    @property
    def dense_bytes(self) -> int:
        """Bytes as stored plainly."""
        return self.bytes["dense"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        plain = {**vars(self), "shape": list(self.shape), "bytes": dict(self.bytes)}
        return plain | {"dense_bytes": self.dense_bytes}


def account(
    name: str,
    weight: Tensor,
    block: tuple[int, int],
    macs: tuple[int, int] | None = None,
    units: Units | None = None,
) -> Layer:
    """Account for one tensor.

    Parameters
    ----------
    name, weight
        The tensor.
    block
        Rows and columns of the blocks to count.
    macs
        Multiply-adds of the example's pass, and those with a nonzero weight.
    units
        What the pass of the samples told of its outputs.

    Raises
    ------
    RvsmError
        If the tensor is no ordinary one: see `check_countable`.
    """
    check_countable(name, weight)
    kept = weight.detach() != 0
    nonzeros = int(kept.sum())
    matrix = weight.dim() >= 2
    filters = _groups(kept, Filters()) if matrix else _NONE
    inputs = _groups(kept, InputChannels()) if matrix else _NONE
    several = weight.numel() > 0 and math.prod(weight.shape[2:]) > 1
    kernels = _groups(kept.flatten(0, 1), Filters()) if several else _NONE
    whole = matrix and weight.numel() > 0
    blocks = _groups(_padded(kept, block), Blocks(*block)) if whole else _NONE
    coding, sparse_bytes = stored(weight)
    return Layer(
        name=name,
        shape=tuple(weight.shape),
        dtype=str(weight.dtype).removeprefix("torch."),
        weights=weight.numel(),
        nonzeros=nonzeros,
        zeros=1 - nonzeros / weight.numel() if weight.numel() else 0.0,
        filters=filters[0],
        zero_filters=filters[1],
        inputs=inputs[0],
        zero_inputs=inputs[1],
        kernels=kernels[0],
        zero_kernels=kernels[1],
        blocks=blocks[0],
        zero_blocks=blocks[1],
        pattern=held_pattern(kept),
        macs=None if macs is None else macs[0],
        effective_macs=None if macs is None else macs[1],
        units=None if units is None else units.number,
        constant_units=None if units is None else units.constant,
        unused_units=None if units is None else units.unused,
        dead_units=None if units is None else units.dead,
        bytes=bytes_by_format(weight),
        coding=coding,
        sparse_bytes=sparse_bytes,
    )


def check_countable(name: str, tensor: object) -> None:
    """Raise RvsmError unless this is an ordinary tensor, whole and with data."""
    if not isinstance(tensor, Tensor):
        raise RvsmError(
            f"{name!r} is a {type(tensor).__name__}, not a tensor; leave it out of the mapping."
        )
    check_whole(name, tensor)
    if is_lazy(tensor) or tensor.is_meta:
        raise RvsmError(
            f"{name!r} has no weights yet; run the model once, or load its weights, first."
        )
    if tensor.layout != torch.strided or tensor.dtype not in NAMES:
        raise RvsmError(
            f"{name!r} is {str(tensor.layout).removeprefix('torch.')} with dtype {tensor.dtype}, "
            "which cannot be counted; convert it with .to_dense(), .dequantize() or .to()."
        )


def held_pattern(kept: Tensor) -> str | None:
    """Return the tightest of `PATTERNS` that a bool tensor holds along its second axis."""
    if kept.dim() < 2 or kept.numel() == 0:
        return None
    for n, m in PATTERNS:
        if kept.shape[1] % m:
            continue
        along = torch.unflatten(kept.movedim(1, -1), -1, (-1, m))
        if along.sum(-1, dtype=torch.int32).max() <= n:
            return f"{n}:{m}"
    return None


_NONE = (None, None)


def _groups(kept: Tensor, partition: Partition) -> tuple[int, int | None]:
    """Return the number of groups of a bool tensor, and how many of them hold nothing kept.

    Of groups without elements none counts as zero: nothing would be saved.
    """
    if kept.numel() == 0:
        return kept.shape[1 if isinstance(partition, InputChannels) else 0], None
    shaped, axes = partition.cut(kept)
    alive = shaped.any(dim=axes)
    return alive.numel(), alive.numel() - int(alive.sum())


def _padded(kept: Tensor, block: tuple[int, int]) -> Tensor:
    """Return the matrix of a bool tensor, filled up to whole blocks with elements not kept."""
    matrix = kept.flatten(1)
    down, right = (-size % step for size, step in zip(matrix.shape, block, strict=True))
    return torch.nn.functional.pad(matrix, (0, right, 0, down))
