"""Schedules: the share of a rule's strength (lam, lam2 or target sparsity) at a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rvsm.errors import RuleError


@runtime_checkable
class Schedule(Protocol):
    """A function from the number of optimizer steps taken to the share of the full strength."""

    def __call__(self, step: int) -> float:
        """Return the share, between 0 and 1, that holds after `step` optimizer steps."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same share at every step.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RuleError(f"Constant: share must lie between 0 and 1, not {self.share!r}.")

    def __call__(self, step: int) -> float:
        """Return the share."""
        return self.share


@dataclass(frozen=True)
class Linear:
    """0 up to step `start`, rising in a straight line to 1 at step `end`.

    Parameters
    ----------
    start, end : int
        Optimizer steps, ``0 <= start < end``.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        _check_span(self)

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        return _progress(self, step)


@dataclass(frozen=True)
class Cubic:
    """0 up to step `start`, then ``1 - (1 - progress)^3``, 1 from step `end`: fast, then gentle.

    Parameters
    ----------
    start, end : int
        Optimizer steps, ``0 <= start < end``.

    References
    ----------
    Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        _check_span(self)

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        return 1 - (1 - _progress(self, step)) ** 3


def _check_span(schedule: Linear | Cubic) -> None:
    if not 0 <= schedule.start < schedule.end:
        raise RuleError(f"{schedule}: start and end must be steps with 0 <= start < end.")


def _progress(schedule: Linear | Cubic, step: int) -> float:
    return min(max((step - schedule.start) / (schedule.end - schedule.start), 0.0), 1.0)
