"""Training in a run folder: what it leaves, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rvsm
from drawings import make_folder
from rvsm.errors import ConfigError, DataError, RunError
from rvsm.experiments import module, runs
from rvsm.experiments import train as train_module
from rvsm.experiments.config import METHODS, load_config
from rvsm.experiments.data import joined, load_split
from rvsm.experiments.evaluate import count_zeros, evaluate, evaluate_network
from rvsm.experiments.module import SparseTraining
from rvsm.experiments.runs import load_into, load_run, make_network, result_rows
from rvsm.experiments.train import RunResult, train
from rvsm.recipes import distilled
from training_runs import (
    EPOCHS,
    STEPS,
    Stopped,
    assert_same,
    configure,
    metrics,
    stop_after,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run that nothing disturbed."""
    return train(configure(folder), tmp_path_factory.mktemp("runs") / "whole")


def test_the_run_folder_holds_everything(whole: RunResult, folder: Path) -> None:
    run = whole.run_dir
    network = {**configure(folder).network.model_dump(), "size": (32, 128)}
    assert load_config(run / "config.toml") == configure(folder, network=network)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0] or (
        environment["packages"]["torch"] == torch.__version__
    )
    assert {"python", "cpu", "threads", "git_commit"} <= set(environment)
    assert environment["data"] == {"seed": 0}, "what the images are a function of"
    assert len(metrics(run)) == EPOCHS
    assert [row["step"] for row in metrics(run)] == ["4", "8", "12", "16"]
    assert list((run / "tensorboard").glob("events.*"))
    assert json.loads((run / "result.json").read_text()) == whole.result
    with (run / "test_predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 48
    assert not list(run.rglob("*.tmp"))


def test_a_run_may_learn_from_a_part_of_the_images(folder: Path, tmp_path: Path) -> None:
    few = train(configure(folder, images=24), tmp_path / "few")
    assert few.result["split_sizes"]["train"] == 24
    assert few.result["split_sizes"]["val"] == len(load_split(folder, "val", (32, 128)))


def test_a_run_may_learn_from_further_folders(folder: Path, tmp_path: Path) -> None:
    """From their training images; what chooses and what tests is the folder's own."""
    other = make_folder(tmp_path / "other", seed=1)
    broken = next((other / "train" / "regular").glob("*.png"))
    broken.write_bytes(b"")
    settings = configure(folder, more=(str(other),))
    both = train(settings, tmp_path / "both")
    sizes = {name: len(load_split(folder, name, (32, 128))) for name in ("train", "val")}
    mine, theirs = sizes["train"], len(load_split(other, "train", (32, 128)))
    assert both.result["split_sizes"] == {
        **both.result["split_sizes"],
        "train": mine + theirs,
        "val": sizes["val"],
    }
    assert list(both.result["skipped_files"]["train"]) == [str(broken)]
    kept = load_config(both.run_dir / "config.toml")
    assert kept.more == (str(other.resolve()),)
    assert train(settings, both.run_dir).result == both.result
    with pytest.raises(RunError, match="different: more"):
        train(configure(folder), both.run_dir)
    alone = train(configure(folder), tmp_path / "alone")
    assert both.result["val_accuracy"] > 0.5
    assert alone.result["split_sizes"]["train"] == mine
    images = load_split(folder, "train", (32, 128)), load_split(other, "train", (32, 128))
    whole = joined(images[0], {other: images[1]})
    assert torch.equal(whole.images[mine:], images[1].images)
    assert [row.file for row in whole.rows[mine:]] == [str(other / r.file) for r in images[1].rows]
    none = make_folder(tmp_path / "untrained", {"val": 8})
    with pytest.raises(DataError, match="no readable images in its split"):
        train(configure(folder, more=(str(none),)), tmp_path / "none")


def test_the_zeros_are_exact_and_as_many_as_asked(whole: RunResult) -> None:
    state = rvsm.load(whole.run_dir / "model.safetensors")
    assert isinstance(state, dict)
    fc = state["fc.weight"]
    assert int((fc == 0).sum()) == round(0.9 * fc.numel())
    assert whole.result["fc_zeros"] == pytest.approx(0.9, abs=1e-3)
    total = sum(value.numel() for name, value in state.items() if name.endswith(".weight"))
    nonzeros = sum(int((v != 0).sum()) for name, v in state.items() if name.endswith(".weight"))
    assert whole.result["nonzeros"] == nonzeros
    assert whole.result["zeros"] == pytest.approx(1 - nonzeros / total)
    assert float(metrics(whole.run_dir)[-1]["zeros/fc"]) == pytest.approx(whole.result["fc_zeros"])


def test_the_best_epoch_is_the_best_of_those_at_full_sparsity(whole: RunResult) -> None:
    eligible = [row for row in metrics(whole.run_dir) if int(row["step"]) >= STEPS // 2]
    best = max(eligible, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert whole.result["best_epoch"] == int(best["epoch"])
    assert whole.result["val_accuracy"] == float(best["val_accuracy"])


def test_the_log_tells_the_lagrangian_and_the_gap(whole: RunResult) -> None:
    rows = metrics(whole.run_dir)
    assert float(rows[0]["gap"]) > 0
    assert float(rows[0]["lagrangian"]) > float(rows[0]["train_loss"])
    assert float(rows[-1]["gap"]) == 0, "healing leaves w = u"


def test_a_finished_run_returns_at_once(whole: RunResult, folder: Path) -> None:
    before = (whole.run_dir / "model.safetensors").stat().st_mtime_ns
    again = train(configure(folder), whole.run_dir)
    assert again.result == whole.result
    assert (whole.run_dir / "model.safetensors").stat().st_mtime_ns == before


def test_another_configuration_is_refused(whole: RunResult, folder: Path) -> None:
    with pytest.raises(RunError, match=r"another configuration \(different: seed\)"):
        train(configure(folder, seed=1), whole.run_dir)
    with pytest.raises(RunError, match="already holds a run"):
        train(configure(folder), whole.run_dir, resume=False)


@pytest.mark.parametrize("method", ["dense", "l0"])
def test_the_average_of_the_weights_is_what_is_kept(
    folder: Path, tmp_path: Path, method: str
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    before = train_module.SparseTraining.on_train_batch_end

    def remember(self: Any, *arguments: Any) -> None:
        before(self, *arguments)
        if self.splitting is None or self.splitting.frozen:
            seen.append({name: p.detach().clone() for name, p in self.net.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module.SparseTraining, "on_train_batch_end", remember)
        config = configure(folder, method=method, average=0.5, select="val-loss")
        result = train(config, tmp_path / "run").result
    count = 4 * (result["best_epoch"] + 1) - (0 if method == "dense" else 11)
    average = seen[0]
    for number, weights in enumerate(seen[1:count], start=1):
        kept = min(0.5, (1 + number) / (10 + number))
        average = {n: kept * average[n] + (1 - kept) * weights[n] for n in average}
    saved = rvsm.load(tmp_path / "run" / "training.safetensors")
    for name, value in average.items():
        torch.testing.assert_close(saved[name], value)
    if method == "l0":
        assert torch.equal(saved["fc.weight"] == 0, seen[-1]["fc.weight"] == 0)


def test_starting_from_another_run(whole: RunResult, folder: Path, tmp_path: Path) -> None:
    start = str(whole.run_dir)
    config = configure(folder, method="dense", start=start, lr=1e-12, epochs=1)
    result = train(config, tmp_path / "run").result
    assert result["start"] == "dense"
    net = make_network(config)
    load_into(net, whole.run_dir / "training.safetensors")
    net.simplify()
    folded = net.eval().folded()
    for name, expected in (("model.safetensors", folded), ("training.safetensors", net)):
        state = rvsm.load(tmp_path / "run" / name)
        torch.testing.assert_close(state, dict(expected.state_dict()), rtol=1e-4, atol=1e-5)
    with pytest.raises(RunError, match=r"holds no training\.safetensors"):
        train(configure(folder, start=str(tmp_path)), tmp_path / "other")
    other_shape = {"channels": [4, 6, 8]}
    with pytest.raises(RunError, match="do not fit"):
        train(configure(folder, start=start, network=other_shape), tmp_path / "third")


def test_learning_from_the_answers_of_another_run(
    whole: RunResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[torch.Tensor] = []

    def watch(*arguments: torch.Tensor, share: float) -> torch.Tensor:
        assert share == 0.7
        taught.append(arguments[2])
        return distilled(*arguments, share=share)

    monkeypatch.setattr(module, "distilled", watch)
    config = configure(folder, teacher=str(whole.run_dir), distill=0.7, epochs=2)
    run, other = tmp_path / "run", tmp_path / "other"
    with pytest.raises(Stopped):
        train(config, run, progress=stop_after(6))
    train(config, run)
    count = len(taught)
    train(config, other)
    assert_same(run, other)
    assert count == 6 + STEPS // EPOCHS
    weights = rvsm.load(other / "training.safetensors")
    assert set(weights) == set(rvsm.load(whole.run_dir / "training.safetensors"))

    for wrong, message in (
        ({"teacher": str(tmp_path)}, "holds no finished run"),
        ({"network": config.network.model_copy(update={"size": (32, 64)})}, "reads images of"),
    ):
        with pytest.raises((RunError, ConfigError), match=message):
            train(config.model_copy(update=wrong), tmp_path / "third")
    teacher = load_run(whole.run_dir)[1]
    images, labels = torch.rand(8, 1, 32, 128), torch.arange(8) % 2
    student = make_network(config).train()
    torch.manual_seed(0)  # of dropout
    got = SparseTraining(student, config, 4, teacher).training_step((images, labels), 0)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = distilled(student(images), labels, teacher(images), share=0.7)
    torch.testing.assert_close(got.detach(), expected)


def test_test_splits_are_opened_after_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trained: dict[str, bool] = {}

    def watch(data: Path, name: str, *arguments: Any, **options: Any) -> Any:
        trained[name] = (run / "model.safetensors").exists()
        return load_split(data, name, *arguments, **options)

    monkeypatch.setattr(train_module, "load_split", watch)
    train(configure(folder, epochs=1), run)
    assert trained == {
        "train": False,
        "val": False,
        "curve": True,
        "test-paper": True,
        "test-unseen": True,
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_drawings(folder: Path, tmp_path: Path, method: str) -> None:
    result = train(
        configure(
            folder,
            method=method,
            epochs=8,
            network={"channels": [8, 8, 8]},
            rules=[{"pattern": "fc.weight", "sparsity": 0.7}],
            splitting={"end": 0.3, "heal": 0.3},
        ),
        tmp_path / "run",
    ).result
    assert result["scores"]["test-paper"]["accuracy"] >= 0.8
    assert result["fc_zeros"] == pytest.approx(0 if method == "dense" else 0.7, abs=1e-3)
    paper, unseen = result_rows(result, "run", {"seed": 0})
    assert (paper["protocol"], unseen["protocol"]) == ("paper", "unseen")
    assert paper["data"] == unseen["data"] == {"seed": 0}
    assert paper["split_sizes"] == {"train": 64, "val": 32, "test": 16}
    assert (paper["task"], paper["set"], paper["method"]) == ("pen", "headline", method)


def test_strength_by_lam(folder: Path, tmp_path: Path) -> None:
    rules = [{"pattern": "fc.weight", "lam": 1e-4}]
    result = train(configure(folder, rules=rules, epochs=2), tmp_path / "run").result
    assert 0 < result["fc_zeros"] < 1


def test_the_saved_model_is_the_folded_one(whole: RunResult, folder: Path) -> None:
    config, folded = load_run(whole.run_dir)
    net = make_network(config)
    load_into(net, whole.run_dir / "training.safetensors")
    split = load_split(folder, "val", (32, 128))
    unfolded = evaluate_network(net, split)
    score = evaluate_network(folded, split)
    np.testing.assert_allclose(unfolded.probabilities, score.probabilities, rtol=0, atol=1e-5)
    assert score.summary()["accuracy_one_view"] == whole.result["val_accuracy"], (
        "validated is what is saved"
    )
    assert torch.equal(folded.fc.weight, net.fc.weight)
    assert count_zeros(folded)["zeros"] == count_zeros(net)["zeros"] == whole.result["zeros"]


def test_without_normalisation(folder: Path, tmp_path: Path, whole: RunResult) -> None:
    network = {"channels": [4, 6, 6], "norm": False}
    train(configure(folder, network=network, epochs=1), tmp_path / "run")
    contents = [rvsm.load(tmp_path / "run" / f"{n}.safetensors") for n in ("model", "training")]
    torch.testing.assert_close(*contents, rtol=0, atol=0)
    config = configure(folder, network=network, start=str(whole.run_dir))
    with pytest.raises(RunError, match=r"the same \[network\] section"):
        train(config, tmp_path / "other")


def test_automatic_precision_is_settled_when_the_run_begins(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = configure(folder, precision="auto", epochs=2)
    monkeypatch.setattr(runs, "_cpu_has_bf16", lambda: True)
    with pytest.raises(Stopped):
        train(config, run, progress=stop_after(5))
    assert load_config(run / "config.toml").precision == "bf16-mixed"
    monkeypatch.setattr(runs, "_cpu_has_bf16", lambda: False)
    assert runs.resolve(config).precision == "32"
    monkeypatch.setattr(runs, "_cpu_has_bf16", lambda: True)
    assert runs.resolve(configure(folder, precision="auto", accelerator="gpu")).precision == "32"
    train(config, run)
    train(configure(folder, precision="bf16-mixed", epochs=2), tmp_path / "other")
    assert_same(run, tmp_path / "other")
    with pytest.raises(RunError, match=r"different: precision"):
        train(configure(folder, epochs=2), run)


def test_the_last_epoch_is_kept_where_that_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of epochs that get worse and worse in validation.
    worse = iter(range(100))
    before = train_module.SparseTraining.epoch_row
    monkeypatch.setattr(
        train_module.SparseTraining,
        "epoch_row",
        lambda self: before(self) | {"val_accuracy": 1 - next(worse) / 100},
    )
    best = train(configure(folder, method="dense", epochs=3), tmp_path / "best").result
    last = train(configure(folder, method="dense", epochs=3, select="last"), tmp_path / "last")
    assert (best["best_epoch"], last.result["best_epoch"]) == (0, 2)
    kept, final = (
        rvsm.load(tmp_path / name / "training.safetensors")["fc.weight"]
        for name in ("best", "last")
    )
    assert not torch.equal(kept, final)


def test_bf16_trains_too(folder: Path, tmp_path: Path) -> None:
    result = train(configure(folder, precision="bf16-mixed", epochs=1), tmp_path / "run").result
    assert result["fc_zeros"] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_too(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "dense"
    config = configure(folder, method="dense", accelerator="gpu", epochs=2)
    with pytest.raises(Stopped):
        train(config, run, progress=stop_after(5))
    result = train(config, run).result
    assert result["fc_zeros"] == 0
    sparse = configure(folder, accelerator="gpu", epochs=2, start=str(run))
    found = train(sparse, tmp_path / "l0").result
    assert found["fc_zeros"] == pytest.approx(0.9, abs=1e-3)
    scored = evaluate(tmp_path / "l0", folder)["scores"]  # on the CPU
    for name, score in scored.items():
        assert score["accuracy"] == pytest.approx(found["scores"][name]["accuracy"], abs=0.02)


def test_a_run_can_be_loaded(whole: RunResult, tmp_path: Path) -> None:
    config, net = load_run(whole.run_dir)
    assert config.network.channels == (4, 6, 6)
    assert not net.training
    assert int((net.fc.weight == 0).sum()) == round(0.9 * net.fc.weight.numel())
    with pytest.raises(RunError, match="holds no finished run"):
        load_run(tmp_path)
