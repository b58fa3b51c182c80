"""Sharded parameters: levels and exact targets over DTensors, the same on every rank.

Parameters under ``fully_shard`` (FSDP2) are DTensors. Single elements under a separable penalty are
mapped where they lie; for anything else a rank gathers the layer, one at a time, and keeps its part
of the result.
Whatever comes from more than one rank must be asked for on all of them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups import Elements, Groups
from rvsm.optim.level import Level
from rvsm.penalties.base import Penalty, separable

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a float; those of floats >= 0 have the floats' order."""


def is_sharded(x: Tensor) -> TypeGuard[DTensor]:
    """Say whether `x` is a DTensor."""
    # Importing it would double the time that rvsm.optim takes; who has one has imported it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def whole(x: Tensor) -> Tensor:
    """Return `x` as a plain tensor, gathered or added up from all ranks."""
    return x.full_tensor() if is_sharded(x) else x


def scattered(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, the same on every rank, laid out as `like`."""
    if not is_sharded(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    found = DTensor.from_local(x, like.device_mesh, everywhere, run_check=False)
    return found.redistribute(like.device_mesh, like.placements)


def level_of(level: Level, w: Tensor) -> Level:
    """Return what maps `w` as `level` does, whether `w` is sharded or not."""
    return _ShardedLevel(level.penalty, level.groups, level.mu, level.zero) \
        if is_sharded(w) else level  # fmt: skip


def norms_of(penalty: Penalty, groups: Groups, w: Tensor) -> Tensor:
    """Return the norms of the groups of `w`: a DTensor where each rank can map its own."""
    local = _by_element(penalty, groups, w) or not is_sharded(w)
    return groups.norms(w if local else whole(w))


def gradient_at(penalty: Penalty, groups: Groups, w: Tensor) -> Tensor:
    """Return the part of `w` a rank needs to take the derivative of the penalty there."""
    if not is_sharded(w):
        return w
    return w.to_local() if _by_element(penalty, groups, w) else w.full_tensor()


def gradient_like(gradient: Tensor, penalty: Penalty, groups: Groups, w: Tensor) -> Tensor:
    """Return the derivative at ``gradient_at(penalty, groups, w)`` laid out as `w`."""
    if is_sharded(w) and _by_element(penalty, groups, w):
        return _from_local(gradient, w)
    return scattered(gradient, w)


@dataclass(frozen=True)
class _ShardedLevel(Level):
    """A level of a DTensor; `zero` is this rank's part where the rank maps its own."""

    def u(self, w: Tensor) -> Tensor:
        """Return u of `w`, laid out as `w`."""
        level = Level(self.penalty, self.groups, self.mu, self.zero)
        sharded = cast("DTensor", w)
        if _by_element(self.penalty, self.groups, w):
            return _from_local(level.u(sharded.to_local()), sharded)
        return scattered(level.u(sharded.full_tensor()), sharded)

    def show(self, target: Tensor, w: Tensor) -> None:
        """Write u of `w` into `target`, which may be `w` itself."""
        target.copy_(self.u(w))

    def add_distance(
        self, target: Tensor, w: Tensor, factor: float, *, summed: bool = False
    ) -> float:
        """Add ``factor (w - u)`` to `target`, which may be `w` itself."""
        target.add_((w - self.u(w)).mul_(factor))
        return float(whole(target.sum())) if summed else 0.0


def local(x: Tensor) -> Tensor:
    """Return this rank's part of `x`."""
    return x.to_local() if is_sharded(x) else x


def local_like(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, this rank's part, laid out as `like`."""
    return _from_local(x.view_as(like.to_local()), like) if is_sharded(like) else x.view_as(like)


def largest(x: Tensor, like: Tensor) -> Tensor:
    """Return the largest of the 0-d `x` of all ranks that share `like`."""
    return _reduced(x, like, "MAX")


def summed(x: Tensor, like: Tensor) -> Tensor:
    """Return the sum of the 0-d `x` of all ranks that share `like`."""
    return _reduced(x, like, "SUM")


def _reduced(x: Tensor, like: Tensor, how: str) -> Tensor:
    if not is_sharded(like):
        return x
    from torch import distributed

    found = x.to(torch.float64, copy=True)  # gloo knows no bfloat16
    distributed.all_reduce(found, getattr(distributed.ReduceOp, how), group=_common_group([like]))
    return found.to(x.dtype)


def is_last(x: Tensor, like: Tensor) -> Tensor:
    """Say whether this rank is the last of those that share `like` whose 0-d `x` is true."""
    if not is_sharded(like):
        return x
    from torch import distributed

    rank = torch.full_like(x, distributed.get_rank(_common_group([like])), dtype=torch.float64)
    return largest(torch.where(x, rank, -1), like) == rank


def smallest_of_shards(norms: Sequence[Tensor], k: int) -> tuple[list[Tensor], Tensor]:
    """Mark the `k` smallest of all norms over all ranks, as `rvsm.optim.targets.smallest` does.

    The threshold is found bit by bit from its highest: one count over all ranks for each bit of
    the type, and no host synchronisation. Ties go by the position in the whole tensors.

    Parameters
    ----------
    norms : sequence of Tensor
        DTensors sharded by rows over one process group, and plain ones equal on every rank.
    k : int
        How many to mark, at least 1.

    Returns
    -------
    masks : list of bool Tensor
        For each of `norms`, this rank's part flattened.
    threshold : 0-d Tensor
        The largest marked norm.

    Raises
    ------
    RuleError
        If the DTensors lie on different process groups.
    """
    from torch import distributed

    group = _common_group([x for x in norms if is_sharded(x)])
    rank = distributed.get_rank(group)
    dtype = functools.reduce(torch.promote_types, [x.dtype for x in norms])
    parts = [(x.to_local() if is_sharded(x) else x).to(dtype).flatten() for x in norms]
    bits = [part.view(_BITS[part.element_size()]) for part in parts]
    # What every rank holds whole is counted on the first.
    mine = [is_sharded(x) or rank == 0 for x in norms]

    def count(below: Tensor) -> Tensor:
        own = [
            torch.count_nonzero(x < below) for x, counts in zip(bits, mine, strict=True) if counts
        ]
        found = torch.stack(own).sum() if own else torch.zeros_like(below)
        distributed.all_reduce(found, group=group)
        return found

    t = torch.zeros((), dtype=torch.int64, device=parts[0].device)
    for bit in reversed(range(8 * parts[0].element_size() - 1)):
        higher = t + (1 << bit)
        t = torch.where(count(higher) < k, higher, t)
    wanted = k - count(t)

    ties = [x == t for x in bits]
    here = torch.stack(
        [torch.count_nonzero(x) * counts for x, counts in zip(ties, mine, strict=True)]
    )
    everywhere = [torch.empty_like(here) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(everywhere, here, group=group)
    table = torch.stack(everywhere)
    earlier_norms = table.sum(0).cumsum(0) - table.sum(0)
    earlier_ranks = table[:rank].sum(0)
    masks = []
    for i, x in enumerate(norms):
        before = earlier_norms[i] + (earlier_ranks[i] if is_sharded(x) else 0)
        masks.append((bits[i] < t) | (ties[i] & (ties[i].cumsum(0) + before <= wanted)))
    return masks, t.to(bits[0].dtype).view(dtype)


def reshard() -> None:
    """Let FSDP forget the weights it gathered: after a forward pass it keeps the root's."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp import FSDPModule

    for module in list(_module_state_mapping):
        if isinstance(module, FSDPModule):
            module.reshard()


def _by_element(penalty: Penalty, groups: Groups, w: Tensor) -> bool:
    """Say whether every rank can map its own part of `w`, a run of its rows."""
    alone = isinstance(groups, Elements) and separable(penalty)
    return alone and is_sharded(w) and _row_dimension(w) is not None


def _row_dimension(w: DTensor) -> int | None:
    """Return the mesh dimension over which whole rows are dealt out in order, if that is all."""
    from torch.distributed.tensor import Replicate, Shard

    found = [i for i, placement in enumerate(w.placements) if not isinstance(placement, Replicate)]
    if len(found) != 1 or type(w.placements[found[0]]) is not Shard:
        return None
    return found[0] if w.placements[found[0]].is_shard(0) else None


def _from_local(x: Tensor, like: DTensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        x, like.device_mesh, like.placements, run_check=False,
        shape=like.shape, stride=like.stride(),
    )  # fmt: skip


def _common_group(sharded: Sequence[DTensor]) -> Any:
    groups = [x.device_mesh.get_group(cast(int, _row_dimension(x))) for x in sharded]
    if any(group is not groups[0] for group in groups):
        raise RuleError(
            "sparsity= over parameters on different process groups has no order of positions; "
            'shard them over one mesh, or give each mesh its own rule with budget="rule".'
        )
    return groups[0]
