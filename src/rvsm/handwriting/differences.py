"""How far the two classes of a data set differ in what its manifest tells of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rvsm.handwriting.manifest import LABELS, NUMBERS, Row

if TYPE_CHECKING:
    from rich.table import Table

Array = npt.NDArray[np.float64]

_OF_THE_TREMOR = ("tremor_frequency_hz", "tremor_amplitude_mm")
_WORDS = ("text", "carrier", "carrier_kind")
_SHUFFLES = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How one column differs between the classes in one split.

    Of a number, `value` is the difference of means, shaky less regular, in standard deviations
    over both classes. Of a name, it is the total variation distance between the shares of the
    names in the two classes: half the sum of the absolute differences, 0 alike, 1 apart. `chance`
    is what labels dealt at random would give on average (for numbers, the absolute value).
    """

    split: str
    column: str
    kind: str
    value: float
    chance: float


def numbers(rows: Sequence[Row]) -> dict[str, Array]:
    """The numeric columns of a manifest but the tremor's own, and letters and words of the text.

    Returns
    -------
    dict of str to ndarray of float, shape (n,)
        Only columns that hold a number in every row and vary.
    """
    found = {
        name: np.array([np.nan if (v := getattr(row, name)) is None else v for row in rows])
        for name in NUMBERS
        if name not in _OF_THE_TREMOR
    }
    if all(row.text for row in rows):
        found["letters"] = np.array([float(len("".join(row.text.split()))) for row in rows])
        found["words"] = np.array([float(len(row.text.split())) for row in rows])
    return {
        name: values
        for name, values in found.items()
        if len(values) and np.isfinite(values).all() and np.ptp(values) > 0
    }


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Compare the classes column by column in every split; information, not a verdict.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    list of Difference
        Splits without one of the classes, and columns that are empty or never vary, are left out.
    """
    found = []
    for split in dict.fromkeys(row.split for row in rows):
        part = [row for row in rows if row.split == split]
        shaky = np.array([row.label == LABELS[1] for row in part])
        if shaky.all() or not shaky.any():
            continue
        for name, values in numbers(part).items():
            value = float(values[shaky].mean() - values[~shaky].mean()) / float(values.std())
            # The mean absolute value of a normal variable is sqrt(2 / pi) standard deviations.
            chance = float(np.sqrt((1 / shaky.sum() + 1 / (~shaky).sum()) * 2 / np.pi))
            found.append(Difference(split, name, "number", value, chance))
        for name in _WORDS:
            words = [getattr(row, name) for row in part]
            if all(words) and len(set(words)) > 1:
                codes = np.unique(words, return_inverse=True)[1]
                value = total_variation(codes[shaky], codes[~shaky])
                found.append(Difference(split, name, "name", value, _by_chance(codes, shaky)))
    return found


def difference_table(differences: Sequence[Difference]) -> Table:
    """The differences as a table: a line a column of the manifest, a column a split."""
    from rich.table import Table

    splits = list(dict.fromkeys(d.split for d in differences))
    found = {(d.column, d.split): d for d in differences}
    table = Table(
        "column",
        *splits,
        title="How the classes differ, for information (in brackets: by chance alone)",
        caption="Numbers: shaky less regular, in standard deviations. "
        "Names: total variation distance, 0 to 1.",
    )
    table.columns[0].no_wrap = True
    for name in dict.fromkeys(d.column for d in differences):
        cells = (found.get((name, split)) for split in splits)
        table.add_row(
            name,
            *(
                ""
                if d is None
                else f"{d.value:+.2f} ({d.chance:.2f})"
                if d.kind == "number"
                else f"{d.value:.2f} ({d.chance:.2f})"
                for d in cells
            ),
        )
    return table


def total_variation(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> float:
    """Half the sum over all names of the absolute difference of their shares."""
    a, b = Counter(first.tolist()), Counter(second.tolist())
    return sum(abs(a[k] / len(first) - b[k] / len(second)) for k in a.keys() | b.keys()) / 2


def _by_chance(codes: npt.NDArray[np.intp], shaky: npt.NDArray[np.bool_]) -> float:
    rng = np.random.default_rng(0)
    dealt = (rng.permutation(shaky) for _ in range(_SHUFFLES))
    return float(np.mean([total_variation(codes[d], codes[~d]) for d in dealt]))
