"""One thread that does all the work of the page, one job after the other."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rvsm.errors import RvsmError

T = TypeVar("T")


class Busy(RvsmError):
    """Too many jobs wait already, or a job took too long."""


class Worker:
    """Runs jobs in a thread of its own; those that cannot be waited for are refused.

    Parameters
    ----------
    waiting
        Jobs that may wait while one runs.
    timeout_s
        How long a job may wait and run together.
    """

    def __init__(self, waiting: int = 8, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue(waiting)
        # A daemon: ctrl-C does not wait for a job that hangs.
        self._thread = threading.Thread(target=self._work, name="rvsm-serve", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """Wait for a job's result, or raise what it raised.

        Raises
        ------
        Busy
            The queue is full, or the time is over; a job that has not begun then never does.
        """
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((future, job))
        except queue.Full:
            raise Busy("The page is busy with other drawings: try again in a moment.") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout_s)
        except TimeoutError:
            raise Busy(
                f"No answer within {self.timeout_s:g} seconds: try again, with a smaller scan."
            ) from None

    def close(self, within_s: float = 3.0) -> None:
        """Drop what waits, and give the job that runs a moment to end."""
        while True:
            try:
                dropped = self._jobs.get_nowait()
            except queue.Empty:
                break
            if dropped is not None:
                dropped[0].cancel()
        self._jobs.put(None)
        self._thread.join(within_s)

    def _work(self) -> None:
        while (taken := self._jobs.get()) is not None:
            future, job = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
