"""Image files as a network reads them, made ready by a pool of processes, in a fixed order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage, read_grey, read_picture
from rvsm.handwriting.scans.normalise import normalise, to_network
from rvsm.handwriting.scans.pages import page_frames
from rvsm.handwriting.scans.verdict import judge
from rvsm.parent import end_with_parent

_CHUNK = 32
_OF_PAGES = frozenset([".tif", ".tiff"])
_LEAST_CONTRAST = 10  # of 255: faint pencil has more
_WAITING = 3  # chunks in work or ready for each process: what bounds the memory


@dataclass(frozen=True, slots=True)
class Ready:
    """One file: its image (64, 256), or why there is none and whether it could be read at all."""

    file: Path
    image: GreyImage | None
    reason: str = ""
    unreadable: bool = False


def ready(file: Path, scan: bool) -> Ready:
    """Read one image file.

    Parameters
    ----------
    file : Path
    scan : bool
        Normalise it as a scan of one word or drawing, and refuse what is no writing; otherwise fit
        it as it is, as training does, and refuse only an even ground.

    Returns
    -------
    Ready
        A PDF, a TIFF of several pages and strokes in JSON are unreadable here, and told so.
    """
    try:
        _check_kind(file)
        if not scan:
            image = read_grey(file)
            if int(image.max()) - int(image.min()) < _LEAST_CONTRAST:
                return Ready(file, None, "there is no ink")
            return Ready(file, image)
        found = normalise(read_picture(file), deskew=True, rules=True)
    except DataError as error:
        return Ready(file, None, str(error), unreadable=True)
    verdict = judge(found)
    return Ready(file, to_network(found)) if verdict.writing else Ready(file, None, verdict.reason)


def _check_kind(file: Path) -> None:
    suffix = file.suffix.lower()
    if suffix == ".json":
        raise DataError(f"{file} is no image: ask about strokes without --out.")
    if suffix in _OF_PAGES and (pages := len(page_frames(file))) > 1:
        raise DataError(
            f"{file} has {pages} pages: ask about each with --pages, or save one as a picture."
        )


def _chunk(files: Sequence[Path], scan: bool) -> list[Ready]:
    return [ready(file, scan) for file in files]


def all_ready(files: Sequence[Path], scan: bool, workers: int) -> Iterator[list[Ready]]:
    """Read many files, 32 at a time, in their order.

    Parameters
    ----------
    files : sequence of Path
    scan : bool
        See `ready`.
    workers : int
        Processes; 1 reads in this one. No more than three times 32 images wait for each.

    Yields
    ------
    list of Ready

    Raises
    ------
    DataError
        A process was killed.
    """
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield _chunk(chunk, scan)
        return
    waiting: deque[Future[list[Ready]]] = deque()
    # Not forked: a process with the threads of torch in it may hang.
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)), get_context("spawn"), initializer=end_with_parent
    )
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_chunk, chunk, scan))
            if len(waiting) == _WAITING * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "A process that reads images was ended from outside, perhaps for want of memory: run "
            "the same command again, which goes on, or with --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
