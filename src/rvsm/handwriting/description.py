"""What a data folder says of itself in dataset.json, and whether its images are all there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rvsm.errors import DataError
from rvsm.handwriting.figures.sampler import SIZES
from rvsm.handwriting.images import SIZE
from rvsm.handwriting.manifest import MANIFEST
from rvsm.jsonfiles import read_object

DATASET = "dataset.json"
DRAWING = "drawing"
"""The task of drawings that people are asked for and `figures` does not draw."""

_SIZES = {**SIZES, DRAWING: (256, 256)}


class _Options(BaseModel):
    images: dict[str, int] = {}
    source: dict[str, Any] = {}
    pairs: bool = False


class _Matched(BaseModel):
    acceptance: float
    gap: float


class _Description(BaseModel):
    """Types of what makes data folders writes; of one of the user's own any of it may lack."""

    task: str = ""
    set: str = ""
    seed: int = 0
    generator: str = ""
    options: _Options = _Options()
    counts: dict[str, dict[str, int]] = {}
    carriers: dict[str, list[str]] = {}
    matching: dict[str, _Matched] = {}
    idle: dict[str, list[str]] = {}
    skipped: dict[str, dict[str, str]] = {}


def read_description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of a folder's dataset.json, or None where there is none.

    Raises
    ------
    DataError
        It cannot be read, or is damaged.
    """
    file = Path(path) / DATASET
    try:
        return read_object(file, _Description)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}): make the data set again, or move that file away if "
            "the images are your own."
        ) from error


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write a folder's dataset.json."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / DATASET).write_text(text, encoding="utf-8")


def whole_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rows and columns of the images of a folder, by the task that its dataset.json names."""
    return size_of((read_description(path) or {}).get("task", ""))


def size_of(task: str) -> tuple[int, int]:
    """Rows and columns of the images of a task: 64 x 256, but of drawings."""
    return _SIZES.get(task, SIZE)


def lacking(path: Path, counts: dict[str, dict[str, int]]) -> list[str]:
    """What of a made data set is gone, in words; images are counted, not opened.

    Parameters
    ----------
    path
        The data folder.
    counts
        Images by split and label, as its dataset.json says.
    """
    gone = [] if (path / MANIFEST).is_file() else [MANIFEST]
    for split, by_label in counts.items():
        for label, count in by_label.items():
            there = _files(path / split / label)
            if there < count:
                gone.append(f"{count - there} of {count} images of {split}/{label}")
    return gone


def _files(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.is_file() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return 0
