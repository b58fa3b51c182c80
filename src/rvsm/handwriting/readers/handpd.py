"""HandPD and NewHandPD (Pereira et al. 2016, UNESP): drawings over a printed template.

NewHandPD has ``HealthySpiral/sp1-H28.jpg`` and ``PatientSpiral/sp1-P3.jpg``: the number after the
letter is the person, H and P counted apart, and sp1 to sp4 the repetition; meanders are mea1 to
mea4, circles circA and the like. HandPD has ``SpiralControl/0001-1.jpg`` and
``SpiralPatients/0101-3.jpg``: the exam and the repetition, and tables ``Spiral_HandPD.csv`` whose
ID_PATIENT names the person. The template is printed in black, the pen is blue.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.readers.base import (
    Collection,
    Files,
    image_files,
    person_row,
    relative,
    require_rows,
)

CLASSES = ("healthy", "patient")
_NEW = re.compile(r"(sp|mea|circ)([0-9A-Z]*)-([HP])(\d+)", re.IGNORECASE)
_OLD = re.compile(r"(\d+)-(\d+)")
_OLD_FOLDER = re.compile(r"(spiral|meander|circle)_?(control|patients?)", re.IGNORECASE)
_TASKS = {"sp": "spiral", "mea": "meander", "circ": "circle"}


class NewHandPD:
    """The set of 2016 with 66 people."""

    name = "newhandpd"
    about = "HealthySpiral/sp1-H28.jpg, PatientMeander/mea2-P3.jpg (NewHandPD)"

    def fits(self, root: Path) -> bool:
        near = [*root.glob("*-[HP]*.*"), *root.glob("*/*-[HP]*.*"), *root.glob("*/*/*-[HP]*.*")]
        return any(_NEW.fullmatch(path.stem) for path in near)

    def read(self, root: Path) -> Collection:
        """List the drawings; files of the pen's signals are not pictures and left out."""
        rows, left_out = [], {}
        for path in image_files(root):
            file = relative(path, root)
            if found := _NEW.fullmatch(path.stem):
                task, repetition, group, number = found.groups()
                person = f"{group.upper()}{int(number):02d}"
                label = "shaky" if group.upper() == "P" else "regular"
                task = _TASKS[task.lower()]
                rows.append(person_row(file, person, label, task=task, repetition=repetition))
            else:
                left_out[file] = "its name does not tell task and person, as sp1-H28 does"
        wanted = "it wants names such as HealthySpiral/sp1-H28.jpg"
        listed = require_rows(rows, root, wanted)
        return Collection(self.name, root, listed, CLASSES, left_out, Files(root))


class HandPD:
    """The set of 2015 with 92 people."""

    name = "handpd"
    about = "SpiralControl/0001-1.jpg, MeanderPatients/0101-3.jpg, with Spiral_HandPD.csv (HandPD)"

    def fits(self, root: Path) -> bool:
        near = [root, *root.glob("*"), *root.glob("*/*")]
        folders = [path for path in near if path.is_dir() and _OLD_FOLDER.fullmatch(path.name)]
        return any(_OLD.fullmatch(path.stem) for folder in folders for path in folder.glob("*-*"))

    def read(self, root: Path) -> Collection:
        """List the drawings; people are those of the tables, or else the exams."""
        patients = _patients(root)
        rows: list[Row] = []
        left_out = {}
        for path in image_files(root):
            file, folder = relative(path, root), _OLD_FOLDER.fullmatch(path.parent.name)
            found = _OLD.fullmatch(path.stem)
            if not (folder and found):
                left_out[file] = "it does not lie in a folder such as SpiralControl, as 0001-1.jpg"
                continue
            group = "H" if folder[2].lower() == "control" else "P"
            task = folder[1].lower()
            known = patients.get((task, group, path.name.lower()))
            person = f"{group}{int(known or found[1]):03d}"
            label = "shaky" if group == "P" else "regular"
            rows.append(person_row(file, person, label, task=task, repetition=found[2]))
        wanted = "it wants names such as SpiralControl/0001-1.jpg"
        listed = require_rows(rows, root, wanted)
        return Collection(self.name, root, listed, CLASSES, left_out, Files(root))


def _patients(root: Path) -> dict[tuple[str, str, str], str]:
    """Numbers of people by task, class (H or P) and image, from the published tables."""
    found = {}
    for path in sorted(root.rglob("*_HandPD.csv")):
        task = path.name.partition("_")[0].lower()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from None
        delimiter = ";" if text.partition("\n")[0].count(";") > 2 else ","
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
        if absent := {"IMAGE_NAME", "ID_PATIENT", "CLASS_TYPE"} - set(reader.fieldnames or ()):
            raise DataError(
                f"{path} lacks the column {', '.join(sorted(absent))}: take it from the "
                "publishers again, or away, and exams stand for people."
            )
        for record in reader:
            number = record["ID_PATIENT"] or ""
            if not number.isdecimal():
                raise DataError(
                    f"{path}, line {reader.line_num}: ID_PATIENT is {number!r}, not a number."
                )
            group = "H" if record["CLASS_TYPE"] == "1" else "P"
            found[task, group, (record["IMAGE_NAME"] or "").lower()] = number
    return found
