"""rvsm.handwriting.matching: accepted candidates are distributed as the regular ones are."""

import numpy as np
import pytest

from rvsm.handwriting.matching import Labels, in_band, log_bands, match


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


def test_a_linear_model_sees_the_raw_candidates_but_not_the_accepted(
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    regular, shaky, amplitude = candidates
    bands = in_band(amplitude, log_bands(0.4, 1.2, 5))
    result = match(regular, shaky, bands, 2000, np.random.default_rng(0))
    assert len(result.regular) == len(set(result.regular)) == 2000
    assert len(result.shaky) == len(set(result.shaky)) == 2000
    assert result.acceptance == pytest.approx(1 / 2)
    assert result.imbalance < 0.05

    def score(steady: np.ndarray, chosen: np.ndarray) -> float:
        x = np.vstack([regular[steady], shaky[chosen]])
        y = np.repeat([0, 1], [len(steady), len(chosen)])
        keep = np.random.default_rng(99).random(len(y)) < 0.5
        x = np.hstack([x, x**2, np.log(x)])
        return linear_accuracy(x[keep], y[keep], x[~keep], y[~keep])

    assert score(np.arange(2000), np.arange(2000)) > 0.58
    assert abs(score(result.regular, result.shaky) - 0.5) < 0.03
    for band in range(5):
        chosen = result.shaky[bands[result.shaky] == band]
        gap = shaky[chosen].mean(axis=0) - regular[result.regular].mean(axis=0)
        gap /= regular.std(axis=0)
        assert np.abs(gap).max() < 0.1


def test_amplitudes_and_carriers_keep_their_shares(
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    regular, shaky, amplitude = candidates
    bands = in_band(amplitude, log_bands(0.4, 1.2, 5))
    rng = np.random.default_rng(3)
    ours: Labels = rng.integers(0, 10, len(regular))
    # Heavier carriers are commoner among the candidates.
    heavy = shaky[:, 0] > np.median(shaky[:, 0])
    theirs: Labels = np.where(rng.random(len(shaky)) < 0.6, heavy * 5, 5 - heavy * 5)
    theirs += rng.integers(0, 5, len(shaky))
    result = match(
        regular,
        shaky,
        bands,
        2000,
        np.random.default_rng(0),
        regular_carriers=ours,
        shaky_carriers=theirs,
    )
    counts = np.bincount(bands[result.shaky], minlength=5)
    np.testing.assert_allclose(counts / 2000, np.bincount(bands) / len(bands), atol=1e-3)
    share = np.bincount(theirs[result.shaky], minlength=10) / 2000
    np.testing.assert_allclose(share, 0.1, atol=0.02)


def test_deterministic_and_complete_at_the_limits(
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    regular, shaky, amplitude = candidates
    bands = in_band(amplitude[:50], log_bands(0.4, 1.2, 3))
    first, second = (
        match(regular, shaky[:50], bands, 20, np.random.default_rng(5)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.shaky, second.shaky)
    np.testing.assert_array_equal(first.regular, second.regular)
    everything = match(regular, shaky[:50], bands, 50, np.random.default_rng(5))
    np.testing.assert_array_equal(everything.shaky, np.arange(50))
    assert len(match(regular, shaky[:50], bands, 0, np.random.default_rng(5)).shaky) == 0
    with pytest.raises(ValueError, match="at least `count` candidates"):
        match(regular, shaky[:50], bands, 51, np.random.default_rng(5))


def test_bands_take_in_what_lies_beyond_the_ends() -> None:
    edges = log_bands(0.1, 1.6, 4)
    np.testing.assert_allclose(edges, [0.1, 0.2, 0.4, 0.8, 1.6])
    np.testing.assert_array_equal(in_band(np.array([0.05, 0.15, 0.5, 9.0]), edges), [0, 0, 2, 3])
