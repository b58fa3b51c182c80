"""What every integration needs: the optimizer under its wrappers, its zeros, the best model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from rvsm.deploy.files import read_metadata, save
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM

_WRAPPERS = ("optimizer", "_optimizer")
"""Where AcceleratedOptimizer and LightningOptimizer keep what they wrap."""


def find_splitting(optimizer: Any) -> RVSM | None:
    """Return the RVSM that `optimizer` is or wraps, or None."""
    while not isinstance(optimizer, RVSM):
        inner = [getattr(optimizer, name, None) for name in _WRAPPERS]
        optimizer = next((found for found in inner if found is not None), None)
        if optimizer is None:
            return None
    return optimizer


def unwrap(optimizer: Any) -> RVSM:
    """Return the RVSM that `optimizer` is or wraps.

    Raises
    ------
    RunError
        If there is none.
    """
    found = find_splitting(optimizer)
    if found is None:
        raise RunError(
            f"{type(optimizer).__name__} holds no rvsm.RVSM; wrap the base optimizer in one before "
            "you hand it over."
        )
    return found


def zero_shares(optimizer: Any) -> dict[str, float]:
    """Return the share of zeros in u as ``zeros/<parameter>``, and of all as ``zeros/all``.

    Under sharded parameters call it on every rank.
    """
    counts = unwrap(optimizer).zeros()
    shares = {f"zeros/{name}": zeros / size for name, (zeros, size) in counts.items() if size}
    total = sum(size for _, size in counts.values())
    if total:
        shares["zeros/all"] = sum(zeros for zeros, _ in counts.values()) / total
    return shares


def at_full_strength(optimizer: Any) -> bool:
    """Say whether every schedule has arrived: before that a score is that of a denser model."""
    splitting = unwrap(optimizer)
    schedules = [rule.schedule for rule in splitting.rules if rule.schedule is not None]
    steps = splitting.steps
    return steps >= splitting.warmup and all(s(steps) == s(1 << 60) for s in schedules)


class KeepBest:
    """Keeps the model with the best score in one file, at u.

    Parameters
    ----------
    path : Path or str
        The file, written by `rvsm.save` with the score and step among its metadata.
    mode : {"min", "max"}
        Whether a smaller or a larger score is better.

    Raises
    ------
    RuleError
        For another mode.
    """

    def __init__(self, path: Path | str, mode: Literal["min", "max"] = "min") -> None:
        if mode not in ("min", "max"):
            raise RuleError(f"mode must be 'min' or 'max', not {mode!r}.")
        self.path = Path(path)
        self.mode = mode
        self.score: float | None = None

    def offer(
        self, score: float, model: nn.Module, optimizer: Any, *, write: bool = True
    ) -> bool:  # fmt: skip
        """Save `model` at u if `score` is the best yet and every schedule has arrived.

        Parameters
        ----------
        score : float
            Measured at u; NaN is never the best.
        model : nn.Module
            Whose parameters the optimizer trains.
        optimizer : RVSM
            Or what wraps it.
        write : bool
            False on the ranks that are not to write.

        Returns
        -------
        bool
            Whether it is the best.
        """
        sign = 1.0 if self.mode == "max" else -1.0
        better = score == score and (self.score is None or sign * score > sign * self.score)
        if not better or not at_full_strength(optimizer):
            return False
        self.score = float(score)
        splitting = unwrap(optimizer)
        with splitting.sparse_weights():
            if write:
                told = {"score": repr(self.score), "step": str(splitting.steps)}
                save(model, self.path, metadata=told)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best score."""
        return {"score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score of a run that goes on."""
        self.score = state_dict["score"]

    def continue_from_file(self) -> None:
        """Take over the score of the file, where there is one."""
        if self.path.exists():
            self.score = float(read_metadata(self.path)["score"])
