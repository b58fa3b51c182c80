"""`rvsm.deploy.bench` and `rvsm bench`: complete, consistent, and not fooled."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rvsm
from commandline import Run, make_folder, run_here
from rvsm.deploy import bench as module
from rvsm.deploy.bench import Bench, Row, bench
from rvsm.deploy.benching import memory, prepare, runners, timing
from rvsm.deploy.benching.runners import RUNTIMES, Bound, Files, Floats
from rvsm.errors import RvsmError

QUICK = ("torch", "torch-csr", "onnxruntime", "openvino", "rvsm")


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).train()
    with torch.no_grad():
        model[4].weight[:, ::2] = 0
        model[0].weight[3] = 0
        model[0].bias[3] = 0
    return model


EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(autouse=True, scope="module")
def untuned() -> Iterator[None]:
    """No timing of variants: tests/test_compiler.py has that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "compile", partial(rvsm.compile, tune=False))
        yield


@pytest.fixture(scope="module")
def found(untuned: None) -> Bench:
    before = torch.get_num_threads()
    model = tiny()
    done: list[tuple[int, int]] = []
    told = bench(
        model,
        EXAMPLE,
        batches=(1, 3),
        runtimes=(*QUICK, "onnxruntime-shrunk"),
        seconds=0.01,
        progress=lambda *now: done.append(now),
    )
    assert torch.get_num_threads() == before
    assert model.training
    assert done == [(step, done[-1][1]) for step in range(1, len(done) + 1)]
    assert done[-1][0] == done[-1][1]
    return told


def test_rows_are_complete_and_consistent(found: Bench) -> None:
    assert found.left_out == {}
    assert len(found.rows) == 6 * 4
    for row in found.rows:
        assert row.error is None
        assert row.difference is not None
        assert row.difference < 1e-5
        assert row.ms is not None
        assert row.ms == (row.cpu_ms if row.threads == 1 else row.wall_ms)
        assert row.throughput == pytest.approx(row.batch / row.ms * 1e3)
        assert row.useful_gmacs == pytest.approx(found.useful_macs * row.batch / row.ms / 1e6)
        assert (row.scaling is not None) == (row.runtime == "rvsm" and row.threads == 2)
        assert row.ratio is not None
    for (threads, batch), name in found.dense.items():
        assert found.row(name, threads, batch).ratio == 1
    assert found.macs == 36 * 36 + 36 * 5
    assert found.useful_macs < found.macs
    assert found.nonzeros < found.weights
    with pytest.raises(KeyError):
        found.row("rvsm", 7, 1)


def test_sizes_and_memory(found: Bench, tmp_path: Path) -> None:
    assert set(found.sizes) == {
        *("safetensors", "rvsm", "rvsm library", "torch-csr", "onnxruntime"),
        *("onnxruntime-shrunk", "openvino"),
    }
    assert found.sizes["rvsm"] == rvsm.save(tiny(), tmp_path / "f").bytes
    if sys.platform == "linux":
        assert set(found.memory) == {*QUICK, "onnxruntime-shrunk"}
        for peaks in found.memory.values():
            assert 0 <= peaks[1] <= peaks[3]
        assert found.memory["rvsm"][3] < found.memory["onnxruntime"][3]


def test_text_and_json(found: Bench) -> None:
    text = str(found)
    for name in QUICK:
        assert name in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert len(plain["rows"]) == len(found.rows)
    assert plain["losses"] == list(found.losses)
    assert torch.__version__.startswith(plain["machine"]["versions"]["torch"])  # less its "+cpu"
    assert plain["memory"].keys() == found.memory.keys()


def test_losses_are_told() -> None:
    rows = (
        Row("onnxruntime", 1, 1, ms=1.0, ratio=1.0),
        Row("torch", 1, 1, ms=3.0),
        Row("openvino", 1, 1, error="it failed"),
        Row("rvsm", 1, 1, ms=2.0, ratio=0.5),
    )
    sizes = {"safetensors": 50, "rvsm": 100, "rvsm library": 200, "onnxruntime": 120}
    told = Bench(
        rows,
        sizes,
        {"rvsm": {1: 9}, "torch": {1: 8}},
        {(1, 1): "onnxruntime"},
        {"torch-csr": "a reason"},
        *(10, 5, 10, 5),
        1.0,
        {},
    )
    assert len(told.losses) == 5
    assert "one thread, batch 1: onnxruntime is 2.00 times as fast" in told.losses[0]
    text = " ".join(str(told).split())
    assert "We lose: one thread" in text
    assert "Left out: torch-csr: a reason" in text
    assert "it failed" in text
    assert "We lose nowhere" not in text


