"""The step from w to u as one kernel for each kind of rule, where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rvsm.optim import distributed
from rvsm.optim.level import Level


class Mapper:
    """Applies levels, uncompiled until ``compile()``."""

    def __init__(self) -> None:
        self._kernel: Callable[..., None] | None = None

    def compile(self, **options: Any) -> None:
        """Compile what follows, with options for `torch.compile`."""
        self._kernel = torch.compile(_kernel, **options)

    def __call__(
        self,
        level: Level,
        target: Tensor,
        w: Tensor,
        factor: float | None,
        *,
        summed: bool = False,
    ) -> float:
        """Add ``factor (w - u)`` to `target`, or write u into it.

        With `summed` return the sum of what `target` holds then, otherwise 0.
        """
        if (
            self._kernel is None
            or distributed.is_sharded(w)
            or level.scale is not None
            # faster than a compiled kernel
            or level.threshold_in_c(target, w, adds=factor is not None) is not None
        ):
            if factor is not None:
                return level.add_distance(target, w, factor, summed=summed)
            level.show(target, w)
            return 0.0
        zero = None if level.zero is None else level.groups.spread(level.zero, w)
        plain = w.detach()  # a parameter would be compiled for by its identity
        self._kernel(
            plain if target is w else target.detach(),
            plain,
            Level(level.penalty, level.groups, 0.0),
            zero,
            _scalar(level.mu, w),
            None if factor is None else _scalar(factor, w),
        )
        # Within the kernel the sum would map every weight a second time.
        return float(target.sum()) if summed else 0.0


def _kernel(
    target: Tensor, w: Tensor, level: Level, zero: Tensor | None, mu: Tensor, factor: Tensor | None
) -> None:
    """Map `w`; all that changes from step to step is a tensor, so it is not compiled again."""
    u = replace(level, mu=mu, zero=None).mapped(w, zero)
    if factor is None:
        target.copy_(u)
    else:
        target.add_((w - u) * factor)


def _scalar(number: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(number, Tensor):
        return number
    return torch.full((), number, dtype=torch.float64, device=like.device)
