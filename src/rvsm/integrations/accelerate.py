"""Accelerate: what ``AcceleratedOptimizer`` hides, and the best model.

``accelerator.prepare`` returns an optimizer without ``sparse_weights`` and ``finalize``; these take
it, or the bare `rvsm.RVSM`. `KeepBest` may be registered for checkpointing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from rvsm.integrations.common import KeepBest, unwrap, zero_shares

__all__ = ["KeepBest", "finalize", "sparse_weights", "unwrap", "zero_shares"]


def sparse_weights(optimizer: Any) -> AbstractContextManager[None]:
    """Return ``sparse_weights()`` of the RVSM under a prepared optimizer: u in place of w."""
    return unwrap(optimizer).sparse_weights()


def finalize(optimizer: Any) -> None:
    """Call ``finalize()`` of the RVSM under a prepared optimizer: w becomes u for good."""
    unwrap(optimizer).finalize()
