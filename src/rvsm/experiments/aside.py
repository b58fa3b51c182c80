"""Which images are set aside for validation, and for a test, where a folder does not say."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.manifest import LABELS, UNSPLIT, Row
from rvsm.text import some

SHARE = 8
"""One in so many images of each class goes to each part that is set aside."""


def set_aside(folder: Path, rows: list[Row]) -> list[Row]:
    """Cut a validation split off ``train``, or ``val`` and ``test`` off an unsplit folder.

    At least an eighth of the images of each class go to each part, in the order of a hash of their
    names alone; those of one carrier (font or writer) stay together where there are carriers
    enough.

    Raises
    ------
    DataError
        If there are too few images for both classes to be in every part.
    """
    splits = {row.split for row in rows}
    if "val" in splits or not splits & {"train", UNSPLIT}:
        return rows
    source, parts = ("train", ("val",)) if "train" in splits else (UNSPLIT, ("val", "test"))
    sound = [row for row in rows if row.split == source and not row.error]
    for key in (_carrier, _file):
        names = sorted(
            {key(row) for row in sound}, key=lambda name: (zlib.crc32(name.encode()), name)
        )
        place = places(sound, key, dict.fromkeys(parts, 1 / SHARE), names)
        if place is not None:
            return [
                replace(row, split=place.get(key(row), "train")) if row.split == source else row
                for row in rows
            ]
    counts = Counter(row.label for row in sound)
    raise DataError(
        f"{folder} has too few images: {' and '.join(f'{counts[name]} {name}' for name in LABELS)} "
        f"ones to be cut into train, {' and '.join(parts)}; add more, at least {len(parts) + 1} "
        "of each class."
    )


def note_on(rows: Sequence[Row]) -> str:
    """One sentence where a font or writer is both in ``train`` and in what was chosen by it.

    Parameters
    ----------
    rows : sequence of Row
        As `set_aside` returns them.

    Returns
    -------
    str
        Empty where those of ``val`` and of a ``test`` that is set aside are in no other split.
    """
    by_split: dict[str, set[str]] = {}
    for row in rows:
        if row.carrier and not row.error:
            by_split.setdefault(row.split, set()).add(row.carrier)
    train = by_split.get("train", set())
    for split in ("val", "test"):
        if shared := sorted(train & by_split.get(split, set())):
            return (
                f"{len(shared)} fonts or writers are in both train and {split} ({some(shared)}): "
                "its scores are those of hands that were seen."
            )
    return ""


def _carrier(row: Row) -> str:
    return row.carrier or row.file


def _file(row: Row) -> str:
    return row.file


def places(
    rows: Sequence[Row],
    key: Callable[[Row], str],
    shares: Mapping[str, float],
    order: Sequence[str],
) -> dict[str, str] | None:
    """Return the part of each group that is set aside, or None where a class would be missing.

    Parameters
    ----------
    rows : sequence of Row
    key : callable
        Names the group of a row, which is never torn apart.
    shares : mapping of str to float
        How many of the images of each class a part has at least.
    order : sequence of str
        All groups, in the order in which they are taken.
    """
    images: dict[str, Counter[str]] = {}
    for row in rows:
        images.setdefault(key(row), Counter())[row.label] += 1
    whole = Counter(row.label for row in rows)
    place: dict[str, str] = {}
    for part, share in shares.items():
        held: Counter[str] = Counter()
        for label in LABELS:
            wanted = max(1, math.ceil(round(share * whole[label], 6)))
            for name in order:
                if held[label] >= wanted:
                    break
                if name not in place and images[name][label]:
                    place[name] = part
                    held += images[name]
            else:
                if held[label] < wanted:
                    return None
    rest: Counter[str] = sum((images[name] for name in images if name not in place), Counter())
    return place if all(rest[label] for label in LABELS) else None
