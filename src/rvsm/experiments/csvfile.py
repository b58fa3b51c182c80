"""A CSV file that grows line by line and, stopped at any moment, is gone on with."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rvsm.atomic import explain
from rvsm.errors import DataError, RvsmError
from rvsm.experiments.runs import locked_file


class GrowingCsv:
    """The open file: its whole rows, and how to go on after some of them.

    Attributes
    ----------
    rows : list of list of str
        Whole rows that an earlier, stopped command left, without the heading.
    """

    def __init__(self, stream: io.BufferedRandom, columns: Sequence[str]) -> None:
        self._stream = stream
        self._header = text_of([columns])
        self.rows: list[list[str]] = []
        self._ends: list[int] = []
        stream.seek(0)
        content = stream.read()
        if not content.startswith(self._header):
            return
        end = len(self._header)
        # A name may hold a line feed, and the last row be half there: a whole one is as it would be
        # written.
        reader = csv.reader(io.StringIO(content[end:].decode("utf-8", "replace"), newline=""))
        for row in reader:
            line = text_of([row])
            if len(row) != len(columns) or content[end : end + len(line)] != line:
                break
            end += len(line)
            self.rows.append(row)
            self._ends.append(end)

    def keep(self, count: int) -> None:
        """Cut off what comes after the first `count` rows; needed once, before `write`."""
        del self.rows[count:], self._ends[count:]
        end = self._ends[-1] if self._ends else 0
        self._stream.truncate(end)
        self._stream.seek(0, os.SEEK_END)
        if not end:
            self._stream.write(self._header)
            self._stream.flush()

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Append rows, and let no crash of this process lose them."""
        self._stream.write(text_of(rows))
        self._stream.flush()


@contextmanager
def growing_csv(out: Path, columns: Sequence[str], told: object) -> Iterator[GrowingCsv]:
    """Write a CSV file in a hidden one beside it, which takes its name when the block ends well.

    Parameters
    ----------
    out : Path
    columns : sequence of str
        The heading.
    told : object
        All that rows depend on, as JSON can hold it: of other rows nothing is gone on with.

    Raises
    ------
    RvsmError
        `out` is a folder or cannot be written, or another process writes it.
    """
    if out.is_dir():
        raise DataError(f"--out {out} is a folder: give the name of a CSV file.")
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
    part = out.with_name(f".{out.name[:100]}.{key}.part")
    try:
        with part.open("a+b") as stream, locked_file(stream, out):
            yield GrowingCsv(stream, columns)
            os.fsync(stream.fileno())
            part.replace(out)
    except OSError as error:
        raise RvsmError(explain(error, out)) from error


def name_of(file: Path) -> str:
    """A file's name as the CSV file holds it."""
    return str(file).encode("utf-8", "replace").decode()


def text_of(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as bytes of the file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
