"""A labelled set of anybody's scans as a data folder: normalised, and cut by person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rvsm.errors import DataError
from rvsm.experiments.aside import places
from rvsm.experiments.crossval.cases import SQUARE, Cases, fitting_size, read_cases
from rvsm.experiments.predict import evidence_name
from rvsm.handwriting.appearing import appearing
from rvsm.handwriting.datasets import FORMAT_VERSION
from rvsm.handwriting.description import DATASET, DRAWING, size_of, write_description
from rvsm.handwriting.figures.sampler import SIZES
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.made import skipped_lines
from rvsm.handwriting.manifest import LABELS, MANIFEST, Row, write_manifest
from rvsm.handwriting.scans.pages import check_dpi
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.ready import all_ready, rows_of
from rvsm.handwriting.scans.sets import How, is_text, isolations
from rvsm.handwriting.scans.template import Template

SHARES = {"val": 0.15, "test-unseen": 0.2}
"""Of the images of each class; the rest is for training."""

WORDS = "words"
"""The task of writing in dataset.json, as `handwriting.words` calls it."""

_NOT_WIDE = (
    "the pictures are hardly wider than high and were taken for words: of drawings, tell the "
    "--task, such as spiral"
)
_TRIES = 100


@dataclass(frozen=True)
class Imported:
    """What was made.

    Attributes
    ----------
    path : Path
        The data folder.
    description : dict
        The content of its dataset.json.
    doubt : str
        Why the pictures may be something else than they were taken for; mostly empty.
    """

    path: Path
    description: dict[str, Any]
    doubt: str = ""

    def summary(self) -> list[str]:
        """A few lines a person reads: what the pictures were taken for, counts and warnings."""
        told = self.description
        rows, columns = size_of(told["task"])
        lines = [f"{self.path}: task {told['task']}, {rows} x {columns} pixels"]
        for split, counts in told["counts"].items():
            people = len(told["carriers"][split])
            lines.append(
                f"{split}: {counts['regular']} regular + {counts['shaky']} shaky images, "
                f"{people} {'people' if people > 1 else 'person'}"
            )
        if self.doubt:
            lines.append(f"warning: {self.doubt}")
        if "template" in told:
            kept = self.path / told["template"]
            lines.append(f"template: {kept}, for `rvsm predict --scan --template`")
        return lines + skipped_lines(self.path, told)


def import_set(
    folder: Path,
    out: Path,
    *,
    layout: str | None = None,
    task: str | None = None,
    person: str | None = None,
    dpi: float | None = None,
    isolate: How = "auto",
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Make a data folder of a set of scans, to train on and to be asked about other scans.

    Every picture becomes what ``rvsm predict --scan`` makes of it (see `scans.ready.ready`):
    words at the size of the letters of training, drawings fitted, neither turned level nor freed
    of lines. Splits of the set are taken together and cut anew, by person.

    Parameters
    ----------
    folder : Path
        A set in any layout of `readers.LAYOUTS`, with two classes.
    out : Path
        A new or empty folder; it appears all at once.
    layout, person : str, optional
        As for `readers.read`.
    task : str, optional
        Only drawings of it; in a set that knows no tasks, what all its pictures are. ``word`` is
        writing, and so is what nobody knows the task of. Drawings that `figures` does not draw
        become the task ``drawing``.
    dpi : float, optional
        Pixels per inch of the scans; by default what their files state.
    isolate : {"auto", "colour", "registration", "none"}
        How pens are told from print, see `scans.sets.isolations`; what is found by registration is
        kept as a picture, ``template-TASK.png``.
    shares : mapping of str to float, optional
        Of the images of each class, where other than `SHARES`; 0 leaves a split out.
    seed : int
        Nonnegative; who goes where is a function of it.
    workers : int
        Processes that normalise; does not change the images.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    Imported

    Raises
    ------
    DataError
        No two classes, several tasks, unknown people, too few of them for the splits or for a
        template, a folder that rvsm made itself, or `out` holds other files.
    """
    folder, out = Path(folder), Path(out)
    check_dpi(dpi)
    wanted = _wanted(shares)
    if seed < 0:
        raise DataError(f"The seed is {seed}: give 0 or a positive whole number.")
    if (folder / DATASET).is_file():
        raise DataError(f"{folder} is a data folder already: `rvsm train {folder}` learns from it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already holds other files: name a new or empty folder.")
    cases, kind = _cases_of(folder, layout, task, person)
    written = kind == WORDS
    (pens,) = isolations(cases.collection, isolate).values()
    how = Reading(True, dpi, written, size_of(kind), drawing=not written, isolate=pens)
    rows, pngs, skipped = _read(cases, how, workers, progress)
    rows = _cut(cases, rows, wanted, seed, skipped)
    with appearing(out) as made:
        rows = [
            _write(made, number, row, png)
            for number, (row, png) in enumerate(zip(rows, pngs, strict=True), start=1)
        ]
        splits = [name for name in ("train", *wanted) if any(row.split == name for row in rows)]
        source = {
            "set": folder.name,
            "person": person or "",
            "dpi": dpi,
            "isolate": isolate,
            "shares": wanted,
        }
        description = {
            "format_version": FORMAT_VERSION,
            "task": kind,
            "set": cases.collection.layout,
            "seed": seed,
            "options": {"source": source},
            "counts": {
                name: {label: _count(rows, name, label) for label in LABELS} for name in splits
            },
            "carriers": {
                name: sorted({row.carrier for row in rows if row.split == name}) for name in splits
            },
            "skipped": {"files": skipped} if skipped else {},
        }
        if isinstance(pens, Template):
            description["template"] = name = f"template-{kind}.png"
            (made / name).write_bytes(pens.png())
        write_manifest(made / MANIFEST, rows)
        write_description(made, description)
    guessed = written and task is None and not any(row.task for row in rows)
    doubt = _NOT_WIDE if guessed and fitting_size(cases) == SQUARE else ""
    return Imported(out, description, doubt)


