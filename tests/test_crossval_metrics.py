"""rvsm.experiments.crossval: figures, intervals and calibration against scikit-learn and loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn import metrics as sk

from rvsm.experiments.calibration import (
    calibration_error,
    fit_platt,
    log_loss,
    reliability,
)
from rvsm.experiments.crossval.bootstrap import interval, person_weights, sampled
from rvsm.experiments.crossval.metrics import MEASURES, Answers, by_person, measure

seeds = st.integers(0, 10_000)


def answers(seed: int, n: int = 40, people: int = 9) -> Answers:
    """Random answers, scores with ties, each person of one class."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, people, n)
    labels = (who % 2).astype(np.int64)
    labels[:2], who[:2] = (0, 1), (0, 1)
    scores = np.round(rng.normal(labels - 0.5, 1.5), 1)
    return Answers(scores, labels, who.astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    a = answers(seed)
    found = {name: float(value[0]) for name, value in measure(a.scores, a.labels).items()}
    told = (a.scores > 0).astype(int)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(a.labels, told))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(a.labels, told))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(a.labels, a.scores))
    assert found["sensitivity"] == pytest.approx(sk.recall_score(a.labels, told))
    assert found["specificity"] == pytest.approx(sk.recall_score(a.labels, told, pos_label=0))


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_the_auc_is_a_count_of_pairs(seed: int) -> None:
    a = answers(seed, 15)
    pairs = itertools.product(a.scores[a.labels == 1], a.scores[a.labels == 0])
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]
    assert float(measure(a.scores, a.labels)["auc"][0]) == pytest.approx(np.mean(won))


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_a_weight_is_a_number_of_copies(seed: int) -> None:
    a = answers(seed, 20)
    weights = np.random.default_rng(seed).integers(0, 4, (5, 20)).astype(float)
    weights[:, :2] = 1
    found = measure(a.scores, a.labels, weights)
    for draw, row in enumerate(weights.astype(int)):
        copies = np.repeat(np.arange(20), row)
        slow = measure(a.scores[copies], a.labels[copies])
        for name in MEASURES:
            assert found[name][draw] == pytest.approx(float(slow[name][0]))


def test_a_class_that_nobody_drew_has_no_figure() -> None:
    found = measure(np.array([1.0, 2.0]), np.array([1, 1]))
    assert found["sensitivity"][0] == 1.0
    assert np.isnan([found[name][0] for name in ("specificity", "auc", "balanced_accuracy")]).all()
    assert np.isnan(measure(np.zeros(0), np.zeros(0, dtype=np.int64))["auc"]).all()


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_a_persons_answer_is_the_mean(seed: int) -> None:
    a = answers(seed)
    labels = a.labels.copy()
    labels[a.people == 3] = np.arange((a.people == 3).sum()) % 2  # one person has both classes
    found = by_person(Answers(a.scores, labels, a.people))
    slow = {}
    for who, label in sorted(set(zip(a.people.tolist(), labels.tolist(), strict=True))):
        own = a.scores[(a.people == who) & (labels == label)]
        slow[who, label] = own.mean()
    assert list(zip(found.people.tolist(), found.labels.tolist(), strict=True)) == list(slow)
    np.testing.assert_allclose(found.scores, list(slow.values()), atol=1e-12)


def test_the_same_said_of_everybody_is_one_bin() -> None:
    """In whatever order people stand."""
    (found,) = reliability(np.full(27, 0.6), np.repeat([0, 1], [12, 15]))
    assert (found.n, found.true) == (27, pytest.approx(15 / 27))
    assert calibration_error([found]) == pytest.approx(0.6 - 15 / 27)


