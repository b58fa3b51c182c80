"""Scores, zeros, and predictions for single files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drawings import make_folder
from rvsm.errors import DataError, RunError
from rvsm.experiments.config import make_config
from rvsm.experiments.data import load_split, to_float
from rvsm.experiments.evaluate import Score, count_zeros, evaluate, evaluate_network
from rvsm.experiments.predict import predict
from rvsm.experiments.runs import load_run
from rvsm.experiments.train import train
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.views import view_logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_config(
        {"data": str(folder), "method": "dense", "epochs": 6, "batch_size": 16, "lr": 0.01}
    )
    return train(config, tmp_path_factory.mktemp("runs") / "dense").run_dir


def test_accuracy_and_auc_by_hand() -> None:
    score = Score(
        probabilities=np.array([0.1, 0.6, 0.4, 0.9, 0.8]),
        one_view=np.array([0.1, 0.4, 0.6, 0.9, 0.4]),
        labels=np.array([0, 0, 1, 1, 1]),
        amplitudes=np.array([0.45, 0.6, 0.45, 0.6, np.nan]),
    )
    summary = score.summary()
    assert summary["accuracy"] == pytest.approx(3 / 5)
    assert summary["accuracy_one_view"] == pytest.approx(4 / 5)
    assert summary["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert summary["auc"] == pytest.approx(5 / 6)
    low, high = summary["bands"]
    assert (low["low_mm"], low["high_mm"], low["images"]) == (0.4, 0.55, 2)
    assert (low["shaky_found"], low["regular_found"]) == (0, 1)
    assert (high["shaky_found"], high["regular_found"], high["accuracy"]) == (1, 0, 0.5)


def test_one_class_has_no_auc() -> None:
    score = Score(
        np.array([0.2, 0.7]), np.array([0.2, 0.7]), np.array([1, 1]), np.array([0.45, 1.4])
    )
    summary = score.summary()
    assert summary["auc"] is None
    assert summary["balanced_accuracy"] is None
    assert [band["regular_found"] for band in summary["bands"]] == [None, None]


def test_probabilities_are_of_the_mean_of_the_views_and_of_the_image(
    run: Path, folder: Path
) -> None:
    _, net = load_run(run)
    split = load_split(folder, "test-paper", (32, 128))
    score = evaluate_network(net, split)
    images = to_float(split.images)
    with torch.no_grad():
        one = net(images).double().softmax(1)[:, 1]
        mean = view_logits(net, images).double().mean(0).softmax(1)[:, 1]
    torch.testing.assert_close(torch.from_numpy(score.one_view), one)
    torch.testing.assert_close(torch.from_numpy(score.probabilities), mean)
    assert not torch.allclose(one, mean)


def test_zeros_are_counted_by_equality_with_zero() -> None:
    net = TremorNet(channels=(2, 3, 4), norm=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1e-30)
        net.fc.weight[0] = 0
        net.fc.bias[0] = 0
        net.conv1.weight[0, 0, 0, 0] = -0.0
    counts = count_zeros(net)
    weights = sum(p.numel() for n, p in net.named_parameters() if n.endswith("weight"))
    zeros = net.fc.weight.shape[1] + 1
    assert counts["fc_zeros"] == 0.5
    assert counts["weights"] == weights
    assert counts["nonzeros"] == weights - zeros
    assert counts["zeros"] == pytest.approx(zeros / weights)
    assert counts["nonzeros_with_biases"] == weights - zeros + 2 + 3 + 4 + 1


def test_evaluating_a_run_repeats_its_own_scores(run: Path, folder: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    found = evaluate(run, folder)
    assert found["scores"] == result["scores"]
    assert found["nonzeros"] == result["nonzeros"]
    assert set(evaluate(run, folder, splits=["val"])["scores"]) == {"val"}
    with pytest.raises(DataError, match='"nothing"'):
        evaluate(run, folder, splits=["nothing"])


def test_a_folder_of_the_user_s_own_is_scored_whole(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    for label in ("regular", "shaky"):
        shutil.copytree(folder / "val" / label, tmp_path / label)
    (found,) = evaluate(run, tmp_path)["scores"].values()
    assert found["images"] == 32
    assert found["bands"] == []


def test_predictions_in_the_run_folder_are_those_of_predict(run: Path, folder: Path) -> None:
    with (run / "test_predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "curve"]
    found = predict(run, [folder / row["file"] for row in rows])
    for row, prediction in zip(rows, found, strict=True):
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=1e-5)
        assert prediction.error is None


def test_evaluation_leaves_the_mode_of_the_network_alone(run: Path, folder: Path) -> None:
    _, net = load_run(run)
    split = load_split(folder, "val", (32, 128))
    first = evaluate_network(net.train(), split)
    assert net.training
    assert np.array_equal(first.probabilities, evaluate_network(net.eval(), split).probabilities)


def test_one_bad_file_spoils_nothing(run: Path, folder: Path, tmp_path: Path) -> None:
    good = folder / "val" / "shaky" / "000001.png"
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    colour = tmp_path / "colour.png"
    Image.open(good).convert("RGBA").save(colour)
    missing = tmp_path / "missing.png"
    found = predict(run, [text, good, missing, colour])
    assert [prediction.error is None for prediction in found] == [False, True, False, True]
    assert [prediction.file for prediction in found] == [text, good, missing, colour]
    assert found[1].probability == found[3].probability
    assert found[1].label == ("shaky" if (found[1].probability or 0) > 0.5 else "regular")
    assert str(text) in str(found[0].error)


def test_a_folder_stands_for_its_files(run: Path, folder: Path, tmp_path: Path) -> None:
    inside = folder / "val" / "regular"
    assert [prediction.file for prediction in predict(run, [inside])] == sorted(inside.iterdir())
    with pytest.raises(DataError, match="no image"):
        predict(run, [tmp_path])
    with pytest.raises(RunError, match="holds no finished run"):
        predict(tmp_path, [inside])
