"""Accelerate: what ``AcceleratedOptimizer`` hides, and the best model.

``accelerator.prepare`` returns an optimizer without ``sparse_weights`` and ``finalize``; these take
it, or the bare `rvsm.RVSM`. `KeepBest` may be registered for checkpointing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from rvsm.integrations.common import KeepBest, unwrap, zero_shares
from rvsm.optim.recalibration import Batches

__all__ = ["KeepBest", "finalize", "sparse_weights", "unwrap", "zero_shares"]


def sparse_weights(
    optimizer: Any, *, recalibrate: Batches | None = None
) -> AbstractContextManager[None]:
    """Return ``sparse_weights()`` of the RVSM under a prepared optimizer: u in place of w.

    Parameters
    ----------
    optimizer : RVSM
        Or what wraps it.
    recalibrate : iterable of batches, optional
        As for ``RVSM.sparse_weights()``, which needs the RVSM's `model`.

    Raises
    ------
    RunError
        If there is no RVSM under `optimizer`.
    """
    return unwrap(optimizer).sparse_weights(recalibrate=recalibrate)


def finalize(optimizer: Any, *, recalibrate: Batches | None = None) -> None:
    """Call ``finalize()`` of the RVSM under a prepared optimizer: w becomes u for good.

    Parameters
    ----------
    optimizer, recalibrate
        As for `sparse_weights`; the statistics of batch norm stay.

    Raises
    ------
    RunError
        If there is no RVSM under `optimizer`.
    """
    unwrap(optimizer).finalize(recalibrate=recalibrate)
