"""rvsm.handwriting.scans.pool: results in order, the processes at work from the start."""

import os
import time
from pathlib import Path

from rvsm.handwriting.scans.pool import in_order


def touch(path: Path) -> str:
    path.touch()
    return path.name


def test_processes_begin_before_a_result_is_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02d}" for number in range(20)]
    found = in_order(touch, paths, 2)
    end = time.monotonic() + 60
    while not paths[5].exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    # Three for each process, no more until they are fetched: what bounds the memory.
    assert sorted(tmp_path.iterdir()) == paths[:6]
    assert list(found) == [path.name for path in paths]


def test_one_process_works_when_asked(tmp_path: Path) -> None:
    found = in_order(touch, [tmp_path / "a", tmp_path / "b"], 1)
    assert not list(tmp_path.iterdir())
    assert list(found) == ["a", "b"]


class Counting:
    """How often it was called, in whichever process."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, task: int) -> tuple[int, int]:
        self.calls += 1
        return os.getpid(), self.calls


def test_a_process_gets_the_function_once_and_keeps_what_it_computed() -> None:
    found = list(in_order(Counting(), range(12), 2))
    for process in {process for process, _ in found}:
        calls = [calls for one, calls in found if one == process]
        assert calls == list(range(1, len(calls) + 1))
