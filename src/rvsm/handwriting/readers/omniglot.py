"""Characters of 50 alphabets drawn online by twenty people each (Omniglot, Lake et al. 2015, MIT).

``strokes_background*.zip``, or what they unpack to: ``.../ALPHABET/characterNN/ID_PP.txt`` with
lines ``x,y,t`` in pixels of a canvas and ms, ``START`` and ``BREAK``. People are numbered in each
alphabet by itself. For texts made of the Latin letters see `rvsm.handwriting.omniglot`.
"""

from __future__ import annotations

import re
import string
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.omniglot import MOST_BYTES, open_zip, parse_strokes
from rvsm.handwriting.readers.base import (
    Collection,
    person_row,
    relative,
    require_rows,
)
from rvsm.handwriting.readers.redraw import redraw
from rvsm.handwriting.timed import TimedStrokes

name = "omniglot"
about = "timed strokes, strokes_background*.zip or ALPHABET/character01/0001_01.txt (Omniglot)"

_NAME = re.compile(r"(?:^|/)([^/]+)/character(\d\d)/\d+_(\d\d)\.txt$")


def fits(root: Path) -> bool:
    if root.is_file():
        return zipfile.is_zipfile(root) and _holds_characters(root)
    for pattern in ("strokes_*.zip", "character01/*_*.txt", "*/character01/*_*.txt"):
        if next(root.glob(pattern), None) is not None:
            return True
    return next(root.glob("*/*/character01/*_*.txt"), None) is not None


def _holds_characters(archive: Path) -> bool:
    with zipfile.ZipFile(archive) as opened:
        return any(_NAME.search(member) for member in opened.namelist())


def read(root: Path) -> Collection:
    """List the characters; `Row.text` is a letter a to z, or alphabet and number.

    The archives small1 and small2 share alphabets: of drawings of one name the first is listed.
    """
    folder = root.parent if root.is_file() else root
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}
    for file in _names(root, folder):
        found = _NAME.search(file)
        assert found is not None
        if seen.setdefault(found[0].lstrip("/"), file) != file:
            left_out[file] = "the drawing of this name in another archive is listed"
            continue
        alphabet, number, person = found.groups()
        latin = alphabet == "Latin" and 1 <= int(number) <= len(string.ascii_lowercase)
        text = string.ascii_lowercase[int(number) - 1] if latin else f"{alphabet} {number}"
        rows.append(person_row(file, f"{alphabet}-{person}", "", text=text, task="character"))
    wanted = "it wants strokes_background*.zip or ALPHABET/character01/0001_01.txt"
    listed = require_rows(rows, root, wanted)
    return Collection(name, folder, listed, None, left_out, _Characters(folder))


def _names(root: Path, folder: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.txt")) if root.is_dir() else ():
        if _NAME.search(path.as_posix()):
            yield relative(path, folder)
    for archive in sorted(root.glob("*.zip")) if root.is_dir() else [root]:
        with open_zip(archive) as members:
            names = sorted(member for member in members.namelist() if _NAME.search(member))
        yield from (f"{relative(archive, folder)}#{member}" for member in names)


@dataclass(frozen=True)
class _Characters:
    root: Path

    def strokes(self, row: Row) -> TimedStrokes:
        file, _, member = row.file.partition("#")
        path = self.root / file
        try:
            if member:
                with open_zip(path) as members:
                    if members.getinfo(member).file_size > MOST_BYTES:
                        raise DataError(f"{row.file} is larger than 1 MB: fetch the set anew.")
                    content = members.read(member)
            else:
                content = path.read_bytes()[: MOST_BYTES + 1]
        except (KeyError, OSError) as error:
            raise DataError(f"{row.file} cannot be read ({error}): fetch the set anew.") from None
        return timed(row.file, content.decode("ascii", errors="replace"))

    def picture(self, row: Row) -> Image.Image:
        return redraw(self.strokes(row))


def timed(name: str, content: str) -> TimedStrokes:
    """The strokes of a file, in seconds from the first point; y upwards, no scale in mm.

    Raises
    ------
    DataError
        A line is not x,y,t.
    """
    paths = [path[:, [2, 0, 1]] / (1000.0, 1.0, 1.0) for path in parse_strokes(name, content)]
    if not paths:
        raise DataError(f"{name} holds no points: fetch the set anew.")
    start = np.array([paths[0][0, 0], 0.0, 0.0])
    return TimedStrokes(tuple(path - start for path in paths), in_mm=False)
