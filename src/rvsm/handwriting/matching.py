"""Choose among candidate images so that both classes are alike in all but the tremor.

A tremor lengthens strokes, spreads them and makes letters touch. To leave a network nothing but
the tremor itself to look at, more images of both classes are made than needed and accepted with a
probability that depends on their global features, fitted for the regular ones and for every band
of tremor amplitude apart, so that the accepted ones are distributed alike in all of them.
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
    regular, shaky : ndarray of int
        Indices of the accepted candidates of each class, ascending.
    acceptance : float
        Accepted share of all candidates.
    imbalance : float
        The largest difference between the means of a band and of the regular images over all
        features, squares and logs, in standard deviations, expected over the draw.
    """

    regular: Labels
    shaky: Labels
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
    ridge: float = 0.3,
) -> Match:
    r"""Accept `count` candidates of each class whose features are distributed alike.

    The groups are the regular candidates and the shaky ones of each band. In each group candidate
    i is accepted with probability :math:`\pi_i = \sigma(\alpha + \theta \cdot \phi_i)`, where
    :math:`\phi` are the features, their squares, their logs and one indicator for each carrier.
    A logistic propensity has odds (1 - p)/p of the form :math:`\exp(\theta \cdot \phi)`; instead
    of fitting it by likelihood and iterating, theta solves the balance conditions themselves,

    .. math:: \sum_i \pi_i = n, \qquad
              \sum_i \pi_i \phi_i = n \phi^* - \mathrm{ridge} \cdot \theta,

    which is one convex problem a group (the bounded, "logit" calibration of Deville and Särndal
    1992, entropy balancing with :math:`\pi \le 1`). The common target :math:`\phi^*` is the
    centre of the smallest ball around the groups' means: a mixture of the outermost groups, so
    that each has to give way by half of the distance only, which costs far fewer candidates than
    to move all of them to one class.

    Every band gets accepted candidates in proportion to how many there are, so that amplitudes
    stay distributed as they were drawn. The draw is systematic along the carriers, which leaves
    their counts almost no chance.

    Parameters
    ----------
    regular, shaky : ndarray of float64, shapes (n, f) and (m, f)
        Nonnegative features.
    bands : ndarray of int, shape (m,)
        The amplitude band of each shaky candidate.
    count : int
        How many candidates of each class to accept, at most min(n, m).
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
        `count` exceeds the number of candidates of a class.
    """
    if count > min(len(shaky), len(regular)):
        raise ValueError("match needs at least `count` candidates of each class")
    phi = expand(np.vstack([regular, shaky]))
    measured = phi.shape[1]
    carriers = np.zeros(len(phi), dtype=np.intp)
    if regular_carriers is not None and shaky_carriers is not None:
        carriers = np.concatenate([regular_carriers, shaky_carriers])
        phi = np.hstack([phi, _indicators(carriers)])
    groups = [(np.arange(len(regular)), count)]
    for band, share in zip(*_shares(bands, count), strict=True):
        groups.append((np.flatnonzero(bands == band) + len(regular), share))
    groups = [(members, share) for members, share in groups if share]
    target = _centre(phi, [members for members, _ in groups])
    taken, means = [np.zeros(0, dtype=np.intp)], []
    for members, share in groups:
        chance = _acceptance(phi[members] - target, share, ridge)
        means.append(chance @ phi[members, :measured] / share)
        # A random order within each carrier, then systematic sampling along the whole.
        line = np.lexsort((rng.random(len(members)), carriers[members]))
        taken.append(members[line[_systematic(chance[line], share, rng)]])
    gaps = [np.abs(mean - means[0]).max(initial=0.0) for mean in means]
    chosen = np.sort(np.concatenate(taken))
    return Match(
        chosen[chosen < len(regular)],
        chosen[chosen >= len(regular)] - len(regular),
        2 * count / max(len(phi), 1),
        float(max(gaps, default=0.0)),
    )


def _centre(phi: Array, groups: list[Labels]) -> Array:
    """Centre of the smallest ball around the groups' means, in whitened directions.

    The iteration of Badoiu and Clarkson (2003), a step of 1/(i + 1) towards the farthest point,
    never leaves the convex hull: the centre is a mixture of the groups and so can be reached.
    """
    if not groups:
        return np.zeros(phi.shape[1])
    means = np.array([phi[members].mean(axis=0) for members in groups])
    values, vectors = np.linalg.eigh(np.cov(phi, rowvar=False) + 0.1 * np.eye(phi.shape[1]))
    white = (means - means[0]) @ (vectors / np.sqrt(values))
    weights = np.full(len(groups), 1 / len(groups))
    for step in range(1, 1000):
        farthest = np.square(white - weights @ white).sum(axis=1).argmax()
        weights *= step / (step + 1)
        weights[farthest] += 1 / (step + 1)
    return np.asarray(weights @ means)


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
    if count == members:
        return np.ones(members)

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
