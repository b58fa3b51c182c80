"""Times of several functions, called in turns: each round has every one of them in it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_BLOCK = 2e-3
"""Seconds of calls between two readings of a clock, where one call is shorter."""

_LEAST = 5
_SHORT = 0.05


@dataclass
class Times:
    """Seconds of a call in each round: processor time of the whole process, and wall clock."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def of(self, clock: str) -> list[float]:
        """Return the seconds by ``"cpu"`` or ``"wall"``."""
        return self.cpu if clock == "cpu" else self.wall

    def median(self, clock: str) -> float:
        """Return the median of a call, in seconds."""
        return statistics.median(self.of(clock))


def interleave(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Times]:
    """Call functions in turns.

    Parameters
    ----------
    sides
        What to call, by name.
    seconds
        Of wall clock for each side; at least five rounds are made.

    Notes
    -----
    In a round each side is called as often as takes two milliseconds, at least once, and before
    its clocks start once more where it is quick: what ran before it has emptied the caches, and
    threads of other libraries spin for a while before they sleep.
    """
    repeats = {name: _repeats(side) for name, side in sides.items()}
    times = {name: Times() for name in sides}
    order = list(sides)
    end = time.perf_counter() + seconds * len(order)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while time.perf_counter() < end or min(len(one.cpu) for one in times.values()) < _LEAST:
            for name in order:
                _block(sides[name], repeats[name], times[name])
            # nobody always runs after the same other
            order = order[1:] + order[:1]
    finally:
        if collecting:
            gc.enable()
    return times


def ratio(above: Times, below: Times, clock: str) -> float:
    """Return the median of the rounds' ratios."""
    pairs = zip(above.of(clock), below.of(clock), strict=True)
    return statistics.median(one / other for one, other in pairs)


def _block(side: Callable[[], object], repeats: int, found: Times) -> None:
    if repeats > 1 or not found.wall or found.wall[-1] < _SHORT:
        side()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        side()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found.cpu.append(cpu / repeats)
    found.wall.append(wall / repeats)


def _repeats(side: Callable[[], object]) -> int:
    """Return how many calls fill a block, after some to warm up."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        side()
        best = min(best, time.process_time() - start)
        if best > 1:
            break
    return max(1, round(_BLOCK / max(best, 1e-7)))
