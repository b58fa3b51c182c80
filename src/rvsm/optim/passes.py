"""What a step does to whole tensors, in one pass over the memory each: C, where it can be compiled.

Everything has a twin in torch that computes the same bits, for tensors that `covers` refuses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from rvsm import native
from rvsm.penalties import L0, L1
from rvsm.penalties.base import Penalty, representable

_LAST = torch.channels_last
_ALONE = 2**20
"""Up to so many numbers one thread is as fast as many: they are in its cache."""
_KINDS: dict[type[Any], int] = {L0: 0, L1: 1}
"""HARD and SOFT in passes.c; subclasses may map otherwise."""


def covers(*tensors: Tensor) -> bool:
    """Say whether the passes take these tensors: of one shape and layout, too."""
    return (
        all(map(_plain, tensors))
        and all(_alike(t, tensors[0]) for t in tensors[1:])
        and (tensors[0].numel() <= _ALONE or torch.get_num_threads() == 1)
        and _library() is not None
    )


def _plain(t: Tensor) -> bool:
    return (
        type(t) in (Tensor, nn.Parameter)
        and t.dtype == torch.float32
        and t.device.type == "cpu"
        and (t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=_LAST)))
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors have one shape and keep their numbers in the same order."""
    if a.shape != b.shape:
        return False
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return a.stride() == b.stride() or all(x == y or n == 1 for n, x, y in steps)


def are_one(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are known to hold the same memory in the same order."""
    same = _plain(a) and _plain(b) and a.data_ptr() == b.data_ptr()  # 0 for all that are sharded
    return same and _alike(a, b)


@dataclass(frozen=True)
class Threshold:
    """A map of single numbers that compares with a threshold and keeps or subtracts.

    Parameters
    ----------
    kind : int
        HARD or SOFT in passes.c.
    t : float
        The threshold.
    """

    kind: int
    t: float

    @staticmethod
    def of(penalty: Penalty, mu: float | Tensor) -> Threshold | None:
        """Return the map of a penalty if it is of this kind and known here."""
        kind = _KINDS.get(type(penalty))
        if kind is None or isinstance(mu, Tensor):
            return None
        return Threshold(kind, representable(penalty.threshold(mu), torch.float32))

    def show(self, target: Tensor, w: Tensor) -> None:
        """Write u of `w` into `target`, which may be `w`; no zero is negative."""
        _call("show", self.kind, target, w, w.numel(), self.t)
        increment_version([target])

    def pull(self, target: Tensor, w: Tensor, factor: float) -> bool:
        """Add ``factor (w - u)`` to `target`, another tensor; say whether all of it is finite."""
        finite = not _call("pull", self.kind, target, w, w.numel(), self.t, factor)
        increment_version([target])
        return finite


def push(grad: Tensor, u: Tensor, w: Tensor, factor: float) -> bool:
    """Add ``factor (u - w)`` to `grad`; say whether all of it is finite."""
    finite = not _call("push", grad, u, w, w.numel(), factor)
    increment_version([grad])
    return finite


def count_above(x: Tensor, t: float) -> int:
    """Return how many magnitudes are larger than `t`."""
    return _call("count_above", x, x.numel(), t)


def look(
    xs: Sequence[Tensor], low: float, high: float, room: int
) -> tuple[list[int], list[NDArray[np.float32]], float] | None:
    """Return how many magnitudes of each are less than `low`, those up to `high`, the least above.

    None where more than `room` in all are inside.
    """
    count = len(xs)
    places = (ctypes.c_void_p * count)(*[x.data_ptr() for x in xs])
    sizes = (ctypes.c_long * count)(*[x.numel() for x in xs])
    counts, above = (ctypes.c_long * (2 * count))(), ctypes.c_float()
    inside = np.empty(room, np.float32)
    into = inside.ctypes.data_as(ctypes.c_void_p)
    at = ctypes.byref(above)
    if _call("look", places, sizes, count, low, high, into, room, counts, at) > room:
        return None
    ends = np.cumsum(counts[1::2])
    return list(counts[::2]), np.split(inside[: ends[-1]], ends[:-1]), above.value


def finite(x: Tensor) -> bool:
    """Say whether all numbers are finite."""
    return not _call("any_strange", x, x.numel())


def zeros_of(p: Tensor) -> Tensor:
    """Return a mask of the zeros of any tensor."""
    if not covers(p):
        return p == 0
    mask = torch.empty_like(p, dtype=torch.bool)
    _call("mark", p, mask, p.numel())
    return mask


def clear(x: Tensor, zero: Tensor) -> None:
    """Set `x`, any tensor, to 0 where a mask says so."""
    if not (covers(x) and zero.dtype == torch.bool and _alike(zero, x)):
        x.masked_fill_(zero, 0)
        return
    _call("clear", x, zero, x.numel())  # masked_fill_ takes four times as long on one core
    increment_version([x])


def _call(name: str, *values: Any) -> int:
    library = _library()
    assert library is not None, "covers() said yes"
    return library(name, *values)


def _library() -> native.Part | None:
    return native.part_of("rvsm.optim", "passes.c")
