"""Compile emitted kernels and run them on NumPy arrays, with borders, canaries and slack."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rvsm.deploy.kernels import Emitted, Epilogue, Layer, Plane, prelude

Floats = NDArray[np.float32]
SLACK = 16  # floats a kernel may read beyond the end of a buffer
CANARY = np.float32(-12345.0)
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2"]


@dataclass(frozen=True)
class Case:
    """A layer and its C source."""

    emitted: Emitted
    layer: Layer


def aligned(size: int) -> Floats:
    """Return zeros whose first element is 64-byte aligned."""
    raw = np.zeros(size + 16, dtype=np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + size]


def places(plane: Plane) -> NDArray[np.int64]:
    """Return the index of every (image, channel, row, column)."""
    n, c, y, x = np.ogrid[: plane.lanes, : plane.channels, : plane.height, : plane.width]
    return plane.origin + n + c * plane.plane + y * plane.line + x * plane.column


def border(plane: Plane) -> NDArray[np.bool_]:
    """Say of each float of the map whether it must stay as it is."""
    kept = np.ones(plane.size, dtype=bool)
    kept[places(plane)] = False
    return kept


def place_in(plane: Plane, values: Floats, fill: float = 0.0) -> Floats:
    """Return a buffer that holds the map, `fill` in the slack and zeros in the border."""
    buffer = aligned(plane.size + SLACK)
    buffer[:] = fill
    tight = plane.left + plane.width + plane.right
    bordered = replace(
        plane, height=plane.rows, width=tight, top=0, bottom=0, left=0, right=0, pitch=plane.pitch
    )
    buffer[places(bordered)] = 0
    buffer[places(plane)] = values
    return buffer


def wrapper(emitted: Emitted) -> str:
    """Return an exported function of always four arguments."""
    arguments = [
        "in",
        "out",
        *["residual"] * emitted.residual,
        *["scratch"] * (emitted.scratch > 0),
    ]
    unused = "".join(f" (void){name};" for name in ("residual", "scratch") if name not in arguments)
    return (
        f"void call_{emitted.name}(const float *in, float *out, const float *residual, "
        f"float *scratch) {{{unused} {emitted.name}({', '.join(arguments)}); }}\n"
    )


def source_text(emitted: Sequence[Emitted]) -> str:
    """Return one C file with all functions and their wrappers."""
    calls = "".join(
        f"void call_{e.name}(const float *, float *, const float *, float *);\n" for e in emitted
    )
    return prelude() + calls + "".join(e.code + wrapper(e) for e in emitted)


def build(
    folder: Path, emitted: Sequence[Emitted], compiler: str = "gcc", flags: Sequence[str] = ()
) -> ctypes.CDLL:
    """Compile and load the functions."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "kernels.c"
    text.write_text(source_text(emitted))
    library = folder / "kernels.so"
    command = [compiler, *FLAGS, *flags, "-shared", "-fPIC", text, "-o", library, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(library))


def pointer(buffer: Floats) -> ctypes.c_void_p:
    """Return the address of the first element."""
    return ctypes.c_void_p(buffer.ctypes.data)


def call(
    library: ctypes.CDLL, emitted: Emitted, source: Floats, out: Floats, residual: Floats | None
) -> None:
    """Run one function; its scratch starts as NaN."""
    scratch = aligned(emitted.scratch + SLACK)
    scratch[:] = np.nan
    other = pointer(residual) if residual is not None else None
    getattr(library, f"call_{emitted.name}")(pointer(source), pointer(out), other, pointer(scratch))


def activate(epilogue: Epilogue, x: torch.Tensor) -> torch.Tensor:
    """Apply the activation in torch."""
    functions = {
        "none": lambda x: x,
        "relu": torch.relu,
        "relu6": torch.nn.functional.relu6,
        "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, epilogue.slope),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    return functions[epilogue.activation](x)


def expected(case: Case, x: Floats, residual: Floats | None) -> NDArray[np.float64]:
    """Return torch's result in float64."""
    layer = case.layer
    top, bottom, left, right = layer.padding
    bias = layer.epilogue.bias
    y = torch.nn.functional.conv2d(
        torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom)),
        torch.from_numpy(layer.weight).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        layer.stride,
        0,
        layer.dilation,
        layer.groups,
    )
    if residual is not None:
        y = y + torch.from_numpy(residual).double()
    y = activate(layer.epilogue, y)
    if layer.epilogue.pool is not None:
        y = torch.nn.functional.max_pool2d(y, layer.epilogue.pool)
    result: NDArray[np.float64] = y.numpy()
    return result


def check(library: ctypes.CDLL, case: Case, seed: int = 0) -> None:
    """Run a case on random input and compare with torch; nothing but the map may change."""
    rng = np.random.default_rng(seed)
    source, target = case.layer.source, case.layer.target
    shape = (source.lanes, source.channels, source.height, source.width)
    x = rng.standard_normal(shape, dtype=np.float32)
    shape = (target.lanes, target.channels, target.height, target.width)
    residual = rng.standard_normal(shape, dtype=np.float32) if case.emitted.residual else None
    out = aligned(target.size + SLACK)
    out[:] = CANARY
    call(
        library,
        case.emitted,
        place_in(source, x, fill=np.nan),
        out,
        None if residual is None else place_in(target, residual, fill=np.nan),
    )
    wanted = expected(case, x, residual)
    scale = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(out[places(target)], wanted, rtol=0, atol=2e-5 * scale)
    assert (out[: target.size][border(target)] == CANARY).all(), "wrote outside the map"
    assert (out[target.size :] == CANARY).all(), "wrote beyond the end"
