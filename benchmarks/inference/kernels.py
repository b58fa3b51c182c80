"""Measure the sparse kernels layer by layer against dense ONNX Runtime, on one thread.

python benchmarks/inference/kernels.py [--quick] [--again] [--only TEXT] [--flags "-march=haswell"]
                                       [--run NAME=FOLDER]
python benchmarks/inference/kernels.py --table

Writes kernels.json beside this file, one row per layer, share of zeros and batch as it is
measured; rows that are there are kept unless --again is given. --run adds the convolutions of a
network that was trained, with the zeros they have. Both sides run in turns in one
process, and processor time is what counts: on a shared machine, wall-clock time of a long call is
mostly the time of others. Outputs are compared before anything is timed. The rates beside each
row are useful multiply-adds; the machine's own limits are measured by the same clock. A batch is
computed 16 images side by side, as in a compiled network, whose maps lie so from the first layer
to the last; a layer alone would have to turn its input first.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rvsm.atomic import atomic_write
from rvsm.cli.models import network_and_example
from rvsm.deploy.compiler import steps
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import LANES
from rvsm.deploy.compiler.tune import aligned
from rvsm.deploy.kernels import (
    Emitted,
    Epilogue,
    Layer,
    Plane,
    Variant,
    emit,
    linear_layer,
    make_layer,
    prelude,
    variants,
)
from rvsm.deploy.kernels.geometry import Order
from rvsm.deploy.tracing import trace

Floats = NDArray[np.float32]
RESULTS = Path(__file__).with_name("kernels.json")
LIMITS = Path(__file__).with_name("limits.c")


@dataclass(frozen=True)
class Shape:
    """A layer to measure: channels in and out, map size, kernel, stride, padding, pooling.

    Its zeros are at random places unless `weight` is given; maps are square unless `width` is.
    """

    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 1
    width: int = 0
    weight: Floats | None = field(default=None, compare=False)

    def __str__(self) -> str:
        size = f"{self.size}x{self.width}" if self.width else f"{self.size}"
        text = f"conv{self.kernel}x{self.kernel} {self.inputs}->{self.outputs} on {size}"
        return text + f" stride {self.stride}" * (self.stride > 1) + " pool" * (self.pool > 1)

    @property
    def map(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.size, self.width or self.size

    def layer(self, zeros: float, lanes: int) -> Layer:
        """Return the layer, for images side by side."""
        rng = np.random.default_rng(0)
        shape = (self.outputs, self.inputs, self.kernel, self.kernel)
        weight = sparse(rng, shape, zeros) if self.weight is None else self.weight
        bias = rng.standard_normal(self.outputs, dtype=np.float32)
        p = self.padding
        out = [((n + 2 * p - self.kernel) // self.stride + 1) // self.pool for n in self.map]
        order: Order = "places" if lanes > 1 else "channels"
        return make_layer(
            Plane(self.inputs, *self.map, p, p, p, p, order=order, lanes=lanes),
            Plane(self.outputs, *out, order=order, lanes=lanes),
            weight,
            (self.stride, self.stride),
            (p, p),
            epilogue=Epilogue(bias, "relu", pool=(self.pool,) * 2 if self.pool > 1 else None),
        )


SHAPES = [
    Shape(20, 50, 12, 5),
    Shape(32, 64, 32, 3, 1, 1),
    Shape(64, 128, 16, 3, 1, 1),
    Shape(128, 256, 8, 3, 1, 1),
    Shape(64, 64, 64, 3, 1, 1),
    Shape(256, 256, 8, 3, 1, 1),
    Shape(32, 32, 16, 5, 1, 2),
    Shape(64, 64, 27, 3, 1, 1),
    Shape(64, 64, 13, 3, 1, 1),
    Shape(256, 256, 7, 3, 1, 1),
    Shape(64, 128, 32, 3, 2, 1),
    Shape(128, 256, 16, 3, 2, 1),
    Shape(1, 20, 28, 5, pool=2),
    Shape(20, 50, 12, 5, pool=2),
]


def sparse(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> Floats:
    """Return weights of which exactly a share is zero, at random places."""
    weight = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]))
    weight.ravel()[rng.permutation(weight.size)[: round(weight.size * zeros)]] = 0
    return weight.astype(np.float32)


def pointer(buffer: Floats) -> ctypes.c_void_p:
    """Return the address of the first element."""
    return ctypes.c_void_p(buffer.ctypes.data)


def compiled(layer: Layer, emitted: list[Emitted], flags: list[str]) -> ctypes.CDLL:
    """Return a library with a loop over images, or groups of them, for each function."""
    text = prelude()
    for one in emitted:
        scratch = ", scratch" * (one.scratch > 0)
        text += one.code + (
            f"void loop_{one.name}(const float *in, float *out, float *scratch, int images, "
            f"int times) {{ (void)scratch; for (int t = 0; t < times; t++) for (int i = 0; i < "
            f"images; i++) {one.name}(in + i * {layer.source.size}L, out + i * "
            f"{layer.target.size}L{scratch}); }}\n"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        source.write_text(text)
        command = ["gcc", "-std=c11", "-O3", *flags, "-shared", "-fPIC", source, "-o", library]
        subprocess.run([*command, "-lm"], check=True)
        return ctypes.CDLL(str(library))


def medians(sides: list[Callable[[int], object]], seconds: float) -> list[float]:
    """Return the median processor seconds of a call of each side, called in turns."""
    times: list[list[float]] = [[] for _ in sides]
    repeats = []
    for side in sides:
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            side(1)
            best = min(best, time.thread_time() - start)
        repeats.append(max(1, int(1e-3 / best)))
    end = time.thread_time() + seconds
    while time.thread_time() < end or len(times[0]) < 9:
        for side, repeat, found in zip(sides, repeats, times, strict=True):
            start = time.thread_time()
            side(repeat)
            found.append((time.thread_time() - start) / repeat)
    return [statistics.median(found) for found in times]


class Reference:
    """Dense ONNX Runtime on one thread, input and output bound."""

    def __init__(self, nodes: list[Any], constants: dict[str, Floats], x: Floats) -> None:
        graph = helper.make_graph(
            nodes,
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.y: Floats = self.session.run(None, {"x": x})[0]
        self.binding = self.session.io_binding()
        self.held = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in (x, self.y.copy())]
        self.binding.bind_ortvalue_input("x", self.held[0])
        self.binding.bind_ortvalue_output("y", self.held[1])

    def __call__(self, times: int) -> None:
        for _ in range(times):
            self.session.run_with_iobinding(self.binding)


def places(plane: Plane) -> NDArray[np.int64]:
    """Return the index of every (image, channel, row, column)."""
    n, c, y, x = np.ogrid[: plane.lanes, : plane.channels, : plane.height, : plane.width]
    return plane.origin + n + c * plane.plane + y * plane.line + x * plane.column


def ours(
    layer: Layer, chosen: list[Variant], x: Floats, wanted: Floats, flags: list[str]
) -> list[Callable[[int], object]]:
    """Return a timed side per variant, checked against the reference; x is (images, c, h, w)."""
    emitted = [emit(f"k{k}", layer, variant) for k, variant in enumerate(chosen)]
    library = compiled(layer, emitted, flags)
    source, target, calls = layer.source, layer.target, len(x) // layer.source.lanes
    given = aligned(source.size * calls)
    given[:] = 0
    for k, images in enumerate(np.split(x, calls)):
        given[k * source.size :][places(source)] = images
    sides: list[Callable[[int], object]] = []
    for one in emitted:
        out, scratch = aligned(target.size * calls), aligned(one.scratch)
        run = getattr(library, f"loop_{one.name}")

        def side(times: int, run: Any = run, out: Floats = out, more: Floats = scratch) -> None:
            run(pointer(given), pointer(out), pointer(more), calls, times)

        side(1)
        got = np.concatenate([out[k * target.size :][places(target)] for k in range(calls)])
        np.testing.assert_allclose(got, wanted, atol=1e-4)
        sides.append(side)
    return sides


def fastest(chosen: list[Variant], times: list[float]) -> tuple[Variant, float]:
    """Return the variant of the least time."""
    return min(zip(chosen, times, strict=True), key=lambda pair: pair[1])


def measure_conv(
    shape: Shape, zeros: float, batch: int, flags: list[str], seconds: float
) -> dict[str, Any]:
    """Time every variant on one image or 16; at larger batches the best three and the default."""
    layer = shape.layer(zeros, 1 if batch == 1 else LANES)
    x = np.random.default_rng(1).standard_normal(
        (batch, shape.inputs, *shape.map), dtype=np.float32
    )
    pads = [shape.padding] * 4
    pool = shape.pool > 1
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[shape.stride] * 2, pads=pads),
        helper.make_node("Relu", ["c"], ["r" if pool else "y"]),
    ]
    if pool:
        window = [shape.pool] * 2
        nodes.append(helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=window, strides=window))
    constants = {"w": layer.weight, "b": layer.epilogue.bias}
    reference = Reference(nodes, constants, x)  # type: ignore[arg-type]
    chosen = variants(layer)
    if batch > 1:
        few = Reference(nodes, constants, x[:LANES])  # type: ignore[arg-type]
        times = medians(ours(layer, chosen, x[:LANES], few.y, flags), seconds / 2)
        ranked = sorted(zip(times, range(len(chosen)), strict=True))
        chosen = [chosen[k] for k in dict.fromkeys([0, *(k for _, k in ranked[:3])])]
    dense, *times = medians([reference, *ours(layer, chosen, x, reference.y, flags)], seconds)
    best, least = fastest(chosen, times)
    places_out = layer.size[0] * layer.size[1] * batch
    return {
        "ratio": round(dense / least, 2),
        "variant": str(best),
        "default_ratio": round(dense / times[0], 2),
        "default": str(chosen[0]),
        "onnxruntime_us": round(dense * 1e6, 1),
        "useful_gmacs": round(layer.taps.value.size * places_out / least / 1e9, 1),
        "onnxruntime_gmacs": round(layer.weight.size * places_out / dense / 1e9, 1),
    }


def measure_linear(zeros: float, lanes: int, flags: list[str], seconds: float) -> dict[str, Any]:
    """Time 800 -> 500 on `lanes` images, against ONNX Runtime and torch's CSR."""
    rng = np.random.default_rng(0)
    weight = sparse(rng, (500, 800), zeros)
    bias = rng.standard_normal(500, dtype=np.float32)
    layer = linear_layer(weight, Epilogue(bias, "relu"), lanes)
    x = rng.standard_normal((lanes, 800), dtype=np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["c"], transB=1),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    reference = Reference(nodes, {"w": weight, "b": bias}, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's sparse CSR tensors announce that they are beta
        csr = torch.from_numpy(weight).to_sparse_csr()
    column = torch.from_numpy(np.ascontiguousarray(x.T))
    column = column[:, 0].contiguous() if lanes == 1 else column
    chosen = variants(layer)
    sides = ours(layer, chosen, x.T[None, :, None, :], reference.y.T[None, :, None, :], flags)
    dense, other, *times = medians(
        [reference, lambda times: [csr @ column for _ in range(times)], *sides], seconds
    )
    best, least = fastest(chosen, times)
    return {
        "ratio": round(dense / least, 2),
        "variant": str(best),
        "default_ratio": round(dense / times[0], 2),
        "default": str(chosen[0]),
        "over_torch_csr": round(other / least, 2),
        "onnxruntime_us": round(dense * 1e6, 1),
        "useful_gmacs": round(layer.taps.value.size * lanes / least / 1e9, 1),
    }


def trained(folder: Path) -> list[Shape]:
    """Return the convolutions of a run that the kernels measure: square kernels, one group."""
    traced = trace(*network_and_example(folder))
    program = lower(traced.graph, traced.state_dict())
    shapes, found = program.shapes(), []
    for step in program.steps:
        if not isinstance(step, steps.Conv) or step.groups > 1 or step.pool not in (None, (2, 2)):
            continue
        outputs, inputs, kernel, _ = step.weight.shape
        height, width = shapes[step.inputs[0]][1:]
        pool = step.pool[0] if step.pool else 1
        stride, padding, weight = step.stride[0], step.padding[0], step.weight.astype(np.float32)
        found.append(Shape(inputs, outputs, height, kernel, stride, padding, pool, width, weight))
    return found


def limits(flags: list[str]) -> dict[str, float]:
    """Return the machine's multiply-add and load limits, in billions of multiply-adds a second."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "limits")
        text = Path(folder, "limits.c")
        text.write_text(prelude() + LIMITS.read_text())
        command = ["gcc", "-std=c11", "-O3", *flags, text, "-o", program, "-lm"]
        subprocess.run(command, check=True)
        done = subprocess.run([program], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure what is missing, print a table and write kernels.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four shapes, short timing")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--run", metavar="NAME=FOLDER", help="a trained network's layers, too")
    parser.add_argument("--table", action="store_true", help="print Markdown of what was measured")
    parser.add_argument("--flags", default="-march=native", help="for gcc, beside -O3")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(RESULTS.read_text()), options.flags))
        return
    torch.set_num_threads(1)
    flags = options.flags.split()
    seconds = 0.3 if options.quick else 1.0
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report["what"] = "processor time of dense ONNX Runtime over ours, one thread, random masks"
    report["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
    }
    section = report.setdefault(options.flags, {"rows": {}})
    section["limits_gmacs"] = limits(flags)
    print(section["limits_gmacs"])
    rows = section["rows"]
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for shape in SHAPES[:4] if options.quick else SHAPES:
        # Dense tables of the largest layers, a dozen variants of each, take compilers minutes.
        small = shape.inputs * shape.outputs * shape.kernel**2 < 50_000
        for zeros in ((0.0,) if small else ()) + (0.85, 0.95, 0.99):
            for batch in (1, 64) if zeros else (1,):
                name = f"{shape}, {zeros:.0%} zeros, batch {batch}"
                wanted[name] = partial(measure_conv, shape, zeros, batch, flags, seconds)
    if options.run:
        given, _, folder = options.run.partition("=")
        for shape in trained(Path(folder)):
            zeros = float((shape.weight == 0).mean())
            for batch in (1, 64):
                name = f"{given}: {shape}, {zeros:.1%} zeros, batch {batch}"
                wanted[name] = partial(measure_conv, shape, zeros, batch, flags, seconds)
    for zeros in (0.0, 0.7, 0.85, 0.95, 0.99):
        for lanes in (1, 8, 64):
            name = f"linear 800->500, {zeros:.0%} zeros, batch {lanes}"
            wanted[name] = partial(measure_linear, zeros, lanes, flags, seconds)
    for name, measure in wanted.items():
        if options.only in name:
            record(report, rows, name, options.again, measure)


def table(report: dict[str, Any], flags: str = "-march=native") -> str:
    """Return Markdown: a row for each layer, how many times as fast by share of zeros and batch."""
    found: dict[str, dict[str, Any]] = {}
    for name, row in report[flags]["rows"].items():
        layer, zeros, batch = name.rsplit(", ", 2)
        found.setdefault(layer, {})[f"{zeros}, {batch}"] = row
    columns = [
        f"{zeros} zeros, batch {batch}" for batch in (1, 64) for zeros in ("85%", "95%", "99%")
    ]
    lines = ["| layer | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for layer, cells in found.items():
        if layer.startswith(("conv", "linear")):
            texts = [
                f"{cells[c]['ratio']:.1f} ({cells[c]['useful_gmacs']:.0f})" if c in cells else ""
                for c in columns
            ]
            lines.append(f"| {layer} | {' | '.join(texts)} |")
    lines += ["", "| trained layer | zeros | batch 1 | batch 64 |", "|---|---|---|---|"]
    for layer, cells in found.items():
        if not layer.startswith(("conv", "linear")):
            one, many = cells.values()
            zeros = next(iter(cells)).partition(" ")[0]
            texts = [f"{row['ratio']:.1f} ({row['useful_gmacs']:.0f})" for row in (one, many)]
            lines.append(f"| {layer} | {zeros} | {' | '.join(texts)} |")
    return "\n".join(lines)


def record(
    report: dict[str, Any],
    rows: dict[str, Any],
    name: str,
    again: bool,
    measure: Callable[[], dict[str, Any]],
) -> None:
    """Measure and save one row, unless it is there."""
    if again or name not in rows:
        rows[name] = measure()
        with atomic_write(RESULTS) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())
    row = rows[name]
    print(f"{name:55} {row['ratio']:6.1f}x {row['useful_gmacs']:5.0f} G  {row['variant']:22} "
          f"default {row['default_ratio']:.1f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
