"""What every integration needs: the optimizer under its wrappers, its zeros, the best model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from rvsm.deploy.files import read_metadata, save
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM, Constant, Continuation, Cosine, Cubic, Linear, Schedule, Steps
from rvsm.optim.recalibration import Batches, recalibrated

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


@contextmanager
def at_u(
    splittings: Sequence[RVSM], model: nn.Module, recalibrate: Batches | None
) -> Iterator[None]:
    """Hold u of every optimizer in the parameters, with statistics of batch norm to match.

    Parameters
    ----------
    splittings : sequence of RVSM
        All that train `model`.
    model : nn.Module
        Run on the batches where an optimizer was not given a `model` of its own.
    recalibrate : iterable of batches, optional
        As for ``RVSM.sparse_weights()``.
    """
    with ExitStack() as stack:
        for splitting in splittings:
            stack.enter_context(splitting.sparse_weights())
        if recalibrate is not None:
            for network in {splitting.model or model for splitting in splittings}:
                stack.enter_context(recalibrated(network, recalibrate))
        yield


def _end(schedule: Schedule) -> int:
    """Return the step from which on a schedule is constant; 0 where nobody can know."""
    if isinstance(schedule, Steps):
        return schedule.milestones[-1]
    return schedule.end if isinstance(schedule, Linear | Cubic | Cosine) else 0


def at_full_strength(optimizer: Any) -> bool:
    """Say whether every schedule and `Continuation` has arrived; before that u is another model's.

    Once the support is frozen nothing is to come. A schedule that is a function of the user's
    never holds this up: see `strength`.
    """
    splitting = unwrap(optimizer)
    if splitting.frozen:
        return True
    steps = splitting.steps
    for rule in splitting.rules:
        if rule.schedule is not None and steps < _end(rule.schedule):
            return False
        if isinstance(rule.beta, Continuation) and not _grown(rule.beta, steps):
            return False
    return steps >= splitting.warmup


def _grown(beta: Continuation, steps: int) -> bool:
    return beta.factor == 1 or beta(steps, beta.start) == beta.limit


def strength(optimizer: Any) -> float:
    """Return the sum over the rules of the share in force now, or when the support was frozen.

    Where it differs, models are of different density and their scores say nothing.
    """
    splitting = unwrap(optimizer)
    steps = splitting.steps
    if splitting.heal_from is not None:
        steps = min(steps, splitting.heal_from)
    schedules = (Constant() if r.schedule is None else r.schedule for r in splitting.rules)
    return float(sum(schedule(steps) for schedule in schedules))


class KeepBest:
    """Keeps the model with the best score in one file, at u.

    What is offered before every schedule and every `Continuation` of beta has arrived is not
    compared: it belongs to a denser model. Of a schedule that is any function of the step the end
    is unknown: there a larger share beats a smaller one, and scores decide among equal shares.

    Parameters
    ----------
    path : Path or str
        The file, written by `rvsm.save` with the score, the step and the strength among its
        metadata.
    mode : {"min", "max"}
        Whether a smaller or a larger score is better.
    recalibrate : iterable of batches, optional
        As for ``RVSM.sparse_weights()``: the file holds statistics of batch norm estimated at u.

    Raises
    ------
    RuleError
        For another mode.
    """

    def __init__(
        self,
        path: Path | str,
        mode: Literal["min", "max"] = "min",
        *,
        recalibrate: Batches | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise RuleError(f"mode must be 'min' or 'max', not {mode!r}.")
        self.path = Path(path)
        self.mode = mode
        self.recalibrate = recalibrate
        self.score: float | None = None
        self.strength = 0.0

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
            Or what wraps it; a list where several train the model.
        write : bool
            False on the ranks that are not to write.

        Returns
        -------
        bool
            Whether it is the best.
        """
        several = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        splittings = [unwrap(one) for one in several]
        if score != score or not all(map(at_full_strength, splittings)):
            return False
        reached = sum(map(strength, splittings))
        if self.score is not None:
            sign = 1.0 if self.mode == "max" else -1.0
            if (reached, sign * score) <= (self.strength, sign * self.score):
                return False
        self.score, self.strength = float(score), reached
        told = {"score": repr(self.score), "strength": repr(reached)}
        self.keep(model, splittings, told, write=write)
        return True

    def keep(
        self,
        model: nn.Module,
        splittings: Sequence[RVSM],
        told: dict[str, str] | None = None,
        *,
        write: bool = True,
    ) -> None:
        """Save `model` at u, whatever it is worth.

        Parameters
        ----------
        model, write
            As for `offer`.
        splittings : sequence of RVSM
            All that train it.
        told : dict, optional
            For the file's metadata, beside the step.
        """
        with at_u(splittings, model, self.recalibrate):
            if write:
                step = {"step": str(max(splitting.steps for splitting in splittings))}
                save(model, self.path, metadata={**(told or {}), **step})

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the strength it was reached at."""
        return {"score": self.score, "strength": self.strength}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score of a run that goes on."""
        self.score, self.strength = state_dict["score"], state_dict["strength"]

    def continue_from_file(self) -> None:
        """Take over the score of the file, where there is one."""
        told = read_metadata(self.path) if self.path.exists() else {}
        if "score" in told:
            self.score, self.strength = float(told["score"]), float(told["strength"])
