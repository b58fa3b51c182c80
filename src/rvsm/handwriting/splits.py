"""Who and what goes where: fonts or writers and texts cut into disjoint parts.

The networks are tested on what they have not seen, so parts are cut by font family or writer and
by word, never by image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rvsm.errors import DataError

_UNSEEN_SHARE, _VAL_SHARE = 0.2, 0.12
_UNSEEN_LEAST, _VAL_LEAST, _TRAIN_LEAST = 8, 4, 25
_TEXT_SHARES = (0.65, 0.10)  # of training and validation; the rest is for the tests


@dataclass(frozen=True, slots=True)
class CarrierInfo:
    """A font or writer by name; members of one family (weights of a design) stay together."""

    name: str
    family: str
    kind: str


@dataclass(frozen=True, slots=True)
class Parts:
    """Three disjoint parts of carriers and three of texts."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    unseen: tuple[str, ...]
    train_texts: tuple[str, ...]
    val_texts: tuple[str, ...]
    test_texts: tuple[str, ...]


def cut(carriers: Sequence[CarrierInfo], texts: Sequence[str], rng: np.random.Generator) -> Parts:
    """Cut carriers and texts into training, validation and unseen parts.

    About a fifth of the families is kept unseen and an eighth for validation; of 37 or more at
    least 8 and 4, so that 25 or more are left for training. Every kind of carrier is spread over
    the three in proportion, as far as its families allow. A quarter of the texts is for the tests,
    a tenth for validation.

    Parameters
    ----------
    carriers : sequence of CarrierInfo
    texts : sequence of str
    rng : numpy.random.Generator
        Decides who goes where; equal states give equal parts.

    Returns
    -------
    Parts
        Names and texts in the order given.

    Raises
    ------
    DataError
        Fewer than three families, or fewer than ten texts.
    """
    families: dict[str, list[CarrierInfo]] = defaultdict(list)
    for carrier in carriers:
        families[carrier.family].append(carrier)
    if len(families) < 3:
        raise DataError(
            f"{len(families)} font families or writers cannot be cut into training, validation "
            "and unseen ones: give at least 3 (25 or more to learn from)."
        )
    if len(texts) < 10:
        raise DataError(f"{len(texts)} texts are too few to hold some back: give at least 10.")
    unseen, val = _held_back(list(families.values()), rng)
    names: dict[str, list[str]] = {"train": [], "val": [], "unseen": []}
    for carrier in carriers:
        part = "unseen" if carrier.family in unseen else "val" if carrier.family in val else "train"
        names[part].append(carrier.name)
    ends = [int(np.floor(s * len(texts))) for s in np.cumsum(_TEXT_SHARES)]
    order = rng.permutation(len(texts))
    words = [tuple(texts[i] for i in np.sort(part)) for part in np.split(order, ends)]
    return Parts(tuple(names["train"]), tuple(names["val"]), tuple(names["unseen"]), *words)


def _held_back(
    families: list[list[CarrierInfo]], rng: np.random.Generator
) -> tuple[set[str], set[str]]:
    """Names of the families kept unseen and of those for validation."""
    by_kind: dict[str, list[list[CarrierInfo]]] = defaultdict(list)
    for family in families:
        by_kind[family[0].kind].append(family)
    largest = max(by_kind, key=lambda kind: len(by_kind[kind]))
    for kind in [k for k, members in by_kind.items() if len(members) < 3 and k != largest]:
        by_kind[largest] += by_kind.pop(kind)  # too few to be spread: shuffled with the others
    total = len(families)
    enough = total >= _UNSEEN_LEAST + _VAL_LEAST + _TRAIN_LEAST
    quotas = (
        max(_UNSEEN_LEAST * enough, round(_UNSEEN_SHARE * total), 1),
        max(_VAL_LEAST * enough, round(_VAL_SHARE * total), 1),
    )
    taken: tuple[set[str], set[str]] = (set(), set())
    counts, seen = [0, 0], 0
    for kind in sorted(by_kind, key=lambda k: (len(by_kind[k]), k)):
        members = by_kind[kind]
        seen += len(members)
        queue = [members[i] for i in rng.permutation(len(members))]
        for part in (0, 1):
            # The quota is met in proportion kind by kind, and wholly with the last of them.
            while counts[part] < np.ceil(quotas[part] * seen / total) and len(queue) > 1:
                family = queue.pop()
                counts[part] += 1
                taken[part].add(family[0].family)
    return taken
