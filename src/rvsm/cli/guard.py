"""What every command shares: errors in one sentence, ends by signals, progress bars."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import typer

from rvsm.errors import RvsmError

debugging = ContextVar("debugging", default=False)
"""Whether --debug was given: errors then show where they came from."""

# The modules that come with rvsm[handwriting]: without them the application asks for the extra.
_EXTRA = {
    "HersheyFonts",
    "PIL",
    "jinja2",
    "lightning",
    "matplotlib",
    "pandas",
    "pydantic",
    "pypdfium2",
    "pytorch_optimizer",
    "scipy",
    "skimage",
    "sklearn",
    "tensorboard",
    "tifffile",
    "tomli_w",
}
_SERVE = {"starlette", "uvicorn"}


class Terminated(KeyboardInterrupt):
    """SIGTERM: an interruption like Ctrl-C, with an exit code of its own."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with its errors printed as one sentence and turned into exit codes."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            with _terminable():
                command(*arguments, **options)
        except (Exception, KeyboardInterrupt) as error:
            if type(error).__module__.startswith(("typer", "click")):
                raise  # wrong usage, or an exit that was meant
            sentence, code = explain_error(error)
            if sentence is None or debugging.get():
                raise
            print(sentence, file=sys.stderr)
            raise typer.Exit(code) from None

    return run


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM unwind the command as Ctrl-C does, so that its processes end and it says so."""
    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread may, and whoever has us ignore the signal shall have it so.
    if before is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        # `timeout` sends it twice: what cleans up is not to be stopped in turn.
        if not stopping:
            stopping = True
            raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def explain_error(error: BaseException) -> tuple[str | None, int]:
    """Return the sentence for an error, None for a fault of our own, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        code = 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
        told = "Stopped. What was finished is kept; the same command continues where it can."
        return told, code
    if isinstance(error, RvsmError):
        return f"Error: {error}", 1
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        if name in _EXTRA | _SERVE:
            extra = "serve" if name in _SERVE else "handwriting"
            return (
                f"Error: this command needs {error.name}, which is not installed: "
                f"pip install 'rvsm[{extra}]'",
                1,
            )
        return None, 1
    if isinstance(error, BrokenPipeError):
        return None, 1  # typer ends quietly when the reader of a pipe has gone
    if isinstance(error, OSError):
        from rvsm.atomic import explain

        return f"Error: {explain(error, error.filename or 'a file', 'use')}", 1
    # torch's allocator raises a RuntimeError of its own words.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "Error: not enough memory: close other programs or use less data at once.", 1
    return None, 1


class Bars:
    """Progress bars on standard error, one for each thing that reports how far it is.

    A context manager; call it with (what, done, total). Where standard error is no terminal, a
    line is printed when a thing is finished.
    """

    def __init__(self) -> None:
        from rich.console import Console

        from rvsm.bars import progress_bars

        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self._progress = progress_bars(console, disable=not self._terminal)
        self._tasks: dict[str, Any] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._terminal:
            if done >= total and what not in self._told:
                self._told.add(what)
                print(f"{what}: {done}", file=sys.stderr, flush=True)
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def named(self, what: str) -> Callable[[int, int], None]:
        """Return a callback (done, total) for one thing."""
        return functools.partial(self, what)
