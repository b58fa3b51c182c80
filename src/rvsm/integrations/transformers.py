"""Transformers: a Trainer that evaluates, keeps the best and exports at u."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from rvsm.errors import RunError
from rvsm.integrations.common import KeepBest, at_u, find_splitting, unwrap, zero_shares
from rvsm.optim.recalibration import Batches

BEST = "best.safetensors"
"""Name of the best model's file in ``args.output_dir``."""


class SparseTrainerMixin:
    """Makes a Trainer evaluate, keep the best and export at u.

    Give the trainer ``optimizers=(rvsm.RVSM(...), scheduler_or_None)``. Evaluation and prediction
    take place at u. With ``args.metric_for_best_model`` the best u is kept in
    ``output_dir/best.safetensors`` by `rvsm.save`, from the evaluation on at which every schedule
    has arrived; without it, the u at the end of training. ``save_model`` and ``push_to_hub`` export
    u; the checkpoints inside ``output_dir`` keep w, from which a run goes on. The share of zeros of
    every layer is logged at each evaluation.

    Put it before the trainer: ``class Mine(SparseTrainerMixin, Seq2SeqTrainer)``.

    Parameters
    ----------
    *args, **kwargs
        Of the trainer.
    recalibrate : iterable of batches, optional
        Dicts of the model's keywords. Statistics of batch norm are estimated from them at u
        wherever u takes the place of w; those of training come back.

    Raises
    ------
    RunError
        With ``load_best_model_at_end``, which would load w; with ``push_to_hub`` and a
        ``hub_strategy`` other than ``"end"``, which would push w; in training, if the optimizer is
        no `rvsm.RVSM`.

    Warns
    -----
    UserWarning
        If training ends and no evaluation with the metric came after the end of every schedule:
        the file then holds the last u.
    """

    args: Any
    model: Any
    optimizer: Any

    def __init__(self, *args: Any, recalibrate: Batches | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.load_best_model_at_end:
            raise RunError(
                "load_best_model_at_end would load w; leave it out and read the best u from "
                f"output_dir/{BEST} with rvsm.load."
            )
        mode: Literal["min", "max"] = "max" if self.args.greater_is_better else "min"
        self.recalibrate = recalibrate
        self.best = KeepBest(Path(self.args.output_dir, BEST), mode, recalibrate=recalibrate)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Make the repository on the hub, unless w would be pushed there."""
        parent: Any = super()
        if self.args.push_to_hub and self.args.hub_strategy != HubStrategy.END:
            raise RunError(
                f'hub_strategy="{self.args.hub_strategy.value}" would push the w of every '
                'checkpoint; set hub_strategy="end" and call push_to_hub(), which pushes u.'
            )
        parent.init_hf_repo(*args, **kwargs)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a run that goes on keeps the best of the one before."""
        if resume_from_checkpoint:
            self.best.continue_from_file()
        parent: Any = super()
        result = parent.train(resume_from_checkpoint, *args, **kwargs)
        if self.best.score is None:
            splitting = unwrap(self.optimizer)
            self.best.keep(self.model, [splitting], write=self.args.should_save)
            if self.args.metric_for_best_model is not None:
                warnings.warn(
                    f"No evaluation with {self._metric()} came after the last step of every "
                    f"schedule and Continuation, so {self.best.path} holds the last u; evaluate "
                    "more often, or let them end earlier.",
                    stacklevel=2,
                )
        return result

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take the gradients of a batch, if there is an RVSM to use them."""
        parent: Any = super()
        if find_splitting(self.optimizer) is None:
            raise RunError(
                "SparseTrainer found no rvsm.RVSM; pass optimizers=(rvsm.RVSM(...), None) or "
                "return one from create_optimizer()."
            )
        return parent.training_step(*args, **kwargs)

    def finalize(self) -> None:
        """Take u for good, with its statistics of batch norm: the model holds it, zeros stay."""
        splitting = unwrap(self.optimizer)
        if splitting.model is None:
            splitting.model = self.model
        splitting.finalize(recalibrate=self.recalibrate)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict at u."""
        parent: Any = super()
        with self._at_u():
            return parent.evaluation_loop(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate at u, log the zeros and keep the model if it is the best."""
        parent: Any = super()
        metrics: dict[str, float] = parent.evaluate(*args, **kwargs)
        if find_splitting(self.optimizer) is None:
            return metrics
        parent.log(zero_shares(self.optimizer))
        if self._metric() in metrics:
            write = self.args.should_save
            self.best.offer(metrics[self._metric()], self.model, self.optimizer, write=write)
        return metrics

    def _metric(self) -> str:
        name = self.args.metric_for_best_model
        return "" if name is None else f"eval_{name.removeprefix('eval_')}"

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Export u; w where the trainer itself asks, for its checkpoints."""
        parent: Any = super()
        with nullcontext() if _internal_call else self._at_u():
            parent.save_model(output_dir, _internal_call)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push u, as the trainer pushes a model."""
        parent: Any = super()
        with self._at_u():  # the trainer's call of save_model inside is as for a checkpoint
            return parent.push_to_hub(*args, **kwargs)

    def _at_u(self) -> AbstractContextManager[None]:
        splitting = find_splitting(self.optimizer)
        if splitting is None:
            return nullcontext()
        return at_u([splitting], self.model, self.recalibrate)


class SparseTrainer(SparseTrainerMixin, Trainer):
    """`transformers.Trainer` at u: see `SparseTrainerMixin`."""
