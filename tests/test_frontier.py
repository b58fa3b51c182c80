"""The frontier's suite: what a row says is what was trained, counted and chosen."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.frontier import ablation, check, page, plan, plots, run, tables
from benchmarks.frontier.augment import augmented, moved
from benchmarks.frontier.data import Data, Folders, cifar10, digits, idx, read_idx
from benchmarks.frontier.methods import CANDIDATES, METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.store import Store
from benchmarks.frontier.training import Average, Batches, Rate, counts, error_of, loss_of, train
from benchmarks.frontier.work import Worker, listing, pending_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import rvsm
from drawings import make_folder
from frontier_sets import FILES, idx_bytes, write_cifar, write_idx
from rvsm.errors import ConfigError, DataError, RvsmError

ROOT = Path(__file__).parent.parent
FRONTIER = ROOT / "benchmarks" / "frontier"
SHARED = Path("/work/shared/data")
TINY = Options(batch=64)
HERE = [name for name, method in METHODS.items() if method.missing() is None]


@pytest.fixture(scope="module")
def images() -> Data:
    return digits()


def run_of(method: str = "rvsm-l0-u", **changed: object) -> Run:
    setting = (*METHODS[method].settings, None)[0]
    start = Run("final", "small", "digits", method, 0.9, setting, 0, 2, 0, TINY)
    options = {k: v for k, v in changed.items() if k in Options.__dataclass_fields__}
    own = {k: v for k, v in changed.items() if k not in options}
    return dataclasses.replace(start, options=TINY.with_(**options), **own)


# Reading


def test_idx_files_are_read(tmp_path: Path) -> None:
    x, y, x_test, y_test = write_idx(tmp_path)
    found = idx(tmp_path, "mnist")
    assert not found.published
    assert torch.equal(found.train[0].mul(255).round().int().squeeze(1), torch.tensor(x).int())
    assert found.train[1].tolist() == y.tolist()
    assert found.test[0].shape == (len(x_test), 1, 28, 28)
    assert found.test[1].tolist() == y_test.tolist()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_published_files_are_known(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not on this machine")
    found = idx(SHARED / name, name)
    assert found.published
    assert (len(found.train[1]), len(found.test[1])) == (60_000, 10_000)
    assert not idx(SHARED / name, "mnist" if name != "mnist" else "fashion-mnist").published


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda b: gzip.compress(gzip.decompress(b)[:-5]), "where its header says"),
        (lambda b: b[: len(b) // 2], "is damaged"),
        (lambda b: b"no gzip", "is damaged"),
        (lambda b: gzip.compress(b"\0\0\x0d\1" + bytes(8)), "no idx file of bytes"),
        (lambda b: gzip.compress(b""), "no idx file of bytes"),
        (lambda b: gzip.compress(idx_bytes(np.zeros((3, 28, 28)))), "do not belong together"),
        (None, "no such file"),
    ],
)
def test_damaged_idx_files_are_told(tmp_path: Path, damage, told: str) -> None:
    write_idx(tmp_path)
    path = tmp_path / FILES[0]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=told) as caught:
        idx(tmp_path, "mnist")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@given(st.binary(max_size=40))
def test_no_bytes_break_the_idx_reader(content: bytes) -> None:
    path = Path(f"/tmp/frontier-{torch.initial_seed() % 97}.gz")
    path.write_bytes(gzip.compress(content))
    try:
        array, _ = read_idx(path)
    except DataError:
        return
    finally:
        path.unlink()
    assert array.dtype == torch.uint8


def test_cifar_batches_are_read(tmp_path: Path) -> None:
    first, labels = write_cifar(tmp_path)
    found = cifar10(tmp_path)
    assert found.train[0].shape == (40, 3, 32, 32)
    assert torch.equal(found.train[0][:8].mul(255).round().int(), torch.tensor(first).int())
    assert found.train[1][:8].tolist() == labels.tolist()
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="no whole number of records"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match="labels above 9"):
        cifar10(tmp_path)


def test_folders_are_named_or_found(tmp_path: Path) -> None:
    write_idx(tmp_path / "all" / "mnist")
    write_idx(tmp_path / "elsewhere", train=30)
    folders = Folders.parse([str(tmp_path / "all"), f"fashion-mnist={tmp_path / 'elsewhere'}"])
    assert len(folders.read("mnist").train[1]) == 60
    assert len(folders.read("fashion-mnist").train[1]) == 30
    with pytest.raises(DataError, match="all/pen with the data of pen; give --data"):
        folders.read("pen")
    with pytest.raises(DataError, match="svhn is not one of mnist"):
        Folders.parse(["svhn=/tmp"])


def test_the_split_is_a_split(images: Data) -> None:
    train_part, validation = images.split(300)
    assert validation is not None
    assert (len(train_part[1]), len(validation[1])) == (len(images.train[1]) - 300, 300)
    whole = torch.cat([train_part[0], validation[0]]).flatten(1)
    rows = sorted(map(tuple, whole.tolist()))
    assert rows == sorted(map(tuple, images.train[0].flatten(1).tolist()))
    again = images.split(300)[1]
    assert again is not None
    assert torch.equal(again[1], validation[1])
    assert images.split(0) == (images.train, None)
    with pytest.raises(DataError, match="hold out fewer"):
        images.split(len(images.train[1]))


def test_statistics_are_those_of_the_images(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    found = cifar10(tmp_path)
    mean, deviation = found.statistics()
    wide = found.train[0].double().movedim(1, 0).flatten(1)
    assert torch.allclose(mean.flatten().double(), wide.mean(1), atol=1e-6)
    assert torch.allclose(deviation.flatten().double(), wide.std(1, correction=0), atol=1e-6)


# Augmentation and batches


@given(st.integers(0, 3), st.booleans(), st.integers(0, 1000))
def test_moving_is_padding_and_cutting(most: int, flip: bool, seed: int) -> None:
    x = torch.rand(6, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    found = moved(x, most, flip, torch.Generator().manual_seed(seed))
    padded = F.pad(x, (most,) * 4)
    for image, own in zip(found, padded, strict=True):
        cuts = [
            own[:, i : i + 5, j : j + 7] for i in range(2 * most + 1) for j in range(2 * most + 1)
        ]
        mirrored = [cut.flip(2) for cut in cuts] if flip else []
        assert any(torch.equal(image, cut) for cut in cuts + mirrored)
    if most == 0 and not flip:
        assert torch.equal(found, x)


def test_every_shift_and_mirror_comes() -> None:
    x = torch.zeros(400, 1, 5, 5)
    x[:, 0, 2, 1] = 1
    found = moved(x, 1, True, torch.Generator().manual_seed(0))
    places = {tuple(image.nonzero()[0].tolist()[1:]) for image in found}
    assert places == {(i, j) for i in (1, 2, 3) for j in (0, 1, 2, 3, 4) if j != 2} | {
        (i, 2) for i in (1, 2, 3)
    }


def test_the_same_images_in_the_same_order_for_all(images: Data) -> None:
    o = Options(batch=64, shift=1, elastic=0.5)
    one, two = (Batches(images.train, images.statistics(), o, seed=3) for _ in range(2))
    for (x, y, places), (x2, y2, places2) in zip(one.epoch(1), two.epoch(1), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert torch.equal(places, places2)
        assert torch.equal(images.train[1][places], y)
    seen = torch.cat([places for _, _, places in one.epoch(0)])
    assert seen.sort().values.tolist() == list(range(len(images.train[1])))
    assert not torch.equal(seen, torch.cat([places for _, _, places in one.epoch(1)]))


def test_unchanged_batches_are_the_images(images: Data) -> None:
    mean, deviation = images.statistics()
    batches = Batches(images.train, (mean, deviation), TINY, seed=0)
    for x, _, places in batches.epoch(0):
        assert torch.equal(x, (images.train[0][places] - mean) / deviation)
    plain = augmented(
        images.train[0][:9], shift=0, flip=False, elastic=0.0, knot=8, generator=torch.Generator()
    )
    assert torch.equal(plain, images.train[0][:9])


# Rates, losses, averages


def test_rates() -> None:
    steps = 1000
    cosine = Rate(Options(warm=0.0), steps)
    assert cosine(0) == 1.0
    assert math.isclose(cosine(500), 0.5)
    assert cosine(999) < 1e-5
    flat = Rate(Options(warm=0.1, rate="flat", heal=0.6), steps)
    assert math.isclose(flat(49), 0.5)
    assert flat(100) == flat(599) == 1.0
    assert math.isclose(flat(800), 0.5)
    again = Rate(Options(warm=0.0, rewind=0.4, heal=0.5), steps)
    assert math.isclose(again(250), 0.5)
    assert again(499) < 1e-4 < 0.01 < again(500) < again(510)
    assert 0.39 < max(map(again, range(500, 1000))) < 0.4
    assert math.isclose(cosine.total(1000), 0.05 * sum(map(cosine, range(1000))))


@given(st.floats(0.1, 0.9), st.floats(1.0, 5.0))
def test_distillation_is_its_formula(share: float, t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, taught = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    o = Options(distill=share, temperature=t)
    p, q = torch.softmax(taught / t, 1), torch.softmax(logits / t, 1)
    distance = (p * (p / q).log()).sum() / 5
    want = (1 - share) * F.cross_entropy(logits, labels) + share * t**2 * distance
    assert torch.allclose(loss_of(logits, labels, o, taught), want)
    assert loss_of(logits, labels, o, None) == F.cross_entropy(logits, labels)


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_averages(decay: float) -> None:
    model = torch.nn.Linear(3, 2)
    average = Average(model, decay)
    seen = []
    for step in range(1, 8):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(step))
            model.weight[0, 0] = 0
        seen.append(model.weight.detach().clone())
        average.update()
    want = seen[0]
    for count, w in enumerate(seen, start=1):
        new = 1 / count if decay == 1 else max(1 - decay, 1 / count)
        want = (1 - new) * want + new * w
    average.apply()
    assert torch.allclose(model.weight, want)
    if decay == 1:
        assert torch.allclose(want, torch.stack(seen).mean(0))
    assert model.weight[0, 0] == 0


# One run


@pytest.mark.filterwarnings("ignore:.*KernelPreference.*")
@pytest.mark.parametrize("method", HERE)
def test_every_method_ends_with_the_zeros_asked_for(method: str, images: Data) -> None:
    start = run_of(method, sparsity=0.0 if method == "dense" else 0.51)
    if method == "pat-lasso":  # where its search begins, all weights are zero before they learn
        start = dataclasses.replace(start, setting=0.01)
    result = train(start, images)
    row = result.row
    asked = 9736 if method == "dense" else 9736 - round(0.51 * 9736)
    # PAT rounds up; PDP does so in every layer.
    fewer = {"pat-target": 1, "pdp": 8}.get(method, 0)
    exact = METHODS[method].kind == "exact"
    assert (asked - fewer if exact else 0) <= row["nonzeros"] <= asked
    assert sum(row["layers"].values()) == row["nonzeros"]
    assert row["layers"] == {
        name: int((p != 0).sum()) for name, p in result.model.named_parameters() if p.dim() > 1
    }
    assert "weight" in dict(result.model.named_modules())["0"]._parameters  # no mask left on it
    x, y = images.test
    mean, deviation = images.statistics()
    wrong = (result.model((x - mean) / deviation).argmax(1) != y).float().mean()
    assert row["test_error"] == pytest.approx(float(wrong), abs=2 / len(y))
    assert 0 < row["test_error"] < 0.8
    assert row["validation_error"] is None
    assert row["split"] == {"train": 1257, "validation": 0, "test": 540}


def test_a_run_is_its_seed(images: Data) -> None:
    first, again = (train(run_of(shift=1), images) for _ in range(2))
    other = train(run_of(shift=1, seed=1), images)
    weights = [torch.cat([p.flatten() for p in r.model.parameters()]) for r in (first, again)]
    assert torch.equal(*weights)
    timeless = [
        {k: v for k, v in r.row.items() if "seconds" not in k} for r in (first, again, other)
    ]
    assert timeless[0] == timeless[1] != timeless[2]


def test_tuning_reads_no_test_set(images: Data) -> None:
    unread = dataclasses.replace(images, test=(images.test[0] * math.nan, images.test[1]))
    for purpose in ("tune", "ablation"):
        row = train(run_of(purpose=purpose, held_out=200), unread).row
        assert "test_error" not in row
        assert 0 <= row["validation_error"] <= 1
        assert row["split"]["train"] == 1057


@pytest.mark.parametrize(
    "options",
    [
        {"a": 10.0, "a_end": 0.1, "method": "rvsm-tl1-u"},
        {"beta_limit": 1.0},
        {"budget": "uniform"},
        {"budget": "erk"},
        {"budget": "max", "floor": 0.05},
        {"schedule": "none"},
        {"schedule": "cosine", "start": 0.1, "end": 0.4},
        {"heal": 0.5, "rewind": 0.5},
        {"rate": "flat", "average": 0.9},
        {"average": 1.0},
        {"weight_decay": 1e-4},
        {"base": "adam", "lr": 0.002},
        {"shift": 1, "elastic": 0.5, "knot": 4},
        {"lr": 0.1, "warm": 0.3},
    ],
    ids=str,
)
def test_every_option_changes_the_run_and_keeps_the_zeros(images: Data, options: dict) -> None:
    method = options.pop("method", "rvsm-l0-u")
    start = train(run_of(method), images)
    changed = train(run_of(method, **options), images)
    kept = changed.row["nonzeros"]
    assert kept == start.row["nonzeros"] == 974
    before, after = (
        torch.cat([p.flatten() for p in r.model.parameters()]) for r in (start, changed)
    )
    assert not torch.equal(before, after)


def test_budgets_share_the_zeros_out(images: Data) -> None:
    uniform = train(run_of(budget="uniform"), images).row["layers"]
    sizes = {"0.weight": 72, "2.weight": 1152, "6.weight": 8192, "8.weight": 320}
    assert all(abs(uniform[name] - 0.1 * size) <= 1 for name, size in sizes.items())
    erk = train(run_of(budget="erk"), images).row["layers"]
    c = erk["6.weight"] / (256 + 32)  # kept in proportion to the sum of the axes
    assert abs(erk["2.weight"] - c * (16 + 8 + 3 + 3)) <= 1
    assert abs(erk["8.weight"] - c * (32 + 10)) <= 1


def test_no_healing_ends_with_exact_zeros(images: Data) -> None:
    """Without a phase of healing the support is fixed after the last step."""
    assert train(run_of(heal=1.0), images).row["nonzeros"] == 974


@pytest.mark.parametrize("options", [{"distill": 0.5}, {"distill": 0.5, "shift": 1}])
def test_distillation_needs_and_counts_its_teacher(images: Data, options: dict) -> None:
    run = run_of(**options)
    dense = train(run.dense(), images)
    assert run.dense().options.shift == run.options.shift
    taught = train(run, images, dense)
    assert taught.row["teacher_seconds"] > 0
    assert taught.row["nonzeros"] == 974
    alone = train(dataclasses.replace(run, options=run.options.with_(distill=0.0)), images)
    assert not torch.equal(*(next(r.model.parameters()) for r in (taught, alone)))


def test_from_dense_starts_where_dense_ended(images: Data) -> None:
    run = run_of(from_dense=True, lr=0.0, sparsity=0.5)
    dense = train(run.dense(), images)
    with torch.no_grad():
        for p in dense.model.parameters():
            p.mul_(2)
    result = train(run, images, dense)
    for p, q in zip(result.model.parameters(), dense.model.parameters(), strict=True):
        assert torch.equal(p[p != 0], q[p != 0])


def test_divergence_is_a_row(images: Data) -> None:
    for method in ("rvsm-l0-u", "torch-prune"):
        row = train(run_of(method, lr=1e8), images).row
        assert row["diverged"]
        assert "test_error" not in row


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5"])
def test_lenets_on_idx_files(tmp_path: Path, network: str) -> None:
    write_idx(tmp_path, train=60, test=20)
    data = idx(tmp_path, "mnist")
    weights = {"lenet-300-100": 266_200, "lenet-5": 430_500}[network]
    run = Run("final", network, "mnist", "rvsm-l0-u", 0.9, 0.1, 0, 8, 0, Options(batch=10))
    row = train(run, data).row
    assert row["weights"] == weights
    assert row["nonzeros"] == weights - round(0.9 * weights)
    assert row["nonzeros_with_biases"] > row["nonzeros"]
    assert row["test_error"] < 0.3  # of ten classes


def test_the_papers_network_on_a_data_folder(tmp_path: Path) -> None:
    """Validated on its own split; batch norm is measured anew at averaged weights."""
    folder = make_folder(tmp_path / "pen", {"train": 24, "val": 12, "test-unseen": 16})
    data = Folders.parse([str(tmp_path)]).read("pen")
    assert data.train[0].shape == (24, 1, 32, 128)
    assert folder == Folders.parse([str(tmp_path)]).find("pen")
    o = NETWORKS["tremor"].base_options().with_(batch=8, average=0.9)
    run = Run("final", "tremor", "pen", "rvsm-l0-u", 0.9, 0.1, 0, 3, 0, o)
    result = train(run, data)
    weights = sum(p.numel() for p in result.model.parameters() if p.dim() > 1)
    assert result.row["nonzeros"] == weights - round(0.9 * weights)
    assert result.row["split"] == {"train": 24, "validation": 12, "test": 16}
    assert 0 <= result.row["test_error"] <= 0.5
    assert 0 <= result.row["validation_error"] <= 1
    plain = train(dataclasses.replace(run, options=o.with_(average=0.0)), data).model
    assert not torch.equal(result.model.norm1.running_mean, plain.norm1.running_mean)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "weights"), [("vgg-16", 14_715_584), ("resnet-18", 11_164_352)]
)
def test_cifar_networks(tmp_path: Path, network: str, weights: int) -> None:
    write_cifar(tmp_path)
    o = NETWORKS[network].base_options().with_(batch=20, average=0.9)
    row = train(Run("final", network, "cifar-10", "rvsm-l0-u", 0.95, 0.1, 0, 2, 0, o),
                cifar10(tmp_path)).row  # fmt: skip
    assert row["weights"] == weights
    assert row["nonzeros"] == weights - round(0.95 * weights)
    assert 0 <= row["test_error"] <= 1


# What is chosen


def test_all_methods_have_as_many_settings() -> None:
    for name, method in METHODS.items():
        if name != "dense":
            assert len(method.settings) == (CANDIDATES if method.kind == "exact" else 1), name


@given(st.floats(1e-6, 1.0), st.floats(0.3, 3.0), st.floats(0.5, 0.99))
def test_the_search_closes_in_on_the_zeros(start: float, power: float, target: float) -> None:
    """Of a method whose zeros rise with its strength."""

    def zeros(strength: float) -> float:
        return 1 - math.exp(-((strength / 1e-3) ** power))

    tried: list[dict[str, float]] = []
    for _ in range(14):
        setting = plan.next_strength(start, tried, target)
        tried.append({"setting": setting, "own_zeros": zeros(setting)})
    settings = [row["setting"] for row in tried]
    assert min(abs(math.log(zeros(s) / target)) for s in settings) < 0.05
    wanted = 1e-3 * (-math.log(1 - target)) ** (1 / power)
    assert min(abs(math.log(s / wanted)) for s in settings) < 0.1


def tiny_place(**changed: object) -> plan.Place:
    who = tuple(plan.Contender(name) for name in ("dense", "rvsm-l0-u", "hard-concrete"))
    return dataclasses.replace(plan.Place("small", "digits", (0.8, 0.9), who, 2), **changed)


def tuning_rows(place: plan.Place, errors: dict[str, float]) -> dict[str, dict]:
    """Return rows of all tuning, where a later setting is better."""
    rows: dict[str, dict] = {}
    for sparsity in place.sparsities:
        for contender in place.contenders:
            item = plan.Item(place, contender, sparsity)
            while (run := item.next_tuning(rows)) is not None:
                error = errors[contender.method] - 0.01 * len(item.tried(rows))
                own = 0.5 if len(item.tried(rows)) < 2 else 0.95
                rows[run.key] = run.to_dict() | {"validation_error": error, "own_zeros": own}
    return rows


def test_finals_wait_for_the_choice_of_a_setting() -> None:
    place = tiny_place()
    item = plan.Item(place, place.contenders[1], 0.9)
    assert item.finals({}) is None
    rows = tuning_rows(place, {"rvsm-l0-u": 0.2, "hard-concrete": 0.3})
    assert len(rows) == 2 * 2 * CANDIDATES
    finals = item.finals(rows)
    assert finals is not None
    assert [(r.setting, r.seed, r.purpose) for r in finals] == [
        (1.0, 0, "final"),
        (1.0, 1, "final"),
    ]
    higher = plan.Item(place, place.contenders[2], 0.9)
    lower = dataclasses.replace(higher, sparsity=0.8)
    assert [r["setting"] for r in lower.tried(rows)] == [1e-5, 5e-5, 2.5e-4, 1.12e-4]
    assert higher.tried(rows)[0]["setting"] == 2.5e-4  # begins where 0.8 came nearest to 0.9
    assert higher.next_tuning({}) is None  # not known before
    diverged = {k: {**r, "validation_error": None} if r["setting"] == 1.0 else r
                for k, r in rows.items()}  # fmt: skip
    assert item.setting(diverged) == 0.1


def test_the_strongest_are_chosen_by_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tiny_place()
    place = tiny_place(data="mnist", strongest_of=("small", "digits"))
    monkeypatch.setattr(plan, "TIERS", {"core": [elsewhere, place]})
    monkeypatch.setattr(plan, "STRONGEST", 1)
    assert place.who({}) is None
    assert plan.items_of([place], {}) == []
    for best in ("rvsm-l0-u", "hard-concrete"):
        rows = tuning_rows(elsewhere, {"rvsm-l0-u": 0.2, "hard-concrete": 0.2, best: 0.1})
        assert [c.method for c in place.who(rows) or ()] == ["dense", best]


def test_the_core_is_the_plan_that_was_agreed_upon() -> None:
    core = {(p.network, p.data): p for p in plan.TIERS["core"]}
    assert core["lenet-300-100", "mnist"].sparsities == (0.9, 0.95, 0.98, 0.987, 0.99)
    assert NETWORKS["lenet-300-100"].epochs == NETWORKS["lenet-5"].epochs == 40
    assert core["lenet-5", "mnist"].sparsities == (0.99, 0.9967)
    assert 430_500 - round(0.9967 * 430_500) <= 1_435
    assert 266_200 - round(0.987 * 266_200) <= 3_500
    for place in plan.TIERS["core"] + plan.TIERS["full"] + plan.TIERS["quick"]:
        assert place.seeds >= 3 or place.network == "small"
        for sparsity, seeds in place.more.items():
            runs = place.finals(plan.OURS, sparsity, 0.1)
            assert len(runs) == seeds == 5
            assert all(run.held_out == 0 for run in runs)
        assert all(place.tuning(plan.OURS, s, 0.1).purpose == "tune" for s in place.sparsities)
    with pytest.raises(ConfigError, match="There is no tier huge"):
        plan.places_of("huge")


def test_ablation_changes_one_thing_and_reads_no_test_set() -> None:
    runs = ablation.runs()
    assert len({run.key for run in runs}) == len(runs)
    assert {run.purpose for run in runs} == {"ablation"}
    assert all(run.held_out for run in runs)
    names = [(c.factor, c.name) for c in ablation.CHANGES]
    assert len(set(names)) == len(names)
    start = ablation.run_of(ablation.GROUNDS[0], ablation.CHANGES[0], 0)
    for change in ablation.CHANGES[1:]:
        changed = ablation.run_of(ablation.GROUNDS[0], change, 0)
        assert changed.key != start.key, change
        differs = {
            name for name, value in vars(changed.options).items()
            if value != getattr(start.options, name)
        }  # fmt: skip
        assert differs == set(change.options), change


# Rows


def test_options_and_runs_come_back_from_rows() -> None:
    run = run_of(average=0.9, floor=0.01, a_end=0.1)
    row = json.loads(json.dumps(run.to_dict()))
    assert Run.of(row) == run
    assert Run.of(row).key == run.key
    assert row["options"] == {"batch": 64, "average": 0.9, "floor": 0.01, "a_end": 0.1}
    with pytest.raises(ConfigError, match="no option bete"):
        Options.of({"bete": 1.0})


def test_rows_of_two_processes_are_all_kept(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.frontier.options import Run\n"
        "from benchmarks.frontier.store import Store\n"
        "store, first = Store(Path(sys.argv[1])), int(sys.argv[2])\n"
        "for seed in range(first, first + 25):\n"
        "    store.add(Run('tune', 'small', 'digits', 'dense', 0.0, None, seed, 1, 0).to_dict())\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), first], cwd=ROOT)
        for first in ("0", "25")
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert sorted(row["seed"] for row in Store(tmp_path).rows()) == list(range(50))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_row_replaces_that_of_the_same_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for error in (0.3, 0.2):
        store.add({**run_of().to_dict(), "test_error": error})
    store.add(run_of(seed=1).to_dict())
    assert len(store.rows("small-digits")) == 2
    found = store.find(run_of())
    assert found is not None
    assert found["test_error"] == 0.2
    assert store.find(run_of(seed=2)) is None
    lines = store.path("small-digits").read_text("utf-8").splitlines()
    assert [line for line in lines if line not in "[]"] == lines[1:-1]
    assert len(lines) == 4


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"seed": 1}]'])
def test_damaged_rows_are_told(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    store.path("small-digits").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"small-digits\.json .*; restore it from git"):
        store.rows()


def test_a_claim_holds_until_it_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(run_of()) as mine, store.claim(run_of()) as other:
        assert mine
        assert not other
        with store.claim(run_of(seed=1)) as another:
            assert another
    with store.claim(run_of()) as again:
        assert again


# Work


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> plan.Place:
    """A plan of seconds: three contenders, one share of zeros."""
    small = dataclasses.replace(NETWORKS["small"], epochs=2, tune_epochs=1)
    monkeypatch.setitem(NETWORKS, "small", small)
    place = tiny_place(sparsities=(0.9,))
    monkeypatch.setitem(plan.TIERS, "quick", [place])
    return place


def test_work_is_done_once_and_goes_on(tiny: plan.Place, tmp_path: Path) -> None:
    store, told = Store(tmp_path), []

    def worker(**options: object) -> Worker:
        return Worker(store, Folders.parse([]), tell=told.append, **options)

    assert worker(only=["tune", "rvsm"]).work(pending_of("quick")) == CANDIDATES
    assert worker(minutes=0.0).work(pending_of("quick")) == 1
    total = 2 * CANDIDATES + 3 * 2
    assert worker().work(pending_of("quick")) == total - CANDIDATES - 1
    assert worker().work(pending_of("quick")) == 0
    rows = store.rows()
    assert len(rows) == len(told) == total
    assert all(("test_error" in row) == (row["purpose"] == "final") for row in rows)
    assert all(row["commit"] and row["torch"] and row["machine"] for row in rows)
    assert listing("quick", store.by_key())[-1].startswith("0.0 of ")
    rows[0]["seed"] = 0
    lost = store.rows()
    store.path("small-digits").write_text(json.dumps(lost[:-2]), "utf-8")
    assert worker().work(pending_of("quick")) == 2  # what was killed is run again


def test_what_cannot_be_done_here_is_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    worker = Worker(Store(tmp_path), Folders.parse([]), tell=told.append)
    assert worker.work(pending_of("core")) == 0
    assert any("no folder FOLDER/mnist" in line for line in told)
    assert len(told) == len(set(told))


def test_teachers_are_trained_once(tiny: plan.Place, tmp_path: Path) -> None:
    store, told = Store(tmp_path), []
    worker = Worker(store, Folders.parse([]), tell=told.append)
    first = worker.do(run_of(distill=0.5, epochs=1))
    second = worker.do(run_of(distill=0.9, epochs=1))
    assert first is not None
    assert second is not None
    assert [row["method"] for row in store.rows()].count("dense") == 1
    assert len(told) == 3
    assert first.row["teacher_seconds"] == second.row["teacher_seconds"]


@pytest.mark.slow
def test_the_quick_tier(tmp_path: Path) -> None:
    command = [sys.executable, str(FRONTIER / "run.py"), "--results", str(tmp_path)]

    def call(*words: str) -> str:
        made = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=True, timeout=280, cwd=ROOT
        )
        return made.stdout

    told = call("--workers", "2")
    rows = Store(tmp_path).rows()
    cells = tables.cells_of(rows)
    methods = [name for name in HERE if name != "prox-l1"]
    assert {c.method for c in cells} == set(methods)
    assert len(rows) == (CANDIDATES + 1) * (len(methods) - 1) + 1
    assert told.count("### small on digits") == 1
    assert page.text(rows) in told
    assert "0.0 of " in call("--list").splitlines()[-1] or len(HERE) < len(METHODS)


def test_errors_of_the_command_are_one_sentence(tmp_path: Path) -> None:
    for words in (["--tier", "huge"], ["--workers", "0"], ["--data", "svhn=/tmp"]):
        with pytest.raises(RvsmError):
            run.main([*words, "--results", str(tmp_path)])


# Tables


def cell(method: str, errors: list[float], sparsity: float = 0.9, options: str = "{}", **more):
    values = {"nonzeros": 100.0, "with_biases": 110.0, "seconds": 1.0} | more
    return tables.Cell("small", "digits", method, sparsity, options, None, tuple(errors), **values)


def final_rows(errors: dict[str, list[float]], sparsity: float = 0.9) -> list[dict]:
    rows = []
    for method, own in errors.items():
        for seed, error in enumerate(own):
            run = Run("final", "small", "digits", method, sparsity, None, seed,
                      NETWORKS["small"].epochs, 0, TINY)  # fmt: skip
            rows.append({
                **run.to_dict(), "test_error": error, "nonzeros": 974,
                "nonzeros_with_biases": 1040, "seconds_per_epoch": 0.5,
            })  # fmt: skip
    return rows


def test_cells_are_means_over_seeds() -> None:
    rows = final_rows({"rvsm-l0-u": [0.01, 0.02, 0.03], "magnitude": [0.05]})
    other_setting = {**rows[0], "setting": 7.0, "test_error": 0.9}
    tuning = {**rows[0], "purpose": "tune", "validation_error": 0.5}
    short = {**rows[0], "epochs": 1, "test_error": 0.9}
    found = tables.cells_of([*rows, other_setting, tuning, short, {**rows[1], "test_error": None}])
    ours, magnitude = found
    assert ours.errors == (0.01, 0.02, 0.03)
    assert ours.mean == pytest.approx(0.02)
    assert ours.sd == pytest.approx(0.01)
    assert ours.se == pytest.approx(0.01 / math.sqrt(3))
    assert (ours.nonzeros, ours.with_biases) == (974, 1040)
    assert math.isnan(magnitude.sd)
    assert ours.is_ours
    assert not magnitude.is_ours
    assert tables.percent(ours) == "2.00 ± 0.58"
    assert tables.percent(magnitude) == "5.00"


@pytest.mark.parametrize(
    ("other", "ahead", "clearly"),
    [
        ([0.010, 0.012, 0.014], True, True),
        ([0.019, 0.0195, 0.0199], True, False),
        ([0.03, 0.031], False, None),
        ([0.0199], True, True),  # one seed says nothing of its error: that is not for us
    ],
)
def test_who_is_ahead_of_ours(other: list[float], ahead: bool, clearly: bool | None) -> None:
    cells = [cell("rvsm-l0-u", [0.019, 0.020, 0.021]), cell("magnitude", other)]
    cells += [cell("rvsm-l1-u", [0.0, 0.0]), cell("magnitude", [0.0, 0.0], sparsity=0.95)]
    found = tables.ahead_of_ours(cells)
    assert [a.other.errors for a in found] == ([tuple(other)] if ahead else [])
    if ahead:
        assert found[0].clearly is clearly
        assert ("magnitude" in tables.verdict(cells).lower()) is clearly
    else:
        assert "nobody" in tables.verdict(cells)


def test_the_table_names_fewer_weights() -> None:
    cells = [
        cell("rvsm-l0-u", [0.02, 0.03]), cell("pat-lasso", [0.04, 0.04], nonzeros=50.0),
        cell("rvsm-l0-u", [0.05], sparsity=0.95, nonzeros=50.0), cell("dense", [0.01, 0.01], 0.0),
    ]  # fmt: skip
    text = tables.comparison(cells)
    assert "90 % zeros, 100 weights | 95 % zeros, 50 weights" in text
    assert "| torchao PAT, lasso | 4.00 ± 0.00, 50 weights | - |" in text
    assert "| **RVSM, l0, gradient at u** | 2.50 ± 0.50 | 5.00 |" in text
    assert "| dense | 1.00 ± 0.00 |  |" in text


def test_ablation_differences_are_paired() -> None:
    ground, changes = ablation.GROUNDS[0], ablation.CHANGES
    errors = {0: (0.03, 0.02), 1: (0.05, 0.041), 2: (0.04, None)}
    rows = []
    for seed, pair in errors.items():
        for change, error in zip(changes[:2], pair, strict=True):
            if error is not None:
                row = ablation.run_of(ground, change, seed).to_dict()
                rows.append(row | {"validation_error": error})
    text = tables.ablation_table(rows)
    assert "| none | the start | 4.00 ± 0.58 |  | 3 |" in text
    assert f"| gradient | at w | 3.05 ± {100 * 0.0105:.2f} | -0.95 ± 0.05 | 2 |" in text
    assert tables.ablation_table([]) == ""


def test_pictures_are_drawn(tmp_path: Path) -> None:
    names = [name for name in METHODS if name != "dense"]
    errors = {name: [0.02 + 0.001 * i, 0.025] for i, name in enumerate(names)}
    rows = final_rows(errors, 0.9) + final_rows({"dense": [0.01]}, 0.0)
    plots.frontier(tables.cells_of(rows), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_made_from_the_rows() -> None:
    rows = Store(FRONTIER / "results").rows()
    text = (ROOT / "docs" / "frontier.md").read_text("utf-8")
    assert f"{page.START}{page.text(rows, 'pictures')}\n{page.END}" in text
    for network, data in tables.places(tables.cells_of(rows)):
        assert (ROOT / "docs" / "pictures" / page.picture_name(network, data)).exists()
    wanted = {page.model_name(winner) for winner in page.winners(rows)}
    assert {p.name for p in (FRONTIER / "models").glob("*.safetensors")} == wanted


# The check


@pytest.fixture
def kept(tiny: plan.Place, tmp_path: Path) -> list[str]:
    """Models and rows of a small plan on idx files; the words of the command that checks them."""
    store = Store(tmp_path / "results")
    Worker(store, Folders.parse([]), tell=lambda line: None).work(pending_of("quick"))
    page.keep_winners(store, tmp_path / "models")
    return ["--results", str(tmp_path / "results"), "--models", str(tmp_path / "models")]


def test_the_check_finds_what_was_trained(
    kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check.main(kept)
    assert "974 weights" in capsys.readouterr().out


def test_the_check_finds_every_change(kept: list[str], tmp_path: Path) -> None:
    (path,) = (tmp_path / "models").glob("*.safetensors")
    whole = path.read_bytes()
    rows = tmp_path / "results" / "small-digits.json"
    before = rows.read_text("utf-8")

    def refused(told: str) -> None:
        with pytest.raises(RvsmError, match="not as the rows say"):
            check.main(kept)
        lines = _captured(check.main, kept)
        assert len(lines) == told.count("|") + 1
        for part, line in zip(told.split("|"), lines, strict=True):
            assert part in line

    path.write_bytes(whole[:-20])
    refused(str(path))
    path.write_bytes(b"")
    refused(str(path))
    path.unlink()
    refused("is missing")
    model = NETWORKS["small"].build()
    rvsm.save(model, path)
    refused("of another run")
    path.write_bytes(whole)
    shutil.copy(path, path.with_name("extra.safetensors"))
    refused("wins at no share")
    path.with_name("extra.safetensors").unlink()
    state = rvsm.load(path)
    name = next(n for n, t in state.items() if t.dim() > 1)
    place = state[name].flatten().nonzero()[0]
    state[name].view(-1)[place] = 0
    from rvsm.deploy.files import read_metadata

    rvsm.save(state, path, read_metadata(path))
    lines = _captured(check.main, kept)
    assert any("nonzeros is 973, and its row says 974" in line for line in lines)
    path.write_bytes(whole)
    check.main(kept)
    rows.write_text("[", "utf-8")
    with pytest.raises(DataError, match="is damaged"):
        check.main(kept)
    rows.write_text(before, "utf-8")


def _captured(call, words: list[str]) -> list[str]:
    import contextlib
    import io

    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), contextlib.suppress(RvsmError):
        call(words)
    return stream.getvalue().splitlines()


def test_nothing_to_check_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to check"):
        check.main(["--results", str(tmp_path), "--models", str(tmp_path)])


def test_errors_are_the_same_in_any_batch(images: Data) -> None:
    model = train(run_of(), images).model
    x, y = images.test
    statistics = images.statistics()
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    again = error_of(model, (x[shuffled], y[shuffled]), statistics)
    assert error_of(model, (x, y), statistics) == again
    assert counts(model)["nonzeros"] == 974


@pytest.mark.slow
def test_committed_models_are_as_their_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine")
    if not list((FRONTIER / "models").glob("*.safetensors")):
        pytest.skip("no model is committed")
    check.main(["--data", str(SHARED)])
