"""Make a data set on disk: candidates rendered in parallel, matched, written as an image folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.appearing import appearing
from rvsm.handwriting.candidates import Candidate, Maker, Progress, Split, pool
from rvsm.handwriting.description import DATASET, lacking, read_description, write_description
from rvsm.handwriting.figures.sampler import SIZES
from rvsm.handwriting.generator import differing, generator_version
from rvsm.handwriting.made import SHOWN, Made
from rvsm.handwriting.manifest import LABELS, MANIFEST, Row, write_manifest
from rvsm.handwriting.sources import Rendered, Source
from rvsm.handwriting.splits import Parts, cut
from rvsm.handwriting.spool import Spool
from rvsm.text import some

if TYPE_CHECKING:
    from rvsm.handwriting.recorded.sources import Shaken

FORMAT_VERSION = 1

SETS: dict[str, tuple[float, float]] = {
    "headline": (0.4, 1.2),
    "mild": (0.15, 0.8),
    "wide": (0.2, 1.6),
}
"""RMS tremor amplitude of each set, drawn log-uniformly between two ends in mm."""

CURVE_MM = (0.05, 1.5)
TEXTS, FIGURES = ("fonts", "pen"), tuple(SIZES)
"""The tasks of `make`: what is written, and what is drawn."""

COUNTS = {"train": 20_000, "val": 2_000, "test-paper": 4_000, "test-unseen": 4_000, "curve": 3_000}
"""Images of each split, half of each class."""

_LARGEST_MM = 3.0
_LARGE = 50_000
_OF_ALL_SETS = frozenset(["counts", "matching", "carriers"])


def make(
    path: str | os.PathLike[str],
    *,
    task: str = "fonts",
    set: str = "headline",
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    font_dirs: Sequence[str | os.PathLike[str]] = (),
    stroke_files: Sequence[str | os.PathLike[str]] = (),
    omniglot: str | os.PathLike[str] | None = None,
    words_dir: str | os.PathLike[str] | None = None,
    person: str | None = None,
    tremor: str | os.PathLike[str] | None = None,
    tremor_hz: tuple[float, float] | None = None,
    pairs: bool = False,
    source: Source | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Made:
    """Make a data set of shaky and regular writing.

    The images are a function of the arguments but `path`, `workers` and `progress`. They appear
    all at once: made in a hidden folder beside `path` that is renamed when complete. Of 50,000
    images or more the candidates are kept in another until then, and a call after a stop goes on
    with them.

    Parameters
    ----------
    path : path-like
        The data folder to make.
    task : {"fonts", "pen", "spiral", "wave"}
        Printed texts, pen strokes, or figures that hands draw; not looked at with `words_dir`.
    set : str
        Range of the tremor amplitude: ``headline``, ``mild`` or ``wide`` (see `SETS`), or two ends
        in mm RMS such as ``0.2-1.2``, which the split ``curve`` has too; ``0.3-0.3`` is 0.3 mm
        exactly.
    seed : int
        Nonnegative.
    counts : mapping of str to int, optional
        Images of each split where other than `COUNTS`; 0 leaves a split out.
    font_dirs, stroke_files, omniglot : optional
        Further carriers of the user's own, see `sources.Rendered`.
    words_dir : path-like, optional
        Folder of real handwritten words (see `words.Words`), used in place of rendered texts;
        excludes further carriers.
    person : str, optional
        Regular expression that finds the writer in the path of each of those words, where the
        folder does not say.
    tremor : path-like, optional
        A tremor library (see `recorded.library`) to shake with in place of the model; its people
        are cut into those of training, validation and the unseen.
    tremor_hz : (float, float), optional
        Shake with the model, but at frequencies drawn from this range in Hz whatever the amplitude
        (see `tremor.Modelled`).
    pairs : bool
        Every regular image has a shaky one of the same word, and nothing is matched: all that a
        tremor does to a word is left in. For tests; a network would learn what only goes with it.
    source : Source, optional
        Any other origin of images.
    workers : int
        Worker processes; 1 or less renders in this process. Does not change the images. A script
        that calls this with more needs the usual ``if __name__ == "__main__":``.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of candidates; the total may grow.

    Returns
    -------
    Made

    Raises
    ------
    DataError
        An unknown set, task or split, frequencies that cannot be or come beside a library, too few
        carriers, an existing folder with other content, or a folder that cannot be written.
    """
    start = time.perf_counter()
    path = Path(path)
    source, shaken, head = _asked(
        task=task,
        set=set,
        seed=seed,
        counts=counts,
        font_dirs=font_dirs,
        stroke_files=stroke_files,
        omniglot=omniglot,
        words_dir=words_dir,
        person=person,
        tremor=tremor,
        tremor_hz=tremor_hz,
        pairs=pairs,
        source=source,
    )
    if (found := _existing(path, head)) is not None:
        return Made(path, found, False, time.perf_counter() - start, 0)

    infos = source.carriers()
    parts = cut(infos, source.texts(), np.random.default_rng([seed, 0x5917]))
    if shaken is not None:
        source = shaken = shaken.shared_out(parts, np.random.default_rng([seed, 0x7E30]))
    amplitude, wanted = amplitudes(set), head["options"]["images"]
    splits, idle = _without_idle(
        source, _splits(parts, amplitude, wanted, CURVE_MM if set in SETS else amplitude)
    )
    with appearing(path) as folder, pool(workers) as run:
        spool = Spool(path, head) if sum(wanted.values()) >= _LARGE else None
        run = run if spool is None else spool.over(run)
        matched = head["task"] not in SIZES
        maker = Maker(source, seed, infos, splits, run, progress, matched, pairs)
        rows: list[Row] = []
        matching: dict[str, dict[str, float]] = {}
        for split in splits:
            chosen = maker.choose(split)
            for label, candidates in zip(LABELS, (chosen.regular, chosen.shaky), strict=True):
                rows += _write(folder, split.name, label, candidates)
            if chosen.gap is not None:
                matching[split.name] = {
                    "acceptance": round(chosen.acceptance, 4),
                    "gap": round(chosen.gap, 4),
                }
        description = head | {
            "counts": {s.name: dict.fromkeys(LABELS, s.count // 2) for s in splits},
            "amplitude_mm": {s.name: list(s.amplitude_mm) for s in splits},
            "carriers": {s.name: list(s.carriers) for s in splits},
            "texts": {s.name: len(s.texts) for s in splits},
            "matching": matching,
            "idle": idle,
            "skipped": source.skipped(),
        }
        if shaken is not None:
            description["tremor_people"] = {s.name: list(shaken.people(s.carriers)) for s in splits}
        write_manifest(folder / MANIFEST, rows)
        write_description(folder, description)
    if spool is not None:
        spool.remove()
    return Made(path, description, True, time.perf_counter() - start, maker.done)


def origin(**arguments: Any) -> dict[str, Any]:
    """What the images that `make` would make with these arguments are a function of.

    Parameters
    ----------
    **arguments
        Of `make`, but `path`; `workers` and `progress` make no difference.

    Returns
    -------
    dict
        ``task``, ``set``, ``seed``, ``options`` and ``generator``, as in dataset.json.

    Raises
    ------
    DataError
        As `make` does before it draws.
    """
    given = {**(make.__kwdefaults__ or {}), **arguments}
    del given["workers"], given["progress"]
    return _asked(**given)[2]


def _asked(
    *,
    task: str,
    set: str,
    seed: int,
    counts: Mapping[str, int] | None,
    font_dirs: Sequence[str | os.PathLike[str]],
    stroke_files: Sequence[str | os.PathLike[str]],
    omniglot: str | os.PathLike[str] | None,
    words_dir: str | os.PathLike[str] | None,
    person: str | None,
    tremor: str | os.PathLike[str] | None,
    tremor_hz: tuple[float, float] | None,
    pairs: bool,
    source: Source | None,
) -> tuple[Source, Shaken | None, dict[str, Any]]:
    """The source of the images, where it is shaken by recorded tremor, and dataset.json's head."""
    source = source or _source(task, font_dirs, stroke_files, omniglot, words_dir, person, pairs)
    shaken = None
    if tremor_hz is not None:
        from rvsm.handwriting.shaken import Paced
        from rvsm.handwriting.tremor import Modelled

        if tremor is not None:
            raise DataError(
                f"The tremor of {tremor} has frequencies of its own: leave out the library or the "
                "frequencies."
            )
        source = Paced(source, Modelled((float(tremor_hz[0]), float(tremor_hz[1]))))
    if tremor is not None:
        from rvsm.handwriting.recorded.sources import Shaken

        source = shaken = Shaken(source, Path(tremor))
    wanted = _wanted(counts)
    amplitudes(set)
    if seed < 0:
        raise DataError(f"The seed is {seed}: give 0 or a positive whole number.")
    head: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "task": source.identity()["task"],
        "set": set,
        "seed": seed,
        "options": {
            "images": wanted,
            "source": source.identity(),
            **({"pairs": True} if pairs else {}),
        },
        "generator": generator_version(),
    }
    return source, shaken, head


