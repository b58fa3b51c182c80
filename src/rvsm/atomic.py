"""Files that are either whole or untouched: write beside the target, then rename."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rvsm.errors import RvsmError

_CAUSES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file would pass the size limit of this process or disk: raise the limit",
    errno.EACCES: "permission denied",
    errno.EPERM: "the system does not permit it",
    errno.EBUSY: "it is in use, as a mount point is: name a folder inside it",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOENT: "no such file or folder: check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EISDIR: "it is a folder: give the path of a file",
    errno.EEXIST: "it exists already and is not a folder: choose another path",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}
_PERMITTING = {
    "read": "have it made readable for you, or choose another file",
    "run": "have it made executable for you, or choose another program",
    "use": "have it permitted to you, or choose another path",
}
"""What helps where something is not permitted, by the first word of the action."""


def explain(error: OSError, path: Path | str, action: str = "write") -> str:
    """Return one sentence on an operating system error: what failed, why, and what helps.

    Parameters
    ----------
    error
        The error as caught.
    path
        The file or folder the user knows, which may differ from the one in `error`.
    action
        A verb for "cannot ... PATH".
    """
    known = _CAUSES.get(error.errno) if error.errno is not None else None
    cause = known or f"{error.strerror or error}: check the path and the disk"
    if isinstance(error, PermissionError):
        remedy = _PERMITTING.get(action.split()[0], "choose a folder you may write to")
        cause = f"{cause}: {remedy}"
    return f"Cannot {action} {path}: {cause}."


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Open `path` for writing so that readers see the old file or the whole new one.

    The bytes go to a hidden file in the same folder, are flushed to the disk and renamed over
    the target when the block ends. On any exception, ctrl-C included, the hidden file is removed
    and the target stays as it was. A symbolic link is followed; a replaced file keeps its mode.

    Yields
    ------
    A binary file object.

    Raises
    ------
    RvsmError
        In one sentence, when the file cannot be written (full disk, no permission, no folder).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Not tempfile: its files are private (0600), and a model is as readable as any file.
        stream = temporary.open("xb")
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o7777)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                stream.close()
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary), temporary):
            raise  # the block failed on a file of its own
        raise RvsmError(explain(error, path)) from error


def atomic_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path` by `atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def make_folder(path: Path | str) -> Path:
    """Make a folder with its parents where missing, or raise RvsmError in one sentence."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RvsmError(explain(error, folder, "make the folder")) from error
    return folder


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
