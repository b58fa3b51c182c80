"""The files that every runtime opens, and which runtimes cannot take part and why."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rvsm.deploy.benching.runners import OURS, RUNTIMES, Files
from rvsm.deploy.compiler.runtime import compile
from rvsm.deploy.files import save
from rvsm.deploy.network import Network
from rvsm.deploy.shrink import shrink, shrink_report
from rvsm.deploy.tracing import trace
from rvsm.errors import RvsmError
from rvsm.native import find_compiler, no_compiler


def prepare(
    model: nn.Module, example: Tensor, files: Files, names: Sequence[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Write the files of one network.

    Parameters
    ----------
    model
        In evaluation mode.
    example
        float32 ``(batch, *shape)``.
    files
        Where to.
    names
        Of runtimes.

    Returns
    -------
    sizes
        Bytes of each file: of ``safetensors``, ``rvsm``, ``rvsm library`` and the runtimes that
        have one of their own.
    left_out
        Why runtimes do not take part.
    """
    network = trace(model, example)
    sizes, left_out = {}, {}
    plain = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, files.dense)
    sizes["safetensors"] = files.dense.stat().st_size
    sizes["rvsm"] = save(model, files.sparse).bytes
    save(network, files.network)
    steps = {
        "torch-csr": lambda: _csr(network, files),
        "onnxruntime": lambda: _onnx(model, example, files.onnx),
        "onnxruntime-shrunk": lambda: _shrunk(network, example, files),
        "openvino": lambda: _openvino(model, example, files),
        OURS: lambda: _library(network, example, files),
    }
    for name in names:
        missing = [p for p in RUNTIMES[name].packages if importlib.util.find_spec(p) is None]
        if missing:
            left_out[name] = f"{missing[0]} is not installed"
        elif name in steps:
            try:
                sizes["rvsm library" if name == OURS else name] = steps[name]()
            except RvsmError as error:
                left_out[name] = str(error)
    return sizes, left_out


def _csr(network: Network, files: Files) -> int:
    linear = {node.tensors["weight"] for node in network.graph.nodes if node.op == "linear"}
    if not linear:
        raise RvsmError("it has no linear layer, and torch's CSR knows no convolution")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that sparse CSR is beta
        tensors = {
            name: tensor.detach().to_sparse_csr() if name in linear else tensor.detach()
            for name, tensor in network.state_dict().items()
        }
        torch.save(tensors, files.csr)
    files.layers.write_text(json.dumps(network.describe()))
    return files.csr.stat().st_size


def _onnx(model: nn.Module, example: Tensor, path: Path) -> int:
    # another runtime may have asked for the same file
    if not path.exists():
        from rvsm.deploy.onnx import export_onnx

        export_onnx(model, example, path, check=False)
    return path.stat().st_size


def _shrunk(network: Network, example: Tensor, files: Files) -> int:
    small = shrink(network, example)
    if not shrink_report(small).channels_removed:
        raise RvsmError("rvsm.shrink finds nothing to remove")
    return _onnx(small, example, files.shrunk_onnx)


def _openvino(model: nn.Module, example: Tensor, files: Files) -> int:
    import openvino

    _onnx(model, example, files.onnx)
    converted = openvino.convert_model(str(files.onnx))
    openvino.save_model(converted, str(files.openvino), compress_to_fp16=False)
    return sum(path.stat().st_size for path in (files.openvino, files.openvino.with_suffix(".bin")))


def _library(network: Network, example: Tensor, files: Files) -> int:
    if find_compiler() is None:
        cause = no_compiler()
        raise RvsmError(cause[0].lower() + cause[1:])
    facts = compile(network, example).facts
    assert facts is not None
    files.library.write_text(json.dumps(asdict(facts)))
    return Path(facts.path).stat().st_size
