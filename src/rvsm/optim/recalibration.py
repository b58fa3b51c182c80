"""Batch norm at the sparse weights: its running statistics estimated anew."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rvsm.errors import RuleError

Batches = Iterable[Any]
"""Batches of inputs: tensors, tuples or lists that begin with one, or dicts of keywords."""


@contextmanager
def recalibrated(model: nn.Module, batches: Batches) -> Iterator[None]:
    """Hold statistics of batch norm estimated at the current weights, the old ones afterwards.

    As `recalibrate`, but the old statistics come back on leaving, exceptions included.
    """
    before = _statistics(model)
    try:
        recalibrate(model, batches)
        yield
    finally:
        _restore(before)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Batches) -> None:
    """Estimate the running statistics of batch norm anew, at the weights as they are.

    The mean over all batches of each batch's mean and variance, every batch counting the same.
    Only the statistics change: not the modes, the gradients or the random states of torch, numpy,
    Python and the loader. Everything but batch norm runs in evaluation mode, dropout included.
    A model without batch norm is left alone.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(batch)``, ``model(batch[0])`` or ``model(**batch)`` under a batch that is
        a tensor, a tuple or list, or a dict.
    batches : iterable
        Some hundred samples will do; moved to the device of the model's parameters.

    Raises
    ------
    RuleError
        If there is no batch, or one holds no input; the statistics are as before.
    """
    norms = _norms(model)
    if not norms:
        return
    before = _statistics(model)
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = cast(float, None)  # torch's word for a cumulative mean
        with _random_states_kept(batches, device):
            seen = 0
            for batch in batches:
                _forward(model, batch, device)
                seen += 1
        if not seen:
            raise RuleError(
                "recalibrate= gave no batch; pass a loader, or a list of batches that is not used "
                "up."
            )
    except BaseException:
        _restore(before)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules of batch norm that keep statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return every buffer of batch norm with a copy of what it holds."""
    return [
        (buffer, buffer.clone()) for norm in _norms(model) for buffer in norm.buffers(recurse=False)
    ]


@torch.no_grad()
def _restore(statistics: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, held in statistics:
        buffer.copy_(held)


def _forward(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{key: _moved(value, device) for key, value in batch.items()})
        return
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise RuleError(
            "recalibrate= needs batches that are a tensor, begin with one or are a dict of "
            f"keywords, not {type(first).__name__}; wrap the loader in a generator that yields "
            "the model's input."
        )
    model(first.to(device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


@contextmanager
def _random_states_kept(batches: Batches, device: torch.device) -> Iterator[None]:
    """Let nothing drawn inside be missed outside: shuffling, augmentation, a loader's seed."""
    own = getattr(batches, "generator", None)
    drawn = own.get_state() if isinstance(own, torch.Generator) else None
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        if isinstance(own, torch.Generator) and drawn is not None:
            own.set_state(drawn)
