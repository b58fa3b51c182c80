"""Rows in files: one JSON object a line, written whole, by several processes at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from benchmarks.frontier.options import Run
from rvsm.atomic import atomic_text, explain, make_folder
from rvsm.errors import DataError, RunError
from rvsm.experiments.runs import locked

Row = dict[str, Any]
_NEEDED = {"purpose", "network", "data", "method", "sparsity", "seed", "options"}
_ORDER = ("purpose", "data", "sparsity", "method", "setting", "seed", "epochs")


class Store:
    """The rows of all runs, in a folder with a file for each group.

    Parameters
    ----------
    folder : Path
        Made where it is missing. Locks and the networks that runs leave are in hidden folders
        within.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, group: str) -> Path:
        """Return the file of a group."""
        return self.folder / f"{group}.json"

    def groups(self) -> list[str]:
        """Return the groups that have rows."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def rows(self, group: str | None = None) -> list[Row]:
        """Return the rows of a group, or of all.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        if group is None:
            return [row for name in self.groups() for row in self.rows(name)]
        path = self.path(group)
        try:
            rows = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(explain(error, path, "read")) from error
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); restore it from git.") from error
        sound = isinstance(rows, list) and all(
            isinstance(row, dict) and row.keys() >= _NEEDED for row in rows
        )
        if not sound:
            raise DataError(f"{path} holds no rows of runs; restore it from git.")
        return cast("list[Row]", rows)

    def by_key(self) -> dict[str, Row]:
        """Return all rows by the key of their run."""
        return {Run.of(row).key: row for row in self.rows()}

    def find(self, run: Run) -> Row | None:
        """Return the row of a run, None where there is none."""
        rows = (row for row in self.rows(run.group) if Run.of(row).key == run.key)
        return next(rows, None)

    def add(self, row: Row) -> None:
        """Put a row into its group's file, in place of one of the same run.

        Another process may do the same at the same time: neither loses a row.
        """
        run = Run.of(row)
        with _waiting(self._hidden("locks", run.group)):
            rows = [other for other in self.rows(run.group) if Run.of(other).key != run.key]
            rows.append(row)
            rows.sort(key=lambda r: [str(r[name]) for name in _ORDER] + [Run.of(r).key])
            lines = ",\n".join(json.dumps(r) for r in rows)
            atomic_text(self.path(run.group), f"[\n{lines}\n]\n")

    def model_path(self, run: Run) -> Path:
        """Return where the network that a run leaves is kept, on this machine alone."""
        return self._hidden("networks") / f"{run.digest}.safetensors"

    @contextlib.contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Say whether the run is this process's to do, until the block ends.

        The system frees the claim of a killed process.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._hidden("locks", run.digest)))
            except RunError:
                yield False
                return
            yield True

    def _hidden(self, *names: str) -> Path:
        return make_folder(self.folder.joinpath(f".{names[0]}", *names[1:]))


@contextlib.contextmanager
def _waiting(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, however long another process does."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: one worker only
        yield
        return
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
