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
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from rvsm import native
from rvsm.penalties import L0, L1
from rvsm.penalties.base import Penalty, representable

_LAST = torch.channels_last
_ALONE = 2**20
"""Up to so many numbers one thread is as fast as many: they are in its cache."""
HARD, SOFT = range(2)
"""Maps, as in passes.c."""
_KINDS: dict[type[Any], int] = {L0: HARD, L1: SOFT}
"""Subclasses may map otherwise."""


_TYPES = (Tensor, nn.Parameter)
"""Subclasses may keep their numbers elsewhere."""


def covers(*tensors: Tensor) -> bool:
    """Say whether the passes take these tensors: of one shape and layout, too."""
    first = tensors[0]
    if not _plain(first):
        return False
    shape, steps = first.shape, first.stride()
    for t in tensors[1:]:
        if type(t) not in _TYPES or t.dtype != torch.float32 or not t.is_cpu or t.is_neg():
            return False
        if t.shape != shape or not (t.stride() == steps or alike(t, first)):
            return False
    return (first.numel() <= _ALONE or torch.get_num_threads() == 1) and _library() is not None


def _plain(t: Tensor) -> bool:
    return (
        type(t) in _TYPES
        and t.dtype == torch.float32
        and t.is_cpu
        and not t.is_neg()  # whose memory holds the numbers with the other sign
        and (t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=_LAST)))
    )


def alike(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors have one shape and keep their numbers in the same order."""
    if a.shape != b.shape:
        return False
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(x == y or n == 1 for n, x, y in steps)


def are_one(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are known to hold the same memory in the same order."""
    same = _plain(a) and _plain(b) and a.data_ptr() == b.data_ptr()  # 0 for all that are sharded
    return same and alike(a, b)


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
        call("show", self.kind, target, w, w.numel(), self.t)
        increment_version([target])

    def pull(self, target: Tensor, w: Tensor, factor: float) -> bool:
        """Add ``factor (w - u)`` to `target`, another tensor; say whether all of it is finite."""
        finite = not call("pull", self.kind, target, w, w.numel(), self.t, factor)
        increment_version([target])
        return finite


def show_all(shown: Sequence[tuple[Tensor, Tensor, Threshold]]) -> None:
    """Write u of each second tensor into the first; one call, as ten small ones cost time too."""
    count = len(shown)
    call(
        "show_all",
        (ctypes.c_long * count)(*[map_.kind for _, _, map_ in shown]),
        (ctypes.c_void_p * count)(*[u.data_ptr() for u, _, _ in shown]),
        (ctypes.c_void_p * count)(*[w.data_ptr() for _, w, _ in shown]),
        (ctypes.c_long * count)(*[u.numel() for u, _, _ in shown]),
        (ctypes.c_float * count)(*[map_.t for _, _, map_ in shown]),
        count,
    )
    increment_version([u for u, _, _ in shown])


def push(grad: Tensor, u: Tensor, w: Tensor, factor: float) -> bool:
    """Add ``factor (u - w)`` to `grad`; say whether all of it is finite."""
    finite = not call("push", grad, u, w, w.numel(), factor)
    increment_version([grad])
    return finite


def count_above(x: Tensor, t: float) -> int:
    """Return how many magnitudes are larger than `t`."""
    return call("count_above", x, x.numel(), t)


def between(
    xs: Sequence[Tensor], low: float, high: float, k: int, room: int
) -> tuple[float, float, tuple[int, ...]] | None:
    """Return the k-th smallest magnitude of all, the next, and how many of each are larger.

    None where it does not lie from `low` to `high`, or more than `room` do.
    """
    count = len(xs)
    longs, floats = ctypes.c_long * count, ctypes.c_float * 2
    space = np.empty(2 * room, np.float32)
    counts, found, larger = (ctypes.c_long * (2 * count))(), floats(), longs()
    inside = call(
        "between", (ctypes.c_void_p * count)(*[x.data_ptr() for x in xs]),
        longs(*[x.numel() for x in xs]), count, low, high, k,
        ctypes.c_void_p(space.ctypes.data), room, counts, found, larger,
    )  # fmt: skip
    return (found[0], found[1], tuple(larger)) if inside else None


def finite(x: Tensor) -> bool:
    """Say whether all numbers are finite."""
    return not call("any_strange", x, x.numel())


def zeros_of(p: Tensor) -> Tensor:
    """Return a mask of the zeros of any tensor."""
    if not covers(p):
        return p == 0
    mask = torch.empty_like(p, dtype=torch.bool)
    call("mark", p, mask, p.numel())
    return mask


def clear(x: Tensor, zero: Tensor) -> None:
    """Set `x`, any tensor, to 0 where a mask says so."""
    if not (covers(x) and zero.dtype == torch.bool and alike(zero, x)):
        x.masked_fill_(zero, 0)
        return
    call("clear", x, zero, x.numel())  # masked_fill_ takes four times as long on one core
    increment_version([x])


def call(name: str, *values: Any) -> int:
    """Call a function of passes.c with tensors that `covers` admits, and what `Part` takes."""
    library = _library()
    assert library is not None, "covers() said yes"
    return library(name, *values)


def _library() -> native.Part | None:
    return native.part_of("rvsm.optim", "passes.c")
