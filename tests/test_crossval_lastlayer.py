"""rvsm.experiments.crossval.lastlayer: the last layer alone, on what convolutions say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from rvsm import save
from rvsm.errors import ConfigError
from rvsm.experiments.calibration import fit_shrunk, log_loss
from rvsm.experiments.config import AugmentationConfig, TrainConfig, dump_config, make_config
from rvsm.experiments.crossval import Settings, crossval
from rvsm.experiments.crossval.candidates import Candidate, last_layers
from rvsm.experiments.crossval.lastlayer import Looks, Seen, fit_last, look
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH
from rvsm.experiments.data import augment, seeded, to_float
from rvsm.experiments.runs import make_network
from test_crossval import PEOPLE, TINY
from test_crossval_folds import drawings

SHAPE = {"channels": [3, 4, 5], "size": [16, 64]}
CHANGES = AugmentationConfig(flip_horizontal=False, flip_vertical=False, elastic=1.0)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawings(tmp_path_factory.mktemp("drawings"))


def run_of(folder: Path, seed: int = 0) -> Path:
    """A finished run as far as a study reads it."""
    config = make_config({"data": "x", "method": "dense", "network": SHAPE, "seed": seed})
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_config(config))
    save(make_network(config), folder / "training.safetensors")
    return folder


def some(seed: int, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise, those of class 1 darker at the left."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int64)
    ink = rng.integers(0, 120, (count, 16, 64), dtype=np.uint8)
    ink[labels == 1, :, :20] += rng.integers(0, 60, (count // 2, 16, 20), dtype=np.uint8)
    return ink, labels


def seen_of(views: int = 3, seed: int = 0) -> tuple[Seen, np.ndarray]:
    ink, labels = some(seed)
    net = make_network(make_config({"data": "x", "network": SHAPE}))
    return look(net, ink, CHANGES, views, 5), labels


@pytest.mark.parametrize("ridge", [0.003, 0.3])
def test_the_dense_layer_is_that_of_scikit_learn(ridge: float) -> None:
    """On all views, standardised, the penalty that of one view."""
    seen, labels = seen_of()
    which = np.arange(4, 24)
    net = fit_last(seen, which, labels[which], Candidate("dense", 0, ridge=ridge))
    inputs = seen.features[:, which].reshape(3 * 20, -1).astype(np.float64)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    varies = spread > 1e-9
    scaled = (inputs - mean)[:, varies] / spread[varies]
    slow = LogisticRegression(C=ridge / 3, max_iter=10_000, tol=1e-8)
    slow.fit(scaled, np.tile(labels[which], 3))
    tested = (seen.features[:, :4].mean(axis=0) - mean)[:, varies] / spread[varies]
    np.testing.assert_allclose(
        seen.scores(net, np.arange(4)), slow.decision_function(tested), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(net.fc.weight[0].detach(), -net.fc.weight[1].detach())


def test_scores_are_those_of_the_network_itself() -> None:
    ink, labels = some(1)
    seen = look(make_network(make_config({"data": "x", "network": SHAPE})), ink, CHANGES, 2, 9)
    net = fit_last(seen, np.arange(24), labels, Candidate("l0", 0, sparsity=0.9, ridge=0.1)).eval()
    images = torch.from_numpy(ink)
    with torch.inference_mode():
        logits = [net(augment(images, CHANGES, seeded(9, view, 0))) for view in range(2)]
    expected = torch.stack([one[:, 1] - one[:, 0] for one in logits]).mean(0)
    np.testing.assert_allclose(seen.scores(net, np.arange(24)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["l0", "l1", "transformed-l1"])
def test_the_sparse_layer_has_the_zeros_asked_for(method: Any) -> None:
    """Half of the layer is the first logit's; what is left still tells the classes apart."""
    seen, labels = seen_of(seed=2)
    tried = Candidate(method, 0, sparsity=0.95, ridge=1.0)
    net = fit_last(seen, np.arange(24), labels, tried)
    size = net.fc.weight.shape[1]
    assert not net.fc.weight[0].any()
    assert int((net.fc.weight[1] == 0).sum()) == pytest.approx(0.9 * size, abs=1)
    scores = seen.scores(net, np.arange(24))
    assert np.mean((scores > 0) == labels) > 0.9
    dense = fit_last(seen, np.arange(24), labels, Candidate("dense", 0, ridge=1.0))
    assert np.corrcoef(scores, seen.scores(dense, np.arange(24)))[0, 1] > 0.8


def test_the_convolutions_stay_and_nothing_else_is_touched() -> None:
    seen, labels = seen_of()
    before = {name: value.clone() for name, value in seen.net.state_dict().items()}
    net = fit_last(seen, np.arange(24), labels, Candidate("l0", 0, sparsity=0.9, ridge=0.1))
    for name, value in seen.net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        if not name.startswith("fc."):
            torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)


