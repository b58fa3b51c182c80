"""Readers of published sets and of any user's scans: one layout a file, one result.

>>> collection = read("parkinsons-drawings")        # doctest: +SKIP
>>> row = collection.rows[0]                        # doctest: +SKIP
>>> row.carrier, row.label, row.split, row.task     # doctest: +SKIP
('H01', 'regular', 'test', 'spiral')
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.manifest import MANIFEST, PERSON, list_images
from rvsm.handwriting.readers import dhsd, drawings, folders, handpd, idx, omniglot, table, uci
from rvsm.handwriting.readers.base import (
    Collection,
    Files,
    Reader,
    Source,
    class_of,
)
from rvsm.handwriting.readers.persons import person_in, person_pattern, persons_of, with_persons
from rvsm.handwriting.readers.redraw import redraw
from rvsm.handwriting.timed import TimedStrokes

__all__ = [
    "LAYOUTS",
    "PERSON",
    "Collection",
    "Files",
    "Reader",
    "Source",
    "TimedStrokes",
    "class_of",
    "is_own",
    "layout_of",
    "person_in",
    "person_pattern",
    "persons_of",
    "read",
    "redraw",
    "with_persons",
]

LAYOUTS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        dhsd,
        drawings,
        uci,
        handpd.NewHandPD(),
        handpd.HandPD(),
        omniglot,
        idx,
        table,
        folders,
    )
}
"""Readers by name, the most particular first: the first that fits reads a folder."""


def is_own(root: str | os.PathLike[str]) -> bool:
    """Whether a folder is in the form that rvsm writes: a manifest, or regular and shaky.

    True also of what is no data set at all, so that its own errors are told.
    """
    path = Path(root)
    if path.is_file() or not path.is_dir():
        return not path.is_file()
    first = next((name for name, reader in LAYOUTS.items() if reader.fits(path)), folders.name)
    if first != folders.name:
        return False
    return (path / MANIFEST).is_file() or bool(list_images(path)) or not folders.fits(path)


def layout_of(root: str | os.PathLike[str]) -> str:
    """Name of the first layout that a file or folder looks like.

    Raises
    ------
    DataError
        It does not exist, or looks like none.
    """
    path = Path(root)
    if not path.exists():
        raise DataError(f"There is no file or folder {path}: check the name.")
    for name, reader in LAYOUTS.items():
        if reader.fits(path):
            return name
    if path.is_file():
        if table.is_table(path):
            return table.name  # whose reader says what its columns lack
        raise DataError(
            f"{path} is no set that is one file (a CSV list, a zip of Omniglot, idx): name its "
            "folder, or ask about a picture or PDF with `rvsm predict`."
        )
    raise DataError(
        f"{path} looks like none of the known layouts ({', '.join(LAYOUTS)}): put images into "
        f"{path}/regular and {path}/shaky, or list them in a CSV file with a column file."
    )


def read(
    root: str | os.PathLike[str], layout: str | None = None, person: str | None = None
) -> Collection:
    """Read a set of handwriting or drawings where it lies; nothing is copied.

    Parameters
    ----------
    root : path-like
        Its folder, or the file of a set that is one file.
    layout : str, optional
        One of `LAYOUTS`; by default the first that fits.
    person : str, optional
        Regular expression with one group that finds the person in the path of each row, in place
        of what the reader knows.

    Returns
    -------
    Collection

    Raises
    ------
    DataError
        Nothing there, another layout, damaged files, or a pattern that does not work.
    """
    path = Path(root)
    name = layout_of(path) if layout is None else layout
    if name not in LAYOUTS:
        raise DataError(f"There is no layout {name!r}: choose one of {', '.join(LAYOUTS)}.")
    if not path.exists():
        raise DataError(f"There is no file or folder {path}: check the name.")
    found = LAYOUTS[name].read(path)
    return found if person is None else replace(found, rows=with_persons(found.rows, person))
