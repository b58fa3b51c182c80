"""Every runtime in the same form: a folder of files is opened, arrays are bound, calls are timed.

No module is imported here that a runtime does not need itself: the memory each takes is measured
in a process that opens nothing else.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Bound:
    """A batch in the hands of a runtime.

    Attributes
    ----------
    run
        Compute it.
    read
        Return what was computed last.
    """

    run: Callable[[], object]
    read: Callable[[], Floats]


Bind: TypeAlias = Callable[[Floats], Bound]
"""From a batch ``(batch, *shape)`` to what computes it."""


@dataclass(frozen=True)
class Files:
    """The files of one network in a folder, one or more for each runtime.

    Each is there where its runtime takes part.
    """

    folder: Path

    @property
    def dense(self) -> Path:
        return self.folder / "dense.safetensors"

    @property
    def sparse(self) -> Path:
        return self.folder / "sparse.safetensors"

    @property
    def network(self) -> Path:
        return self.folder / "network.safetensors"

    @property
    def csr(self) -> Path:
        return self.folder / "csr.pt"

    @property
    def layers(self) -> Path:
        return self.folder / "layers.json"

    @property
    def onnx(self) -> Path:
        return self.folder / "network.onnx"

    @property
    def shrunk_onnx(self) -> Path:
        return self.folder / "shrunk.onnx"

    @property
    def openvino(self) -> Path:
        return self.folder / "network.xml"

    @property
    def library(self) -> Path:
        return self.folder / "library.json"


def open_torch(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open PyTorch eager, for the module itself or, without one, the network in its file."""
    return lambda images: _call_torch(module or _rebuilt(files), images)


def open_compile(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open torch.compile in its default mode, specialised to each batch."""
    import torch

    network = module or _rebuilt(files)

    def bind(images: Floats) -> Bound:
        # the number of threads is part of the code, and so of what tells one from another
        # workers are forked, which other runtimes' threads do not survive
        options: dict[str, Any] = {"cpp.threads": threads, "compile_threads": 1}
        fast = torch.compile(network, dynamic=False, options=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = _call_torch(fast, images)
            bound.run()
        return bound

    return bind


def open_csr(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open PyTorch with the weights of linear layers in torch's CSR; convolutions are dense."""
    import torch

    from rvsm.deploy import ops
    from rvsm.deploy.graph import Graph

    graph = Graph.from_dict(json.loads(files.layers.read_text()))
    tensors: dict[str, Tensor] = torch.load(files.csr, weights_only=True)

    def compute(images: Tensor) -> Tensor:
        values = {graph.input.name: images}
        for node in graph.nodes[1:]:
            given = [values[name] for name in node.inputs]
            if node.op == "linear":
                weight = tensors[node.tensors["weight"]]
                out = (weight @ given[0].t()).t()
                bias = node.tensors.get("bias")
                values[node.name] = out if bias is None else out + tensors[bias]
            else:
                values[node.name] = ops.run(node, given, tensors)
        return values[graph.output.name]

    return lambda images: _call_torch(compute, images)


def _rebuilt(files: Files) -> nn.Module:
    from rvsm.deploy.network import load_network

    return load_network(files.network)


def _call_torch(network: Callable[[Tensor], Tensor], images: Floats) -> Bound:
    import torch

    given = torch.from_numpy(images)
    last: list[Tensor] = []

    def run() -> None:
        with torch.inference_mode():
            last[:] = [network(given)]

    return Bound(run, lambda: last[0].numpy())


def open_onnxruntime(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open ONNX Runtime on the dense file, input and output bound."""
    return _onnxruntime(files.onnx, threads)


def open_shrunk_onnxruntime(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open ONNX Runtime on what `rvsm.shrink` left."""
    return _onnxruntime(files.shrunk_onnx, threads)


def _onnxruntime(path: Path, threads: int) -> Bind:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name

    def bind(images: Floats) -> Bound:
        given = onnxruntime.OrtValue.ortvalue_from_numpy(images)
        first = session.run([target], {source: images})[0]
        result = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(first))
        binding = session.io_binding()
        binding.bind_ortvalue_input(source, given)
        binding.bind_ortvalue_output(target, result)
        return Bound(lambda: session.run_with_iobinding(binding), result.numpy)

    return bind


def open_openvino(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open OpenVINO on its own file, in float32, with the batch fixed and the faster hint."""
    import openvino

    from rvsm.deploy.benching.timing import interleave

    core = openvino.Core()

    def bind(images: Floats) -> Bound:
        sides = {}
        for hint in ("LATENCY", "THROUGHPUT"):
            model = core.read_model(str(files.openvino))
            model.reshape(list(images.shape))
            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": hint,
                # pinning would tie the thread that calls, for the other runtimes too
                "ENABLE_CPU_PINNING": False,
            }
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
            sides[hint] = _request(request)
        clock = "cpu" if threads == 1 else "wall"
        times = interleave({hint: bound.run for hint, bound in sides.items()}, 0.02)
        return sides[min(sides, key=lambda hint: times[hint].median(clock))]

    return bind


def _request(request: Any) -> Bound:
    return Bound(
        lambda: request.infer(share_inputs=True, share_outputs=True),
        lambda: np.array(request.get_output_tensor().data),
    )


def open_rvsm(files: Files, threads: int, module: nn.Module | None = None) -> Bind:
    """Open the compiled library."""
    from rvsm.deploy.compiler.library import Facts, Library

    told: dict[str, Any] = json.loads(files.library.read_text())
    source, target = (tuple(told.pop(key)) for key in ("input_shape", "output_shape"))
    facts = Facts(input_shape=source, output_shape=target, **told)
    library = Library(facts, threads)

    def bind(images: Floats) -> Bound:
        result = np.zeros((len(images), *facts.output_shape), dtype=np.float32)
        return Bound(library.bind(images, result), lambda: result)

    return bind


@dataclass(frozen=True)
class Runtime:
    """A runtime: how it is opened, and the packages it is made of."""

    open: Callable[..., Bind]
    packages: tuple[str, ...]


RUNTIMES: Mapping[str, Runtime] = {
    "torch": Runtime(open_torch, ("torch",)),
    "torch.compile": Runtime(open_compile, ("torch",)),
    "torch-csr": Runtime(open_csr, ("torch",)),
    "onnxruntime": Runtime(open_onnxruntime, ("onnxruntime",)),
    "onnxruntime-shrunk": Runtime(open_shrunk_onnxruntime, ("onnxruntime",)),
    "openvino": Runtime(open_openvino, ("openvino",)),
    "rvsm": Runtime(open_rvsm, ()),
}
"""All of them, in the order of the table."""

DENSE = ("onnxruntime", "openvino")
"""Ratios are to the faster of these, on the network with its zeros as numbers like others."""

OURS = "rvsm"