def test_coordinates_are_kept_and_forgotten() -> None:
    seen, _ = seen_of()
    first = seen.coordinates(np.arange(10))
    assert seen.coordinates(np.arange(10)) is first
    for start in range(1, 10):
        seen.coordinates(np.arange(start, start + 10))
    assert seen.coordinates(np.arange(10)) is not first


def test_looks_are_computed_once_for_each_start() -> None:
    ink, _ = some(0)
    base: TrainConfig = make_config({"data": "x", "network": SHAPE})
    start = make_network(make_config({"data": "x", "network": SHAPE, "seed": 4})).state_dict()
    looks = Looks(base, ink, 3)
    assert looks.of(start, True) is looks.of(start, True)
    assert looks.of(start, True).features.shape[:2] == (3, 24)
    plain = looks.of(None, False)
    assert plain.features.shape[:2] == (1, 24)
    with torch.inference_mode():
        expected = make_network(base).eval().features(to_float(torch.from_numpy(ink))).flatten(1)
    np.testing.assert_allclose(plain.features[0], expected, rtol=1e-5, atol=1e-6)


def test_a_study_of_last_layers(folder: Path, tmp_path: Path) -> None:
    """Dense, without the start, without changes, and sparse from a start of its own."""
    dense, sparse = run_of(tmp_path / "dense"), run_of(tmp_path / "sparse", seed=3)
    told = {
        **TINY,
        "network": {},
        "last_layer": True,
        "start": str(dense),
        "sparse_start": str(sparse),
        "ablate": True,
        "arms": ("dense", "sparse"),
        "views": 2,
    }
    fits: list[tuple[int, int]] = []
    found = crossval(
        folder,
        tmp_path / "out",
        Settings(**told),
        progress=lambda what, done, all_: fits.append((done, all_)) if what == "fitting" else None,
    )
    assert fits[-1][0] == fits[-1][1]
    assert [row["arm"] for row in found["rows"]] == ["dense", SCRATCH, PLAIN, "sparse"]
    by_arm = {row["arm"]: row for row in found["rows"]}
    # Smooth lines and jagged ones: even convolutions drawn at random tell.
    assert by_arm["dense"]["image"]["auc"]["value"] > 0.7
    assert by_arm["sparse"]["zeros"] > by_arm["dense"]["zeros"]
    fold = json.loads((tmp_path / "out" / "folds" / "r0-f0.json").read_text("utf-8"))
    ridge = fold["answers"]["dense"]["chosen"].partition(", ")[2]
    assert fold["answers"]["sparse"]["chosen"] == f"l0, 80 % zeros, {ridge}"
    again = crossval(folder, tmp_path / "again", Settings(**told))
    values = [[row["image"]["auc"]["value"] for row in one["rows"]] for one in (found, again)]
    assert values[0] == values[1]


def test_settings_of_last_layers() -> None:
    for changes, told in (
        ({"sparse_start": "a"}, "--sparse-start is for --last-layer"),
        ({"last_layer": True, "sparse_start": "a"}, "--sparse-start is for --last-layer"),
        ({"last_layer": True, "lams": (0.1,)}, "give --sparsity, not --lam"),
        ({"views": 0}, "needs 1 view"),
        ({"pools": (4, 0)}, "pools of 1 pixel"),
    ):
        with pytest.raises(ConfigError, match=told):
            Settings(**{**TINY, **changes})
    settings = Settings(person=PEOPLE, last_layer=True, methods=("l0",), sparsities=(0.9,))
    assert [c.name for c in settings.dense()][:2] == ["dense, C 0.01", "dense, C 0.1"]
    assert settings.sparse()[0].name == "l0, 90 % zeros, C 0.01"
    assert len(last_layers(("l0", "l1"), (0.1, 1.0), (0.9, 0.95), (4, 8, 16))) == 24


def test_shrunk_scaling_is_the_least_of_its_sum() -> None:
    """Against a grid; what nobody knows stays as it is."""
    rng = np.random.default_rng(0)
    labels = (np.arange(40) % 2).astype(np.int64)
    scores = 3 * rng.standard_normal(40) + 2.0 * labels

    def sum_of(a: float, b: float) -> float:
        z = np.exp(a) * scores + b
        return 40 * log_loss(z, labels) + (a * a + b * b) / (2 * 0.25)

    found = fit_shrunk(scores, labels)
    grid = np.linspace(-2, 2, 161)
    least = min(sum_of(a, b) for a in grid for b in grid)
    assert sum_of(float(np.log(found.slope)), found.offset) <= least + 1e-6
    nothing = fit_shrunk(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert (nothing.slope, nothing.offset) == (1.0, 0.0)
    apart = fit_shrunk(np.array([-3.0, -2, 2, 3]), np.array([0, 0, 1, 1]))
    assert 1.0 < apart.slope < 3.0
    assert expit(apart(np.array([0.0])))[0] == pytest.approx(0.5)