def two_ends(text: str) -> tuple[float, float] | None:
    """Read a range such as ``0.2-1.2``; None where it is none."""
    ends = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", text)
    return None if ends is None else (float(ends[1]), float(ends[2]))


def amplitudes(set: str) -> tuple[float, float]:
    """The two ends in mm RMS of the tremor of a set: of `SETS`, or written as ``0.2-1.2``.

    Raises
    ------
    DataError
        Neither, or a range that is empty, not positive, or beyond 3 mm.
    """
    if set in SETS:
        return SETS[set]
    ends = two_ends(set)
    if ends is None or not 0 < ends[0] <= ends[1] <= _LARGEST_MM:
        raise DataError(
            f"There is no set {set!r}: choose {', '.join(SETS)}, or give two amplitudes in mm, "
            f"the smaller first and none above {_LARGEST_MM:g}, such as 0.2-1.2."
        )
    return ends


def _source(
    task: str,
    font_dirs: Sequence[str | os.PathLike[str]],
    stroke_files: Sequence[str | os.PathLike[str]],
    omniglot: str | os.PathLike[str] | None,
    words_dir: str | os.PathLike[str] | None,
    person: str | None,
    pairs: bool,
) -> Source:
    if words_dir is not None:
        if font_dirs or stroke_files or omniglot is not None:
            raise DataError(
                f"The words of {words_dir} are images of their own, which no font and no strokes "
                "can be added to: leave out --words, or --fonts, --strokes and --omniglot."
            )
        from rvsm.handwriting.words import Words

        return Words(Path(words_dir), as_written=pairs, person=person)
    if person is not None:
        raise DataError(
            f"--person '{person}' finds the writers of --words: name their folder, or leave it out."
        )
    if task in SIZES:
        if font_dirs or stroke_files or omniglot is not None:
            raise DataError(
                f"A {task} is drawn without fonts and recorded strokes: leave them out, or choose "
                "another task."
            )
        from rvsm.handwriting.figures.source import Figures

        return Figures("spiral" if task == "spiral" else "wave")
    if task not in TEXTS:
        raise DataError(
            f"There is no task {task!r}: choose {', '.join(TEXTS + FIGURES[:-1])} or {FIGURES[-1]}."
        )
    return Rendered(
        task,
        tuple(Path(d) for d in font_dirs),
        tuple(Path(f) for f in stroke_files),
        None if omniglot is None else Path(omniglot),
    )


