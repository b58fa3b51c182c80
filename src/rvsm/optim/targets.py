"""Exact targets: which k of n magnitudes are the smallest, without sorting them."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(magnitudes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mark the `k` smallest of `magnitudes`; among equals the first positions count as smaller.

    Parameters
    ----------
    magnitudes : Tensor of shape (n,)
        Numbers >= 0 without NaN.
    k : int
        How many to mark, ``0 <= k < n``.

    Returns
    -------
    mask : bool Tensor of shape (n,)
        Exactly `k` are True.
    threshold : 0-d Tensor
        The largest marked magnitude; 0 for k = 0.
    """
    if k == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool), magnitudes.new_zeros(())
    threshold = torch.kthvalue(magnitudes, k).values
    mask = magnitudes <= threshold
    if magnitudes.device.type == "cpu" and int(mask.sum()) == k:
        return mask, threshold
    tied = magnitudes == threshold
    surplus = mask.sum() - k
    # Of the tied ones, the last `surplus` positions survive.
    survives = tied & (tied.sum() - tied.cumsum(0) < surplus)
    return mask & ~survives, threshold
