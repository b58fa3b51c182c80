"""Jobs that need one another, run a few at a time in worker processes, with progress bars."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from rvsm.atomic import make_folder
from rvsm.bars import progress_bars
from rvsm.errors import RunError

_SHOWN_EVERY_S = 0.2


@dataclass(frozen=True)
class Job:
    """One piece of work for :mod:`rvsm.experiments.worker`.

    Parameters
    ----------
    name
        Unique, and what the user sees.
    order
        What the worker is told.
    needs
        Names of the jobs that have to be finished before.
    last
        Whether its process ends with it. One that made a million images has its memory in a
        million pieces, and would train half as fast.
    """

    name: str
    order: dict[str, Any]
    needs: tuple[str, ...] = ()
    last: bool = False


class _Failure(Exception):
    """A job that did not finish; the text says why."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    logs: Path,
    console: Console,
    finished: Callable[[Job], str],
) -> list[str]:
    """Run jobs in worker processes of one thread each, in order as far as their needs allow.

    Parameters
    ----------
    jobs
        What to do; each needs only jobs before it.
    workers
        How many at a time.
    logs
        Folder for what the workers write to standard error.
    console
        Where the bars and one line per finished job go.
    finished
        Called in the calling thread with each job that finished; what it returns is shown.

    Returns
    -------
    list of str
        One sentence per job that failed; jobs that needed it are left out with it.
    """
    make_folder(logs)
    waiting, done = list(jobs), set[str]()
    running: dict[Future[float], tuple[Job, _Worker]] = {}
    failures: list[str] = []
    idle = [_Worker(logs / f"worker-{number}.log") for number in range(workers)]
    everyone = tuple(idle)
    bars = progress_bars(console)
    with bars, ThreadPoolExecutor(workers) as pool:
        overall = bars.add_task("all steps", total=len(jobs))
        try:
            while waiting or running:
                for job in [job for job in waiting if done.issuperset(job.needs)][: len(idle)]:
                    waiting.remove(job)
                    worker = idle.pop()
                    running[pool.submit(worker.run, job, bars)] = (job, worker)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, worker = running.pop(future)
                    idle.append(worker)
                    try:
                        seconds = future.result()
                    except _Failure as error:
                        failures.append(f"{job.name}: {error}")
                        told = escape(f"{job.name}: {error}")
                        console.print(f"[red]failed[/] {told}", highlight=False)
                        continue
                    done.add(job.name)
                    bars.advance(overall)
                    told = finished(job)
                    console.print(
                        f"{escape(job.name)} [dim]{seconds:.0f} s[/] {escape(told)}",
                        highlight=False,
                    )
        finally:
            for worker in everyone:
                worker.kill()
    for worker in everyone:
        worker.end()
    return failures + [
        f"{job.name}: left out, as it needs {' and '.join(job.needs)}" for job in waiting
    ]


class _Worker:
    """A worker process: started with the first job, kept for the next, replaced if it dies."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self, job: Job, bars: Progress) -> float:
        """Have one job done and pass its progress on; return the seconds it took."""
        started = time.monotonic()
        bar = bars.add_task(job.name, total=None)
        try:
            last = self._converse(job, bars, bar)
        finally:
            bars.remove_task(bar)
        if "error" in last:
            raise _Failure(last["error"])
        if "finished" not in last:
            raise _Failure(f"its process ended with code {self.end()}, see {self._log}")
        if job.last and self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self.end()
        return time.monotonic() - started

    def kill(self) -> None:
        """Stop the process, and the job in it, be it just being started by another thread."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _converse(self, job: Job, bars: Progress, bar: TaskID) -> dict[str, Any]:
        """Send the job, read to its outcome or the end of the process, return the last line."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job.order) + "\n")
            process.stdin.flush()
        last: dict[str, Any] = {}
        shown = 0.0
        for line in process.stdout:
            last = json.loads(line)
            if "done" not in last:
                break
            if time.monotonic() - shown > _SHOWN_EVERY_S:
                shown = time.monotonic()
                bars.update(
                    bar,
                    description=f"{job.name}: {last['what']}",
                    completed=last["done"],
                    total=last["total"],
                )
        return last

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("a", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "rvsm.experiments.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env={
                        **os.environ,
                        "OMP_NUM_THREADS": "1",
                        "MKL_NUM_THREADS": "1",
                        "GLIBC_TUNABLES": _tunables(os.environ.get("GLIBC_TUNABLES", "")),
                    },
                )
            if self._stopped:
                self._process.kill()
        return self._process

    def end(self) -> int | None:
        """Wait for the process to end and forget it; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return code


def _tunables(found: str) -> str:
    """Return the settings of glibc's malloc with huge pages asked for, unless they say otherwise.

    With those a step of the paper's network takes a twentieth to a tenth less.
    """
    if "glibc.malloc.hugetlb" in found:
        return found
    return ":".join(filter(None, [found, "glibc.malloc.hugetlb=1"]))


def raise_failures(failures: Sequence[str]) -> None:
    """Raise one RunError about jobs that failed, the first in words; nothing where none did."""
    if failures:
        steps = "1 step" if len(failures) == 1 else f"{len(failures)} steps"
        raise RunError(
            f"{steps} did not finish, first {failures[0].rstrip('.')}; finished steps are kept: "
            "when the cause is gone, run the same command again."
        )
