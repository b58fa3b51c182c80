"""What each feature of an image tells of the class by itself; for information, not a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rvsm.handwriting.features import FEATURES
from rvsm.handwriting.intervals import Z_95
from rvsm.handwriting.linear import LEAST_TO_FIT
from rvsm.handwriting.manifest import LABELS, Row

if TYPE_CHECKING:
    from rich.table import Table

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alone:
    """How well one feature alone tells the classes of one split apart.

    `auc` is the probability that a shaky image has more of it than a regular one: 0.5 tells
    nothing, and 0.4 as much as 0.6. `low` and `high` bound the 95 % interval.
    """

    split: str
    feature: str
    auc: float
    low: float
    high: float


def each_alone(rows: Sequence[Row], measured: Array) -> list[Alone]:
    """Score every feature in every split with 20 images or more of either class.

    Parameters
    ----------
    rows : sequence of Row
    measured : ndarray of float, shape (n, len(FEATURES))
        One line for each row.
    """
    splits = np.array([row.split for row in rows])
    shaky = np.array([row.label == LABELS[1] for row in rows])
    found = []
    for split in dict.fromkeys(splits.tolist()):
        one, other = measured[(splits == split) & shaky], measured[(splits == split) & ~shaky]
        if min(len(one), len(other)) >= LEAST_TO_FIT:
            for column, name in enumerate(FEATURES):
                found.append(Alone(split, name, *auc(one[:, column], other[:, column])))
    return found


def auc(high: Array, low: Array) -> tuple[float, float, float]:
    r"""Area under the ROC curve with its 95 % interval, by DeLong's variance.

    With the placement :math:`p_i` of each value of `high`, the share of `low` below it (equal ones
    by half), and likewise :math:`q_j` of each value of `low`, the area is the mean of p and its
    variance :math:`var(p) / n_p + var(q) / n_q`.

    Parameters
    ----------
    high, low : ndarray of float
        Values of the two classes, two of either at least.

    Returns
    -------
    tuple of float
        The area, and the ends of the interval, within 0 and 1.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, 837-845.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([high, low]))
    above = (ranks[: len(high)] - rankdata(high)) / len(low)
    below = (ranks[len(high) :] - rankdata(low)) / len(high)
    area = float(above.mean())
    reach = Z_95 * float(np.sqrt(above.var(ddof=1) / len(high) + below.var(ddof=1) / len(low)))
    return area, max(area - reach, 0.0), min(area + reach, 1.0)


def alone_table(found: Sequence[Alone]) -> Table:
    """The areas as a table: a line a feature, a column a split."""
    from rich.table import Table

    splits = list(dict.fromkeys(each.split for each in found))
    table = Table(
        "feature",
        *splits,
        title="Each feature alone, for information: ROC AUC with its 95 % interval",
        caption="0.5 tells nothing; above, shaky images have more of it, below, less.",
    )
    table.columns[0].no_wrap = True
    by_place = {(each.feature, each.split): each for each in found}
    for name in FEATURES:
        cells = (by_place[name, split] for split in splits)
        table.add_row(name, *(f"{c.auc:.2f} ({c.low:.2f} to {c.high:.2f})" for c in cells))
    return table
