"""Latin letters drawn by twenty people, from the stroke files of Omniglot (Lake et al. 2015, MIT).

The files are `strokes_background*.zip`, or what they unpack to: `.../Latin/characterNN/ID_PP.txt`
for letter NN of the alphabet by person PP, with lines `x,y,t` (y upwards, milliseconds) between
`START` and `BREAK`s that end the strokes.
"""

from __future__ import annotations

import re
import string
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.handwriting.strokefiles import Recording, recorded
from rvsm.handwriting.strokes import RecordedCarrier

Array = npt.NDArray[np.float64]

_NAME = re.compile(r"(?:^|/)Latin/character(\d\d)/\d+_(\d\d)\.txt$")
MOST_BYTES = 1_000_000
"""Of a file of strokes; those of Omniglot have some kB."""


def read_omniglot(path: Path) -> list[RecordedCarrier]:
    """Read the Latin letters of Omniglot: one carrier for each person.

    Parameters
    ----------
    path : Path
        A zip file, a folder of zip files, or an unpacked folder.

    Returns
    -------
    list of RecordedCarrier
        Named ``omniglot-01`` and so on; each knows the letters a to z.

    Raises
    ------
    DataError
        Nothing there, a damaged zip file or stroke file, or no Latin letters.
    """
    letters: dict[tuple[str, str], Recording] = {}
    for name, content in sorted(_files(path)):
        number, person = _NAME.findall(name)[0]
        if 1 <= int(number) <= len(string.ascii_lowercase):
            writer, text = f"omniglot-{person}", string.ascii_lowercase[int(number) - 1]
            strokes = tuple(path[:, :2].copy() for path in parse_strokes(name, content))
            letters.setdefault((writer, text), Recording(writer, text, strokes))
    found = recorded(letters[key] for key in sorted(letters))
    if not found:
        raise DataError(
            f"{path} holds no Latin strokes of Omniglot: give the folder or zip file that has "
            "Latin/character01/..."
        )
    return found


def _files(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        raise DataError(f"There is no file or folder {path}: check the name.")
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            if _NAME.search(file.as_posix()) and file.stat().st_size <= MOST_BYTES:
                yield file.as_posix(), file.read_text(encoding="ascii", errors="replace")
    for archive in sorted(path.glob("*.zip")) if path.is_dir() else [path]:
        with open_zip(archive) as opened:
            for info in opened.infolist():
                if _NAME.search(info.filename) and info.file_size <= MOST_BYTES:
                    text = opened.read(info).decode("ascii", errors="replace")
                    yield info.filename, text


@contextmanager
def open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file and, within, say of a damaged one what it is.

    Raises
    ------
    DataError
        It is no zip file, or a member that is read is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive} is not a sound zip file ({error}): fetch it anew.") from None


def parse_strokes(name: str, content: str) -> list[Array]:
    """The strokes of a file, (n, 3): x and y as they stand, upwards, and t in milliseconds.

    Raises
    ------
    DataError
        A line is not x,y,t.
    """
    strokes: list[list[list[float]]] = [[]]
    for line in content.split():
        if line == "BREAK":
            strokes.append([])
        elif line != "START":
            try:
                x, y, t = (float(value) for value in line.split(","))
            except ValueError:
                raise DataError(
                    f"{name} holds {line[:40]!r} where x,y,t should be: fetch the set anew."
                ) from None
            strokes[-1].append([x, y, t])
    return [np.array(points) for points in strokes if points]
