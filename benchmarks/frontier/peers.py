"""Other projects' pruning, through their own code: torchao's PAT and torch.nn.utils.prune."""

from __future__ import annotations

import importlib
import importlib.util
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


def missing(module: str) -> str | None:
    """Return why a peer cannot take part, None where it can."""
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed here: pip install --no-deps {module}"
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
