"""Denormal numbers are zero where networks are trained, and there alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from drawings import make_folder
from rvsm.experiments.denormals import no_denormals
from rvsm.experiments.train import train
from training_runs import configure

DENORMAL = 1e-40


def product() -> float:
    return float(torch.tensor([DENORMAL]) * torch.tensor([1.0]))


needs_flush = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="the processor has no such mode"
)


@needs_flush
def test_they_are_zero_inside_alone():
    assert product() > 0
    with no_denormals():
        assert product() == 0
        torch.set_default_dtype(torch.float64)
        try:
            with no_denormals():
                pass
        finally:
            torch.set_default_dtype(torch.float32)
        assert product() == 0
    assert product() > 0
    with pytest.raises(ValueError, match="stop"), no_denormals():
        raise ValueError("stop")
    assert product() > 0


@needs_flush
def test_networks_are_trained_that_way(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path / "data")
    seen = []

    def watch(self: torch.optim.Optimizer, *args: Any) -> None:
        seen.append(product())

    handle = register_optimizer_step_pre_hook(watch)
    try:
        train(configure(tmp_path / "data", method="dense", epochs=1), tmp_path / "run")
    finally:
        handle.remove()
    assert seen
    assert set(seen) == {0.0}
    assert product() > 0
