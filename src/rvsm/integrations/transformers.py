"""Transformers: a Trainer that evaluates, keeps the best and exports at u."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from transformers import Trainer

from rvsm.errors import RunError
from rvsm.integrations.common import KeepBest, find_splitting, zero_shares

BEST = "best.safetensors"
"""Name of the best model's file in ``args.output_dir``."""


class SparseTrainerMixin:
    """Makes a Trainer evaluate, keep the best and export at u.

    Give the trainer ``optimizers=(rvsm.RVSM(...), scheduler_or_None)``. Evaluation and prediction
    take place at u. With ``args.metric_for_best_model`` the best u is kept in
    ``output_dir/best.safetensors`` by `rvsm.save`, from the evaluation on at which every schedule
    has arrived. ``save_model`` exports u; the checkpoints inside ``output_dir`` keep w, from which
    a run goes on. The share of zeros of every layer is logged at each evaluation.

    Put it before the trainer: ``class Mine(SparseTrainerMixin, Seq2SeqTrainer)``.

    Raises
    ------
    RunError
        With ``load_best_model_at_end``, which would load w.
    """

    args: Any
    model: Any
    optimizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.load_best_model_at_end:
            raise RunError(
                "load_best_model_at_end would load w; leave it out and read the best u from "
                f"output_dir/{BEST} with rvsm.load."
            )
        mode: Literal["min", "max"] = "max" if self.args.greater_is_better else "min"
        self.best = KeepBest(Path(self.args.output_dir, BEST), mode)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a run that goes on keeps the best of the one before."""
        if resume_from_checkpoint:
            self.best.continue_from_file()
        parent: Any = super()
        return parent.train(resume_from_checkpoint, *args, **kwargs)

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
        name = self.args.metric_for_best_model
        if name is not None:
            name = name if name.startswith("eval_") else f"eval_{name}"
            if name in metrics:
                write = self.args.should_save
                self.best.offer(metrics[name], self.model, self.optimizer, write=write)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Export u; w where the trainer itself asks, for its checkpoints."""
        parent: Any = super()
        with nullcontext() if _internal_call else self._at_u():
            parent.save_model(output_dir, _internal_call)

    def _at_u(self) -> AbstractContextManager[None]:
        splitting = find_splitting(self.optimizer)
        return nullcontext() if splitting is None else splitting.sparse_weights()


class SparseTrainer(SparseTrainerMixin, Trainer):
    """`transformers.Trainer` at u: see `SparseTrainerMixin`."""