def wrong(files: Files, threads: int, module: nn.Module) -> Callable[[Floats], Bound]:
    result = np.full((1, 5), 7, dtype=np.float32)
    return lambda images: Bound(lambda: None, lambda: result)


def failing(files: Files, threads: int, module: nn.Module) -> Callable[[Floats], Bound]:
    raise ValueError("no such\nthing")


def quick(model: nn.Module, **options: Any) -> Bench:
    options = {"batches": (1,), "threads": (1,), "seconds": 0.01} | options
    return bench(model, EXAMPLE, measure_memory=False, **options)


def test_other_outputs_have_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**RUNTIMES, "torch-csr": runners.Runtime(wrong, ())}
    known["onnxruntime"] = runners.Runtime(failing, ("onnxruntime",))
    monkeypatch.setattr(module, "RUNTIMES", known)
    told = quick(tiny(), runtimes=("torch", "torch-csr", "onnxruntime"))
    row = told.row("torch-csr", 1, 1)
    assert row.ms is None
    assert "other outputs than PyTorch's" in (row.error or "")
    assert told.row("onnxruntime", 1, 1).error == "ValueError: no such"
    assert told.row("torch", 1, 1).ratio is None
    assert "ratios" in told.left_out


def test_what_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("CC", "no-such-compiler")
    told = quick(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    assert told.left_out["openvino"] == "openvino is not installed"
    assert "CC names 'no-such-compiler'" in told.left_out["rvsm"]
    assert "no linear layer" in told.left_out["torch-csr"]
    assert "nothing to remove" in told.left_out["onnxruntime-shrunk"]
    assert {row.runtime for row in told.rows} == {"torch", "torch.compile", "onnxruntime"}


def test_settings_are_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    model = tiny()
    monkeypatch.setattr(module, "interleave", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quick(model, runtimes=("torch",), threads=(before + 1,))
    assert torch.get_num_threads() == before
    assert model.training


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"batches": (0,)}, "batches is"),
        ({"threads": ()}, "threads is"),
        ({"seconds": 0}, "seconds is"),
        ({"runtimes": ("onnx",)}, "'onnx' is no runtime"),
    ],
)
def test_bad_options(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(RvsmError, match=cause):
        quick(tiny(), **options)
    with pytest.raises(RvsmError, match="float32"):
        quick(tiny().double())


def test_functions_are_called_in_turns() -> None:
    calls: list[str] = []
    times = timing.interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.01
    )
    assert len(times["a"].cpu) == len(times["b"].wall) >= 5
    assert timing.ratio(times["a"], times["a"], "cpu") == 1
    changes = sum(one != other for one, other in pairwise(calls))
    assert changes >= 5


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    told = memory.measure("onnxruntime", tmp_path, (1,), (1,))
    assert isinstance(told, str)
    assert "its process failed" in told or "Linux" in told


def test_bound_arrays_are_computed_again(tmp_path: Path) -> None:
    model = tiny().eval()
    fast = rvsm.compile(model, EXAMPLE, tune=False)
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    result = np.empty((2, 5), dtype=np.float32)
    run = fast.bind(images, result)
    for _ in range(2):
        images[:] = np.random.default_rng(0).random(images.shape)
        run()
        with torch.no_grad():
            assert np.allclose(result, model(torch.from_numpy(images)), atol=1e-5)
    for bad in (result[:1], result.astype(float), np.empty((2, 10), np.float32)[:, ::2]):
        with pytest.raises(RvsmError, match="bind takes contiguous"):
            fast.bind(images, bad)
    with pytest.raises(RvsmError, match="float32 inputs of shape"):
        fast.bind(images[:, :, 1:], result)


def test_the_command(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Run = lambda *arguments: run_here(capfd, *arguments)  # noqa: E731
    data, folder = make_folder(tmp_path / "data"), tmp_path / "run"
    assert run("train", data, "--out", folder, "--epochs", 1, "--method", "dense").code == 0
    quickly = ("--batch", 1, "--threads", 1, "--seconds", 0.01, "--no-memory")
    done = run("bench", folder, *quickly, "--runtime", "onnxruntime", "--runtime", "rvsm", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [row["runtime"] for row in told["rows"]] == ["onnxruntime", "rvsm"]
    assert not any(row["error"] for row in told["rows"])
    assert "measuring" in done.err
    small = tmp_path / "small.safetensors"
    assert run("shrink", folder, "-o", small).code == 0
    shown = run("bench", small, *quickly, "--runtime", "torch")
    assert shown.code == 0, shown.err
    assert "torch" in shown.out
    assert "no runtime" in run("bench", small, "--runtime", "x").sentence()
