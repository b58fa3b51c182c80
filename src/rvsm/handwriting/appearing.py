"""A data folder that is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rvsm.atomic import explain
from rvsm.errors import DataError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden sibling of `path` that takes its place when all went well, else vanishes.

    Parameters
    ----------
    path
        Nothing yet, an empty folder, or a link to either.

    Yields
    ------
    Path
        An empty folder.

    Raises
    ------
    DataError
        The folder cannot be made, is a mount point, or another process is making it.
    """
    place = Path(os.path.realpath(path))  # a link stays one, and what it leads to is replaced
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(place)
        if place.is_dir():
            _check_replaceable(place, partial)
        partial.mkdir()
        yield partial
        if place.is_dir():
            place.rmdir()
        partial.rename(place)
    except OSError as error:
        raise DataError(explain(error, path, "make the data in")) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(place: Path, aside: Path) -> None:
    """Move an empty folder away and back: a mount point refuses, before anything is rendered."""
    try:
        place.rename(aside)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise
        return  # overlays rename no folder of a lower layer, but let it be replaced
    aside.rename(place)


def _clear_away(place: Path) -> None:
    """Remove what killed runs have left; raise DataError where one is at work: it would win."""
    for left in place.parent.glob(f".{place.name}.partial-*"):
        with suppress(ValueError):
            if _is_running(int(left.name.rpartition("-")[2])):
                raise DataError(
                    f"Another process is making {place}: wait until it has ended, or delete {left} "
                    "if none is."
                )
            shutil.rmtree(left, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