def test_people_of_whom_the_same_is_said_are_tied() -> None:
    """However many images each has: the majority class has an AUC of one half."""
    people = np.repeat(np.arange(12), np.arange(1, 13))
    for score in (0.3483067, 0.1, -2.7):
        said = Answers(np.full(len(people), score), people % 2, people)
        assert (by_person(said).scores == score).all()
        figures, samples = sampled([by_person(said)] * 3, 20, 0)
        assert figures["auc"] == 0.5
        assert interval(samples["auc"]) == (0.5, 0.5)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_people_are_drawn_whole_and_within_their_class(seed: int) -> None:
    a = answers(seed)
    weights = person_weights(a.people, a.labels, 50, np.random.default_rng(seed))
    for who in np.unique(a.people):
        mine = weights[:, a.people == who]
        assert (mine == mine[:, :1]).all()
    for label in (0, 1):
        people = np.unique(a.people[a.labels == label])
        first = [int(np.flatnonzero(a.people == who)[0]) for who in people]
        assert (weights[:, first].sum(axis=1) == len(people)).all()


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_resampled_figures_are_those_of_a_loop_over_copies(seed: int) -> None:
    first, second = answers(seed), answers(seed)
    second = Answers(second.scores[::-1].copy() + 0.05, first.labels, first.people)
    _, samples = sampled([first, second], 6, seed)
    rng = np.random.default_rng([seed, 0xB007])
    names = np.unique(first.people)
    label = np.array([first.labels[first.people == who][0] for who in names])
    drawn = person_weights(names, label, 6, rng)
    for draw in range(6):
        slow = dict.fromkeys(MEASURES, 0.0)
        for a in (first, second):
            times = [int(drawn[draw, np.searchsorted(names, who)]) for who in a.people]
            copies = np.repeat(np.arange(len(times)), times)
            for name, value in measure(a.scores[copies], a.labels[copies]).items():
                slow[name] += float(value[0]) / 2
        for name in MEASURES:
            assert samples[name][draw] == pytest.approx(slow[name])


def test_many_images_of_few_people_make_no_narrow_interval() -> None:
    """Ten people with a hundred equal images each are ten answers, not a thousand."""
    people = np.repeat(np.arange(10), 100)
    right = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1])[people]
    labels = (people % 2).astype(np.int64)
    scores = np.where(right == 1, 2.0 * labels - 1, 1.0 - 2 * labels)
    figures, samples = sampled([Answers(scores, labels, people)], 2000, 0)
    low, high = interval(samples["accuracy"])
    assert figures["accuracy"] == pytest.approx(0.8)
    assert low <= 0.8 <= high
    assert high - low > 0.35


def test_intervals_are_quantiles() -> None:
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.array([np.nan]))).all()


@settings(max_examples=40, deadline=None)
@given(seed=seeds, scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_platt_is_the_least_loss(seed: int, scale: float) -> None:
    a = answers(seed)
    found = fit_platt(a.scores * scale, a.labels)
    n = np.bincount(a.labels)
    target = np.where(a.labels == 1, (n[1] + 1) / (n[1] + 2), 1 / (n[0] + 2))

    def loss(at: np.ndarray) -> float:
        z = at[0] * a.scores + at[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    slow = minimize(loss, [0.0, 0.0], method="L-BFGS-B", bounds=[(0, None), (None, None)])
    assert loss(np.array([found.slope * scale, found.offset])) <= slow.fun + 1e-6 * len(a.labels)
    assert found.slope >= 0


def test_platt_on_hard_cases() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    apart = fit_platt(np.array([-3.0, -2, -1, 1, 2, 3]), labels)
    assert 0 < apart.slope < 10
    worse = fit_platt(np.array([3.0, 2, 1, -1, -2, -3]), labels)
    assert worse.slope == 0
    assert expit(worse(np.array([5.0])))[0] == pytest.approx(0.5)
    flat = fit_platt(np.zeros(6), labels)
    assert (flat.slope, flat.offset) == (0.0, pytest.approx(0.0))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_log_loss_is_that_of_scikit_learn(seed: int) -> None:
    a = answers(seed)
    expected = sk.log_loss(a.labels, expit(a.scores))
    assert log_loss(a.scores, a.labels) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(3, 200))
def test_the_curve_counts_everybody_once(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    labels = (rng.random(n) < p).astype(np.int64)
    curve = reliability(p, labels)
    assert sum(b.n for b in curve) == n
    assert sum(b.n * b.true for b in curve) == pytest.approx(labels.sum())
    assert [b.said for b in curve] == sorted(b.said for b in curve)
    assert all(b.low - 1e-9 <= b.true <= b.high + 1e-9 for b in curve)
    assert calibration_error(curve) == pytest.approx(
        sum(b.n * abs(b.said - b.true) for b in curve) / n
    )


def test_a_calibrated_crowd_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    labels = (rng.random(20_000) < p).astype(np.int64)
    assert calibration_error(reliability(p, labels)) < 0.02
    assert calibration_error(reliability(np.sqrt(p), labels)) > 0.1
