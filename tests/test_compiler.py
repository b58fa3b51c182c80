"""From a module to machine code: the same outputs, whatever the layers, batch and threads."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rvsm
from networks import NETWORKS, network
from rvsm import native
from rvsm.deploy import kernels
from rvsm.deploy.compiler import runtime, tune
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import FEWEST, LANES, LANES_OF_VECTORS, write
from rvsm.deploy.tracing import trace
from rvsm.errors import CompilerError, RvsmError, UnsupportedLayer
from rvsm.native import find_compiler

BATCHES = (1, 2, FEWEST - 1, FEWEST, LANES, LANES_OF_VECTORS, LANES_OF_VECTORS + LANES + 3)


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache") / "rvsm"
        patch.setenv("RVSM_CACHE", str(folder))
        yield folder


def prune(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    """Set a share of every weight to zero, at random places."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(parameter.shape, generator=generator) < share] = 0
    return model


def check(model: nn.Module, example: Tensor, batches: Any = BATCHES) -> rvsm.Compiled:
    """Compile a model and compare its outputs."""
    fast = rvsm.compile(model, example, tune=False)
    for batch in batches:
        images = torch.randn(batch, *example.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-5)
    return fast


@pytest.mark.parametrize(
    ("name", "share"), [*((name, 0.7) for name in NETWORKS), ("lenet5", 0.0), ("resnet", 1.0)]
)
def test_outputs_are_those_of_the_module(name: str, share: float) -> None:
    model, example = network(name)
    check(prune(model, share), example)


