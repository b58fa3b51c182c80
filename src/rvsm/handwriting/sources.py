"""Where the images of a data set come from: rendered fonts and pens, or words written by people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting import texts
from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.splits import CarrierInfo
from rvsm.handwriting.strokes import Carrier, FontCarrier, RecordedCarrier, carriers
from rvsm.handwriting.synthesis import Generator

_DRAWS_LEAST = 0.2


class SampleLike(Protocol):
    """One image and how it was made; `meta` maps number columns of the manifest to values."""

    @property
    def image(self) -> GreyImage: ...
    @property
    def text(self) -> str: ...
    @property
    def carrier(self) -> str: ...
    @property
    def meta(self) -> dict[str, float]: ...


class Sampler(Protocol):
    """Draws images of either class from some carriers and texts."""

    def sample(
        self, rng: np.random.Generator, *, shaky: bool, amplitude_mm: float
    ) -> SampleLike: ...


class Source(Protocol):
    """A picklable, hashable recipe: worker processes make the same carriers from it."""

    def __hash__(self) -> int: ...
    def carriers(self) -> list[CarrierInfo]: ...
    def texts(self) -> list[str]: ...
    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler: ...
    def identity(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Rendered:
    """Texts rendered by the generator, in fonts and pens that come along or that the user names.

    Attributes
    ----------
    task : {"fonts", "pen"}
    font_dirs : folders of further fonts
    stroke_files : recorded pen strokes (see `strokefiles.read_strokes`), for the task "pen"
    omniglot : folder or zip files of Omniglot strokes, for the task "pen"
    """

    task: str
    font_dirs: tuple[Path, ...] = ()
    stroke_files: tuple[Path, ...] = ()
    omniglot: Path | None = None

    def carriers(self) -> list[CarrierInfo]:
        """The fonts that draw at least a fifth of the words, and all recorded writers.

        Raises
        ------
        DataError
            A font of `font_dirs` is damaged or draws fewer words.
        """
        return [CarrierInfo(c.name, c.family, c.kind) for c in _carriers(self).values()]

    def texts(self) -> list[str]:
        """The built-in words and what was recorded as a whole."""
        own = (text for carrier in _recorded(self) for text in carrier.letters if len(text) > 2)
        return list(dict.fromkeys([*texts.words(), *own]))

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """A generator that draws from these carriers and texts alone."""
        return Generator(self.task, [_carriers(self)[name] for name in carriers], texts)

    def identity(self) -> dict[str, object]:
        """What the user's own files are, so that two data sets can be told apart."""
        given = [*self.font_dirs, *self.stroke_files, *([self.omniglot] if self.omniglot else [])]
        return {"task": self.task, "files": [fingerprint(path) for path in given]}


@lru_cache(maxsize=2)
def _carriers(source: Rendered) -> dict[str, Carrier]:
    """The usable carriers by name, loaded once a process (they are too heavy to be sent)."""
    found = carriers(source.task, font_dirs=source.font_dirs, recorded=_recorded(source))
    words = source.texts()[::10]
    by_name: dict[str, Carrier] = {}
    for carrier in found:
        drawn = sum(carrier.draws(word) for word in words)
        # A person who recorded few texts still counts: those texts are among the words.
        if drawn >= max(1, _DRAWS_LEAST * len(words)) or isinstance(carrier, RecordedCarrier):
            by_name.setdefault(carrier.name, carrier)
        elif isinstance(carrier, FontCarrier) and _is_given(carrier.file.path, source):
            raise DataError(
                f"the font {carrier.file.path} draws only {drawn} of {len(words)} words; move it "
                "out of the folder of --fonts, or name a folder of fonts with Latin letters"
            )
    return by_name


def _is_given(font: Path, source: Rendered) -> bool:
    """Whether the user named the font; one that comes along may be left out silently."""
    return any(font.is_relative_to(folder) for folder in source.font_dirs)


@lru_cache(maxsize=2)
def _recorded(source: Rendered) -> tuple[RecordedCarrier, ...]:
    from rvsm.handwriting.omniglot import read_omniglot
    from rvsm.handwriting.strokefiles import read_strokes

    found = [carrier for path in source.stroke_files for carrier in read_strokes(path)]
    if source.omniglot is not None:
        found += read_omniglot(source.omniglot)
    return tuple(found)


def fingerprint(path: Path) -> str:
    """Digest of the names and sizes of a file or of the files in a folder.

    Raises
    ------
    DataError
        There is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"There is no file or folder {path}: check the name.")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)}:{file.stat().st_size}\n".encode())
    return f"{path.name}:{digest.hexdigest()[:16]}"
