"""What a linear model tells of the class, with its intervals: over all, and by tremor amplitude."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rvsm.handwriting.intervals import Z_95, wilson
from rvsm.handwriting.manifest import LABELS, Row

Array = npt.NDArray[np.float64]
Level = Literal["fine", "warning", "fault"]

WITHIN = 0.05
"""How far from chance the linear model may be."""

UNDECIDED = "too few images to decide"
"""How a score that is not `LinearScore.decided`, or a `SmallBand`, is told."""

BANDS_MM = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
LEAST_TO_FIT = 20
"""Images of a class that a model is fitted to at least."""

_FOLDS = 5
_LEAST_IN_BAND = 30
_TOGETHER_Z = 3.0
"""Quantile for a verdict: of some twenty bands, each at 95 %, chance alone would find one guilty; 3
leaves it 3 % for all of them together."""


@dataclass(frozen=True, slots=True)
class LinearScore:
    """Balanced accuracy of the linear model on one split, or one band of tremor amplitude in it.

    `low` and `high` bound the 95 % interval; `band_mm` is None over all amplitudes. `verdict` is
    ``fault`` where the score is more than 5 points above chance, and more than chance among all
    bands explains (3 standard errors), ``warning`` where it is more than 5 points off otherwise.
    """

    split: str
    band_mm: tuple[float, float] | None
    regular: int
    shaky: int
    accuracy: float
    low: float
    high: float
    verdict: Level

    @property
    def decided(self) -> bool:
        """Whether there were images enough: the interval lies within 5 points, or above chance."""
        return self.verdict == "fault" or self.high <= 0.5 + WITHIN

    @property
    def place(self) -> str:
        """Split and band, as a person reads them."""
        return self.split + ("" if self.band_mm is None else f" at {band_name(self.band_mm)} mm")


@dataclass(frozen=True, slots=True)
class SmallBand:
    """A band of tremor amplitude with too few shaky images (fewer than 30) to be scored."""

    split: str
    band_mm: tuple[float, float]
    shaky: int


def band_name(band_mm: tuple[float, float]) -> str:
    """A band as ``0.4-0.6``."""
    return f"{band_mm[0]:g}-{band_mm[1]:g}"


def linear_scores(
    rows: Sequence[Row], features: Array
) -> tuple[list[LinearScore], list[SmallBand]]:
    """Fit a logistic regression on the split ``train`` and score it on every other split.

    The features are standardised. Without ``train`` and another split the model is
    cross-validated fivefold, by font or writer where each class has five. Every split is scored
    over all amplitudes and in each band of `BANDS_MM` against all its regular images. Intervals
    are Wilson's for each class, combined by Newcombe's square-and-add.

    Parameters
    ----------
    rows : sequence of Row
    features : ndarray of float, shape (n, f)
        One line for each row.

    Returns
    -------
    scores : list of LinearScore
        Empty with fewer than 20 images of a class to fit to.
    small : list of SmallBand
        The bands left out.
    """
    y = np.array([LABELS.index(row.label) for row in rows])
    amplitude = np.array([row.tremor_amplitude_mm or np.nan for row in rows])
    splits = np.array([row.split for row in rows])
    train = splits == "train"
    scores: list[LinearScore] = []
    small: list[SmallBand] = []
    if train.all() or min(np.bincount(y[train], minlength=2)) < LEAST_TO_FIT:
        if min(np.bincount(y, minlength=2)) >= LEAST_TO_FIT:
            guess = _cross_predict(features, y, [row.carrier or row.file for row in rows])
            _score_split("all, cross-validated", y, guess, amplitude, scores, small)
        return scores, small
    guess = _model().fit(features[train], y[train]).predict(features)
    for split in dict.fromkeys(splits[~train]):
        part = splits == split
        if len(set(y[part])) == 2:
            _score_split(str(split), y[part], guess[part], amplitude[part], scores, small)
    return scores, small


def _model() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", C=10.0, max_iter=1000)
    )


def _cross_predict(
    x: Array, y: npt.NDArray[np.intp], carriers: Sequence[str]
) -> npt.NDArray[np.intp]:
    """Guess each image by a model that saw none of its font or writer, where there are five."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict

    groups = np.unique(np.array(carriers), return_inverse=True)[1]
    by_class = [np.unique(groups[y == label]).size for label in range(len(LABELS))]
    if min(by_class) >= _FOLDS:
        folds: Any = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    else:
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    found = cross_val_predict(_model(), x, y, groups=groups, cv=folds)
    return np.asarray(found, dtype=np.intp)


def _score_split(
    split: str,
    y: npt.NDArray[np.intp],
    guess: npt.NDArray[np.intp],
    amplitude: Array,
    scores: list[LinearScore],
    small: list[SmallBand],
) -> None:
    right = guess == y
    regular = right[y == 0]
    scores.append(score(split, None, regular, right[y == 1]))
    for band in itertools.pairwise(BANDS_MM):
        shaky = right[(y == 1) & (amplitude >= band[0]) & (amplitude < band[1])]
        if len(shaky) >= _LEAST_IN_BAND:
            scores.append(score(split, band, regular, shaky))
        elif len(shaky):
            small.append(SmallBand(split, band, len(shaky)))


def score(
    split: str,
    band: tuple[float, float] | None,
    regular: npt.NDArray[np.bool_],
    shaky: npt.NDArray[np.bool_],
) -> LinearScore:
    """Judge which images of the two classes a model has right."""
    accuracy, least, most = _interval(regular, shaky)
    verdict: Level = "fine" if abs(accuracy - 0.5) <= WITHIN else "warning"
    # A model that is mostly wrong has found no short cut that holds.
    if accuracy > 0.5 + WITHIN and _interval(regular, shaky, _TOGETHER_Z)[1] > 0.5:
        verdict = "fault"
    return LinearScore(split, band, len(regular), len(shaky), accuracy, least, most, verdict)


def _interval(
    regular: npt.NDArray[np.bool_], shaky: npt.NDArray[np.bool_], z: float = Z_95
) -> tuple[float, float, float]:
    """Return the mean of two shares and the ends of Newcombe's interval."""
    below, above = np.zeros(2), np.zeros(2)
    for i, right in enumerate((regular, shaky)):
        share = right.mean()
        low, high = wilson(share, len(right), z)
        below[i], above[i] = share - low, high - share
    accuracy = float(regular.mean() + shaky.mean()) / 2
    reach = (float(np.hypot(*below)) / 2, float(np.hypot(*above)) / 2)
    return accuracy, accuracy - reach[0], accuracy + reach[1]
