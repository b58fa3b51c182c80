"""Make a data set on disk: candidates rendered in parallel, matched, written as an image folder."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import rvsm
from rvsm.errors import DataError
from rvsm.handwriting.features import global_features
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import LABELS, MANIFEST, Row, write_manifest
from rvsm.handwriting.matching import Array, Match, in_band, log_bands, match
from rvsm.handwriting.sources import Rendered, Sampler, Source
from rvsm.handwriting.splits import CarrierInfo, Parts, cut

FORMAT_VERSION = 1
DATASET = "dataset.json"

SETS: dict[str, tuple[float, float]] = {"headline": (0.4, 1.2), "mild": (0.15, 0.8)}
"""RMS tremor amplitude of each set, drawn log-uniformly between two ends in mm."""

CURVE_MM = (0.05, 1.5)
COUNTS = {"train": 20_000, "val": 2_000, "test-paper": 4_000, "test-unseen": 4_000, "curve": 3_000}
"""Images of each split, half of each class."""

_CHUNK = 200
_FIRST_RATIO, _RATIO_STEP, _LAST_RATIO = 1.5, 0.5, 2.5
_GOOD_IMBALANCE = 0.08
_PER_BAND, _MOST_BANDS = 150, 8
_NUMBERS = frozenset(f.name for f in fields(Row)) - {"file", "split", "label", "error"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    """What `make` did.

    Attributes
    ----------
    path : Path
        The data folder.
    description : dict
        The content of its dataset.json.
    fresh : bool
        False where the same data were already there.
    seconds : float
        Time taken.
    rendered : int
        Candidates rendered, of which the images are a part.
    """

    path: Path
    description: dict[str, Any]
    fresh: bool
    seconds: float
    rendered: int

    def summary(self) -> list[str]:
        """A few lines a person reads: counts, carriers, acceptance and warnings."""
        told = self.description
        state = "made" if self.fresh else "already there, nothing to do"
        lines = [
            f"{self.path}: task {told['task']}, set {told['set']}, seed {told['seed']} ({state})"
        ]
        for split, counts in told["counts"].items():
            matched = told["matching"][split]
            lines.append(
                f"{split}: {counts['regular']} regular + {counts['shaky']} shaky images, "
                f"{len(told['carriers'][split])} fonts or writers; "
                f"{matched['acceptance']:.0%} of the candidates accepted, "
                f"largest feature difference {matched['imbalance']:.3f} sd"
            )
            if matched["imbalance"] > 2 * _GOOD_IMBALANCE:
                lines.append(
                    f"warning: {split} is not fully matched; run `rvsm data check {self.path}`"
                )
        if self.fresh:
            speed = self.rendered / max(self.seconds, 1e-9)
            lines.append(
                f"{self.rendered} candidates in {self.seconds:.0f} s, {speed:.0f} a second"
            )
        return lines


@dataclass(frozen=True, slots=True)
class _Split:
    """One part of the data set to be made."""

    name: str
    carriers: tuple[str, ...]
    texts: tuple[str, ...]
    amplitude_mm: tuple[float, float]
    count: int


@dataclass(frozen=True, slots=True)
class _Job:
    """A chunk of candidates, rendered by one worker; a function of its entropy alone."""

    source: Source
    split: _Split
    shaky: bool
    count: int
    entropy: int
    key: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    png: bytes
    features: Array
    row: Row


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
    source: Source | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Made:
    """Make a data set of shaky and regular writing.

    The images are a function of the arguments but `path`, `workers` and `progress`. They appear
    all at once: made in a hidden folder beside `path` that is renamed when complete.

    Parameters
    ----------
    path : path-like
        The data folder to make.
    task : {"fonts", "pen"}
        Printed texts or pen strokes; without effect together with `words_dir`.
    set : {"headline", "mild"}
        Range of the tremor amplitude, see `SETS`.
    seed : int
        Nonnegative.
    counts : mapping of str to int, optional
        Images of each split where other than `COUNTS`; 0 leaves a split out.
    font_dirs, stroke_files, omniglot : optional
        Further carriers of the user's own, see `sources.Rendered`.
    words_dir : path-like, optional
        Folder of real handwritten words (see `words.Words`), used in place of rendered texts.
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
        An unknown set, task or split, too few carriers, an existing folder with other content, or
        a folder that cannot be written.
    """
    start = time.perf_counter()
    path = Path(path)
    source = source or _source(task, font_dirs, stroke_files, omniglot, words_dir)
    wanted = _wanted(counts)
    if set not in SETS:
        raise DataError(f"There is no set {set!r}: choose {' or '.join(SETS)}.")
    if seed < 0:
        raise DataError(f"The seed is {seed}: give 0 or a positive whole number.")
    head: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "task": source.identity()["task"],
        "set": set,
        "seed": seed,
        "options": {"images": wanted, "source": source.identity()},
        "generator": _generator_version(),
    }
    if (found := _existing(path, head)) is not None:
        return Made(path, found, False, time.perf_counter() - start, 0)

    infos = source.carriers()
    parts = cut(infos, source.texts(), np.random.default_rng([seed, 0x5917]))
    splits = _splits(parts, SETS[set], wanted)
    with _folder(path) as folder, _pool(workers) as run:
        work = _Work(source, seed, {c.name: c for c in infos}, run, progress)
        work.expect(splits)
        rows: list[Row] = []
        matching: dict[str, dict[str, float]] = {}
        for number, split in enumerate(splits):
            regular, shaky, matched = work.split(split, number)
            for label, candidates in zip(LABELS, (regular, shaky), strict=True):
                rows += _write(folder, split.name, label, candidates)
            matching[split.name] = {
                "acceptance": round(matched.acceptance, 4),
                "imbalance": round(matched.imbalance, 4),
            }
        description = head | {
            "counts": {s.name: dict.fromkeys(LABELS, s.count // 2) for s in splits},
            "amplitude_mm": {s.name: list(s.amplitude_mm) for s in splits},
            "carriers": {s.name: list(s.carriers) for s in splits},
            "texts": {s.name: len(s.texts) for s in splits},
            "matching": matching,
        }
        write_manifest(folder / MANIFEST, rows)
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (folder / DATASET).write_text(text, encoding="utf-8")
    return Made(path, description, True, time.perf_counter() - start, work.done)


def read_description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of a folder's dataset.json, or None where there is none or it is damaged."""
    try:
        content = json.loads((Path(path) / DATASET).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _source(
    task: str,
    font_dirs: Sequence[str | os.PathLike[str]],
    stroke_files: Sequence[str | os.PathLike[str]],
    omniglot: str | os.PathLike[str] | None,
    words_dir: str | os.PathLike[str] | None,
) -> Source:
    if words_dir is not None:
        from rvsm.handwriting.words import Words

        return Words(Path(words_dir))
    if task not in {"fonts", "pen"}:
        raise DataError(f"There is no task {task!r}: choose fonts or pen.")
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


def _splits(parts: Parts, amplitude: tuple[float, float], wanted: dict[str, int]) -> list[_Split]:
    made_of = {
        "train": (parts.train, parts.train_texts, amplitude),
        "val": (parts.val, parts.val_texts, amplitude),
        "test-paper": (parts.train, parts.test_texts, amplitude),
        "test-unseen": (parts.unseen, parts.test_texts, amplitude),
        "curve": (parts.unseen, parts.test_texts, CURVE_MM),
    }
    return [_Split(name, *made_of[name], count) for name, count in wanted.items()]


@lru_cache(maxsize=1)
def _generator_version() -> str:
    """Version of the package and digest of the sources that decide on the images."""
    digest = hashlib.sha256()
    for file in sorted(files("rvsm.handwriting").iterdir(), key=lambda f: f.name):
        if file.name.endswith((".py", ".txt")) and file.name not in _NO_PIXELS:
            digest.update(file.read_bytes())
    return f"{rvsm.__version__}+{digest.hexdigest()[:12]}"


_NO_PIXELS = frozenset(["network.py", "check.py", "manifest.py", "datasets.py", "__init__.py"])


def _existing(path: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """The description of the same data at `path`, None where nothing is there yet."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: name a folder for the data.")
    if not path.is_dir() or not any(path.iterdir()):
        return None
    found = read_description(path)
    if found is None:
        raise DataError(f"{path} already holds other files: name a new or empty folder.")
    differing = [key for key, value in head.items() if found.get(key) != value]
    if differing:
        raise DataError(
            f"{path} already holds a data set with another {', '.join(differing)}: delete it or "
            "name another folder."
        )
    return found


class _Work:
    """Renders, matches and counts, split by split."""

    def __init__(
        self,
        source: Source,
        seed: int,
        infos: dict[str, CarrierInfo],
        run: Callable[[list[_Job]], Iterator[list[_Candidate]]],
        progress: Progress | None,
    ) -> None:
        self.source, self.seed, self.infos = source, seed, infos
        self.run, self.progress = run, progress
        self.done = self.total = 0

    def expect(self, splits: Sequence[_Split]) -> None:
        """Count what will be rendered at least."""
        self.total = sum(2 * _candidates(s.count // 2, _FIRST_RATIO) for s in splits)

    def split(self, split: _Split, number: int) -> tuple[list[_Candidate], list[_Candidate], Match]:
        """The accepted regular and shaky images of a split, and how they match."""
        half = split.count // 2
        regular: list[_Candidate] = []
        shaky: list[_Candidate] = []
        ratio = _FIRST_RATIO
        while True:
            first, wanted = len(shaky), _candidates(half, ratio)
            if first:
                self.total += 2 * (wanted - first)
            regular += self._render(split, number, False, first // _CHUNK, wanted - first)
            shaky += self._render(split, number, True, first // _CHUNK, wanted - first)
            matched = self._match(split, number, regular, shaky)
            if matched.imbalance <= _GOOD_IMBALANCE or ratio >= _LAST_RATIO:
                kept = [regular[i] for i in matched.regular], [shaky[i] for i in matched.shaky]
                return *kept, matched
            ratio += _RATIO_STEP

    def _render(
        self, split: _Split, number: int, shaky: bool, first: int, count: int
    ) -> list[_Candidate]:
        sizes = [min(_CHUNK, count - at) for at in range(0, count, _CHUNK)]
        jobs = [
            _Job(self.source, split, shaky, size, self.seed, (number, int(shaky), first + i))
            for i, size in enumerate(sizes)
        ]
        out: list[_Candidate] = []
        for chunk in self.run(jobs):
            out += [
                replace(c, row=replace(c.row, carrier_kind=self.infos[c.row.carrier].kind))
                for c in chunk
            ]
            self.done += len(chunk)
            if self.progress is not None:
                self.progress(self.done, self.total)
        return out

    def _match(
        self, split: _Split, number: int, regular: list[_Candidate], shaky: list[_Candidate]
    ) -> Match:
        half = split.count // 2
        amplitudes = np.array([c.row.tremor_amplitude_mm for c in shaky], dtype=np.float64)
        bands = log_bands(*split.amplitude_mm, int(np.clip(half // _PER_BAND, 1, _MOST_BANDS)))
        place = {name: i for i, name in enumerate(split.carriers)}
        return match(
            np.array([c.features for c in regular]),
            np.array([c.features for c in shaky]),
            in_band(amplitudes, bands),
            half,
            np.random.default_rng([self.seed, 0x3A7C, number]),
            regular_carriers=np.array([place[c.row.carrier] for c in regular], dtype=np.intp),
            shaky_carriers=np.array([place[c.row.carrier] for c in shaky], dtype=np.intp),
        )


def _candidates(half: int, ratio: float) -> int:
    """Whole chunks, so that a second round goes on where the first one stopped."""
    return -(-int(np.ceil(half * ratio)) // _CHUNK) * _CHUNK


@lru_cache(maxsize=4)
def _sampler(source: Source, carriers: tuple[str, ...], texts: tuple[str, ...]) -> Sampler:
    return source.sampler(carriers, texts)


def _render_job(job: _Job) -> list[_Candidate]:
    rng = np.random.default_rng(np.random.SeedSequence(job.entropy, spawn_key=job.key))
    sampler = _sampler(job.source, job.split.carriers, job.split.texts)
    low, high = np.log(job.split.amplitude_mm)
    out = []
    for _ in range(job.count):
        amplitude = float(np.exp(rng.uniform(low, high)))
        drawn = sampler.sample(rng, shaky=job.shaky, amplitude_mm=amplitude)
        meta: dict[str, Any] = {k: float(v) for k, v in drawn.meta.items() if k in _NUMBERS}
        meta |= {
            "tremor_amplitude_mm": amplitude if job.shaky else 0.0,
            "virtual_amplitude_mm": amplitude,
        }
        row = Row("", job.split.name, LABELS[job.shaky], drawn.text, drawn.carrier, **meta)
        out.append(_Candidate(encode_png(drawn.image), global_features(drawn.image), row))
    return out


def _write(folder: Path, split: str, label: str, candidates: Sequence[_Candidate]) -> list[Row]:
    inner = folder / split / label
    inner.mkdir(parents=True)
    rows = []
    for number, candidate in enumerate(candidates):
        name = f"{number:06d}.png"
        (inner / name).write_bytes(candidate.png)
        rows.append(replace(candidate.row, file=f"{split}/{label}/{name}"))
    return rows


@contextmanager
def _pool(workers: int) -> Iterator[Callable[[list[_Job]], Iterator[list[_Candidate]]]]:
    if workers <= 1:
        yield lambda jobs: map(_render_job, jobs)
        return
    # Spawned, not forked: the parent may hold torch's threads, which a fork would freeze.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield lambda jobs: pool.map(_render_job, jobs)
    except BrokenProcessPool:
        raise DataError(
            "A worker process died while making the images: free some memory, or use one worker "
            '(a script of your own also needs `if __name__ == "__main__":`).'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A hidden sibling of `path` that takes its place when all went well, else vanishes."""
    place = path.absolute()
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(place)
        partial.mkdir()
        yield partial
        if place.is_dir():
            place.rmdir()
        partial.rename(place)
    except OSError as error:
        raise DataError(
            f"The data cannot be written to {path} ({error.strerror or error}): free some space, "
            "or name a folder that you may write to."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_away(place: Path) -> None:
    """Remove what runs that were killed have left."""
    for left in place.parent.glob(f".{place.name}.partial-*"):
        try:
            os.kill(int(left.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError):
            continue
