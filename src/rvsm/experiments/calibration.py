"""Probabilities that mean what they say: Platt's scaling, and the curve that shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from rvsm.handwriting.intervals import wilson

Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_STEPS, _DONE = 100, 1e-10


@dataclass(frozen=True)
class Platt:
    """A score turned into a log-odds: slope * score + offset, slope at least 0."""

    slope: float
    offset: float

    def __call__(self, scores: Reals) -> Reals:
        """Calibrated log-odds of class 1."""
        return np.asarray(self.slope * scores + self.offset)


def fit_platt(scores: Reals, labels: Ints) -> Platt:
    r"""Fit the two numbers by maximum likelihood against smoothed targets.

    The targets are :math:`(n_1 + 1) / (n_1 + 2)` for class 1 and :math:`1 / (n_0 + 2)` for class
    0, which keeps the slope finite where the classes separate. A slope below 0 (scores that are
    worse than chance) becomes 0: every probability is then the share of class 1.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        From images that the classifier was not fitted to.
    labels : ndarray of int, shape (n,)

    Returns
    -------
    Platt

    References
    ----------
    Platt 1999, Probabilistic outputs for support vector machines; Lin, Lin & Weng 2007.
    """
    positive, negative = float((labels == 1).sum()), float((labels == 0).sum())
    target = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    prior = float(np.log((positive + 1) / (negative + 1)))
    # Newton's method on scores of unit size: a network's may be tens, a line's thousandths.
    unit = float(np.sqrt(np.mean(scores**2))) if len(scores) else 0.0
    if unit == 0 or not np.isfinite(unit):
        return Platt(0.0, _only_offset(target))
    design = np.stack([scores / unit, np.ones(len(scores))], axis=1)
    at = np.array([0.0, prior])
    loss = _loss(design @ at, target)
    for _ in range(_STEPS):
        p = expit(design @ at)
        gradient = design.T @ (p - target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and _loss(design @ (at - size * step), target) > loss:
            size /= 2
        at = at - size * step
        before, loss = loss, _loss(design @ at, target)
        if before - loss < _DONE * max(1.0, loss):
            break
    if at[0] < 0:
        return Platt(0.0, _only_offset(target))
    return Platt(float(at[0] / unit), float(at[1]))


def fit_shrunk(scores: Reals, labels: Ints, spread: float = 0.5) -> Platt:
    r"""Platt's scaling of log-odds, drawn towards leaving them as they are.

    Log slope and offset have normal priors of mean 0 and standard deviation `spread`: of a dozen
    people in a class, maximum likelihood finds slopes from 0.04 to 4 as chance has it, and answers
    that were scaled so cannot be compared from one fold to the next.

    .. math:: \sum_i \log(1 + e^{-y_i (e^a s_i + b)}) + \frac{a^2 + b^2}{2 \sigma^2}

    Parameters
    ----------
    scores : ndarray, shape (n,)
        Log-odds from images that the classifier was not fitted to.
    labels : ndarray of int, shape (n,)
    spread : float

    Returns
    -------
    Platt
    """
    from scipy.optimize import minimize

    target = labels.astype(np.float64)

    def posterior(at: Reals) -> tuple[float, Reals]:
        scaled = np.exp(at[0]) * scores
        error = expit(scaled + at[1]) - target
        value = _loss(scaled + at[1], target) + float(at @ at) / (2 * spread**2)
        return value, np.array([error @ scaled, error.sum()]) + at / spread**2

    log_slope, offset = minimize(posterior, np.zeros(2), jac=True, method="L-BFGS-B").x
    return Platt(float(np.exp(log_slope)), float(offset))


def _only_offset(target: Reals) -> float:
    mean = float(target.mean())
    return float(np.log(mean / (1 - mean)))


def _loss(z: Reals, target: Reals) -> float:
    return float((np.logaddexp(0.0, z) - target * z).sum())


def log_loss(log_odds: Reals, labels: Ints) -> float:
    """Mean negative log-likelihood of labels under the log-odds of class 1, in nats."""
    return _loss(log_odds, labels.astype(np.float64)) / max(len(labels), 1)


@dataclass(frozen=True)
class Bin:
    """Answers of about one probability: what was said, what came true, with a 95 % interval."""

    said: float
    true: float
    low: float
    high: float
    n: int


def reliability(probabilities: Reals, labels: Ints, bins: int = 8) -> list[Bin]:
    """The calibration curve: answers sorted by probability and cut into bins of equal number.

    Answers of one probability share a bin. Intervals are Wilson's and take the answers for
    independent: give one answer a person.
    """
    order = np.argsort(probabilities, kind="stable")
    said_of = probabilities[order]
    parts = np.array_split(order, max(1, min(bins, len(order) // 5)))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    out = []
    for part in np.split(order, np.searchsorted(said_of, said_of[ends])):
        if len(part):
            share = float(labels[part].mean())
            low, high = wilson(share, len(part))
            said = float(probabilities[part].mean())
            out.append(Bin(said, share, float(low), float(high), len(part)))
    return out


def calibration_error(curve: list[Bin]) -> float:
    """Mean distance between said and true over the bins, weighted by their numbers."""
    total = sum(b.n for b in curve)
    return sum(b.n * abs(b.said - b.true) for b in curve) / total if total else float("nan")
