"""Batch norm at the sparse weights: its running statistics estimated anew."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rvsm.errors import RuleError, RunError
from rvsm.modes import evaluating
from rvsm.optim.distributed import is_sharded

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
    A model without batch norm is left alone, and so is a layer that is frozen: in evaluation mode
    within a model in training mode, or, once the whole model is in evaluation mode, with scale
    and shift that need no gradient.

    Where torch.distributed has started, the batches are those of all ranks of the default process
    group together: call it on every rank, each with its own share of the data. Under FSDP2 every
    rank must give as many batches, since the forward pass needs them all.

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
        If there is no batch, one holds no input or a single value for each channel, or the ranks
        hold different models; the statistics are as before.
    RunError
        If it failed on another rank.
    """
    # DDP would overwrite the statistics with those of the first rank before every batch.
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    norms = _norms(model)
    if not norms:
        return
    before = _statistics(model)
    momenta = [norm.momentum for norm in norms]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        try:
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = cast(float, None)  # torch's word for a cumulative mean
            with _everywhere(model, norms) as counts, _random_states_kept(batches, device):
                for batch in batches:
                    _forward(model, batch, device)
                    counts.append(1)
        except BaseException:
            _restore(before)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules of batch norm that keep statistics and are not frozen."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and not _is_frozen(module, model)
    ]


def _is_frozen(norm: _BatchNorm, model: nn.Module) -> bool:
    if norm.training:
        return False
    own = list(norm.parameters(recurse=False))
    return model.training or (bool(own) and not any(p.requires_grad for p in own))


@contextmanager
def _everywhere(model: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[list[int]]:
    """Make what every rank estimates inside one estimate; inside, list a 1 for every batch.

    The ranks first tell each other how it went, so that none waits for one that failed.
    """
    counts: list[int] = []
    failure: Exception | None = None
    try:
        yield counts
    except Exception as error:
        failure = error
    seen = len(counts)
    shared = distributed.is_available() and distributed.is_initialized()
    if shared and distributed.get_world_size() > 1:
        seen = _agreed(model, norms, seen, failure)
    if failure is not None:
        raise failure
    if not seen:
        raise RuleError(
            "recalibrate= gave no batch; pass a loader, or a list of batches that is not used up."
        )


def _agreed(
    model: nn.Module, norms: Sequence[_BatchNorm], seen: int, failure: Exception | None
) -> int:
    """Average the statistics over all ranks by their batches; return how many there were."""
    means = [cast(Tensor, norm.running_mean) for norm in norms]
    variances = [cast(Tensor, norm.running_var) for norm in norms]
    statistics = means + variances
    # Sharded weights are one model's, whatever each rank holds of them.
    own = [p for p in model.parameters() if not is_sharded(p)]
    weights = sum(float(p.sum(dtype=torch.float64).nan_to_num()) for p in own)
    held = sum(x.numel() for x in statistics)
    status = torch.tensor(
        [failure is not None, seen, held, weights], dtype=torch.float64, device=means[0].device
    )
    table = [torch.empty_like(status) for _ in range(distributed.get_world_size())]
    distributed.all_gather(table, status)
    if failure is not None:
        return seen
    if any(row[0] for row in table):
        raise RunError("recalibrate= failed on another rank; mend what its message says there.")
    if any(not torch.equal(row[2:], status[2:]) for row in table):
        raise RuleError(
            "recalibrate= averages over the ranks of the default process group, which hold "
            "different weights here; give each the same model, or start no process group."
        )
    total = int(sum(row[1] for row in table))
    for x in statistics if total else ():
        x.mul_(seen / total)
        distributed.all_reduce(x)
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(total)
    return total


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
    try:
        _call(model, batch, device)
    except ValueError as error:  # torch's for a batch without a variance
        if "more than 1 value per channel" not in str(error):
            raise
        raise RuleError(
            "recalibrate= gave a batch with one value for each channel, which has no variance; "
            "build the loader with drop_last=True, or use larger batches."
        ) from error


def _call(model: nn.Module, batch: Any, device: torch.device) -> None:
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
