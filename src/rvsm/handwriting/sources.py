"""Where the images of a data set come from: rendered fonts and pens, or words written by people."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
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
from rvsm.handwriting.strokes import (
    Carrier,
    FontCarrier,
    RecordedCarrier,
    carriers,
    is_sketched,
)
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
    def draws(self, carrier: str, texts: Sequence[str]) -> bool: ...
    def skipped(self) -> dict[str, dict[str, str]]: ...
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
        """The fonts that draw at least a fifth of the words, and writers who draw any.

        Raises
        ------
        DataError
            No font of `font_dirs` can be used, or no writer of the recorded ones.
        """
        return [CarrierInfo(c.name, c.family, c.kind) for c in _carriers(self)[0].values()]

    def texts(self) -> list[str]:
        """The built-in words and what was recorded as a whole."""
        own = (text for carrier in _recorded(self) for text in carrier.letters if len(text) > 2)
        return list(dict.fromkeys([*texts.words(), *own]))

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """A generator that draws from these carriers and texts alone."""
        return Generator(self.task, [_carriers(self)[0][name] for name in carriers], texts)

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        """Whether this font or writer has all letters of any of these texts."""
        found = _carriers(self)[0][carrier]
        return any(found.draws(text) for text in texts)

    def skipped(self) -> dict[str, dict[str, str]]:
        """The user's own fonts and writers that cannot be used, and why."""
        return _carriers(self)[1]

    def identity(self) -> dict[str, object]:
        """What the user's own files are, so that two data sets can be told apart."""
        given = [*self.font_dirs, *self.stroke_files, *([self.omniglot] if self.omniglot else [])]
        return {"task": self.task, "files": [fingerprint(path) for path in given]}


@lru_cache(maxsize=2)
def _carriers(source: Rendered) -> tuple[dict[str, Carrier], dict[str, dict[str, str]]]:
    """The usable carriers by name, loaded once a process (they are too heavy to be sent).

    And the user's own that are not, by kind and name, with the reason.
    """
    found = carriers(source.task, font_dirs=source.font_dirs, recorded=_recorded(source))
    texts = source.texts()
    by_name: dict[str, Carrier] = {}
    given, skipped = Counter[str](), defaultdict[str, dict[str, str]](dict)
    for carrier in found:
        font = _path(carrier)
        kind = "fonts" if font else "writers" if isinstance(carrier, RecordedCarrier) else ""
        if font and not _is_given(font, source):
            kind = ""  # one that comes along may be left out silently
        given[kind] += 1
        reason = _unusable(carrier, texts)
        if not reason and carrier.name in by_name:
            reason = "there is another of the same name"
        if reason:
            skipped[kind][str(font or carrier.name)] = reason
        else:
            by_name[carrier.name] = carrier
    for kind, remedy in _REMEDIES.items():
        if given[kind] and len(skipped[kind]) == given[kind]:
            name, reason = next(iter(skipped[kind].items()))
            raise DataError(
                f"None of the {given[kind]} {kind} given can be used ({name}: {reason}); {remedy}."
            )
    return by_name, {kind: skipped[kind] for kind in _REMEDIES if skipped[kind]}


_REMEDIES = {
    "fonts": "name a folder of fonts with Latin letters by --fonts",
    "writers": "record whole words, or all letters of some, in the stroke file",
}


def _unusable(carrier: Carrier, texts: Sequence[str]) -> str:
    """Why a carrier cannot be used; empty where it can."""
    if isinstance(carrier, RecordedCarrier):
        # A person who recorded few texts still counts: those texts are among the words.
        return "" if any(map(carrier.draws, texts)) else "it has all letters of no word"
    words = texts[::10]
    try:
        drawn = sum(map(carrier.draws, words))
        if drawn < _DRAWS_LEAST * len(words):
            return f"it draws only {drawn} of {len(words)} words"
        if isinstance(carrier, FontCarrier):
            for char in sorted(set("".join(texts))):
                carrier.draws(char)
            carrier.file.advance("x")  # every length is measured in heights of this letter
            if is_sketched(carrier.file):
                return "its letters are sketches of many lines"
    except DataError as error:
        return str(error).rpartition(": ")[0].partition(f"{_path(carrier)} ")[2]
    return ""


def _path(carrier: Carrier) -> Path | None:
    return carrier.file.path if isinstance(carrier, FontCarrier) else None


def _is_given(font: Path, source: Rendered) -> bool:
    """Whether the font lies in a folder that the user named."""
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
