"""Lightning: a callback that validates, keeps the best and logs at u."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rvsm.deploy.files import load
from rvsm.errors import RunError
from rvsm.integrations.common import KeepBest, at_u, find_splitting, zero_shares
from rvsm.optim import RVSM
from rvsm.optim.recalibration import Batches


class SparseValidation(Callback):
    """Validation, test and prediction at u; the best u in a file; zeros in the logs.

    For a module whose ``configure_optimizers`` returns `rvsm.RVSM`, with automatic or manual
    optimization. Lightning's own checkpoints keep holding what a run needs to go on: w.

    The optimizer is that of a fit. A trainer that has not fitted the module knows none, and then
    the weights are tested as they are, with a warning unless they are those of the best file.

    Parameters
    ----------
    path : Path or str, optional
        The file for the best model at u, written by `rvsm.save`; nothing is kept without it.
    monitor : str, optional
        The logged metric that decides; needed with `path`.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better. Only epochs in which every schedule of
        every optimizer has arrived are compared: the ones before belong to denser models.
    recalibrate : iterable of batches, optional
        As for ``RVSM.sparse_weights()``: statistics of batch norm are estimated at u for
        validation, test, prediction and the file, and those of training come back. Taken through
        the RVSM's `model`, or else the module's ``forward``.

    Raises
    ------
    RunError
        If `path` comes without `monitor`; in training, if there is no `rvsm.RVSM` among the
        optimizers or `monitor` is not logged.

    Warns
    -----
    UserWarning
        If a fit ends without a best file, or w may be what is tested.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        *,
        recalibrate: Batches | None = None,
    ) -> None:
        if path is not None and monitor is None:
            raise RunError("SparseValidation needs monitor=, the metric that decides what is best.")
        self.monitor = monitor
        self.recalibrate = recalibrate
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
        if not _splittings(trainer, pl_module):
            raise RunError(
                "SparseValidation found no rvsm.RVSM; return one from configure_optimizers()."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if no model was kept."""
        trial = getattr(trainer, "fast_dev_run", False)
        if self.best is not None and self.best.score is None and not trial:
            warnings.warn(
                f"SparseValidation kept no model in {self.best.path}: no validation came after "
                "the last step of every schedule and Continuation; train longer, or let them end "
                "earlier.",
                stacklevel=2,
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put u in place of w."""
        splittings = _splittings(trainer, pl_module)
        if splittings:
            self._stack.enter_context(at_u(splittings, pl_module, self.recalibrate))
        elif not self._holds_best(pl_module):
            file = "the best file" if self.best is None else str(self.best.path)
            warnings.warn(
                "SparseValidation found no rvsm.RVSM outside fit, so the module's weights are "
                f"taken as they are, which may be w; load u with rvsm.load from {file} first.",
                stacklevel=2,
            )

    def _holds_best(self, pl_module: LightningModule) -> bool:
        if self.best is None or not self.best.path.exists():
            return False
        best, own = load(self.best.path), pl_module.state_dict()
        return best.keys() == own.keys() and all(
            torch.equal(value, own[name].cpu()) for name, value in best.items()
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of zeros of every layer."""
        for splitting in _splittings(trainer, pl_module):
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
        splittings = _splittings(trainer, pl_module)
        self.best.offer(score, pl_module, splittings, write=trainer.is_global_zero)


def _splittings(trainer: Trainer, pl_module: LightningModule) -> list[RVSM]:
    """Return every RVSM of the trainer that trains the module: a trainer may fit another."""
    own = set(pl_module.parameters())
    found = [find_splitting(optimizer) for optimizer in trainer.optimizers]
    return [
        splitting
        for splitting in found
        if splitting is not None
        and any(p in own for group in splitting.param_groups for p in group["params"])
    ]
