"""Runs to start others from, made of finished ones: larger kernels, or random filters beside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import rvsm
from rvsm.atomic import atomic_text
from rvsm.experiments.config import (
    CONFIG_FILE,
    NetworkConfig,
    TrainConfig,
    dump_config,
    load_config,
)
from rvsm.experiments.runs import TRAINING_FILE, load_into, make_network, start_file
from rvsm.handwriting.network import TremorNet


def with_kernels(run: Path, out: Path, kernel: int) -> Path:
    """A run to start from that answers as `run` does, with larger kernels.

    A zero around a kernel changes nothing. Nothing is done where `out` is already there.
    """
    if (out / TRAINING_FILE).is_file():
        return out
    config, small = _weights(run)
    wide = _reshaped(config, kernel=kernel)
    more = (kernel - config.network.kernel) // 2
    state = {
        name: F.pad(values, (more,) * 4) if values.dim() == 4 else values
        for name, values in small.state_dict().items()
    }
    return _written(out, wide, state)


def with_filters(
    run: Path,
    out: Path,
    channels: tuple[int, int, int],
    zeros: float = 0.0,
    *,
    learned: bool = True,
) -> Path:
    """A run to start from that has random filters beside those of `run`, for a new last layer.

    The first maps are those of `run`; its filters do not look at the others.

    Parameters
    ----------
    run, out : Path
        Nothing is done where `out` is already there.
    channels : (int, int, int)
        Maps of the convolutions, as many as in `run` or more.
    zeros : float
        Share of zeros in the random filters of the second and the third convolution: the smallest.
    learned : bool
        Keep the filters of `run`; without, all are random.
    """
    if (out / TRAINING_FILE).is_file():
        return out
    config, small = _weights(run)
    wide = _reshaped(config, channels=channels)
    state = make_network(wide).state_dict()
    for name in ("conv2.weight", "conv3.weight"):
        state[name] = _without_smallest(state[name], zeros)
    for name, kept in small.state_dict().items():
        if name.startswith("fc.") or not learned:
            continue
        own = state[name]
        own[: len(kept)] = 0.0
        own[tuple(slice(side) for side in kept.shape)] = kept
    return _written(out, wide, state)


def _without_smallest(weights: Tensor, share: float) -> Tensor:
    least = weights.abs().flatten().kthvalue(max(1, round(share * weights.numel()))).values
    return torch.where(weights.abs() > least, weights, 0.0) if share else weights


def _weights(run: Path) -> tuple[TrainConfig, TremorNet]:
    config = load_config(run / CONFIG_FILE)
    net = make_network(config)
    load_into(net, start_file(str(run)))
    return config, net


def _reshaped(config: TrainConfig, **changes: object) -> TrainConfig:
    shape = NetworkConfig.model_validate(config.network.model_dump() | changes)
    return config.model_copy(update={"network": shape})


def _written(out: Path, config: TrainConfig, state: dict[str, Tensor]) -> Path:
    net = make_network(config)
    net.load_state_dict(state)
    out.mkdir(parents=True, exist_ok=True)
    atomic_text(out / CONFIG_FILE, dump_config(config))
    rvsm.save(net, out / TRAINING_FILE)
    return out
