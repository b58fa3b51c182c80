"""benchmarks.people.words: what it starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.people.recipes import KERNEL
from benchmarks.people.words import CONFIG, widened

import rvsm
from rvsm.experiments.config import dump_config, load_config, make_config
from rvsm.experiments.runs import TRAINING_FILE, load_into, make_network, start_file


def test_a_network_with_wider_kernels_answers_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"channels": [4, 5, 6], "size": [16, 32]}
    config = make_config({"data": "data", "method": "dense", "network": shape}, source="a test")
    run = tmp_path / "run"
    run.mkdir()
    (run / CONFIG).write_text(dump_config(config), encoding="utf-8")
    small = make_network(config)
    rvsm.save(small, run / TRAINING_FILE)

    out = widened(run, tmp_path / "start")
    wide = load_config(out / CONFIG)
    net = make_network(wide)
    load_into(net, start_file(str(out)))
    assert wide.network.kernel == net.conv1.kernel_size[0] == KERNEL > config.network.kernel
    images = torch.rand(3, 1, 16, 32)
    torch.testing.assert_close(net.eval()(images), small.eval()(images))
    assert widened(run, out) == out