def _wanted(counts: Mapping[str, int] | None) -> dict[str, int]:
    wanted = dict(COUNTS)
    for name, count in (counts or {}).items():
        if name not in COUNTS:
            raise DataError(f"There is no split {name!r}: choose among {', '.join(COUNTS)}.")
        if count < 0 or count % 2:
            raise DataError(
                f"{count} images cannot be halved into two classes in split {name}: give an even "
                "number, or 0 to leave it out."
            )
        wanted[name] = int(count)
    if not any(wanted.values()):
        raise DataError("Every split has 0 images: give at least one of them a number.")
    return {name: count for name, count in wanted.items() if count}


def _splits(
    parts: Parts,
    amplitude: tuple[float, float],
    wanted: dict[str, int],
    curve: tuple[float, float],
) -> list[Split]:
    made_of = {
        "train": (parts.train, parts.train_texts, amplitude),
        "val": (parts.val, parts.val_texts, amplitude),
        "test-paper": (parts.train, parts.test_texts, amplitude),
        "test-unseen": (parts.unseen, parts.test_texts, amplitude),
        "curve": (parts.unseen, parts.test_texts, curve),
    }
    return [
        Split(list(COUNTS).index(name), name, *made_of[name], count)
        for name, count in wanted.items()
    ]


def _without_idle(
    source: Source, splits: Sequence[Split]
) -> tuple[list[Split], dict[str, list[str]]]:
    """The splits without carriers that draw none of their texts, and the names of those."""
    idle = {s.name: [c for c in s.carriers if not source.draws(c, s.texts)] for s in splits}
    kept = [
        replace(s, carriers=tuple(c for c in s.carriers if c not in idle[s.name])) for s in splits
    ]
    return kept, {name: carriers for name, carriers in idle.items() if carriers}


def _existing(path: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """The description of the same data at `path`, None where nothing is there yet."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: name a folder for the data.")
    if not path.is_dir() or not any(path.iterdir()):
        return None
    found = read_description(path)
    if found is None:
        raise DataError(f"{path} already holds other files: name a new or empty folder.")
    if other := differing(found, head):
        raise DataError(
            f"{path} already holds a data set with another {', '.join(other)}: delete it or "
            "name another folder."
        )
    if absent := _OF_ALL_SETS - found.keys():
        raise DataError(
            f"{path / DATASET} is damaged ({min(absent)} is gone): delete {path} and run the same "
            "command again."
        )
    if gone := lacking(path, found["counts"]):
        raise DataError(
            f"{path} lacks {some(gone, SHOWN)}, which its {DATASET} names: delete the folder and "
            "run the same command again, or name another folder."
        )
    return found


def _write(folder: Path, split: str, label: str, candidates: Sequence[Candidate]) -> list[Row]:
    inner = folder / split / label
    inner.mkdir(parents=True)
    rows = []
    for number, candidate in enumerate(candidates):
        name = f"{number:06d}.png"
        (inner / name).write_bytes(candidate.png)
        rows.append(replace(candidate.row, file=f"{split}/{label}/{name}"))
    return rows
