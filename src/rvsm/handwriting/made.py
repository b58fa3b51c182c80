"""What making a data set came to, and how a person is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvsm.handwriting.description import DATASET
from rvsm.text import some

SHOWN = 5
"""Names of a list that are told, before the number of the others."""
_NOTED_GAP = 0.2


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
            matched = told["matching"].get(split)
            if matched is None:
                how = "in pairs" if told["options"].get("pairs") else "nothing is matched"
            else:
                how = (
                    f"{matched['acceptance']:.0%} of the candidates accepted, "
                    f"features alike within {matched['gap']:.2f} sd"
                )
            lines.append(
                f"{split}: {counts['regular']} regular + {counts['shaky']} shaky images, "
                f"{len(told['carriers'][split])} fonts or writers; {how}"
            )
            if matched is not None and matched["gap"] > _NOTED_GAP:
                lines.append(
                    f"warning: {split} is not fully matched; run `rvsm data check {self.path}`"
                )
        for split, idle in told.get("idle", {}).items():
            lines.append(
                f"warning: {split} is without {some(idle, SHOWN)}, which draw none of its texts"
            )
        lines += skipped_lines(self.path, told)
        if self.fresh:
            speed = self.rendered / max(self.seconds, 1e-9)
            lines.append(
                f"{self.rendered} candidates in {self.seconds:.0f} s, {speed:.0f} a second"
            )
        return lines


def skipped_lines(path: Path, description: dict[str, Any]) -> list[str]:
    """A warning for each kind of things that a data folder is without, as its dataset.json says."""
    return [
        f"warning: {len(names)} {kind} skipped: {some(names, SHOWN)} (the first: "
        f"{next(iter(names.values()))}); {path / DATASET} lists them all"
        for kind, names in description.get("skipped", {}).items()
        if names
    ]
