"""Confidence intervals over people: who might have been in the study, not which image.

Images of one person say nearly the same; intervals over images would be far too narrow. So people
are drawn with replacement, all images of a person with them, as many from each class as there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rvsm.experiments.crossval.metrics import MEASURES, Answers, Ints, Reals, measure

DRAWS = 2000
LEVEL = 0.95
_CHUNK = 200


def person_weights(people: Ints, labels: Ints, draws: int, rng: np.random.Generator) -> Reals:
    """How often each entry is drawn when people are drawn with replacement.

    People are drawn within their class (those with entries of both classes within a third
    group), so that no draw lacks a class.

    Parameters
    ----------
    people, labels : ndarray of int, shape (n,)
    draws : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (draws, n)
        Whole numbers; entries of one person have equal ones.
    """
    names, which = np.unique(people, return_inverse=True)
    has = [np.bincount(which, labels == c, len(names)) > 0 for c in (0, 1)]
    group = has[0] + 2 * has[1]
    count = np.zeros((draws, len(names)))
    for kind in np.unique(group):
        members = np.flatnonzero(group == kind)
        count[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=draws
        )
    return np.asarray(count[:, which])


def sampled(
    repeats: list[Answers], draws: int, seed: int
) -> tuple[dict[str, float], dict[str, Reals]]:
    """Figures, and what they come to in each draw of people.

    Parameters
    ----------
    repeats : list of Answers
        One a repetition of the cross-validation, over the same people: figures are the mean over
        the repetitions, and each draw of people is the same in all.
    draws : int
    seed : int
        Equal seeds draw equal people: differences of two classifiers are then paired.

    Returns
    -------
    figures : dict of str to float
    samples : dict of str to ndarray, shape (draws,)
    """
    figures = dict.fromkeys(MEASURES, 0.0)
    for answers in repeats:
        for name, value in measure(answers.scores, answers.labels).items():
            figures[name] += float(value[0]) / len(repeats)
    names = np.unique(np.concatenate([answers.people for answers in repeats]))
    keys = _labels_of(repeats, names)
    parts: dict[str, list[Reals]] = {name: [] for name in MEASURES}
    rng = np.random.default_rng([seed, 0xB007])
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        drawn = person_weights(*keys, size, rng)
        of_name = drawn[:, np.searchsorted(keys[0], names)]
        sums = {name: np.zeros(size) for name in MEASURES}
        for answers in repeats:
            weights = of_name[:, np.searchsorted(names, answers.people)]
            for name, value in measure(answers.scores, answers.labels, weights).items():
                sums[name] += value / len(repeats)
        for name in MEASURES:
            parts[name].append(sums[name])
    empty = np.zeros(0)
    return figures, {n: np.concatenate(p) if p else empty for n, p in parts.items()}


def _labels_of(repeats: list[Answers], names: Ints) -> tuple[Ints, Ints]:
    """Each person once for each class that the person has, in the order of `names`."""
    pairs = np.concatenate([np.stack([a.people, a.labels], axis=1) for a in repeats])
    found = np.unique(pairs, axis=0)
    return found[:, 0], found[:, 1]


def interval(samples: npt.NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled figures; NaN where there are none."""
    finite = samples[np.isfinite(samples)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
