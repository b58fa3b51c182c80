"""Candidates for a data set: rendered by worker processes, then matched between the classes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.features import global_features
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import LABELS, NUMBERS, Row
from rvsm.handwriting.matching import Array, Match, log_bands, match
from rvsm.handwriting.sources import Sampler, Source
from rvsm.handwriting.splits import CarrierInfo
from rvsm.parent import end_with_parent

Progress = Callable[[int, int], None]

_CHUNK = 50
# A tremor of 1.5 mm looks like all others in one of forty images (with twelve times its share a
# linear model told it with 59 %).
_FIRST_RATIO, _GROWTH, _LAST_RATIO = 2.0, 1.4, 40.0
# Two groups on either side of the target are twice as far apart; a linear model that is fitted to
# training is scored on the others.
_GOOD_GAP, _GOOD_GAP_TRAIN = 0.05, 0.12
# No linear model can be scored closer than chance allows on as few images as a band may have; but
# what bands have in common adds up.
_GOOD_GAP_OF_ONE = 0.6
_PER_BAND, _MOST_BANDS = 150, 8
# Within a band large tremors are taken that look like smaller ones: a wide band would be matched on
# the whole and not at its ends.
_WIDEST_BAND, _LEAST_IN_BAND = 1.25, 40
_LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a data set to be made: `count` images, half of each class.

    Tremor amplitudes are drawn log-uniformly between the two ends of `amplitude_mm`.
    """

    number: int
    name: str
    carriers: tuple[str, ...]
    texts: tuple[str, ...]
    amplitude_mm: tuple[float, float]
    count: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoded image, its global features, and its row without the file name."""

    png: bytes
    features: Array
    row: Row


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of a split.

    `acceptance` is their share of all candidates; `gap` is the largest Mahalanobis distance,
    over the regular images and the amplitude bands, of mean features from the common target, None
    of pairs, of which nothing is matched.
    """

    regular: list[Candidate]
    shaky: list[Candidate]
    acceptance: float
    gap: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """A chunk of candidates; what is rendered is a function of these fields alone."""

    source: Source
    split: Split
    shaky: bool
    amplitude_mm: tuple[float, float]
    count: int
    entropy: int
    key: tuple[int, ...]


Run = Callable[[list[Job]], Iterator[list[Candidate]]]


