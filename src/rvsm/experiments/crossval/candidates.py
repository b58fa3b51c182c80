"""What the inner folds choose from: start, penalty, strength and epochs of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rvsm.experiments.config import Method, RuleConfig, TrainConfig

NO_START = "none"
"""In place of a run to start from: weights drawn at random."""

NO_CHANGE = {
    "flip_horizontal": False,
    "flip_vertical": False,
    "shift_rows": 0,
    "shift_columns": 0,
    "contrast": 0.0,
    "elastic": 0.0,
}


@dataclass(frozen=True)
class Candidate:
    """One choice that the inner folds have.

    Attributes
    ----------
    method : str
        ``dense`` or the name of a penalty.
    epochs : int
    sparsity, lam : float or None
        Share of zeros asked of every layer but the first, or a penalty strength; both None for
        ``dense``.
    ridge : float or None
        Of a last layer trained alone: inverse strength of its l2 penalty, scikit-learn's C. It
        is trained to the end, `epochs` is 0, and `sparsity` is that of the one layer.
    pool : int or None
        Rows and columns that the last convolution's maps are pooled by for it: how finely place
        counts; None: as the network does.
    start : str
        One of several starts to choose from; empty where there is one.
    changed : bool
        Whether training images are changed anew each time.
    """

    method: Method
    epochs: int
    sparsity: float | None = None
    lam: float | None = None
    ridge: float | None = None
    pool: int | None = None
    start: str = ""
    changed: bool = True

    @property
    def name(self) -> str:
        origin = f", from {self.start}" if self.start else ""
        if self.start == NO_START:
            origin = ", drawn at random"
        return f"{self._fit()}{origin}{'' if self.changed else ', not augmented'}"

    @property
    def look(self) -> tuple[int | None, bool]:
        """What of the images it is fitted to: the pool, and whether they are changed."""
        return self.pool, self.changed

    def _fit(self) -> str:
        strength = ""
        if self.sparsity is not None:
            strength = f", {100 * self.sparsity:g} % zeros"
        elif self.lam is not None:
            strength = f", lambda {self.lam:g}"
        if self.ridge is not None:
            pooled = "" if self.pool is None else f", pooled {self.pool} x {self.pool}"
            return f"{self.method}{strength}, C {self.ridge:g}{pooled}"
        return f"{self.method}{strength}, {self.epochs} epochs"

    def config(self, base: TrainConfig, *, augment: bool, seed: int) -> TrainConfig:
        """The training of this candidate."""
        rules = base.rules
        if self.method != "dense":
            kind = "sparsity" if self.lam is None else "lam"
            value = self.sparsity if self.lam is None else self.lam
            rules = tuple(
                RuleConfig.model_validate({"pattern": pattern, kind: value})
                for pattern in ("fc.weight", "conv[23].weight")
            )
        changes: dict[str, Any] = {
            "method": self.method,
            "epochs": self.epochs,
            "seed": seed,
            "rules": rules,
            "select": "last",
        }
        if not augment:
            changes["augmentation"] = base.augmentation.model_copy(update=NO_CHANGE)
        return base.model_copy(update=changes)


def grid(
    methods: Sequence[Method],
    epochs: Sequence[int],
    sparsities: Sequence[float],
    lams: Sequence[float],
) -> list[Candidate]:
    """Every candidate of some methods: dense ones have no strength."""
    found = []
    for method in methods:
        for count in epochs:
            if method == "dense":
                found.append(Candidate(method, count))
                continue
            found += [Candidate(method, count, sparsity=share) for share in sparsities]
            found += [Candidate(method, count, lam=lam) for lam in lams]
    return found


def last_layers(
    methods: Sequence[Method],
    ridges: Sequence[float],
    sparsities: Sequence[float],
    pools: Sequence[int],
) -> list[Candidate]:
    """Every candidate where only the last layer is trained; no `pools`: as the network does."""
    return [
        Candidate(method, 0, sparsity=share, ridge=ridge, pool=pool)
        for method in methods
        for share in ((None,) if method == "dense" else sparsities)
        for pool in (pools or (None,))
        for ridge in ridges
    ]


def spread(
    tried: Sequence[Candidate], starts: Sequence[str], changed: Sequence[bool]
) -> list[Candidate]:
    """Every candidate from every start, with images changed and not."""
    return [
        replace(one, start=start, changed=how)
        for start in starts
        for how in changed
        for one in tried
    ]


def weighed(
    tried: Sequence[Candidate], losses: Sequence[float], among: Sequence[int], people: int
) -> dict[int, float]:
    r"""Weights of what is averaged: the best of every start and every look at the images.

    Each has the likelihood of the inner answers, every person counted as one observation, so that
    what is as good as the best for so few people has a say,

    .. math:: w_k \propto e^{-P \ell_k},

    with :math:`P` people and mean log losses :math:`\ell` (Bayesian model averaging with equal
    prior weights).

    Returns
    -------
    dict of int to float
        By place in `tried`; sum 1.
    """
    best: dict[Any, int] = {}
    for place in sorted(among, key=losses.__getitem__):
        best.setdefault((tried[place].start, tried[place].look), place)
    least = min(losses[place] for place in best.values())
    weights = {place: math.exp(-people * (losses[place] - least)) for place in best.values()}
    total = sum(weights.values())
    return {place: weight / total for place, weight in weights.items()}
