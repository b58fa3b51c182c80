"""Lightning: a callback that validates, keeps the best and logs at u."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from rvsm.errors import RunError
from rvsm.integrations.common import KeepBest, find_splitting, zero_shares
from rvsm.optim import RVSM


class SparseValidation(Callback):
    """Validation, test and prediction at u; the best u in a file; zeros in the logs.

    For a module whose ``configure_optimizers`` returns `rvsm.RVSM`, with automatic or manual
    optimization. Lightning's own checkpoints keep holding what a run needs to go on: w.

    Parameters
    ----------
    path : Path or str, optional
        The file for the best model at u, written by `rvsm.save`; nothing is kept without it.
    monitor : str, optional
        The logged metric that decides; needed with `path`.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better. Only epochs in which every schedule has
        arrived are compared: the ones before belong to denser models.

    Raises
    ------
    RunError
        If `path` comes without `monitor`; in training, if there is no `rvsm.RVSM` among the
        optimizers or `monitor` is not logged.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if path is not None and monitor is None:
            raise RunError("SparseValidation needs monitor=, the metric that decides what is best.")
        self.monitor = monitor
        self.best = None if path is None else KeepBest(path, mode)
        self._stack = ExitStack()

    @property
    def state_key(self) -> str:
        """Name of its state in Lightning's checkpoints."""
        return "rvsm.SparseValidation"

    def state_dict(self) -> dict[str, Any]:
        """Return the best score."""
        return {} if self.best is None else self.best.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score of a run that goes on."""
        if self.best is not None and state_dict:
            self.best.load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the optimizer before an epoch is spent without it."""
        if not _splittings(trainer):
            raise RunError(
                "SparseValidation found no rvsm.RVSM; return one from configure_optimizers()."
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put u in place of w."""
        for splitting in _splittings(trainer):
            self._stack.enter_context(splitting.sparse_weights())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of zeros of every layer."""
        for splitting in _splittings(trainer):
            pl_module.log_dict(zero_shares(splitting))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the model if it is the best, and put w back."""
        try:
            if self.best is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
                self._offer(trainer, pl_module)
        finally:
            self._stack.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put w back."""
        self._stack.close()

    on_test_start = on_predict_start = on_validation_start

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put w back."""
        self._stack.close()

    on_predict_end = on_test_end

    def _offer(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.best is not None
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(map(str, trainer.callback_metrics)) or "none"
            raise RunError(
                f"SparseValidation: the metric {self.monitor!r} is not logged; log it in "
                f"validation_step or take one of: {known}."
            )
        score = float(trainer.callback_metrics[self.monitor])
        for splitting in _splittings(trainer)[:1]:
            self.best.offer(score, pl_module, splitting, write=trainer.is_global_zero)


def _splittings(trainer: Trainer) -> list[RVSM]:
    found = [find_splitting(optimizer) for optimizer in trainer.optimizers]
    return [splitting for splitting in found if splitting is not None]
