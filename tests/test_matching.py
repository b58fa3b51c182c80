"""rvsm.handwriting.matching: accepted candidates are distributed as the regular ones are."""

from itertools import pairwise

import numpy as np
import pytest

from rvsm.handwriting.matching import Labels, log_bands, match


def world(seed: int, n: int, amplitude: np.ndarray) -> np.ndarray:
    """Ink and width that grow with the amplitude of the tremor."""
    rng = np.random.default_rng(seed)
    pen = rng.uniform(0.5, 2.0, n)
    length = rng.lognormal(0, 0.3, n) * (1 + 0.25 * amplitude)
    height = rng.normal(10, 1, n) + amplitude
    return np.column_stack([pen * length, pen * (1 + 0.05 * amplitude), height])


@pytest.fixture(scope="module")
def candidates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    amplitude = np.exp(rng.uniform(np.log(0.4), np.log(1.2), 6000))
    return world(1, 4000, np.full(4000, 0.3)), world(2, 4000, amplitude[:4000]), amplitude[:4000]


def linear_accuracy(x: np.ndarray, y: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=100.0, max_iter=1000, class_weight="balanced")
    )
    guess = model.fit(x, y).predict(x2)
    return float(np.mean([(guess == y2)[y2 == label].mean() for label in (0, 1)]))


def banded(shaky: np.ndarray, amplitude: np.ndarray, bands: int) -> list[np.ndarray]:
    edges = log_bands(0.4, 1.2, bands)
    return [shaky[(amplitude >= a) & (amplitude < b)] for a, b in pairwise(edges)]


def test_a_linear_model_sees_the_raw_candidates_but_not_the_accepted(
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    regular, shaky, amplitude = candidates
    groups = [regular, *banded(shaky, amplitude, 5)]
    result = match(groups, [2000, *[400] * 5], np.random.default_rng(0))
    assert [len(set(taken)) for taken in result.taken] == [2000, *[400] * 5]
    assert max(result.gaps) < 0.05

    def score(steady: np.ndarray, trembling: np.ndarray) -> float:
        x = np.vstack([steady, trembling])
        y = np.repeat([0, 1], [len(steady), len(trembling)])
        keep = np.random.default_rng(99).random(len(y)) < 0.5
        x = np.hstack([x, x**2, np.log(x)])
        return linear_accuracy(x[keep], y[keep], x[~keep], y[~keep])

    accepted = [group[taken] for group, taken in zip(groups, result.taken, strict=True)]
    assert score(regular, shaky) > 0.58
    assert abs(score(accepted[0], np.vstack(accepted[1:])) - 0.5) < 0.03
    for band in accepted[1:]:
        gap = (band.mean(axis=0) - accepted[0].mean(axis=0)) / regular.std(axis=0)
        assert np.abs(gap).max() < 0.1


def test_carriers_keep_their_shares(
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    regular, shaky, _ = candidates
    rng = np.random.default_rng(3)
    ours: Labels = rng.integers(0, 10, len(regular))
    # Heavier carriers are commoner among the candidates.
    heavy = shaky[:, 0] > np.median(shaky[:, 0])
    theirs: Labels = np.where(rng.random(len(shaky)) < 0.6, heavy * 5, 5 - heavy * 5)
    theirs += rng.integers(0, 5, len(shaky))
    first, second = (
        match(
            [regular, shaky], [2000, 2000], np.random.default_rng(0), carriers=[ours, theirs]
        ).taken
        for _ in range(2)
    )
    for part, names in zip(first, (ours, theirs), strict=True):
        np.testing.assert_allclose(np.bincount(names[part], minlength=10) / 2000, 0.1, atol=0.02)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_or_too_many(candidates: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    regular, shaky, _ = candidates
    everything = match([regular, shaky[:50]], [20, 50], np.random.default_rng(5))
    np.testing.assert_array_equal(everything.taken[1], np.arange(50))
    for share in (0, 51):
        with pytest.raises(ValueError, match="at least as many candidates"):
            match([regular, shaky[:50]], [20, share], np.random.default_rng(5))


def test_bands_have_equal_ratios() -> None:
    np.testing.assert_allclose(log_bands(0.1, 1.6, 4), [0.1, 0.2, 0.4, 0.8, 1.6])


def test_measures_of_the_text_are_alike_along_every_direction() -> None:
    rng = np.random.default_rng(5)
    groups = [rng.lognormal(0, 0.3, (4000, 2)) for _ in range(2)]
    length = [rng.integers(3, 12, 4000).astype(float) for _ in groups]
    # Nearly the length again; what it lacks differs by the class.
    letters = [
        long - (rng.random(4000) < chance) for long, chance in zip(length, (0.4, 0.6), strict=True)
    ]
    texts = [np.column_stack(pair) for pair in zip(length, letters, strict=True)]
    for measured, gap in ((None, 0.15), (texts, 0.03)):
        taken = match(groups, [1500, 1500], np.random.default_rng(0), texts=measured).taken
        lacking = [
            (text[chosen, 0] - text[chosen, 1]).mean()
            for text, chosen in zip(texts, taken, strict=True)
        ]
        assert (abs(lacking[1] - lacking[0]) < gap) == (measured is not None)
