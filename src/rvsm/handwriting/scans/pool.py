"""Work that a pool of processes does, its results in a fixed order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar, cast

from rvsm.errors import DataError
from rvsm.parent import end_with_parent

T = TypeVar("T")
R = TypeVar("R")

_WAITING = 3  # tasks in work or done for each process: what bounds the memory
_work: dict[str, Callable[[Any], Any]] = {}


def in_order(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """What a function makes of each task, in the order of the tasks.

    The processes begin at once, not only when the first result is asked for. Each gets the function
    once, however large what it holds, and so keeps what it computes of that.

    Parameters
    ----------
    function : callable
        Can be pickled, as can tasks and results.
    tasks : sequence
    workers : int
        Processes; 1 works in this one. No more than three results wait for each.

    Raises
    ------
    DataError
        A process was killed.
    """
    if workers == 1 or len(tasks) <= 1:
        return map(function, tasks)
    found = _in_order(function, tasks, workers)
    next(found)
    return cast("Iterator[R]", found)


def _begin(function: Callable[[Any], Any]) -> None:
    end_with_parent()
    _work["function"] = function


def _done(task: Any) -> Any:
    return _work["function"](task)


def _in_order(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R | None]:
    """None once the processes are at work, then the results."""
    waiting: deque[Future[R]] = deque()
    # Not forked: a process with the threads of torch in it may hang.
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), get_context("spawn"), initializer=_begin, initargs=(function,)
    )
    at_once = _WAITING * workers
    try:
        waiting.extend(pool.submit(_done, task) for task in tasks[:at_once])
        yield None
        for task in tasks[at_once:]:
            result = waiting.popleft().result()
            waiting.append(pool.submit(_done, task))
            yield result
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "A process that reads images was ended from outside, perhaps for want of memory: run "
            "the same command again, which goes on, or with --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
