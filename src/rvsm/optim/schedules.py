"""Schedules: the share of a rule's strength at a step, and the growth of beta."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rvsm.errors import RuleError
from rvsm.optim.checks import check_share, is_number, is_steps


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
        check_share("Constant: share", self.share, "[0, 1]", "a share of the full strength")

    def __call__(self, step: int) -> float:
        """Return the share."""
        return self.share


@dataclass(frozen=True)
class _Span:
    """From step `start` to step `end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not (is_steps(self.start) and is_steps(self.end, self.start + 1)):
            raise RuleError(f"{self}: start and end must be whole steps with 0 <= start < end.")

    def _progress(self, step: int) -> float:
        return min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)


@dataclass(frozen=True)
class Linear(_Span):
    """0 up to step `start`, rising in a straight line to 1 at step `end`.

    Parameters
    ----------
    start, end : int
        Optimizer steps, ``0 <= start < end``.
    """

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        return self._progress(step)


@dataclass(frozen=True)
class Cubic(_Span):
    """0 up to step `start`, then ``1 - (1 - progress)^3``, 1 from step `end`: fast, then gentle.

    Parameters
    ----------
    start, end : int
        Optimizer steps, ``0 <= start < end``.

    References
    ----------
    Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878.
    """

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        return 1 - (1 - self._progress(step)) ** 3


@dataclass(frozen=True)
class Cosine(_Span):
    """0 up to step `start`, then ``(1 - cos(pi progress)) / 2``, 1 from step `end`: gentle twice.

    Parameters
    ----------
    start, end : int
        Optimizer steps, ``0 <= start < end``.
    """

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        return (1 - math.cos(math.pi * self._progress(step))) / 2


@dataclass(frozen=True)
class Steps:
    """0 at first, then one share from each milestone on: prune, train, prune more.

    Parameters
    ----------
    milestones : sequence of int
        Optimizer steps, >= 0 and rising.
    shares : sequence of float, optional
        The share from each milestone on, between 0 and 1; ``1/n, 2/n, ..., 1`` by default.
    """

    milestones: Sequence[int]
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        milestones = _sequence(self.milestones)
        even = tuple((i + 1) / len(milestones) for i in range(len(milestones)))
        shares = even if self.shares is None else _sequence(self.shares)
        steps = all(map(is_steps, milestones))
        if not milestones or not steps or sorted({*milestones}) != [*milestones]:
            raise RuleError(f"{self}: milestones must be steps >= 0, whole ones, that rise.")
        numbers = all(is_number(share) and 0 <= share <= 1 for share in shares)
        if len(shares) != len(milestones) or not numbers:
            raise RuleError(f"{self}: shares must be one number from 0 to 1 for each milestone.")
        object.__setattr__(self, "milestones", milestones)
        object.__setattr__(self, "shares", shares)

    @property
    def end(self) -> int:
        """The last milestone."""
        return self.milestones[-1]

    def __call__(self, step: int) -> float:
        """Return the share after `step` steps."""
        reached = sum(milestone <= step for milestone in self.milestones)
        return (self.shares or ())[reached - 1] if reached else 0.0


@dataclass(frozen=True)
class Continuation:
    """A coupling strength that grows: ``min(limit, start factor^(step // every))``.

    Give it as ``Rule(beta=...)``. Small at first, so that w moves freely; large in the end, so
    that w and u meet and replacing one by the other costs nothing.

    Parameters
    ----------
    start : float
        beta at the first step, > 0; this number is kept in the optimizer's param_groups.
    factor : float
        Growth, >= 1.
    every : int
        Steps from one growth to the next, >= 1.
    limit : float
        The largest beta, >= `start`. Keep ``lr * limit`` well below 2 under plain SGD.

    References
    ----------
    Bui et al., "Structured sparsity of convolutional neural networks via nonconvex sparse group
    regularization", Front. Appl. Math. Stat. 6:529564 (2021): start 2.5, factor 1.25, 40 epochs.
    """

    start: float
    factor: float
    every: int
    limit: float

    def __post_init__(self) -> None:
        numbers = all(map(is_number, (self.start, self.factor, self.limit)))
        if (
            not numbers
            or not is_steps(self.every, 1)
            or not (0 < self.start <= self.limit and self.factor >= 1)
        ):
            raise RuleError(
                f"{self}: needs finite numbers with 0 < start <= limit, factor >= 1 and a whole "
                "every >= 1."
            )

    def __call__(self, step: int, start: float) -> float:
        """Return beta after `step` steps when it began at `start`."""
        growths = step // self.every
        if growths * math.log(self.factor) >= math.log(self.limit / start):
            return self.limit  # a power this large might overflow
        return start * self.factor**growths


def _sequence(numbers: object) -> tuple[Any, ...]:
    """Return what is no sequence as an empty one."""
    return tuple(numbers) if isinstance(numbers, Iterable) else ()
