"""Whole units first: filters and rows go, and the network is cut down before single weights do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import rvsm
from benchmarks.frontier.counting import size_of
from benchmarks.frontier.methods import Frame
from rvsm import recipes
from rvsm.penalties import L0


def whole_units(frame: Frame, steps: int) -> rvsm.RVSM:
    """Return the optimizer of the first steps, in which whole units go."""
    o = frame.options
    optimizer = recipes.units(
        frame.base(), sparsity=o.shares_of_units(), steps=steps, scale=o.units_scale
    )
    if o.units_penalty == "l0":
        optimizer.rules = tuple(replace(rule, penalty=L0()) for rule in optimizer.rules)
    return optimizer


def cut_down(frame: Frame, optimizer: Any, example: Tensor, begun: int) -> Frame:
    """Return the frame of the smaller network, with the target that leaves as many weights."""
    size = size_of(frame.model)
    optimizer.finalize()
    last = any(p.dim() == 4 and not p.is_contiguous() for p in frame.model.parameters())
    small = rvsm.shrink(frame.model, example).train()
    if last:
        small.to(memory_format=torch.channels_last)
    kept = size - round(frame.target * size)
    return replace(frame, model=small, begun=begun, target=max(1 - kept / size_of(small), 0.0))
