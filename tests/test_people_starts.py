"""benchmarks.people.starts: runs made of finished ones, to start others from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.people.starts import with_filters, with_kernels

import rvsm
from rvsm.experiments.config import CONFIG_FILE, dump_config, load_config, make_config
from rvsm.experiments.runs import TRAINING_FILE, load_into, make_network, start_file
from rvsm.handwriting.network import TremorNet


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shape = {"channels": [4, 5, 6], "size": [16, 32]}
    config = make_config({"data": "data", "method": "dense", "network": shape}, source="a test")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    rvsm.save(make_network(config), folder / TRAINING_FILE)
    return folder


def network(run: Path) -> TremorNet:
    net = make_network(load_config(run / CONFIG_FILE))
    load_into(net, start_file(str(run)))
    return net.eval()


IMAGES = torch.rand(3, 1, 16, 32, generator=torch.Generator().manual_seed(0))


def test_larger_kernels_answer_alike(run: Path, tmp_path: Path) -> None:
    out = with_kernels(run, tmp_path / "start", 5)
    wide = network(out)
    assert wide.conv1.kernel_size == (5, 5)
    torch.testing.assert_close(wide(IMAGES), network(run)(IMAGES))
    before = (out / TRAINING_FILE).stat().st_mtime_ns
    assert with_kernels(run, out, 5) == out
    assert (out / TRAINING_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_learned_maps_come_first_and_stay(run: Path, tmp_path: Path, zeros: float) -> None:
    wide = network(with_filters(run, tmp_path / "wide", (4, 9, 20), zeros))
    small = network(run)
    seen, before = wide.features(IMAGES), small.features(IMAGES)
    torch.testing.assert_close(seen[:, :6], before)
    assert seen[:, 6:].abs().sum() > 0
    random = wide.conv3.weight[6:]
    assert float((random == 0).float().mean()) == pytest.approx(zeros, abs=0.05)
    assert torch.equal(wide.conv1.weight, small.conv1.weight)
    assert not wide.conv3.weight[:6, 5:].any()


def test_random_filters_alone(run: Path, tmp_path: Path) -> None:
    alone = network(with_filters(run, tmp_path / "alone", (4, 9, 20), 0.9, learned=False))
    small = network(run)
    assert not torch.equal(alone.conv3.weight[:6, :5], small.conv3.weight)
    for layer in (alone.conv2, alone.conv3):
        assert float((layer.weight == 0).float().mean()) == pytest.approx(0.9, abs=0.01)
