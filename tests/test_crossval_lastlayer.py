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
from rvsm.errors import ConfigError, RunError
from rvsm.experiments.calibration import fit_shrunk, log_loss
from rvsm.experiments.config import AugmentationConfig, TrainConfig, dump_config, make_config
from rvsm.experiments.crossval import Settings, crossval, settings
from rvsm.experiments.crossval.candidates import Candidate, last_layers, spread, weighed
from rvsm.experiments.crossval.lastlayer import Looks, Seen, fit_last, look
from rvsm.experiments.crossval.networks import Begin
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


@pytest.fixture
def ridges(monkeypatch: pytest.MonkeyPatch) -> tuple[float, ...]:
    """Fewer strengths to choose from: each is a second of fits."""
    few = (0.1, 1.0)
    monkeypatch.setattr(settings, "RIDGES", few)
    return few


Ridges = tuple[float, ...]


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
    """On all views, standardised but for what hardly varies, the penalty that of one view."""
    seen, labels = seen_of()
    which = np.arange(4, 24)
    net = fit_last(seen, which, labels[which], Candidate("dense", 0, ridge=ridge))
    inputs = seen.features[:, which].reshape(3 * 20, -1).astype(np.float64)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    least = 0.1 * np.sqrt(np.mean(spread**2))
    assert 0 < np.mean(spread < least) < 1
    spread = np.maximum(spread, least)
    scaled = (inputs - mean) / spread
    slow = LogisticRegression(C=ridge / 3, max_iter=10_000, tol=1e-8)
    slow.fit(scaled, np.tile(labels[which], 3))
    tested = (seen.features[:, :4].mean(axis=0) - mean) / spread
    np.testing.assert_allclose(
        seen.scores(net, np.arange(4)), slow.decision_function(tested), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(net.fc.weight[0].detach(), -net.fc.weight[1].detach())


@pytest.mark.parametrize(
    "tried", [Candidate("dense", 0, ridge=1.0), Candidate("l0", 0, sparsity=0.5, ridge=1.0)]
)
def test_a_place_that_training_hardly_saw_decides_nothing(tried: Candidate) -> None:
    """Ink where one training image has a trace of it: millions of its standard deviations."""
    seen, labels = seen_of()
    features = seen.features.copy()
    features[:, :, 0] = 0
    features[0, 5, 0] = 1e-8
    features[:, 0, 0] = features.max()
    which = np.arange(4, 24)
    net = fit_last(Seen(seen.net, features), which, labels[which], tried)
    there = Seen(seen.net, features).scores(net, np.arange(1))
    features[:, 0, 0] = 0
    assert abs(there - Seen(seen.net, features).scores(net, np.arange(1))) < 1


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
    looks, learned = Looks(ink, 3), Begin(base, start)
    assert looks.of(learned, True) is looks.of(learned, True)
    assert looks.of(learned, True).features.shape[:2] == (3, 24)
    kept = looks.of(learned, True).coordinates(np.arange(24))
    assert looks.of(learned, True).coordinates(np.arange(24)) is kept
    plain = looks.of(Begin(base), False)
    assert looks.of(learned, True).coordinates(np.arange(24)) is not kept
    assert plain.features.shape[:2] == (1, 24)
    with torch.inference_mode():
        expected = make_network(base).eval().features(to_float(torch.from_numpy(ink))).flatten(1)
    np.testing.assert_allclose(plain.features[0], expected, rtol=1e-5, atol=1e-6)


def test_a_study_of_last_layers(folder: Path, tmp_path: Path, ridges: Ridges) -> None:
    """Dense, without the start, without changes, and sparse from a start of its own."""
    dense, sparse = run_of(tmp_path / "dense"), run_of(tmp_path / "sparse", seed=3)
    told = {
        **TINY,
        "network": {},
        "last_layer": True,
        "start": (str(dense),),
        "sparse_start": (str(sparse),),
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
    losses = fold["answers"]["sparse"]["tried"]
    assert list(losses) == [f"l0, 80 % zeros, C {ridge:g}" for ridge in ridges]
    assert fold["answers"]["sparse"]["chosen"] == min(losses, key=losses.__getitem__)
    again = crossval(folder, tmp_path / "again", Settings(**told))
    values = [[row["image"]["auc"]["value"] for row in one["rows"]] for one in (found, again)]
    assert values[0] == values[1]


def test_inner_folds_choose_the_start(folder: Path, tmp_path: Path, ridges: Ridges) -> None:
    """Of two runs and none, with other pools and images changed or not; how often is told."""
    wide, narrow = run_of(tmp_path / "wide"), run_of(tmp_path / "narrow", seed=3)
    told = {
        **TINY,
        "network": {},
        "last_layer": True,
        "start": (str(wide), str(narrow), "none"),
        "sparse_start": (str(narrow), str(wide)),
        "ablate": True,
        "choose_augment": True,
        "pools": (2, 4),
        "arms": ("dense", "sparse"),
        "views": 2,
    }
    out = tmp_path / "out"
    fits: list[tuple[int, int]] = []
    found = crossval(
        folder,
        out,
        Settings(**told),
        progress=lambda what, done, all_: fits.append((done, all_)) if what == "fitting" else None,
    )
    assert fits[-1][0] == fits[-1][1]
    by_arm = {row["arm"]: row for row in found["rows"]}
    assert "starts" not in by_arm[SCRATCH]
    folds = [json.loads(f.read_text("utf-8"))["answers"] for f in (out / "folds").iterdir()]
    for arm, starts in (
        ("dense", told["start"]),
        (PLAIN, told["start"]),
        ("sparse", told["sparse_start"]),
    ):
        count = by_arm[arm]["starts"]
        assert set(count) <= set(starts)
        assert sum(count.values()) == 2
        for answers in folds:
            losses = answers[arm]["tried"]
            origins = {"drawn at random" if s == "none" else f"from {s}" for s in starts}
            assert all(any(o in name for o in origins) for name in losses)
            assert answers[arm]["chosen"] == min(losses, key=losses.__getitem__)
    assert len(folds[0]["dense"]["tried"]) == 3 * 2 * 2 * len(ridges)
    assert len(folds[0][PLAIN]["tried"]) == 3 * 2 * len(ridges)
    assert len(folds[0][SCRATCH]["tried"]) == 2 * 2 * len(ridges)
    for answers in folds:
        # What is looked at is the dense layer's choice, all else its own.
        assert len(answers["sparse"]["tried"]) == 2 * len(ridges)
        for words in ("pooled 2 x 2", "pooled 4 x 4", "not augmented"):
            inside = words in answers["dense"]["chosen"]
            assert all((words in name) == inside for name in answers["sparse"]["tried"])
    assert "Started from (times)" in (out / "report.html").read_text("utf-8")


def test_what_is_averaged_and_by_how_much() -> None:
    """The best of each start and look, by the likelihood of one observation a person."""
    tried = spread(last_layers(("dense",), (0.1, 1.0), (), (4, 16)), ("a", "none"), (True,))
    losses = [0.6, 0.5, 0.4, 0.8, 0.7, 0.9, 0.45, 0.1]
    weights = weighed(tried, losses, range(7), people=20)
    assert sorted(weights) == [1, 2, 4, 6]  # the last is not among them
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[2] / weights[1] == pytest.approx(np.exp(20 * 0.1))
    assert weights[6] / weights[4] == pytest.approx(np.exp(20 * 0.25))


def test_last_layers_are_averaged(folder: Path, tmp_path: Path, ridges: Ridges) -> None:
    """Of one start that is to choose; of two the answers are the weighted mean of theirs."""
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second", seed=3)
    told = {**TINY, "network": {}, "last_layer": True, "arms": ("dense", "sparse"), "views": 1}
    studies = {
        "chosen": {"start": (str(first),)},
        "alone": {"start": (str(first),), "average": True},
        "other": {"start": (str(second),)},
        "both": {"start": (str(first), str(second)), "average": True},
    }
    found: dict[str, Any] = {}
    for name, asked in studies.items():
        crossval(folder, tmp_path / name, Settings(**told, **asked))
        file = tmp_path / name / "folds" / "r0-f0.json"
        found[name] = json.loads(file.read_text("utf-8"))["answers"]
    for arm in ("dense", "sparse"):
        alone, both = found["alone"][arm], found["both"][arm]
        assert alone["log_odds"] == found["chosen"][arm]["log_odds"]
        assert list(alone["averaged"].values()) == [1.0]
        one, two = (
            both["averaged"][f"{found[k][arm]['chosen']}, from {start}"]
            for k, start in (("chosen", first), ("other", second))
        )
        assert one + two == pytest.approx(1)
        mean = one * np.array(found["chosen"][arm]["log_odds"])
        mean += two * np.array(found["other"][arm]["log_odds"])
        np.testing.assert_allclose(both["log_odds"], mean, rtol=1e-6)
        assert both["weights"] == 2 * alone["weights"]
        assert both["nonzeros"] == sum(found[k][arm]["nonzeros"] for k in ("chosen", "other"))
        assert both["zeros"] == pytest.approx(1 - both["nonzeros"] / both["weights"])


def test_sparse_last_layers_of_every_pool_are_averaged(
    folder: Path, tmp_path: Path, ridges: Ridges
) -> None:
    """Where no pool is chosen for the dense layer, none is for the sparse one."""
    told = {**TINY, "network": {}, "last_layer": True, "arms": ("dense", "sparse"), "views": 1}
    fits: list[tuple[int, int]] = []
    crossval(
        folder,
        tmp_path / "out",
        Settings(**told, pools=(2, 4), average=True),
        progress=lambda what, done, all_: fits.append((done, all_)) if what == "fitting" else None,
    )
    assert fits[-1][0] == fits[-1][1]
    file = tmp_path / "out" / "folds" / "r0-f0.json"
    for answer in json.loads(file.read_text("utf-8"))["answers"].values():
        pools = {name.split("pooled ")[1] for name in answer["averaged"]}
        assert pools == {"2 x 2", "4 x 4"}
        assert len(answer["tried"]) == 2 * len(ridges)


def test_only_networks_with_zeros_enough_are_chosen(
    folder: Path, tmp_path: Path, ridges: Ridges
) -> None:
    """The layer's share of zeros is chosen among those that make the whole network sparse."""
    told = {
        **TINY,
        "network": {"network.channels": [3, 4, 5]},
        "last_layer": True,
        "sparsities": (0.6, 0.9),
        "arms": ("dense", "sparse"),
        "views": 1,
    }
    out = tmp_path / "out"
    crossval(folder, out, Settings(**told, least_zeros=0.45))
    for file in (out / "folds").iterdir():
        answer = json.loads(file.read_text("utf-8"))["answers"]["sparse"]
        assert len(answer["tried"]) == 2 * len(ridges)
        assert answer["zeros"] >= 0.45
        assert "90 % zeros" in answer["chosen"]
    with pytest.raises(RunError, match=r"No sparse network has 99 % zeros .* the most is"):
        crossval(folder, tmp_path / "b", Settings(**told, least_zeros=0.99))


def test_a_study_of_one_start_goes_on(folder: Path, tmp_path: Path) -> None:
    """Its file named the start and its weights by one string."""
    run, out = run_of(tmp_path / "run"), tmp_path / "out"
    told = {**TINY, "network": {}, "last_layer": True, "arms": ("dense",), "views": 1}
    study = Settings(**told, start=(str(run),))
    crossval(folder, out, study)
    asked = json.loads((out / "crossval.json").read_text("utf-8"))
    asked["start"], asked["sparse_start"] = str(run), ""
    asked["weights of the start"] = asked["weights of the start"][0]
    for key in ("choose_augment", "least_zeros"):
        del asked[key]
    (out / "crossval.json").write_text(json.dumps(asked))
    crossval(folder, out, study)
    with pytest.raises(RunError, match="another start, weights of the start"):
        crossval(folder, out, Settings(**told, start=(str(run), "none")))
    # Of one with a sparse layer, that layer's strength would be chosen in two ways.
    both = {**told, "arms": ("dense", "sparse")}
    with pytest.raises(RunError, match="another arms, strength of the sparse layer"):
        crossval(folder, out, Settings(**both, start=(str(run),)))


def test_settings_of_last_layers() -> None:
    for changes, told in (
        ({"sparse_start": ("a",)}, "--sparse-start is for --last-layer"),
        ({"last_layer": True, "sparse_start": ("a",)}, "--sparse-start is for --last-layer"),
        ({"last_layer": True, "lams": (0.1,)}, "give --sparsity, not --lam"),
        ({"views": 0}, "needs 1 view"),
        ({"start": ("a", "b", "a")}, "--start names a twice"),
        ({"least_zeros": 1.0}, "--least-zeros 1 is no share"),
        ({"choose_augment": True, "augment": False}, "exclude each other"),
        ({"pools": (4, 0)}, "pools of 1 pixel"),
        ({"average": True}, "add --last-layer"),
    ):
        with pytest.raises(ConfigError, match=told):
            Settings(**{**TINY, **changes})
    asked = Settings(person=PEOPLE, last_layer=True, methods=("l0",), sparsities=(0.9,))
    assert [c.name for c in asked.tried("dense")][:2] == ["dense, C 0.01", "dense, C 0.1"]
    assert asked.tried("sparse")[0].name == "l0, 90 % zeros, C 0.01"
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
