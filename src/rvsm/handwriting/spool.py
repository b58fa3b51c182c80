"""Candidates kept on disk while a large data set is made: a making that was stopped goes on."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rvsm.handwriting.candidates import Candidate, Job, Run
from rvsm.handwriting.description import read_description, write_description
from rvsm.handwriting.generator import differing
from rvsm.handwriting.manifest import Row


class Spool:
    """A hidden sibling of a data folder that holds what has been rendered for it.

    Parameters
    ----------
    path : Path
        The data folder to be made.
    head : mapping
        What decides the candidates; those of others are thrown away.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        place = Path(os.path.realpath(path))
        self.folder = place.with_name(f".{place.name}.candidates")
        plain = json.loads(json.dumps(head))
        found = read_description(self.folder)
        if found is None or differing(found, plain):
            self.remove()
            self.folder.mkdir()
            write_description(self.folder, plain)

    def over(self, run: Run) -> Run:
        """Runs only the jobs whose candidates are not there, and keeps theirs."""

        def spooled(jobs: list[Job]) -> Iterator[list[Candidate]]:
            files = [self._file(job) for job in jobs]
            there = [file.is_file() for file in files]
            made = run([job for job, known in zip(jobs, there, strict=True) if not known])
            for job, file, known in zip(jobs, files, there, strict=True):
                found = _read(file) if known else None
                if found is None:
                    found = next(run([job]) if known else made)
                    _write(file, found)
                yield found

        return spooled

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, job: Job) -> Path:
        split, group, chunk = job.key
        # Of pairs both classes have one key.
        return self.folder / f"{split}-{group}-{int(job.shaky)}" / f"{chunk}.npz"


def _write(file: Path, candidates: Sequence[Candidate]) -> None:
    file.parent.mkdir(exist_ok=True)
    # Not forced to the disk one by one: what a power cut damages is rendered again.
    partial = file.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as stream:
        np.savez(
            stream,
            png=np.frombuffer(b"".join(c.png for c in candidates), dtype=np.uint8),
            sizes=np.array([len(c.png) for c in candidates]),
            features=np.array([c.features for c in candidates]),
            rows=np.array(json.dumps([asdict(c.row) for c in candidates])),
        )
    partial.replace(file)


def _read(file: Path) -> list[Candidate] | None:
    """The candidates of a file, None where it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            png, ends = found["png"].tobytes(), np.cumsum(found["sizes"]).tolist()
            features, rows = found["features"], json.loads(str(found["rows"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return [
        Candidate(png[start:end], of, Row(**row))
        for start, end, of, row in zip([0, *ends], ends, features, rows, strict=False)
    ]
