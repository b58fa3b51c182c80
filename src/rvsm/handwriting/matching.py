"""Choose among candidate images so that both classes are alike in all but the tremor.

A tremor lengthens strokes and spreads them. To leave a network nothing but the tremor itself to
look at, more shaky images are made than needed and accepted with a probability that depends on
their global features: the odds (1 - p)/p of a propensity p = P(shaky | features), fitted in every
band of tremor amplitude apart, so that the accepted ones are distributed as the regular ones are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from rvsm.handwriting.features import expand

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Match:
    """Which candidates were taken, and how well they match.

    Attributes
    ----------
    taken : ndarray of int
        Indices of the accepted candidates, ascending.
    acceptance : float
        Accepted share of all candidates.
    imbalance : float
        The largest difference of means between accepted and regular images over all bands and
        features, in standard deviations, expected over the draw.
    """

    taken: Labels
    acceptance: float
    imbalance: float


def log_bands(low: float, high: float, count: int) -> Array:
    """Edges of `count` bands of equal ratio from `low` to `high`, in the units of the input."""
    return np.geomspace(low, high, count + 1)


def in_band(values: Array, edges: Array) -> Labels:
    """Index of the band of each value; values beyond the ends belong to the outermost bands."""
    return np.asarray(np.digitize(values, edges[1:-1]), dtype=np.intp)


def match(
    regular: Array,
    shaky: Array,
    bands: Labels,
    count: int,
    rng: np.random.Generator,
    *,
    regular_carriers: Labels | None = None,
    shaky_carriers: Labels | None = None,
    ridge: float = 1.0,
) -> Match:
    r"""Accept `count` shaky candidates whose features are distributed as the regular ones'.

    In each band candidate i is accepted with probability
    :math:`\pi_i = \sigma(\alpha + \theta \cdot \phi_i)`, where :math:`\phi` are the features,
    their squares, their logs and one indicator for each carrier. A logistic propensity has odds
    :math:`\exp(-\theta \cdot \phi)` of just this form; instead of fitting it by likelihood and
    iterating, theta solves the balance conditions themselves,

    .. math:: \sum_i \pi_i = n, \qquad
              \sum_i \pi_i \phi_i = n \bar\phi_{regular} - \mathrm{ridge} \cdot \theta,

    which is one convex problem (the bounded, "logit" calibration of Deville and Särndal 1992,
    entropy balancing with :math:`\pi \le 1`). Every band gets the number of candidates in
    proportion to how many there are, so that the distribution of amplitudes stays as it was drawn.
    The draw is systematic along the carriers, which leaves their counts almost no chance.

    Parameters
    ----------
    regular, shaky : ndarray of float64, shapes (n, f) and (m, f)
        Nonnegative features.
    bands : ndarray of int, shape (m,)
        The amplitude band of each candidate.
    count : int
        How many candidates to accept, at most m.
    rng : numpy.random.Generator
        Decides among candidates; equal states give equal choices.
    regular_carriers, shaky_carriers : ndarray of int, shapes (n,) and (m,), optional
        Which font or writer each image has; their shares are matched too.
    ridge : float
        Strength of the quadratic penalty on theta; it keeps small bands solvable.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        `count` exceeds the number of candidates, or there are no regular images.
    """
    if count > len(shaky) or len(regular) == 0:
        raise ValueError("match needs regular images and at least `count` candidates")
    phi = expand(np.vstack([regular, shaky]))
    if regular_carriers is not None and shaky_carriers is not None:
        carriers = np.concatenate([regular_carriers, shaky_carriers])
        phi = np.hstack([phi, _indicators(carriers)])
        order = shaky_carriers
    else:
        order = np.zeros(len(shaky), dtype=np.intp)
    target, candidates = phi[: len(regular)].mean(axis=0), phi[len(regular) :]
    taken, imbalance = [], 0.0
    for band, share in zip(*_shares(bands, count), strict=True):
        members = np.flatnonzero(bands == band)
        chance = _acceptance(candidates[members] - target, share, ridge)
        gaps = np.abs(chance @ (candidates[members] - target)) / max(share, 1)
        imbalance = max(imbalance, float(gaps[: 3 * regular.shape[1]].max(initial=0.0)))
        # A random order within each carrier, then systematic sampling along the whole.
        line = members[np.lexsort((rng.random(len(members)), order[members]))]
        by_member = np.zeros(len(shaky))
        by_member[members] = chance
        taken.append(line[_systematic(by_member[line], share, rng)])
    chosen = np.sort(np.concatenate(taken)) if taken else np.zeros(0, dtype=np.intp)
    return Match(chosen, count / max(len(shaky), 1), imbalance)


def _shares(bands: Labels, count: int) -> tuple[Labels, list[int]]:
    """The bands that occur and how many to take in each: proportional, summing to `count`."""
    names, sizes = np.unique(bands, return_counts=True)
    ends = np.rint(np.cumsum(sizes) * (count / max(len(bands), 1))).astype(int)
    return names, [int(n) for n in np.diff(ends, prepend=0)]


def _indicators(labels: Labels) -> Array:
    """One column a label, each scaled to standard deviation 1."""
    hot = (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    return np.asarray(hot / np.maximum(hot.std(axis=0), 1e-9)) if hot.shape[1] > 1 else hot[:, :0]


def _acceptance(centred: Array, count: int, ridge: float) -> Array:
    """Probabilities with sum `count` and sum(pi * centred) = -ridge * theta."""
    members, width = centred.shape
    if count in {0, members}:
        return np.full(members, float(count > 0))

    def dual(x: Array) -> tuple[float, Array]:
        score = x[0] + centred @ x[1:]
        chance = special.expit(score)
        value = np.logaddexp(0, score).sum() - count * x[0] + ridge / 2 * x[1:] @ x[1:]
        slope = np.concatenate([[chance.sum() - count], chance @ centred + ridge * x[1:]])
        return float(value), slope

    start = np.zeros(width + 1)
    start[0] = special.logit(count / members)
    best = optimize.minimize(
        dual, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-3}
    ).x
    # The intercept once more, by bisection: the sum must be `count` for the systematic draw.
    score = centred @ best[1:]
    span = np.abs(score).max() + 50.0
    intercept = optimize.brentq(
        lambda a: special.expit(a + score).sum() - count, -span, span, xtol=1e-12
    )
    return np.asarray(special.expit(intercept + score))


def _systematic(chance: Array, count: int, rng: np.random.Generator) -> Labels:
    """Indices drawn with these probabilities, whose sum is `count`: exactly `count` of them."""
    ends = np.cumsum(chance)
    ends *= count / max(ends[-1], 1e-12)
    ticks = np.arange(count) + rng.random()
    return np.minimum(np.searchsorted(ends, ticks, side="right"), len(chance) - 1)
