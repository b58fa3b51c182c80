"""Sizes of model files: dense safetensors, torch CSR and ours in every form, beside the bound.

python benchmarks/files/run.py [--table]

Random weights, normal, of which a share drawn at random is zero (in LeNets the biases too; in the
ResNet batch norm is dense, as training leaves it). Writes results.json beside this file: bytes,
the times over the information bound, and the root mean square error of the values.
"""

import io
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import zstandard
from torch import Tensor

import rvsm
from rvsm.atomic import atomic_text

SHARES = (0.9, 0.95, 0.99)
FORMS = ("exact", "float16", "bfloat16", "codebook", "codebook-16")
SHOWN = (
    "dense safetensors",
    "torch CSR",
    "rvsm exact",
    "rvsm exact, zstd",
    "rvsm float16",
    "rvsm bfloat16, zstd",
    "rvsm codebook",
    "rvsm codebook, zstd",
    "rvsm codebook-16",
)
"""The columns of the table."""
LENET_5 = {
    "conv1": (20, 1, 5, 5),
    "conv2": (50, 20, 5, 5),
    "fc1": (500, 800),
    "fc2": (10, 500),
}
LENET_300_100 = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}


def lenet(shapes: Mapping[str, tuple[int, ...]], zeros: float) -> dict[str, Tensor]:
    """Return the tensors of a LeNet, weights and biases with the share of zeros."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"{layer}.{kind}": _sparse(size, zeros, generator)
        for layer, shape in shapes.items()
        for kind, size in (("weight", shape), ("bias", shape[:1]))
    }


def resnet_18(zeros: float) -> dict[str, Tensor]:
    """Return the tensors of a ResNet-18 in its CIFAR form, convolutions and fc sparse."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        size = (outputs, inputs, kernel, kernel)
        tensors[f"{name}.weight"] = _sparse(size, zeros, generator)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.bn.{kind}"] = torch.rand(outputs, generator=generator)

    convolution("conv1", 64, 3, 3)
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            convolution(f"layer{stage}.{block}.conv1", outputs, inputs, 3)
            convolution(f"layer{stage}.{block}.conv2", outputs, outputs, 3)
            if inputs != outputs:
                convolution(f"layer{stage}.{block}.shortcut", outputs, inputs, 1)
            inputs = outputs
    tensors["fc.weight"] = _sparse((10, 512), zeros, generator)
    tensors["fc.bias"] = torch.rand(10, generator=generator)
    return tensors


def models() -> dict[str, dict[str, Tensor]]:
    """Return the tensors of every model by a title."""
    return {
        **{f"LeNet-5, {z:.0%} zeros": lenet(LENET_5, z) for z in SHARES},
        **{f"LeNet-300-100, {z:.0%} zeros": lenet(LENET_300_100, z) for z in SHARES},
        "ResNet-18, 90% zeros": resnet_18(0.9),
    }


def measure(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """Return the size of every kind of file for one model."""
    dense = safetensors.torch.save(dict(tensors))
    found: dict[str, Any] = {
        "dense safetensors": {"bytes": len(dense)},
        "dense safetensors, zstd -19": {"bytes": len(zstandard.compress(dense, 19))},
        "torch CSR": {"bytes": _csr_bytes(tensors)},
    }
    for form in FORMS:
        for zstd in (False, True):
            saved = rvsm.save(tensors, folder / "model", values=form, zstd=zstd)
            kept = sum(t.kept for t in saved.tensors)
            squares = sum(t.kept * t.rms_error**2 for t in saved.tensors)
            found[f"rvsm {form}{', zstd' if zstd else ''}"] = {
                "bytes": saved.bytes,
                "bound_bytes": round(saved.bound_bytes),
                "over_bound": round(saved.bytes / saved.bound_bytes, 3),
                "worst_tensor_over_bound": round(
                    max(t.bytes / t.bound_bytes for t in saved.tensors if t.kept >= 100), 3
                ),
                "rms_error": (squares / kept) ** 0.5,
            }
    return found


def table(results: Mapping[str, Any]) -> str:
    """Return the table of docs/file-format.md."""
    rows = [["bytes", *(kind.removeprefix("rvsm ") for kind in SHOWN)], ["---"] * (len(SHOWN) + 1)]
    rows += [
        [name, *(f"{row[kind]['bytes']:,}" for kind in SHOWN)] for name, row in results.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure every model and write the results, or print the table of those that are there."""
    out = Path(__file__).with_name("results.json")
    if sys.argv[1:] == ["--table"]:
        print(table(json.loads(out.read_text("utf-8"))))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, tensors in models().items():
            results[name] = measure(tensors, Path(folder))
            for kind, row in results[name].items():
                print(f"{name:28} {kind:28} {row['bytes']:>12,} {row.get('over_bound', '')}")
    atomic_text(out, json.dumps(results, indent=2) + "\n")


def _sparse(shape: tuple[int, ...], zeros: float, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    return values.where(torch.rand(shape, generator=generator) >= zeros, 0.0)


def _csr_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of torch.save with matrices, and filters as rows, in torch's CSR."""
    stream = io.BytesIO()
    torch.save(
        {
            name: value.flatten(1).to_sparse_csr() if value.dim() > 1 else value
            for name, value in tensors.items()
        },
        stream,
    )
    return stream.tell()


if __name__ == "__main__":
    main()
