"""Any source of writing, shaken by recorded tremor; nobody's tremor in two parts of a set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.recorded.hands import RecordedHand
from rvsm.handwriting.recorded.library import load_library
from rvsm.handwriting.shaken import Reshaken
from rvsm.handwriting.sources import Sampler
from rvsm.handwriting.splits import Parts

_SHARES = (0.6, 0.15)  # of training and validation; the rest is unseen


@dataclass(frozen=True)
class Shaken(Reshaken):
    """Writing of another source, its tremor drawn from a library.

    Attributes
    ----------
    library : Path
        See `library.load_library`.
    parts : tuple of (carriers, people)
        Whose tremor goes with which fonts or writers; set by `shared_out`.
    """

    library: Path
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()

    def identity(self) -> dict[str, object]:
        """That of the base, the library's content, and the sources that decide on the tremor."""
        content = hashlib.sha256(_bytes(self.library)).hexdigest()[:16]
        tremor = {"library": f"{self.library.name}:{content}", "drawn_by": _version()}
        return {**self.base.identity(), "tremor": tremor}

    def shared_out(self, parts: Parts, rng: np.random.Generator) -> Shaken:
        """Give each part of the carriers people of its own, about 60, 15 and 25 % of them.

        Only recordings of hands that shake are used (see `TremorLibrary.trembling`).

        Raises
        ------
        DataError
            Fewer than three people.
        """
        people = load_library(self.library).trembling().people()
        if len(people) < 3:
            raise DataError(
                f"{self.library} holds {len(people)} people whose hand shakes, and training, "
                "validation and test need one each: give a library of more patients."
            )
        train = min(max(round(_SHARES[0] * len(people)), 1), len(people) - 2)
        val = min(max(round(_SHARES[1] * len(people)), 1), len(people) - train - 1)
        order = [people[i] for i in rng.permutation(len(people))]
        cuts = (order[:train], order[train : train + val], order[train + val :])
        groups = (parts.train, parts.val, parts.unseen)
        shared = tuple((c, tuple(sorted(p))) for c, p in zip(groups, cuts, strict=True))
        return replace(self, parts=shared)

    def people(self, carriers: Sequence[str]) -> tuple[str, ...]:
        """Whose tremor these fonts or writers write with.

        Raises
        ------
        DataError
            They belong to several parts: people would be mixed.
        """
        found = [p for names, p in self.parts if set(carriers) <= set(names)]
        if len(found) != 1:
            raise DataError(
                "Fonts or writers of several parts were asked for at once: recorded tremor would "
                "stand on both sides of a split."
            )
        return found[0]

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """The base's sampler, shaken by the people of this part."""
        hand = RecordedHand(load_library(self.library).trembling().of(self.people(carriers)))
        return self.shaken_by(hand, carriers, texts)


def _bytes(path: Path) -> bytes:
    load_library(path)  # which says in a sentence what is wrong with it
    return path.read_bytes()


@lru_cache(maxsize=1)
def _version() -> str:
    digest = hashlib.sha256()
    for name in ("hands.py", "sources.py"):
        digest.update((files("rvsm.handwriting.recorded") / name).read_bytes())
    return digest.hexdigest()[:12]
