"""Levels: the step from w to u for one tensor, in pieces that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from rvsm.groups import Elements, Groups
from rvsm.groups.partition import scaled
from rvsm.optim import passes
from rvsm.penalties.base import Penalty, separable

_PIECE = 131072
"""Elements per piece: best on one core, where half as many cost up to a tenth more."""


@dataclass(frozen=True)
class Level:
    """What turns a w into its u: ``u = prox_{mu P}(w)``, and exact zeros under a target.

    Parameters
    ----------
    penalty, groups : Penalty, Groups
        Of the rule.
    mu : float or 0-d Tensor
        lam / beta.
    zero : bool Tensor, one element per group, optional
        Which groups of u are zero. The map's own threshold must then lie below theirs.
    scale : Tensor, one element per group, optional
        What to multiply each group by, in place of the map: where the groups' norms reach across
        tensors it cannot be computed from one.
    """

    penalty: Penalty
    groups: Groups
    mu: float | Tensor
    zero: Tensor | None = None
    scale: Tensor | None = None

    def u(self, w: Tensor) -> Tensor:
        """Return u of `w`."""
        return self.mapped(w, None if self.zero is None else self.groups.spread(self.zero, w))

    def show(self, target: Tensor, w: Tensor) -> None:
        """Write u of `w` into `target`, which may be `w` itself."""
        if (threshold := self.threshold_in_c(target, w, adds=False)) is not None:
            threshold.show(target, w)
            return
        for into, piece, zero in self._pieces(target, w):
            # Adding 0 takes the sign from zeros, which files would otherwise keep as values.
            torch.add(self.mapped(piece, zero), 0, out=into)

    def add_distance(
        self, target: Tensor, w: Tensor, factor: float, *, summed: bool = False
    ) -> float:
        """Add ``factor (w - u)`` to `target`, which may be `w` itself.

        With `summed` return the sum of what `target` holds then, which costs little while each
        piece is in the cache anyway, or another number that is finite if all of it is; 0 otherwise.
        """
        if (threshold := self.threshold_in_c(target, w, adds=True)) is not None:
            return 0.0 if threshold.pull(target, w, factor) else math.nan
        total = 0.0
        for into, piece, zero in self._pieces(target, w):
            into.add_(_distance(piece, self.mapped(piece, zero)), alpha=factor)
            if summed:
                total += float(into.sum())
        return total

    def threshold_in_c(self, target: Tensor, w: Tensor, *, adds: bool) -> passes.Threshold | None:
        """Return the map where it is a threshold that C can apply to these tensors.

        What `adds` to its target needs another one than `w`.
        """
        plain = self.zero is None and self.scale is None and isinstance(self.groups, Elements)
        if not plain or (adds and target is w) or not passes.covers(target, w):
            return None
        return passes.Threshold.of(self.penalty, self.mu)

    def mapped(self, w: Tensor, zero: Tensor | None) -> Tensor:
        """Return u of `w` or a piece of it, with `zero` spread over its elements."""
        if self.scale is not None:
            return scaled(w, self.groups.spread(self.scale, w)).to(w.dtype)
        if zero is None:
            return self.groups.prox(self.penalty, w, self.mu)
        # The threshold just below the target's is no half-precision number.
        wide = w.float() if w.element_size() < 4 else w
        u = self.groups.prox(self.penalty, wide, self.mu).to(w.dtype)
        if wide is not w and isinstance(self.groups, Elements) and separable(self.penalty):
            u = _no_smaller_than_its_type(u, w)
        return u.mul_(~zero)  # on one core a quarter of the time of masked_fill_

    def _pieces(self, target: Tensor, w: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield matching pieces of `target`, `w` and the elements to zero."""
        zero = None if self.zero is None else self.groups.spread(self.zero, w)
        whole = self.scale is not None or not (
            isinstance(self.groups, Elements) and separable(self.penalty)
        )
        if whole:
            yield target, w, zero
        elif zero is None:
            for into, piece in pieces(target, w):
                yield into, piece, None
        else:
            yield from cast("Iterator[tuple[Tensor, Tensor, Tensor]]", pieces(target, w, zero))


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching pieces of tensors of one shape, small enough for the cache.

    The tensors themselves where nothing is gained or they cannot be cut: small ones, other
    devices, strides, subclasses such as sharded ones.
    """
    size = tensors[0].numel()
    if size <= _PIECE or not all(map(_cuts, tensors)):
        yield tensors
        return
    flat = [t.view(-1) for t in tensors]
    for start in range(0, size, _PIECE):
        yield tuple(t[start : start + _PIECE] for t in flat)


def _cuts(t: Tensor) -> bool:
    return type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.is_contiguous()


def _no_smaller_than_its_type(u: Tensor, w: Tensor) -> Tensor:
    """Return `u`, with the least number of its type where it was rounded to 0 and w is not 0.

    A survivor of an exact target may lie a rounding of float32 above the threshold.
    """
    least = torch.full_like(u, torch.finfo(u.dtype).smallest_normal * torch.finfo(u.dtype).eps)
    return torch.where((u == 0) & (w != 0), least.copysign(w), u)


def _distance(w: Tensor, u: Tensor) -> Tensor:
    """Return ``w - u``, in the memory of `u` where that is its own.

    Fresh memory costs page faults: of what a step adds to one of LeNet-5, a third.
    """
    fresh = u.dtype == w.dtype and u.is_contiguous() and u.shape == w.shape
    if fresh and u.untyped_storage().data_ptr() != w.untyped_storage().data_ptr():
        return torch.sub(w, u, out=u)
    return w - u


def distance_squared(w: Tensor, u: Tensor) -> Tensor:
    """Return ``|w - u|^2`` as a 0-d tensor, in float32 for half-precision tensors."""
    difference = w - u
    wide = difference.float() if difference.element_size() < 4 else difference
    return wide.square().sum()
