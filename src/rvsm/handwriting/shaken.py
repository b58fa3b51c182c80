"""Any source of writing, shaken by another hand than the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rvsm.errors import DataError
from rvsm.handwriting.figures.sampler import FigureSampler
from rvsm.handwriting.sources import Sampler, Source
from rvsm.handwriting.splits import CarrierInfo
from rvsm.handwriting.synthesis import Generator
from rvsm.handwriting.tremor import Modelled, Shake
from rvsm.handwriting.words import WordSampler


@dataclass(frozen=True)
class Reshaken:
    """Writing of another source: who writes what stays, whose tremor it is a subclass says.

    Attributes
    ----------
    base : Source
        Rendered texts, real words or figures.
    """

    base: Source

    def carriers(self) -> list[CarrierInfo]:
        """Those of the base."""
        return self.base.carriers()

    def texts(self) -> list[str]:
        """Those of the base."""
        return self.base.texts()

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        """As the base does."""
        return self.base.draws(carrier, texts)

    def skipped(self) -> dict[str, dict[str, str]]:
        """Those of the base."""
        return self.base.skipped()

    def shaken_by(self, shake: Shake, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """Return the base's sampler with another hand.

        Raises
        ------
        DataError
            The sampler has none that could be replaced.
        """
        sampler = self.base.sampler(carriers, texts)
        if not isinstance(sampler, Generator | WordSampler | FigureSampler):
            raise DataError(
                f"{type(sampler).__name__} draws its own tremor: leave out the tremor library and "
                "the tremor's frequencies."
            )
        sampler.shake = shake
        return sampler


@dataclass(frozen=True)
class Paced(Reshaken):
    """Writing of another source, shaken by the model at frequencies of one's own.

    Attributes
    ----------
    hand : Modelled
        With a range of frequencies.
    """

    hand: Modelled

    def identity(self) -> dict[str, object]:
        """That of the base, and the frequencies."""
        return {**self.base.identity(), "tremor_hz": list(self.hand.hertz or ())}

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> Sampler:
        """Return the base's sampler, shaken at these frequencies."""
        return self.shaken_by(self.hand, carriers, texts)
