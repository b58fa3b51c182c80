"""The Lightning module: the network, its splitting optimizer, and what an epoch measures."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from rvsm import RVSM, Rule
from rvsm.errors import RuleError, RunError
from rvsm.experiments.config import RuleConfig, TrainConfig
from rvsm.experiments.data import Batches, seed_of
from rvsm.experiments.runs import first_not_finite
from rvsm.groups import Elements, InputChannels
from rvsm.handwriting.network import TremorNet
from rvsm.optim import Cubic
from rvsm.penalties import L0, L1, Penalty, TransformedL1
from rvsm.recipes import distilled

STATISTICS_IMAGES = 1000
STATISTICS_BATCH = 250
"""Over which images the statistics of u are measured, and how many at a time."""


def _running_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Return the update of an exponential average that starts as a plain mean."""

    @torch.no_grad()
    def update(averages: Any, weights: Any, seen: Tensor | int) -> None:
        kept = min(decay, (1 + int(seen)) / (10 + int(seen)))
        torch._foreach_lerp_(averages, weights, 1 - kept)

    return update


_FIRST_LR, _LEAST_LR = 25.0, 4e-6
"""The one-cycle rate begins at a 25th of its peak and ends, unless asked otherwise, at nothing."""


class SparseTraining(LightningModule):
    """Cross entropy minimised by AdamW or Muon, inside RVSM unless the method is dense.

    Parameters
    ----------
    net
        The network; its parameter names are those the rules match.
    config
        The run's configuration.
    steps_per_epoch
        Minibatches in an epoch: schedules and the one-cycle rate are told the whole length.
    teacher
        The network whose answers are learned from if the configuration says `distill`; on the
        device of the images.

    Notes
    -----
    Validation takes place at u, the weights with exact zeros, and with the normalisation's
    statistics measured at u on training images: what is validated is what would be saved.
    Training itself never reads those statistics, so nothing has to be put back. The weights in
    the module are w with ``grad_at="w"`` and u with ``grad_at="u"``.
    """

    def __init__(
        self,
        net: TremorNet,
        config: TrainConfig,
        steps_per_epoch: int,
        teacher: TremorNet | None = None,
    ) -> None:
        super().__init__()
        # Not the network itself, whose weights would be part of this module's checkpoints.
        self._answers = None if teacher is None else teacher.forward
        self.net = net
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.splitting: RVSM | None = None
        self.averaged: AveragedModel | None = None
        if config.average:
            self.averaged = AveragedModel(net, multi_avg_fn=_running_average(config.average))
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.config.epochs

    def configure_optimizers(self) -> Any:
        """Wrap the optimizer in RVSM and set the one-cycle rate for the whole length."""
        config = self.config
        base = self._base()
        optimizer: torch.optim.Optimizer = base
        if config.method != "dense":
            splitting = config.splitting
            optimizer = self.splitting = RVSM(
                base,
                [self._rule(rule) for rule in config.rules],
                grad_at=splitting.grad_at,
                coupling=splitting.coupling,
                budget=splitting.budget,
                heal_from=(
                    None if splitting.heal >= 1 else round(splitting.heal * self.total_steps)
                ),
            )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=self.total_steps + 1,
            pct_start=config.warmup_fraction,
            div_factor=_FIRST_LR,
            final_div_factor=1 / (_FIRST_LR * max(config.final_lr, _LEAST_LR)),
            cycle_momentum=False,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def check_rules(self) -> None:
        """Raise RuleError for a rule that matches no parameter, be it of a dense run, or cannot be.

        Needs no data: what a configuration gets wrong is told before any are read.
        """
        names = [name for name, _ in self.net.named_parameters()]
        for rule in self.config.rules:
            if not any(fnmatchcase(name, rule.pattern) for name in names):
                raise RuleError(
                    f'The rule "{rule.pattern}" matches no parameter of the network; choose among '
                    f"{', '.join(names)}."
                )
        self.configure_optimizers()

    def _base(self) -> torch.optim.Optimizer:
        config = self.config
        named = list(self.net.named_parameters())
        if config.optimizer == "adamw":
            return torch.optim.AdamW(named, lr=config.lr, weight_decay=config.weight_decay)
        from rvsm.experiments.muon import WideMuon

        # A convolution of a single input map is a bank of filters, not a map between features.
        inner = [pair for pair in named if pair[1].dim() == 4 and pair[1].shape[1] > 1]
        outer = [pair for pair in named if all(pair[1] is not p for _, p in inner)]
        decay = {"weight_decay": config.weight_decay}
        return WideMuon(
            [
                {"params": inner, "lr": config.muon_lr, "use_muon": True, **decay},
                {"params": outer, "lr": config.lr, "betas": (0.9, 0.999), "eps": 1e-8}
                | {"use_muon": False, **decay},
            ]
        )

    @property
    def schedule_end(self) -> int:
        """The step from which the rules ask for their full strength."""
        return max(1, round(self.config.splitting.end * self.total_steps))

    def _rule(self, rule: RuleConfig) -> Rule:
        splitting = self.config.splitting
        penalties: dict[str, Penalty] = {
            "l0": L0(),
            "l1": L1(),
            "transformed-l1": TransformedL1(a=splitting.a),
        }
        return Rule(
            rule.pattern,
            penalties[self.config.method],
            groups=Elements() if rule.groups == "elements" else self._maps(rule.pattern),
            lam=rule.lam,
            sparsity=rule.sparsity,
            beta=splitting.beta,
            schedule=Cubic(round(splitting.start * self.total_steps), self.schedule_end),
        )

    def _maps(self, pattern: str) -> InputChannels:
        reads_flat = fnmatchcase("fc.weight", pattern)
        return InputChannels(self.net.positions if reads_flat else 1)

    def on_train_epoch_start(self) -> None:
        """Tell the batches which epoch it is, and forget the sums of the one before."""
        cast(Batches, self.trainer.train_dataloader).set_epoch(self.current_epoch)
        self._sums.clear()
        self._counts.clear()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Reseed, so that dropout of a resumed run draws what it would have drawn."""
        seed = seed_of(self.config.seed, self.current_epoch, batch_idx, 1)
        # torch.manual_seed notes a traceback for every kind of device that was never used.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the step's weights into the average."""
        if self.averaged is not None and (self.splitting is None or self.splitting.frozen):
            self.averaged.update_parameters(self.net)

    @property
    def result(self) -> TremorNet:
        """The network to validate and keep: the average of the weights where there is one."""
        if self.averaged is None or not int(self.averaged.n_averaged):
            return self.net
        return cast(TremorNet, self.averaged.module)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a minibatch; stop with a remedy when it is no number."""
        images, labels = batch
        logits = self.net(images)
        loss = fit = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        if self._answers is not None:
            with torch.no_grad():
                taught = self._answers(images)
            loss = distilled(logits, labels, taught, share=self.config.distill)
        if not bool(torch.isfinite(loss)):
            raise self._diverged(f"The loss became {loss.item()}")
        # The part that can be compared between runs, whatever else is minimised.
        self._add("train_loss", fit.detach() * len(labels), len(labels))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Measure the statistics of the normalisation at u."""
        batches = cast(Batches, self.trainer.train_dataloader)
        with self.sparse_weights():
            self.result.measure_statistics(batches.sample(STATISTICS_IMAGES, STATISTICS_BATCH))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracy at u."""
        images, labels = batch
        with self.sparse_weights():
            logits = self.result(images).float()
        self._add(
            "val_loss", F.cross_entropy(logits, labels, reduction="sum").double(), len(labels)
        )
        self._add("val_accuracy", (logits.argmax(1) == labels).sum().double(), len(labels))

    def sparse_weights(self) -> contextlib.AbstractContextManager[Any]:
        """Return the optimizer's ``sparse_weights()``, or nothing to do for a dense run."""
        if self.splitting is None:
            return contextlib.nullcontext()
        return self.splitting.sparse_weights()

    def epoch_row(self) -> dict[str, float]:
        """Return the row of ``metrics.csv`` for the epoch that just ended.

        ``lagrangian`` is train_loss + lam * P(u) + beta/2 ||w - u||^2; for a dense run it is the
        train loss. ``gap`` is ||w - u||. ``zeros/<layer>`` are shares at u.
        """
        row = {
            "epoch": float(self.current_epoch),
            "step": float(self.global_step),
            "lr": float(self.trainer.optimizers[0].param_groups[-1]["lr"]),
        }
        row |= {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        row["lagrangian"], row["gap"] = row["train_loss"], 0.0
        if self.splitting is not None:
            row["lagrangian"] = float(self.splitting.lagrangian(row["train_loss"]))
            row["gap"] = float(self.splitting.gap())
        weights = self.weights_at_u()
        for name, weight in weights.items():
            row[f"zeros/{name.removesuffix('.weight')}"] = float((weight == 0).double().mean())
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        row["zeros/all"] = zeros / sum(weight.numel() for weight in weights.values())
        return row

    def check_finite(self) -> None:
        """Raise if the epoch's last steps left weights or a validation loss that are no numbers.

        `training_step` looks at the loss before a step; what a step does to the weights shows in
        the next one, and the last step of an epoch has none before the checkpoint.

        Raises
        ------
        RunError
            With the remedy; the checkpoint of the epoch before, if any, is the last one.
        """
        state = {**dict(self.net.named_parameters()), **self.state_at_u()}
        if (name := first_not_finite(state)) is not None:
            raise self._diverged(f"The weights of {name} became infinite or no numbers")
        loss = float(self._sums["val_loss"]) / self._counts["val_loss"]
        if not math.isfinite(loss):
            raise self._diverged(f"The validation loss became {loss}")

    def _diverged(self, what: str) -> RunError:
        beta = "" if self.splitting is None else f" or beta (now {self.config.splitting.beta:g})"
        if self.trainer.checkpoint_callback is None:
            kept = ""
        elif self.current_epoch:
            kept = " in another folder; this run's last checkpoint is kept"
        else:
            kept = " in the same folder: no epoch was finished, so nothing is kept"
        return RunError(
            f"{what} in epoch {self.current_epoch}, step {self.global_step}; train with a smaller "
            f"lr (now {self.config.lr:g}){beta}{kept}."
        )

    def weights_at_u(self) -> dict[str, Tensor]:
        """Return copies of all weights (biases not among them) with their exact zeros."""
        return {
            name: value for name, value in self.state_at_u().items() if name.endswith(".weight")
        }

    def state_at_u(self) -> dict[str, Tensor]:
        """Return a copy of the network's state with its exact zeros: the result of training."""
        with self.sparse_weights():
            return {
                name: value.detach().clone(memory_format=torch.contiguous_format).cpu()
                for name, value in self.result.state_dict().items()
            }

    def target_reached(self) -> bool:
        """Say whether every rule has been asked in full: only then may an epoch be chosen."""
        return self.splitting is None or self.global_step >= self.schedule_end

    def _add(self, name: str, total: Tensor, count: int) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + count
