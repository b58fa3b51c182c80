"""What every finished epoch leaves behind: a checkpoint, a row of metrics, the best model."""

from __future__ import annotations

import csv
import io
import pickle
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from rvsm.atomic import atomic_write, make_folder
from rvsm.errors import RunError, RvsmError
from rvsm.experiments.module import SparseTraining

WHOLE_NUMBERS = ("epoch", "step")
KEPT_CHECKPOINTS = 2


class WholeFileIO(CheckpointIO):
    """Checkpoints that are whole or absent, and never unpickle anything but tensors."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside the target and rename.

        Raises
        ------
        RunError
            If it cannot be written, such as on a full disk; the one before, if any, stays.
        """
        try:
            make_folder(Path(path).parent)
            # Into memory first: torch's own writer hides the cause when a disk is full.
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            with atomic_write(path) as file:
                file.write(buffer.getbuffer())
        except RvsmError as error:
            before = any(Path(path).parent.glob("epoch-*.ckpt"))
            kept = (
                "the checkpoint of the epoch before is whole: run the same command again to "
                "continue from it"
                if before
                else "no epoch was kept: run the same command again to begin anew"
            )
            raise RunError(f"{str(error).rstrip('.')}; {kept}.") from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values; anything else in the file is refused."""
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read whole, or None where there is none.

    Raises
    ------
    RunError
        If there are checkpoints and none can be read.
    """
    found = sorted(folder.glob("epoch-*.ckpt"), reverse=True)
    for path in found:
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            continue
        return path
    if found:
        raise RunError(
            f"No checkpoint in {folder} can be read ({found[0].name} is damaged); delete that "
            "folder to train again from the start."
        )
    return None


class Recorder(Checkpoint):
    """Writes the checkpoint of each epoch, the metrics, and remembers the best model.

    The rows and the best model live in the checkpoint; ``metrics.csv`` is rewritten from them,
    so a run that was killed and resumed ends with the file it would have had.

    Parameters
    ----------
    run_dir
        The run folder.
    select
        ``val-accuracy``, ``val-loss`` or ``last``: what "best" means. Ties go to the lower loss,
        then to the later epoch.
    """

    def __init__(self, run_dir: Path, select: str) -> None:
        self.run_dir = run_dir
        self.select = select
        self.rows: list[dict[str, float]] = []
        self.best_state: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None
        self._best_score: tuple[float, float] | None = None
        self._epoch_started = 0.0

    @property
    def seconds(self) -> float:
        """Time spent in finished epochs, those before a resume included."""
        return sum(row["seconds"] for row in self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {
            "rows": self.rows,
            "best_state": self.best_state,
            "best_epoch": self.best_epoch,
            "best_score": self._best_score,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint held."""
        self.rows = list(state_dict["rows"])
        self.best_state = state_dict["best_state"]
        self.best_epoch = state_dict["best_epoch"]
        self._best_score = state_dict["best_score"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the logs of the epochs a resumed run has behind it, be they all of them."""
        if self.rows:
            self._write_metrics()
        for row in self.rows:
            self._log(trainer, row)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch; Lightning calls this after validation and every other callback."""
        module = cast(SparseTraining, pl_module)
        module.check_finite()
        row = module.epoch_row()
        row["seconds"] = time.perf_counter() - self._epoch_started
        self.rows.append(row)
        if module.target_reached():
            score = self._score(row)
            if self._best_score is None or score >= self._best_score:
                self._best_score = score
                self.best_state = module.state_at_u()
                self.best_epoch = module.current_epoch
        folder = self.run_dir / "checkpoints"
        trainer.save_checkpoint(folder / f"epoch-{module.current_epoch:05d}.ckpt")
        for old in sorted(folder.glob("epoch-*.ckpt"))[:-KEPT_CHECKPOINTS]:
            trainer.strategy.remove_checkpoint(old)
        self._write_metrics()
        self._log(trainer, row)

    def _score(self, row: dict[str, float]) -> tuple[float, float]:
        if self.select == "last":
            return (row["epoch"], 0.0)
        if self.select == "val-loss":
            return (-row["val_loss"], row["val_accuracy"])
        return (row["val_accuracy"], -row["val_loss"])

    def _write_metrics(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(
                {name: int(row[name]) if name in WHOLE_NUMBERS else row[name] for name in row}
            )
        with atomic_write(self.run_dir / "metrics.csv") as file:
            file.write(text.getvalue().encode())

    @staticmethod
    def _log(trainer: Trainer, row: dict[str, float]) -> None:
        values = {name: value for name, value in row.items() if name not in WHOLE_NUMBERS}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(row["epoch"]))
