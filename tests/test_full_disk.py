"""A disk that is really full: a small one in memory, where the system lets the tests mount it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import run_apart


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_data_set_that_does_not_fit(small_disk: Path) -> None:
    (small_disk / "kept.txt").write_text("years of work")
    splits = ("val", "test-paper", "test-unseen", "curve")
    counts = [f"--count={split}=0" for split in splits]
    made = run_apart(
        "data", "make", small_disk / "set", "--workers=1", "--count=train=200", *counts
    )
    assert "the disk is full: free some space" in made.sentence()
    assert [path.name for path in small_disk.iterdir()] == ["kept.txt"]
    assert (small_disk / "kept.txt").read_text() == "years of work"