class Mixed(nn.Module):
    """What fusing must get right: order of layers, several readers, signs of scales."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 4 * 5, 3)
        with torch.no_grad():
            self.norm.weight.uniform_(-1, 1)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        layers = {
            "c": self.conv,
            "n": self.norm,
            "r": F.relu,
            "p": lambda y: F.max_pool2d(y, 2),
            "q": lambda y: F.max_pool2d(y, 3, 2, 1),
            "a": lambda y: F.avg_pool2d(y, 2),
            "+": lambda y: y + self.second(y),
            "s": lambda y: self.second(y) + y,
            "d": lambda y: y + y,
            "l": lambda y: F.leaky_relu(y, -0.5),
            "6": F.relu6,
            "t": F.hardtanh,
            "g": F.gelu,
            "|": lambda y: torch.cat([y[:, :3], self.second(y)[:, 3:]], 1),
        }
        for layer in self.order:
            x = layers[layer](x)
        return self.fc(F.adaptive_avg_pool2d(x, (4, 5)).flatten(1))


@pytest.mark.parametrize(
    "order",
    [
        "cnrp",
        "cpnr",
        "cnpr",
        "crpn",
        "cprn",
        "cn+rn",
        "csr",
        "c+sn+",
        "cdr",
        "clp",
        "cpl",
        "c6p",
        "ctp",
        "cgp",
        "cqnr",
        "canr",
        "c|r",
        "cp|+6",
    ],
)
def test_layers_in_any_order(order: str) -> None:
    torch.manual_seed(1)
    check(Mixed(order).eval(), torch.randn(1, 2, 9, 11), (1, 9))


def test_positive_scales_go_through_the_pooling() -> None:
    model = Mixed("cpnr").eval()
    model.norm.weight.data.abs_()
    traced = trace(model, torch.randn(1, 2, 9, 11))
    program = lower(traced.graph, traced.state_dict())
    assert [type(step).__name__ for step in program.steps] == ["Conv", "Pool", "Flatten", "Linear"]
    check(model, torch.randn(1, 2, 9, 11), (1, 9))


def test_residual_blocks_become_single_steps() -> None:
    traced = trace(*network("resnet"))
    program = lower(traced.graph, traced.state_dict())
    kinds = [type(step).__name__ for step in program.steps]
    assert kinds == ["Conv"] * 10 + ["Pool", "Flatten", "Linear"]
    assert sum(len(step.inputs) == 2 for step in program.steps) == 4


def test_inputs_of_more_axes_than_a_map() -> None:
    example = torch.randn(1, 2, 3, 4, 5)
    check(nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(120, 3)), example)
    check(nn.Sequential(nn.BatchNorm3d(2), nn.SiLU(), nn.Softmax(1)).eval(), example)


def test_bounds_that_cross() -> None:
    check(nn.Sequential(Bounds(), nn.Flatten()), torch.randn(1, 2, 3))


class Bounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(2.0, -1.0)


def test_a_map_as_output() -> None:
    check(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid()), torch.randn(1, 1, 5, 6))


def test_the_trained_network_of_the_paper() -> None:
    from rvsm.handwriting.network import TremorNet

    torch.manual_seed(0)
    net = TremorNet([8, 12, 24]).eval()
    for batch in range(3):
        net.train()
        net(torch.rand(8, 1, 64, 256, generator=torch.Generator().manual_seed(batch)))
    prune(net.eval(), 0.9)
    with torch.no_grad():
        net.fc.weight.view(2, 24, -1)[:, 5:] = 0
    net.simplify()
    fast = rvsm.compile(net, torch.zeros(1, 1, 64, 256), tune=False)
    images = torch.rand(40, 1, 64, 256)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), net(images), rtol=1e-4, atol=1e-5)


def test_numpy_in_numpy_out_and_any_strides() -> None:
    model, example = network("resnet")
    fast = rvsm.compile(model, example, tune=False)
    images = torch.randn(16, 16, 3, 5).permute(3, 2, 0, 1)
    with torch.no_grad():
        wanted = model(images)
    torch.testing.assert_close(fast(images), wanted, rtol=1e-4, atol=1e-5)
    result = fast(images.numpy())
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert fast(torch.zeros(0, 3, 16, 16)).shape == (0, 5)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_a_batch_and_calls_do_not_meet(threads: int) -> None:
    model, example = network("lenet5")
    fast = rvsm.compile(prune(model, 0.9), example, threads=threads, tune=False)
    batches = [torch.randn(size, 1, 28, 28) for size in (1, 3, 40, 64, 2, 33) * 4]
    with torch.no_grad():
        wanted = [model(images) for images in batches]
    with ThreadPoolExecutor(6) as pool:
        for got, right in zip(pool.map(fast, batches), wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_process_that_is_forked_off_does_not_wait_for_threads() -> None:
    model, example = network("lenet5")
    fast = rvsm.compile(prune(model, 0.9), example, threads=2, tune=False)
    images = torch.randn(64, 1, 28, 28)
    wanted = fast(images)
    result = np.empty((64, 10), dtype=np.float32)
    bound = fast.bind(images.numpy(), result)
    bound()

    def child() -> None:
        result[...] = 0
        bound()
        same = torch.equal(fast(images), wanted) and np.array_equal(result, wanted.numpy())
        os._exit(0 if same else 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    process.join(60)
    hung = process.is_alive()
    process.kill()
    assert not hung
    assert process.exitcode == 0


def test_nan_and_infinity_go_through() -> None:
    model, example = network("lenet5")
    fast = rvsm.compile(model, example, tune=False)
    images = torch.zeros(3, 1, 28, 28)
    images[1, 0, 5, 5] = float("nan")
    with torch.no_grad():
        assert torch.equal(fast(images).isnan(), model(images).isnan())


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(1, 12), r"float32 inputs of shape \(batch, 13\)"),
        (torch.zeros(1, 1, 13), r"\(1, 1, 13\)"),
        (torch.zeros(1, 13, dtype=torch.float64), "float64"),
        (np.zeros((1, 13)), "float64"),
        (np.zeros((), np.float32), r"float32 \(\)"),
        ([0.0], "not a list"),
        (torch.zeros(1, 13).to_sparse(), r"the input is sparse_coo; convert it with \.to_dense"),
    ],
)
def test_wrong_inputs(images: Any, says: str) -> None:
    fast = rvsm.compile(*network("mlp"), tune=False)
    with pytest.raises(RvsmError, match=says):
        fast(images)


def test_arrays_that_c_cannot_read_or_write() -> None:
    model, example = network("mlp")
    fast = rvsm.compile(model, example, tune=False)
    images = np.random.default_rng(0).random((3, 13), dtype=np.float32)
    odd = np.zeros(images.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(3, 13)
    odd[...] = images
    assert not odd.flags.aligned
    assert np.array_equal(fast(odd), fast(images))
    fixed = np.empty_like(fast(images))
    fixed.flags.writeable = False
    for given, result in ((images, fixed), (odd, np.empty_like(fixed)), (torch.tensor(odd), fixed)):
        with pytest.raises(RvsmError, match="bind takes"):
            fast.bind(given, result)  # type: ignore[arg-type]


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(UnsupportedLayer, match=r"1 \(PixelShuffle\)"):
        rvsm.compile(nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)), torch.zeros(1, 1, 8, 8))
    broken = nn.Linear(3, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(RvsmError, match=r"weight holds weights that are infinite"):
        rvsm.compile(broken, torch.zeros(1, 3))
    large = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    with torch.no_grad():
        large[0].weight.fill_(1e38)
        large[1].weight.fill_(1e10)
    with pytest.raises(RvsmError, match="overflows float32"):
        rvsm.compile(large, torch.zeros(1, 3), tune=False)
    for threads, shown in ((0, "0"), (1.5, "1.5"), ("2", "'2'")):
        with pytest.raises(RvsmError, match=f"threads is {shown}; give a whole number"):
            rvsm.compile(nn.Linear(3, 2), torch.zeros(1, 3), threads=threads)  # type: ignore[arg-type]


def test_a_library_is_built_once(private_cache: Path) -> None:
    model, example = network("mlp")
    first = rvsm.compile(model, example)
    assert first.library is not None
    made = first.library.stat().st_mtime_ns
    again = rvsm.compile(model, example)
    assert again.library == first.library
    assert again.library.stat().st_mtime_ns == made
    assert stat.S_IMODE(private_cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.library.stat().st_mode) == 0o600
    other = rvsm.compile(prune(model, 0.5), example)
    assert other.library != first.library
    assert not list(private_cache.glob(".build-*"))


def test_timing_decides_and_is_remembered(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, example = network("lenet5")
    prune(model, 0.9, seed=7)
    before = set(private_cache.glob("*.json"))
    fast = rvsm.compile(model, example)
    images = torch.randn(9, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-5)
    (record,) = set(private_cache.glob("*.json")) - before
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    right = record.read_text()
    raced = []
    monkeypatch.setattr(tune, "_race", lambda *arguments: raced.append(1) or 0)
    assert rvsm.compile(model, example).library == fast.library
    assert not raced
    for damaged in ("{", "[]", '{"a": 1}', right.replace("0", "99").replace("1", "99")):
        record.write_text(damaged)
        rvsm.compile(model, example)
        assert raced
        raced.clear()


def test_the_faster_of_two_is_found() -> None:
    layer = kernels.make_layer(
        kernels.Plane(8, 24, 24, 1, 1, 1, 1),
        kernels.Plane(8, 24, 24),
        np.ones((8, 8, 3, 3), np.float32),
        padding=(1, 1),
    )
    slow = kernels.Variant("direct", width=4)
    fast = kernels.choose(layer)
    compiler = find_compiler()
    assert compiler is not None
    for order in ([slow, fast], [fast, slow]):
        chosen = tune._time({"f": layer}, {"f": order}, compiler)
        assert order[chosen["f"]] == fast


def test_a_cache_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("RVSM_CACHE", str(tmp_path))
    with pytest.raises(CompilerError, match="give it mode 700"):
        rvsm.compile(*network("mlp"))
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RVSM_CACHE", str(file / "cache"))
    with pytest.raises(CompilerError, match="RVSM_CACHE"):
        rvsm.compile(*network("mlp"))


def test_a_compiler_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\ncase $1 in --version) exit 0;; esac\necho 'error: no' >&2\nexit 1\n"
    )
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    before = sorted(private_cache.iterdir())
    with pytest.raises(CompilerError, match=r"failed \(error: no\); name another compiler"):
        rvsm.compile(*network("mlp"))
    assert sorted(private_cache.iterdir()) == before


def test_compilers_that_say_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path
) -> None:
    compiler = tmp_path / "cc"
    for does, says in (
        ("echo 'cc: Fehler' >&2; exit 1", r"failed \(cc: Fehler\)"),
        ("exit 1", r"failed \(it gives no reason\); name another compiler in the variable CC\.$"),
        ("exit 0", "says it succeeded and wrote nothing; name another"),
    ):
        compiler.write_text(f"#!/bin/sh\ncase $1 in --version) exit 0;; esac\n{does}\n")
        compiler.chmod(0o700)
        monkeypatch.setenv("CC", str(compiler))
        before = sorted(private_cache.iterdir())
        with pytest.raises(CompilerError, match=says):
            rvsm.compile(*network("mlp"), tune=False)
        assert sorted(private_cache.iterdir()) == before


def test_a_cache_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVSM_CACHE", str(tmp_path / "cache"))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    native._openmp(find_compiler() or "")  # remembered from before
    with pytest.raises(CompilerError, match=r"read-only: .* The variable RVSM_CACHE names another"):
        rvsm.compile(*network("mlp"), tune=False)


def test_a_damaged_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVSM_CACHE", str(tmp_path / "cache"))
    library = rvsm.compile(*network("mlp"), tune=False).library
    assert library is not None
    other = tmp_path / "other"  # a library that is loaded is not read again
    other.mkdir(mode=0o700)
    (other / library.name).write_bytes(b"\x7fELF")
    monkeypatch.setenv("RVSM_CACHE", str(other))
    with pytest.raises(CompilerError, match=r"\.so cannot be loaded \(file too short\): delete it"):
        rvsm.compile(*network("mlp"), tune=False)


def test_without_a_compiler_pytorch_computes_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(runtime, "_said", threading.Event())
    model, example = network("mlp")
    with pytest.warns(RuntimeWarning, match="No C compiler"):
        slow = rvsm.compile(model, example)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slow = rvsm.compile(model, example)
    assert slow.library is None
    with torch.no_grad():
        torch.testing.assert_close(slow(example), model(example))
    with pytest.raises(RvsmError, match="float32 inputs"):
        slow(example[:, 1:])
    fixed = example.numpy().copy()
    fixed.flags.writeable = False
    assert np.array_equal(slow(fixed), slow(example).numpy())  # and torch does not warn
    monkeypatch.setattr(runtime, "_said", threading.Event())
    monkeypatch.setenv("CC", "gcc -O1")
    with pytest.warns(RuntimeWarning, match="CC names 'gcc -O1', and there is no such program"):
        rvsm.compile(model, example)


def test_a_name_that_is_none() -> None:
    traced = trace(nn.Linear(3, 2), torch.zeros(1, 3))
    program = lower(traced.graph, traced.state_dict())
    with pytest.raises(RvsmError, match="no name for C code"):
        write(program, "a-b")
    assert "int_run(" in write(program, "int").code


def test_workspaces_hold_no_more_than_maps_that_live_at_once() -> None:
    deep = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(12)]).eval()
    traced = trace(deep, torch.zeros(1, 4, 32, 32))
    program = lower(traced.graph, traced.state_dict())
    every = 13 * 4 * 34 * 34 * 4
    assert write(program, batched=False).workspace_bytes < 0.5 * every
    assert write(program).workspace_bytes < 0.5 * (1 + LANES) * every


def test_the_environment_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None
    monkeypatch.delenv("CC")
    found = find_compiler()
    assert found is not None
    assert os.access(found, os.X_OK)


def test_processes_that_compile_the_same_at_once(private_cache: Path) -> None:
    text = (
        "import torch, rvsm\n"
        "torch.manual_seed(3)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(),"
        " torch.nn.Linear(64, 3))\n"
        "x = torch.randn(2, 2, 6, 6)\n"
        "assert torch.allclose(rvsm.compile(model, x)(x), model(x), atol=1e-5)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, said = process.communicate(timeout=280)
        assert process.returncode == 0, said
    assert not list(private_cache.glob(".*"))
