"""Shrinking as it is used: training on, accounts, errors, the command."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rvsm
from commandline import run_here
from networks import network
from rvsm.deploy import shrink as shrink_module
from rvsm.deploy.shrinking.draft import Draft
from rvsm.errors import RvsmError, UnsupportedLayer
from rvsm.experiments.config import dump_config, make_config
from rvsm.experiments.runs import make_network
from shrinking import sizes, zero_at_random


def test_a_shrunk_network_learns_on() -> None:
    model, example = network("resnet")
    with torch.no_grad():
        zero_at_random(model.state_dict(), 7, 0.3, 0.0)
    small = rvsm.shrink(model, example).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05)
    images, wanted = torch.randn(8, *example.shape[1:]), torch.arange(8) % 5
    means = {n: b.clone() for n, b in small.named_buffers() if n.endswith("running_mean")}
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(small(images), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert all(not torch.equal(b, means[n]) for n, b in small.named_buffers() if n in means)


def test_the_module_stays_as_it_is() -> None:
    model, example = network("resnet")
    with torch.no_grad():
        zero_at_random(model.state_dict(), 8, 0.3, 0.3)
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    small = rvsm.shrink(model, example)
    with torch.no_grad():
        for value in small.state_dict().values():
            value.fill_(7)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert not small.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    model, example = network("mlp")
    model[0].weight.data[:7] = 0
    small = rvsm.shrink(model.to(dtype), example.to(dtype))
    assert {value.dtype for value in small.state_dict().values()} == {dtype}
    account = rvsm.shrink_report(small)
    assert account.difference < 1e-12
    assert account.rounded_difference <= 8 * torch.finfo(dtype).eps * account.scale


def test_the_account() -> None:
    model, example = network("lenet5")
    nn.init.zeros_(model.conv2.weight[5:])
    small = rvsm.shrink(model, example)
    account = rvsm.shrink_report(small)
    told = account.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["total"]["channels_removed"] == account.channels_removed == 45
    assert told["total"]["weights"] == sum(math.prod(s) for s in sizes(small).values())
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert layers["fc1"]["before"] == {
        "inputs": 800,
        "outputs": 500,
        "weights": 400_500,
        "macs": 400_000,
    }
    assert layers["fc1"]["after"]["inputs"] == 80
    assert "conv2" in str(account)
    assert "45 channels removed" in str(account)
    with pytest.raises(RvsmError, match="has no account"):
        rvsm.shrink_report(model)


def test_what_cannot_be_taken_apart_is_named_and_left() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2))
    with pytest.raises(UnsupportedLayer, match=r"1 \(PixelShuffle\) does pixel_shuffle"):
        rvsm.shrink(model, torch.randn(1, 1, 6, 6))


@pytest.mark.parametrize("round_to", [0, -1, 2.0, True, None])
def test_a_wrong_multiple(round_to: int) -> None:
    with pytest.raises(RvsmError, match="whole number of at least 1"):
        rvsm.shrink(nn.Linear(2, 2), torch.randn(1, 2), round_to=round_to)


def test_weights_that_are_no_numbers() -> None:
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = math.nan
    with pytest.raises(RvsmError, match="weight holds weights that are infinite"):
        rvsm.shrink(model, torch.randn(1, 2))


def test_a_wrong_network_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shrink_module.smallest

    def wrong(draft: Draft, round_to: int, fold: bool) -> Draft:
        found = right(draft, round_to, fold)
        found.tensors["2.bias"][0] += 1e-6
        return found

    monkeypatch.setattr(shrink_module, "smallest", wrong)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(RvsmError, match=r"would differ from it by 1\.0e-06"):
        rvsm.shrink(model, torch.randn(1, 3))


def test_a_module_that_insists_on_its_dtype() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.shift = torch.ones(3)

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return self.layer(x)

    model = Stubborn()
    nn.init.zeros_(model.layer.weight[:, 0])
    small = rvsm.shrink(model, torch.randn(1, 3))
    assert sizes(small)["layer.weight"] == (2, 2)


def test_weights_that_are_computed_in_single_precision() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(12, 5))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        layer.parametrizations.weight.original0[:3] = 0
        layer.bias[:3] = 0
    small = rvsm.shrink(model, torch.randn(1, 12))
    assert sorted(sizes(small).values()) == [(2,), (2,), (2, 2), (2, 12)]
    images = torch.randn(7, 12)
    torch.testing.assert_close(small(images), model(images))
    assert rvsm.shrink_report(small).difference < 1e-12


def make_run(folder: Path) -> Path:
    """A finished run whose nine filters are dead."""
    config = make_config({"data": "data", "network": {"channels": [6, 8, 8]}})
    net = make_network(config).folded()
    with torch.no_grad():
        for conv, dead in ((net.conv1, 2), (net.conv2, 3), (net.conv3, 4)):
            conv.weight[:dead] = 0
    folder.mkdir()
    (folder / "config.toml").write_text(dump_config(config), "utf-8")
    rvsm.save(net, folder / "model.safetensors")
    return folder


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    told = run_here(capfd, "shrink", run, "-o", tmp_path / "small.safetensors", "--json")
    assert told.code == 0, told.err
    total = json.loads(told.out)["total"]
    assert total["channels_removed"] == 9
    written = rvsm.load(tmp_path / "small.safetensors")
    assert sum(value.numel() for value in written.values()) == total["weights"]
    table = run_here(capfd, "shrink", run, "-o", tmp_path / "b.safetensors", "--round-to", 4)
    assert "channels removed" in table.out


def test_a_file_without_layers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "plain.safetensors", tmp_path / "out.safetensors"
    rvsm.save(nn.Linear(3, 2), path)
    assert "not the layers" in run_here(capfd, "shrink", path, "-o", out).sentence()
    assert "holds no finished run" in run_here(capfd, "shrink", tmp_path, "-o", out).sentence()
    assert not out.exists()
