"""Runs of the frontier: what a row says is what was trained, and each is done once."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.frontier import page, plan, run, tables
from benchmarks.frontier.check import compared
from benchmarks.frontier.data import Data, Folders, cifar10, digits, idx
from benchmarks.frontier.methods import CANDIDATES, METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.store import Store
from benchmarks.frontier.training import (
    Average,
    Batches,
    Rate,
    Teacher,
    counts,
    error_of,
    loss_of,
    normalised,
    train,
)
from benchmarks.frontier.work import Worker, listing, pending_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import rvsm
from drawings import make_folder
from frontier_sets import (
    HERE,
    make_tiny,
    run_of,
    write_cifar,
    write_idx,
)
from rvsm.errors import RvsmError

ROOT = Path(__file__).parent.parent
FRONTIER = ROOT / "benchmarks" / "frontier"


@pytest.fixture(scope="module")
def images() -> Data:
    return digits()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> plan.Place:
    return make_tiny(monkeypatch)


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


@settings(deadline=None)  # the first call alone may take long
@given(st.floats(0.1, 0.9), st.floats(1.0, 5.0))
def test_distillation_is_its_formula(share: float, t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, taught = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    o = Options(distill=share, temperature=t)
    p, q = torch.softmax(taught / t, 1), torch.softmax(logits / t, 1)
    distance = (p * (p / q).log()).sum() / 5
    want = (1 - share) * F.cross_entropy(logits, labels) + share * t**2 * distance
    assert torch.allclose(loss_of(o, logits, labels, taught), want)
    assert loss_of(o, logits, labels, None) == F.cross_entropy(logits, labels)


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


@pytest.mark.parametrize("method", ["rvsm-l0-u", "magnitude"])
@pytest.mark.parametrize("scale", ["rms", "mean"])
def test_whole_units_go_first(images: Data, tmp_path: Path, method: str, scale: str) -> None:
    run = run_of(method, units="0.6", units_scale=scale)
    result = train(run, images)
    row = result.row
    assert row["nonzeros"] == 974
    assert (row["weights"], row["parameters"]) == (9736, 9802)
    assert row["zeros"] == round(1 - row["nonzeros"] / 9736, 6)
    left = sum(p.numel() for p in result.model.parameters() if p.dim() > 1)
    assert 974 < left < 0.45 * 9736  # what read and fed the units has gone with them
    assert dict(result.model.named_parameters())["8.weight"].shape[0] == 10
    path = tmp_path / "model.safetensors"
    rvsm.save(result.model, path, {"run": run.key}, negative_zeros=False)
    assert compared(path, {run.key: row}, run, images, images.statistics()) == []
    wrong = compared(path, {run.key: row | {"weights": 9}}, run, images, images.statistics())
    assert wrong == [f"{path}: weights is 9736, and its row says 9: run that row again."]


def test_units_go_layer_by_layer(images: Data) -> None:
    for penalty in ("tl1", "l0"):
        run = run_of(units="0.weight=0.25 6.*=0.5", units_penalty=penalty)
        small = train(run, images).model
        weights = {name: p for name, p in small.named_parameters() if p.dim() > 1}
        # A filter without weights stays where its bias meets a padding.
        assert int(weights["0.weight"].flatten(1).any(1).sum()) == 6
        assert weights["2.weight"].shape[0] == 16
        assert weights["8.weight"].shape == (10, 16)
    with pytest.raises(RvsmError, match='units is "half"; write a share, or LAYER=SHARE'):
        train(run_of(units="half"), images)


def test_no_healing_ends_with_exact_zeros(images: Data) -> None:
    """Without a phase of healing the support is fixed after the last step."""
    assert train(run_of(heal=1.0), images).row["nonzeros"] == 974


@pytest.mark.parametrize(
    "options",
    [
        {"distill": 0.5},
        {"distill": 0.5, "shift": 1},
        {"distill": 0.5, "shift": 1, "answers": "plain"},
    ],
)
def test_distillation_needs_and_counts_its_teacher(images: Data, options: dict) -> None:
    run = run_of(**options)
    dense = train(run.dense(), images)
    assert run.dense().options.shift == run.options.shift
    taught = train(run, images, dense)
    assert taught.row["teacher_seconds"] > 0
    assert taught.row["nonzeros"] == 974
    alone = train(dataclasses.replace(run, options=run.options.with_(distill=0.0)), images)
    assert not torch.equal(*(next(r.model.parameters()) for r in (taught, alone)))


def test_a_teacher_is_asked_about_images_as_seen_or_as_they_are(images: Data) -> None:
    model = NETWORKS["small"].build().eval()
    batches = Batches(images.train, images.statistics(), Options(shift=2), seed=0)
    x, _, places = next(batches.chunks(0))
    plain = normalised(images.train[0][places], images.statistics())
    assert not torch.equal(x, plain)
    torch.testing.assert_close(Teacher(model, batches)(x, places), model(x))
    torch.testing.assert_close(Teacher(model, batches, plain=True)(x, places), model(plain))


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


def test_errors_are_the_same_in_any_batch(images: Data) -> None:
    model = train(run_of(), images).model
    x, y = images.test
    statistics = images.statistics()
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    again = error_of(model, (x[shuffled], y[shuffled]), statistics)
    assert error_of(model, (x, y), statistics) == again
    assert counts(model)["nonzeros"] == 974


# Work


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
    here = [c for c in plan.ALL if c.method in HERE]
    assert {c.method for c in cells} == {c.method for c in here}
    tuned = sum(bool(METHODS[c.method].settings) for c in here)
    # The dense network is trained once to be compared, and once to teach the runs that tune.
    assert len(rows) == (CANDIDATES + 1) * tuned + 2
    assert told.count("### small on digits") == 1
    assert page.text(rows) in told
    assert "0.0 of " in call("--list").splitlines()[-1] or len(HERE) < len(METHODS)


def test_errors_of_the_command_are_one_sentence(tmp_path: Path) -> None:
    for words in (["--tier", "huge"], ["--workers", "0"], ["--data", "svhn=/tmp"]):
        with pytest.raises(RvsmError):
            run.main([*words, "--results", str(tmp_path)])