@dataclass(slots=True)
class _Group:
    """The regular candidates of a split, or the shaky ones of one band of amplitudes."""

    number: int
    shaky: bool
    amplitude_mm: tuple[float, float]
    share: int
    ratio: float
    candidates: list[Candidate]

    def missing(self) -> int:
        """Candidates still to be rendered, in whole chunks so that a later round goes on there."""
        wanted = -(-int(np.ceil(self.share * self.ratio)) // _CHUNK) * _CHUNK
        return wanted - len(self.candidates)


class Maker:
    """Renders and matches the splits of one data set.

    Parameters
    ----------
    source : Source
    seed : int
    infos : the carriers of the source
    splits : all splits that will be asked for; they give the total of the progress
    run : runs jobs, in order (see `pool`)
    progress : called with the numbers of candidates done and in all; the latter may grow
    matched : whether the classes are made alike; else all that is rendered is taken
    pairs : each regular image has a shaky one of the same word, place and speed; nothing is matched
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        infos: Sequence[CarrierInfo],
        splits: Sequence[Split],
        run: Run,
        progress: Progress | None = None,
        matched: bool = True,
        pairs: bool = False,
    ) -> None:
        self.matched = matched
        self.source, self.seed, self.run, self.progress = source, seed, run, progress
        self.kinds = {info.name: info.kind for info in infos}
        self.pairs = pairs
        self.done = 0
        self.total = sum(group.missing() for split in splits for group in self._cut(split))

    def _cut(self, split: Split) -> list[_Group]:
        if self.pairs:
            return _paired(split)
        return _groups(split, _FIRST_RATIO if self.matched else 1.0)

    def choose(self, split: Split) -> Chosen:
        """Render candidates of a split until both classes can be made alike, and choose.

        Groups that cannot be brought to the common target get more candidates, up to some forty
        times their share.
        """
        groups = self._cut(split)
        if self.pairs or not self.matched:
            self._render(split, groups)
            kept = [group.candidates[: group.share] for group in groups]
            if self.pairs:
                return Chosen(kept[0], kept[1], 1.0, None)
            return self._chosen(split, kept, groups, None)
        good = _GOOD_GAP_TRAIN if split.name == "train" else _GOOD_GAP
        while True:
            self._render(split, groups)
            matched = self._match(split, groups)
            poor = [
                group
                for group, gap in zip(groups, matched.gaps, strict=True)
                if gap > max(good, _GOOD_GAP_OF_ONE / np.sqrt(group.share))
                and group.ratio < _LAST_RATIO
            ]
            if not poor:
                break
            for group in poor:
                group.ratio *= _GROWTH
                self.total += group.missing()
        kept = [[g.candidates[i] for i in t] for g, t in zip(groups, matched.taken, strict=True)]
        return self._chosen(split, kept, groups, max(matched.gaps))

    def _chosen(
        self,
        split: Split,
        kept: Sequence[list[Candidate]],
        groups: Sequence[_Group],
        gap: float | None,
    ) -> Chosen:
        # Bands in turn would tell the amplitude by the file's number.
        shaky = [candidate for band in kept[1:] for candidate in band]
        order = np.random.default_rng([self.seed, 0x0DE2, split.number]).permutation(len(shaky))
        rendered = sum(len(group.candidates) for group in groups)
        return Chosen(kept[0], [shaky[i] for i in order], split.count / rendered, gap)

    def _render(self, split: Split, groups: Sequence[_Group]) -> None:
        jobs, owners = [], []
        for group in groups:
            first, missing = len(group.candidates) // _CHUNK, group.missing()
            for chunk in range(first, first + missing // _CHUNK):
                key = (split.number, group.number, chunk)
                jobs.append(
                    Job(self.source, split, group.shaky, group.amplitude_mm, _CHUNK, self.seed, key)
                )
                owners.append(group)
        for group, made in zip(owners, self.run(jobs), strict=True):
            group.candidates += [
                replace(c, row=replace(c.row, carrier_kind=self.kinds[c.row.carrier])) for c in made
            ]
            self.done += len(made)
            if self.progress is not None:
                self.progress(self.done, self.total)

    def _match(self, split: Split, groups: Sequence[_Group]) -> Match:
        place = {name: i for i, name in enumerate(split.carriers)}
        return match(
            [np.array([c.features for c in group.candidates]) for group in groups],
            [group.share for group in groups],
            np.random.default_rng([self.seed, 0x3A7C, split.number]),
            carriers=[
                np.array([place[c.row.carrier] for c in group.candidates], dtype=np.intp)
                for group in groups
            ],
            texts=[np.array([_measures(c.row) for c in group.candidates]) for group in groups],
        )


def _measures(row: Row) -> list[float]:
    """How large and slanted a text is written, its length, and how often it has each letter."""
    counts = Counter(row.text)
    small = Counter(row.text.lower())
    capitals = sum(count for letter, count in counts.items() if letter.isupper())
    slant = row.slant_deg or 0.0
    return [
        row.x_height_mm or 0.0,
        slant,
        slant * slant,
        len(row.text),
        1 + row.text.count(" "),
        capitals,
        *(small[letter] for letter in _LETTERS),
    ]


def _groups(split: Split, ratio: float = _FIRST_RATIO) -> list[_Group]:
    half = split.count // 2
    low, high = np.log(split.amplitude_mm)
    least = int(np.ceil((high - low) / np.log(_WIDEST_BAND)))
    count = max(half // _PER_BAND, min(least, half // _LEAST_IN_BAND), 1)
    count = min(count, max(least, _MOST_BANDS)) if high > low else 1
    ends = [half * i // count for i in range(count + 1)]
    edges = [float(edge) for edge in log_bands(*split.amplitude_mm, count)]
    bands = zip(pairwise(edges), pairwise(ends), strict=True)
    return [
        _Group(0, False, split.amplitude_mm, half, ratio, []),
        *(
            _Group(number, True, band, high - low, ratio, [])
            for number, (band, (low, high)) in enumerate(bands, start=1)
        ),
    ]


def _paired(split: Split) -> list[_Group]:
    """Two groups of one number: they draw by the same randomness."""
    half = split.count // 2
    return [_Group(0, shaky, split.amplitude_mm, half, 1.0, []) for shaky in (False, True)]


@lru_cache(maxsize=4)
def _sampler(source: Source, carriers: tuple[str, ...], texts: tuple[str, ...]) -> Sampler:
    return source.sampler(carriers, texts)


def render(job: Job) -> list[Candidate]:
    """Render the candidates of one job."""
    rng = np.random.default_rng(np.random.SeedSequence(job.entropy, spawn_key=job.key))
    sampler = _sampler(job.source, job.split.carriers, job.split.texts)
    low, high = np.log(job.amplitude_mm)
    out = []
    for _ in range(job.count):
        amplitude = float(np.exp(rng.uniform(low, high)))
        drawn = sampler.sample(rng, shaky=job.shaky, amplitude_mm=amplitude)
        meta: dict[str, Any] = {k: float(v) for k, v in drawn.meta.items() if k in NUMBERS}
        meta |= {
            "tremor_amplitude_mm": amplitude if job.shaky else 0.0,
            "virtual_amplitude_mm": amplitude,
        }
        row = Row("", job.split.name, LABELS[job.shaky], drawn.text, drawn.carrier, **meta)
        out.append(Candidate(encode_png(drawn.image), global_features(drawn.image), row))
    return out


@contextmanager
def pool(workers: int) -> Iterator[Run]:
    """What runs jobs: worker processes, or this one with `workers` 1 or less.

    Raises
    ------
    DataError
        A worker process died.
    """
    if workers <= 1:
        yield lambda jobs: map(render, jobs)
        return
    # Spawned, not forked: the parent may hold torch's threads, which a fork would freeze.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        yield lambda jobs: executor.map(render, jobs)
    except BrokenProcessPool:
        raise DataError(
            "A worker process died while making the images: free some memory, or use one worker "
            '(a script of your own also needs `if __name__ == "__main__":`).'
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)
