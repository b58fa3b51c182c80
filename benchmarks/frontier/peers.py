"""Pruning of other projects, through their own code: torchao, torch.nn.utils.prune, PQuantML."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim import Optimizer

from benchmarks.frontier.counting import matrices
from rvsm.optim import Schedule

EVERY = 10
"""Steps between two prunings, as in `rvsm.optim.MagnitudePruning`."""


_PACKAGES = {"torchao": "--no-deps torchao", "pquant": "pquant-ml"}


def missing(module: str) -> str | None:
    """Return why a peer cannot take part, None where it can."""
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed here: pip install {_PACKAGES.get(module, module)}"
    return None


def pat(
    model: nn.Module,
    base: Callable[[Any], Optimizer],
    warmup: int,
    heal: int,
    *,
    reg_lambda: float = 0.0,
    target: float | None = None,
) -> Any:
    """Return torchao's PruneOptimizer with its lasso or, given a target, its own cubic ramp.

    Parameters
    ----------
    model : nn.Module
        What is pruned.
    base : callable
        Makes the base optimizer of groups of parameters.
    warmup, heal : int
        Steps before which nothing is pruned, and after which its support is fixed.
    reg_lambda : float
        Of the lasso. Its threshold is this times the sum of the learning rates.
    target : float, optional
        Share of all weights to zero together, the smallest first.
    """
    module = importlib.import_module("torchao.prototype.pat.optim")
    ruled: dict[str, Any] = {
        "params": [p for _, p in matrices(model)],
        "group_type": "ElemGrouper",
        "prox_type": "ProxLasso",
    }
    if target is not None:
        ruled |= {
            "prox_type": "GlobalMinSparsityConstraint",
            "min_sparsity": target,
            "min_sparsity_schedule": True,
        }
    rest = {"params": [p for p in model.parameters() if p.dim() == 1]}
    return module.PruneOptimizer(base([ruled, rest]), warmup, heal, reg_lambda=reg_lambda)


class TorchPrune:
    """torch.nn.utils.prune's global magnitude pruning, called as training goes.

    Until `close` every pruned module computes with ``weight_orig * weight_mask``, and the base
    optimizer steps on ``weight_orig``.

    Parameters
    ----------
    model : nn.Module
        What is pruned.
    base : torch.optim.Optimizer
        Of all its parameters.
    target : float
        Share of zeros in the end.
    schedule : Schedule or None
        Share of the target in force after so many steps; all of it at once without.
    """

    def __init__(
        self, model: nn.Module, base: Optimizer, target: float, schedule: Schedule | None
    ) -> None:
        self.base, self.target, self.schedule = base, target, schedule
        names = [name.rpartition(".")[::2] for name, _ in matrices(model)]
        self.places = [(model.get_submodule(path), name) for path, name in names]
        self.total = sum(p.numel() for _, p in matrices(model))
        self.steps = self.gone = 0
        self.fixed = False

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's."""
        return self.base.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.base.zero_grad()

    def step(self) -> None:
        """Let the base step, and prune when it is time."""
        self.base.step()
        self.steps += 1
        if not self.fixed and self.steps % EVERY == 0:
            share = 1.0 if self.schedule is None else self.schedule(self.steps)
            self._prune(round(share * self.target * self.total))

    def _prune(self, count: int) -> None:
        if count > self.gone:
            prune.global_unstructured(
                self.places, prune.L1Unstructured, amount=count - self.gone
            )  # fmt: skip
            self.gone = count

    @torch.no_grad()
    def finalize(self) -> None:
        """Fix the support at the whole target."""
        self._prune(round(self.target * self.total))
        self.fixed = True
        for module, name in self.places:
            if hasattr(module, f"{name}_mask"):
                getattr(module, f"{name}_orig").mul_(getattr(module, f"{name}_mask"))

    def close(self) -> None:
        """Let the modules hold plain weights again."""
        for module, name in self.places:
            if hasattr(module, f"{name}_mask"):
                prune.remove(module, name)


class PDP:
    """PQuantML's parameter-free differentiable pruning, its layers in place of ours until `close`.

    After some epochs without, the layers compute with soft masks whose share of zeros rises epoch
    by epoch; each layer's share follows from one threshold for all weights at the beginning of
    that. Its quantisation is off.

    Parameters
    ----------
    model : nn.Module
        What is pruned.
    base : callable
        Makes the base optimizer of parameters.
    target : float
        Share of zeros in the end.
    epochs, steps : int
        Of the whole training.
    start, end : float
        Shares of the training after which the masks begin, and are at the target.
    temperature : float
        How soft masks are: weights near the threshold see their gradients multiplied by up to
        about their square over twice this.

    References
    ----------
    Cho, Adya and Naik, "PDP: parameter-free differentiable pruning is all you need", arXiv
    2305.11203.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Callable[[Any], Optimizer],
        target: float,
        epochs: int,
        steps: int,
        start: float,
        end: float,
        temperature: float,
    ) -> None:
        os.environ["KERAS_BACKEND"] = "torch"  # it reads that when it is imported
        self.own = importlib.import_module("pquant.core.torch.layers")
        config = importlib.import_module("pquant").pdp_config()
        config.quantization_parameters.enable_quantization = False
        config.pruning_parameters.sparsity = target
        config.pruning_parameters.temperature = temperature
        self.start = max(round(start * epochs), 1)
        config.pruning_parameters.epsilon = 1 / max(end * epochs - self.start, 1)
        self.model, self.config, self.epochs = model, config, epochs
        self.before = dict(model.named_modules())
        self.own.add_compression_layers(model, config)
        self.layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, self.own.PQWeightBiasBase)
        }
        for layer in self.layers.values():
            for name in ("weight", "bias"):  # left from its parent class, and hidden by properties
                layer._parameters.pop(name, None)
        self.base = base(model.named_parameters())
        self.every, self.steps, self.fixed = -(-steps // epochs), 0, False
        self.own.pre_epoch_functions(model, 0, 1)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's."""
        return self.base.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.base.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Let the base step; between epochs, let the masks do theirs."""
        held = [layer._weight == 0 for layer in self.layers.values()] if self.fixed else []
        self.base.step()
        for layer, zero in zip(self.layers.values(), held, strict=bool(held)):
            layer._weight.masked_fill_(zero, 0)
        self.steps += 1
        epoch = self.steps // self.every
        if self.fixed or self.steps % self.every or epoch == self.epochs:
            return
        self.own.post_epoch_functions(self.model, epoch - 1, self.epochs)
        if epoch == self.start:
            self.own.post_pretrain_functions(self.model, self.config)
        number = epoch - (self.start if epoch >= self.start else 0)
        self.own.pre_epoch_functions(self.model, number, self.epochs)

    @torch.no_grad()
    def finalize(self) -> None:
        """Fix the masks, now hard ones."""
        self.own.post_epoch_functions(self.model, self.epochs - 1, self.epochs)
        self.own.pre_finetune_functions(self.model)
        for layer in self.layers.values():
            layer._weight.mul_(layer.pruning_layer.get_hard_mask())
        self.fixed = True

    @torch.no_grad()
    def close(self) -> None:
        """Put plain layers back, with the pruned weights."""
        for name, layer in self.layers.items():
            plain = self.before[name]
            plain.weight.copy_(layer.weight)
            if layer._bias is not None:
                plain.bias.copy_(layer._bias)
        for name, module in self.before.items():
            if name and self.model.get_submodule(name) is not module:
                path, _, own = name.rpartition(".")
                setattr(self.model.get_submodule(path), own, module)
