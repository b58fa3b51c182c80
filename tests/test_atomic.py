import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rvsm.atomic import atomic_text, atomic_write, explain, make_folder
from rvsm.errors import RvsmError


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    atomic_text(target, "one")
    atomic_text(target, "zwei ü")
    assert target.read_text("utf-8") == "zwei ü"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(target) as stream:
            stream.write(b"half of the new")
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A file size limit fails in the same system calls as a full disk, at a byte we choose."""
    target = tmp_path / "model"
    target.write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from rvsm.atomic import atomic_write\n"
        "from rvsm.errors import RvsmError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    with atomic_write(sys.argv[1]) as stream:\n"
        "        for _ in range(100):\n"
        "            stream.write(bytes(1000))\n"
        "except RvsmError as error:\n"
        "    print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert str(target) in done.stdout
    assert "size limit" in done.stdout
    assert done.stderr == ""
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_full_disk_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RvsmError, match=r"file: the disk is full: free some space\.$"):
        atomic_text(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


def test_impossible_targets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    for target, cause in [
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "file", "no such file or folder"),
        (tmp_path / "plain" / "file", "is a file, not a folder"),
    ]:
        with pytest.raises(RvsmError, match=cause) as caught:
            atomic_text(target, "x")
        assert str(target) in str(caught.value)


def test_an_error_of_the_block_itself_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        (tmp_path / "absent").read_bytes()


def test_mode_and_links(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_text(target, "x")
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert target.stat().st_mode == plain.stat().st_mode
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    atomic_text(link, "y")
    assert link.is_symlink()
    assert target.read_text() == "y"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_make_folder(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "plain").write_text("x")
    for target in (tmp_path / "plain", tmp_path / "plain" / "c"):
        with pytest.raises(RvsmError, match="plain"):
            make_folder(target)


def test_explain_falls_back_on_the_system() -> None:
    sentence = explain(OSError(errno.EIO, "Input/output error"), "x", "read")
    assert sentence == "Cannot read x: Input/output error: check the path and the disk."


@pytest.mark.parametrize(
    ("action", "remedy"),
    [
        ("read", "have it made readable"),
        ("read the configuration", "have it made readable"),
        ("run", "executable"),
        ("write", "choose a folder you may write to"),
        ("make the folder", "choose a folder you may write to"),
    ],
)
def test_what_is_not_permitted_has_a_remedy_that_fits(action: str, remedy: str) -> None:
    for number in (errno.EACCES, errno.EPERM):
        sentence = explain(PermissionError(number, os.strerror(number)), "x", action)
        assert sentence.startswith(f"Cannot {action} x: ")
        assert remedy in sentence
