"""Spirals and waves on paper by Zham et al. 2017, as Kaggle publishes them (parkinsons-drawings).

Folders are ``[spiral|wave/]training|testing/healthy|parkinson/V01HE01.png``: a volunteer, the
class H or P, the task E (spiral) or O (wave), and the repetition. Volunteers are numbered in each
class by itself, so that V01HE and V01PE are two people and V01HE and V01HO one. Every writer of
the published test split is also in the training split.

Healthy volunteer 55 is nobody: those spirals are the other healthy volunteers', turned by about 18
degrees, and those waves theirs mirrored, equal to the pixel. As a person of their own they would
stand on the other side of a split from what they are copies of.
"""

from __future__ import annotations

import re
from pathlib import Path

from rvsm.handwriting.manifest import SPLIT_NAMES, UNSPLIT
from rvsm.handwriting.readers.base import (
    Collection,
    Files,
    image_files,
    person_row,
    relative,
    require_rows,
)

name = "parkinsons-drawings"
about = "spirals and waves, training/healthy/V01HE01.png (Kaggle parkinsons-drawings)"

CLASSES = ("healthy", "parkinson")
_NAME = re.compile(r"V(\d+)([HP])([EO])(\d+)", re.IGNORECASE)
_COPIES = (55, "H")
_TASKS = {"E": "spiral", "O": "wave"}


def fits(root: Path) -> bool:
    return any(_NAME.fullmatch(path.stem) for path in _first(root))


def _first(root: Path) -> list[Path]:
    return [
        path
        for pattern in ("healthy/V*", "*/healthy/V*", "*/*/healthy/V*")
        for path in sorted(root.glob(pattern))[:1]
    ]


def read(root: Path) -> Collection:
    """List the drawings; splits are those of the folders."""
    rows, left_out, tasks = [], {}, {}
    for path in image_files(root):
        file = relative(path, root)
        found = _NAME.fullmatch(path.stem)
        if not found:
            left_out[file] = "its name does not tell volunteer and task, as V01HE01 does"
            continue
        volunteer, group, task, repetition = (part.upper() for part in found.groups())
        if (int(volunteer), group) == _COPIES:
            left_out[file] = "it is another healthy volunteer's drawing, turned or mirrored"
            tasks[file] = _TASKS[task]
            continue
        split = next((p.lower() for p in path.parts[::-1] if p.lower() in SPLIT_NAMES), "")
        rows.append(
            person_row(
                file,
                f"{group}{int(volunteer):02d}",
                "shaky" if group == "P" else "regular",
                SPLIT_NAMES.get(split, UNSPLIT),
                task=_TASKS[task],
                repetition=str(int(repetition)),
            )
        )
    listed = require_rows(rows, root, "it wants names such as training/healthy/V01HE01.png")
    return Collection(name, root, listed, CLASSES, left_out, Files(root), tasks)
