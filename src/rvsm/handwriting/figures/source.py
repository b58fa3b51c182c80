"""Figures as a source of images for `datasets.make`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from rvsm.handwriting.figures.sampler import Figure, FigureSampler
from rvsm.handwriting.sources import Sampler
from rvsm.handwriting.splits import CarrierInfo

_HANDS, _TRIES = 1000, 40


@dataclass(frozen=True)
class Figures:
    """Spirals or waves of 1000 made-up hands, split by hand.

    Attributes
    ----------
    figure : {"spiral", "wave"}
    """

    figure: Figure

    def carriers(self) -> list[CarrierInfo]:
        """The hands."""
        names = [f"hand-{number:04d}" for number in range(_HANDS)]
        return [CarrierInfo(name, name, "hand") for name in names]

    def texts(self) -> list[str]:
        """What stands in place of texts: the tries."""
        return [f"{self.figure} {number:02d}" for number in range(1, _TRIES + 1)]

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """Draws by these hands."""
        return FigureSampler(self.figure, carriers, texts)

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        """Every hand draws."""
        return True

    def skipped(self) -> dict[str, dict[str, str]]:
        """Nobody is."""
        return {}

    def identity(self) -> dict[str, object]:
        """The figure, and the sources that decide how it looks."""
        return {"task": self.figure, "files": [], "drawn_by": _version()}


@lru_cache(maxsize=1)
def _version() -> str:
    digest = hashlib.sha256()
    for name in ("shapes.py", "sampler.py", "source.py"):
        digest.update((files("rvsm.handwriting.figures") / name).read_bytes())
    return digest.hexdigest()[:12]
