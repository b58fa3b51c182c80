"""Choose among candidate images so that both classes are alike in all but the tremor.

A tremor lengthens strokes, spreads them and makes letters touch. To leave a network nothing but
the tremor itself to look at, more images of both classes are made than needed and accepted with a
probability that depends on their global features, fitted for the regular ones and for every band
of tremor amplitude apart, so that the accepted ones are distributed alike in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from rvsm.handwriting.features import expand, scaled, whitening

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]

_MOST_EXCHANGES = 200
_CARRIER_WEIGHT = 0.6
_TEXT_WEIGHT = 0.6
_TEXT_RIDGE = 0.1
_SHAPE_WEIGHT = 0.5  # of products and logs, where not everything can be had


@dataclass(frozen=True, slots=True)
class Match:
    """Which candidates were taken, and how well they match.

    Attributes
    ----------
    taken : tuple of ndarray of int
        For each group the indices of its accepted candidates, ascending.
    gaps : tuple of float
        For each group the Mahalanobis distance of its mean features from the common target. Two
        groups at a distance D let the best linear model be right with probability Phi(D / 2):
        D = 0.25 is 5 points above chance.
    """

    taken: tuple[Labels, ...]
    gaps: tuple[float, ...]


def log_bands(low: float, high: float, count: int) -> Array:
    """Edges of `count` bands of equal ratio from `low` to `high`, in the units of the input."""
    return np.geomspace(low, high, count + 1)


def match(
    groups: Sequence[Array],
    shares: Sequence[int],
    rng: np.random.Generator,
    *,
    carriers: Sequence[Labels] | None = None,
    texts: Sequence[Array] | None = None,
    ridge: float = 0.3,
) -> Match:
    r"""Accept candidates of every group so that their features are distributed alike.

    In a group candidate i is accepted with probability
    :math:`\pi_i = \sigma(\alpha + \theta \cdot \phi_i)`, where :math:`\phi` are functions of
    the features (see `features.expand`), measures of the text and one indicator for each carrier. A
    logistic propensity
    has odds (1 - p)/p of the form :math:`\exp(\theta \cdot \phi)`; instead of fitting it by
    likelihood and iterating, theta solves the balance conditions themselves,

    .. math:: \sum_i \pi_i = n, \qquad
              \sum_i \pi_i \phi_i = n \phi^* - \mathrm{ridge} \cdot \theta,

    which is one convex problem a group (the bounded, "logit" calibration of Deville and Särndal
    1992, entropy balancing with :math:`\pi \le 1`). The common target :math:`\phi^*` is the
    centre of the smallest ball around the groups' means, distances weighted by the root of the
    share: a mixture of the outermost groups, so that each has to give way by a part of the
    distance only, the larger group by less, which costs far fewer candidates than to move all of
    them to one. The draw is systematic along the carriers, which leaves their
    counts almost no chance; a few exchanges then take away what chance left in the means.

    Parameters
    ----------
    groups : sequence of ndarray of float64, shapes (n_g, f)
        Nonnegative features of the candidates: of the regular ones and of each amplitude band.
    shares : sequence of int
        How many candidates of each group to accept, 1 to n_g.
    rng : numpy.random.Generator
        Decides among candidates; equal states give equal choices.
    carriers : sequence of ndarray of int, shapes (n_g,), optional
        Which font or writer each candidate has; their shares are matched too.
    texts : sequence of ndarray of float64, shapes (n_g, t), optional
        Measures of each candidate's text, such as its length; their means are matched too.
    ridge : float
        Strength of the quadratic penalty on theta; it keeps small groups solvable.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        A share is not between 1 and the number of candidates.
    """
    if any(not 1 <= share <= len(group) for group, share in zip(groups, shares, strict=True)):
        raise ValueError("match needs at least as many candidates in each group as it shall take")
    features = expand(np.vstack(groups))
    width = groups[0].shape[1]
    features[:, width:] *= _SHAPE_WEIGHT
    blocks = [features]
    carrier = np.zeros(len(features), dtype=np.intp)
    if carriers is not None:
        carrier = np.concatenate(carriers)
        blocks.append(_indicators(carrier))
    if texts is not None:
        # Whitened, as the features are: what a linear model sees may have little spread.
        measures = scaled(np.vstack(texts))
        blocks.append(_TEXT_WEIGHT * measures @ whitening(measures, _TEXT_RIDGE))
    phi = np.hstack(blocks)
    del features, blocks  # as large again
    starts = np.cumsum([len(group) for group in groups])[:-1]
    parts = np.split(phi, starts)
    means = np.array([part.mean(axis=0) for part in parts])
    weights = _centre(means, whitening(phi, 0.1), np.asarray(shares, dtype=np.float64))
    target = weights @ means
    # The mixture varies more than its parts: the products shall be those of one part in its place.
    i, j = np.triu_indices(width)
    between = weights @ (means[:, i] * means[:, j]) - target[i] * target[j]
    target[width : width + len(i)] -= _SHAPE_WEIGHT * between
    taken, gaps = [], []
    for part, names, share in zip(parts, np.split(carrier, starts), shares, strict=True):
        centred = part - target
        chance = _acceptance(centred, share, ridge)
        # A random order within each carrier, then systematic sampling along the whole.
        line = np.lexsort((rng.random(len(part)), names))
        chosen = _exchange(centred, line[_systematic(chance[line], share, rng)])
        taken.append(chosen)
        gaps.append(float(np.linalg.norm(centred[chosen, :width].mean(axis=0))))
    return Match(tuple(taken), tuple(gaps))


def _centre(means: Array, whiten: Array, shares: Array) -> Array:
    """Weights of the groups in the centre of the smallest ball around their means.

    The iteration of Badoiu and Clarkson (2003), a step of 1/(i + 1) towards the farthest point,
    never leaves the convex hull: the centre is a mixture of the groups and so can be reached.
    """
    white = (means - means[0]) @ whiten
    weights = np.full(len(means), 1 / len(means))
    for step in range(1, 1000):
        farthest = (np.square(white - weights @ white).sum(axis=1) * shares).argmax()
        weights *= step / (step + 1)
        weights[farthest] += 1 / (step + 1)
    return weights


def _indicators(labels: Labels) -> Array:
    """One column a label, of standard deviation `_CARRIER_WEIGHT`."""
    hot: Array = np.asarray(labels[:, None] == np.unique(labels)[None, :], dtype=np.float64)
    if hot.shape[1] < 2:
        return hot[:, :0]
    return np.asarray(_CARRIER_WEIGHT * hot / np.maximum(hot.std(axis=0), 1e-9))


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


def _exchange(centred: Array, taken: Labels) -> Labels:
    """Exchange a few of the taken for others, each time bringing their sum nearer to 0."""
    inside = np.zeros(len(centred), dtype=bool)
    inside[taken] = True
    total = centred[taken].sum(axis=0)
    square = np.einsum("ij,ij->i", centred, centred)
    for _ in range(min(len(taken) // 10, _MOST_EXCHANGES)):
        along = centred @ total
        out = np.where(inside, square - 2 * along, np.inf).argmin()
        along -= centred @ centred[out]
        into = np.where(inside, np.inf, square + 2 * along).argmin()
        moved = total - centred[out] + centred[into]
        if inside.all() or moved @ moved >= total @ total:
            break
        inside[[out, into]] = False, True
        total = moved
    return np.flatnonzero(inside)
