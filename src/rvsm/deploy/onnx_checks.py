"""Whether an ONNX model is valid and computes what PyTorch does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rvsm.errors import RvsmError, first_line

TOLERANCE = 1e-4
"""How far outputs may differ, relative to the largest; 16-bit floats have a coarser one."""


def check_valid(serialized: bytes) -> None:
    """Raise RvsmError unless `onnx.checker` passes the model, its shapes included."""
    import onnx.checker
    import onnx.shape_inference

    try:
        onnx.checker.check_model(serialized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RvsmError(
            f"torch's exporter made an invalid ONNX model: {first_line(error)}; choose another "
            "opset or a newer torch and onnxscript."
        ) from error


def compare(
    serialized: bytes,
    batches: list[tuple[Tensor, ...]],
    outputs: list[list[Tensor]],
    tolerance: float | None,
) -> tuple[float, float]:
    """Run a model in ONNX Runtime and compare it with what PyTorch made.

    Parameters
    ----------
    serialized
        The bytes of the ONNX file.
    batches
        Inputs, each a tuple of tensors in the order of the model's.
    outputs
        The outputs of PyTorch for each of them, on the CPU.
    tolerance
        As in `export_onnx`.

    Returns
    -------
    The largest absolute difference, and the largest absolute output.

    Raises
    ------
    RvsmError
        If ONNX Runtime cannot run the model, or the outputs differ by more than is allowed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and told once
    try:
        session = onnxruntime.InferenceSession(
            serialized, options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        found = [
            session.run(None, dict(zip(names, (v.cpu().numpy() for v in batch), strict=True)))
            for batch in batches
        ]
    except Exception as error:
        raise RvsmError(
            f"ONNX Runtime cannot run the exported model: {first_line(error)}; export it in "
            "float32 with model.float(), or pass check=False for another runtime."
        ) from error
    pairs = [
        (value, torch.as_tensor(array))
        for ours, theirs in zip(outputs, found, strict=True)
        for value, array in zip(ours, theirs, strict=True)
    ]
    if odd := [(a.shape, b.shape) for a, b in pairs if a.shape != b.shape]:
        ours, theirs = map(tuple, odd[0])
        raise RvsmError(
            f"ONNX Runtime makes an output of shape {theirs} where PyTorch's has {ours}; pass "
            "dynamic_batch=False."
        )
    if not any(value.isfinite().any() for value, _ in pairs):
        raise RvsmError(
            "The model's outputs are all infinite or no numbers, which proves nothing; give an "
            "example it can evaluate, or train it again if its weights diverged."
        )
    difference = max(_gap(value, other) for value, other in pairs)
    scale = max(_largest(value) for value, _ in pairs)
    if tolerance is None:
        rounding = [
            torch.finfo(value.dtype).eps for value, _ in pairs if value.dtype.is_floating_point
        ]
        tolerance = max([TOLERANCE, *(16 * eps for eps in rounding)])
    if difference > tolerance * scale:
        raise RvsmError(
            f"ONNX Runtime and PyTorch differ by {difference:.2g} where the largest output is "
            f"{scale:.2g}; choose another opset, or pass a larger tolerance if that is enough."
        )
    return difference, scale


def _gap(value: Tensor, other: Tensor) -> float:
    """Return the largest difference; a NaN or infinity on one side alone makes it infinite."""
    exact, near = value.double(), other.double()
    same = (exact == near) | (exact.isnan() & near.isnan())
    gaps = (exact - near).abs().masked_fill(same, 0).nan_to_num(math.inf, math.inf)
    return gaps.max().item() if gaps.numel() else 0.0


def _largest(value: Tensor) -> float:
    finite = value.double().abs()
    finite = finite[finite.isfinite()]
    return finite.max().item() if finite.numel() else 0.0
