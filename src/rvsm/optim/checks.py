"""What numbers and steps may be, wherever the optimizers are given one."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from rvsm.errors import RuleError


def is_number(number: object) -> TypeGuard[float]:
    """Say whether `number` is a finite real number: no bool, no text, no tensor."""
    return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)


def is_steps(steps: object, least: int = 0) -> TypeGuard[int]:
    """Say whether `steps` is a whole number that is at least `least`."""
    return isinstance(steps, Integral) and not isinstance(steps, bool) and int(steps) >= least


def check_number(name: str, number: object, *, positive: bool = False) -> None:
    """Raise RuleError unless `number` is finite and >= 0, or > 0 if `positive`."""
    if not is_number(number) or number < 0 or (positive and number == 0):
        bound = "> 0" if positive else ">= 0"
        raise RuleError(f"{name} must be a finite number {bound}, not {number!r}.")


def check_share(name: str, share: object, interval: str, meaning: str) -> None:
    """Raise RuleError unless `share` lies in `interval`: "[0, 1)" or another from 0 to 1."""
    inside = is_number(share) and (
        0 < share < 1
        or (share == 0 and interval.startswith("["))
        or (share == 1 and interval.endswith("]"))
    )
    if not inside:
        raise RuleError(f"{name} must lie in {interval}, {meaning}, not {share!r}.")


def check_steps(name: str, steps: object, least: int = 0) -> None:
    """Raise RuleError unless `steps` is a whole number that is at least `least`."""
    if not is_steps(steps, least):
        remedy = "; round it" if is_number(steps) and steps >= least else ""
        raise RuleError(
            f"{name} must be a number of steps >= {least}, a whole one, not {steps!r}{remedy}."
        )
