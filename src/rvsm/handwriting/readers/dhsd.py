"""Words of the German handwriting set DHSD (Riaz et al., CC BY 4.0, Zenodo 18743313).

``data.csv`` has the columns file_name, text, writer_id; ``train.csv`` and ``test.csv`` are the
published splits, which share all writers. The images were scaled to fit 256x64 and carry no scale
in mm; many keep a piece of the ruled line, which `scans.normalise` takes away.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.manifest import UNSPLIT, Row
from rvsm.handwriting.readers.base import Collection, Files, person_row, require_rows
from rvsm.handwriting.readers.table import columns, records
from rvsm.handwriting.wordfiles import INDEX, index

name = "dhsd"
about = "words, data.csv with file_name, text, writer_id, and train.csv, test.csv (DHSD)"

_COLUMNS = {"file_name", "text", "writer_id"}


def fits(root: Path) -> bool:
    path = root / INDEX
    with contextlib.suppress(DataError, OSError):
        return path.is_file() and columns(path) >= _COLUMNS
    return False


def read(root: Path) -> Collection:
    """List the words, with the published splits where the files train.csv and test.csv are."""
    splits = {}
    for split in ("train", "val", "test"):
        if (root / f"{split}.csv").is_file():
            listed = records(root / f"{split}.csv", frozenset(["file_name"]))
            splits.update({record["file_name"]: split for _, record in listed})
    found = index(root)
    rows: list[Row] = []
    for word in found.words:
        file = word.path.relative_to(root).as_posix()
        split = splits.get(file, UNSPLIT)
        rows.append(person_row(file, word.writer, "", split, text=word.text, task="word"))
    left_out = {name: why for kind in found.skipped.values() for name, why in kind.items()}
    return Collection(name, root, require_rows(rows, root, INDEX), None, left_out, Files(root))