def _wanted(shares: Mapping[str, float] | None) -> dict[str, float]:
    wanted = SHARES | dict(shares or {})
    if unknown := next((name for name in wanted if name not in SHARES), ""):
        raise DataError(
            f"There is no split {unknown!r} to be given a share: choose among "
            f"{', '.join(SHARES)}; the rest is for training."
        )
    if min(wanted.values()) < 0 or sum(wanted.values()) >= 1:
        told = ", ".join(f"{name} {share:g}" for name, share in wanted.items())
        raise DataError(
            f"The shares are {told}: give parts of 1 that leave some for training, such as 0.2."
        )
    return {name: share for name, share in wanted.items() if share}


def _cases_of(
    folder: Path, layout: str | None, task: str | None, person: str | None
) -> tuple[Cases, str]:
    """The pictures of one task, and what dataset.json calls it."""
    cases = read_cases(folder, pattern=person, layout=layout)
    known = {row.task for row in cases.collection.rows}
    if known == {""}:
        task = task or ""
    elif task is not None:
        cases = read_cases(folder, pattern=person, layout=layout, task=task)
    elif len(known) > 1:
        told = ", ".join(sorted(name or "pictures of no task" for name in known))
        raise DataError(f"{folder} holds {told}: choose one by --task, for one network each.")
    else:
        (task,) = known
    if is_text(task) or task == WORDS:
        return cases, WORDS
    return cases, task if task in SIZES else DRAWING


def _read(
    cases: Cases, how: Reading, workers: int, progress: Callable[[int, int], None] | None
) -> tuple[list[Row], list[bytes], dict[str, str]]:
    """Rows, encoded images, and the files of which there is none, with the reason."""
    rows: list[Row] = []
    pngs: list[bytes] = []
    skipped = dict(cases.skipped)
    asked, done = rows_of(cases.collection), 0
    for batch in all_ready(asked, how, workers):
        for found, row in zip(batch, cases.collection.rows[done : done + len(batch)], strict=True):
            if found.image is None:
                # Without the folder: the reason is kept in the set, and folders are moved.
                skipped[row.file] = found.reason.replace(str(found.file), row.file)
            else:
                rows.append(row)
                pngs.append(encode_png(found.image))
        done += len(batch)
        if progress is not None:
            progress(done, len(asked))
    return rows, pngs, skipped


def _cut(
    cases: Cases, rows: list[Row], wanted: dict[str, float], seed: int, skipped: dict[str, str]
) -> list[Row]:
    """The rows with their splits: whole people, both classes in each."""
    people = sorted({row.carrier for row in rows})
    rng = np.random.default_rng([seed, 0x5917])
    for _ in range(_TRIES):  # who has many pictures may leave too few, drawn early
        order = [people[index] for index in rng.permutation(len(people))]
        found = places(rows, lambda row: row.carrier, wanted, order)
        if found is not None:
            return [replace(row, split=found.get(row.carrier, "train")) for row in rows]
    have = Counter(label for label, _ in {(row.label, row.carrier) for row in rows})
    told = " and ".join(
        f"{have[label]} of class {name}" for label, name in zip(LABELS, cases.classes, strict=True)
    )
    lost = f" ({len(skipped)} files were skipped)" if skipped else ""
    raise DataError(
        f"The people of {cases.folder} are {told}{lost}, too few to be cut into "
        f"{' and '.join(('train', *wanted))} with both classes in each: add people, or leave a "
        f"split out, such as --share test-unseen=0."
    )


def _write(folder: Path, number: int, row: Row, png: bytes) -> Row:
    file = f"{row.split}/{row.label}/{evidence_name(number, Path(row.file))}"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(png)
    return replace(row, file=file)


def _count(rows: list[Row], split: str, label: str) -> int:
    return sum((row.split, row.label) == (split, label) for row in rows)
