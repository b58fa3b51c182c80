"""Floors of a budget: groups that are kept from being zero, whatever their norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rvsm.optim import distributed
from rvsm.optim.targets import smallest_of


@dataclass(frozen=True)
class Spared:
    """The norms of a unit with inf for those that must stay.

    Parameters
    ----------
    norms : Tensor
        As they compete.
    least : 0-d Tensor
        The smallest norm that is kept.
    limit : 0-d Tensor
        The largest that is not.
    """

    norms: Tensor
    least: Tensor
    limit: Tensor

    def threshold(self, t: Tensor) -> Tensor:
        """Return the unit's own threshold: `t`, but for a floor that keeps what is below it."""
        return torch.where(self.least > t, t, torch.minimum(t, self.limit.to(t.dtype)))


def holds(mask: Tensor, norms: Tensor, most: int, *, zeros: bool) -> bool:
    """Say whether at most `most` of the flat `norms` are marked; with `zeros`, or all are 0."""
    marked = mask.numpy()
    if most < len(marked) - 1:
        return int(np.count_nonzero(marked)) <= most
    return not marked.all() or (zeros and not norms.any())  # ends at the first survivor


def spare(norms: Tensor, most: int, *, zeros: bool) -> Spared:
    """Keep all but the `most` smallest of the norms; with `zeros`, not those that are 0."""
    if most < norms.numel() - 1:
        masks, limit = smallest_of([norms], most)
        kept = norms.masked_fill(masks[0], math.inf).amin()
        return Spared(norms.masked_fill(~masks[0], math.inf), kept, limit)
    return spare_largest(norms, zeros=zeros)


def spare_largest(norms: Tensor, *, zeros: bool) -> Spared:
    """Keep the largest norm, the last among equals: found without selecting.

    Parameters
    ----------
    norms : Tensor
        Flat, or a DTensor sharded by rows: then all ranks must ask together.
    zeros : bool
        Keep none where all are 0.
    """
    own = distributed.local(norms).flatten()
    own = torch.cat([own.new_full((1,), -1), own])  # a rank may have none
    top = distributed.largest(own.amax(), norms)
    here = distributed.is_last(own.amax() == top, norms)
    place = (len(own) - 1 - own.flip(0).argmax()).view(1)
    others = own.scatter(0, place, torch.where(here, -1, own[place]))
    limit = distributed.largest(others.amax(), norms).clamp(min=0)
    kept = here & (top > 0) if zeros else here
    own = own.scatter(0, place, torch.where(kept, math.inf, own[place]))
    return Spared(
        distributed.local_like(own[1:], norms),
        top,
        torch.where(top > 0, limit, math.inf) if zeros else limit,
    )
