"""How good a classifier is, from its scores: pure functions, each with weights for resampling.

A score above 0 answers class 1 ("positive": shaky, a patient), any other class 0. Weights count how
often each answer is drawn; one row of them gives one figure, so that ten thousand resamples cost
one call. A figure that needs a class nobody drew is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MEASURES = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Answers:
    """Scores and truth, one entry an image or a person.

    Attributes
    ----------
    scores : ndarray of float, shape (n,)
        Above 0 for class 1.
    labels : ndarray of int, shape (n,)
        0 or 1.
    people : ndarray of int, shape (n,)
        Whose it is; entries of one person are drawn together.
    """

    scores: Reals
    labels: Ints
    people: Ints


def measure(scores: Reals, labels: Ints, weights: Reals | None = None) -> dict[str, Reals]:
    """All of `MEASURES`.

    Parameters
    ----------
    scores, labels : ndarray, shape (n,)
    weights : ndarray, shape (draws, n), optional
        Nonnegative; without them every answer counts once.

    Returns
    -------
    dict of ndarray, shape (draws,)
        One entry where there are no weights.
    """
    w = np.ones((1, len(scores))) if weights is None else weights
    right = (scores > 0) == (labels == 1)
    found = _share(w, right, labels == 1)
    spared = _share(w, right, labels == 0)
    return {
        "accuracy": _share(w, right, np.ones(len(labels), dtype=np.bool_)),
        "balanced_accuracy": (found + spared) / 2,
        "auc": auc(scores, labels, w),
        "sensitivity": found,
        "specificity": spared,
    }


def _share(weights: Reals, right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Reals:
    total = weights[:, among].sum(axis=1)
    hits = weights[:, among & right].sum(axis=1)
    return np.asarray(np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0))


def auc(scores: Reals, labels: Ints, weights: Reals) -> Reals:
    r"""Area under the ROC curve: how often a positive scores above a negative, ties half.

    .. math:: \frac{\sum_{i: y_i = 1} \sum_{j: y_j = 0} w_i w_j
              ([s_i > s_j] + \tfrac12 [s_i = s_j])}{\sum_i w_i \sum_j w_j}

    by sorting, not by pairs.

    Parameters
    ----------
    scores, labels : ndarray, shape (n,)
    weights : ndarray, shape (draws, n)

    Returns
    -------
    ndarray, shape (draws,)
    """
    if len(scores) == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    sides = [np.where(labels[order] == c, weights[:, order], 0.0) for c in (0, 1)]
    negative, positive = (np.add.reduceat(side, first, axis=1) for side in sides)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def by_person(answers: Answers) -> Answers:
    """One answer a person: the mean score of the person's images.

    A person with images of both classes (one who writes shakily in a test and steadily in
    another) gives an answer for each.
    """
    keys = np.stack([answers.people, answers.labels], axis=1)
    found, start, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    # Counted from the first of each: the mean of equal scores is that score to the bit, so that
    # people of whom a classifier says the same are tied.
    first = answers.scores[start]
    beyond = np.bincount(which, answers.scores - first[which], len(found))
    mean = first + beyond / np.bincount(which, minlength=len(found))
    return Answers(mean, found[:, 1].astype(np.int64), found[:, 0].astype(np.int64))
