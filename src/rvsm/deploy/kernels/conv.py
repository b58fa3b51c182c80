"""Convolutions: from a layer and a variant to C source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Floats, Layer, Pair, Plane
from rvsm.deploy.kernels.loops import body, indent
from rvsm.deploy.kernels.prelude import WIDTHS
from rvsm.deploy.kernels.tables import array, floats, joint_tables, sparse_tables
from rvsm.deploy.kernels.view import copied, direct
from rvsm.errors import RvsmError


@dataclass(frozen=True)
class Variant:
    """How a layer is computed.

    Parameters
    ----------
    view : str
        What is read: "direct" the source (stride 1 across columns only), "packed" a copy with a
        part for each phase of the stride, "shifted" one with a part for each kernel column.
    crosses : bool
        Let vectors run on from row to row, for narrow maps.
    together : int
        Output channels computed at once, sharing what they read: 1 for sparse weights, more where
        zeros are few.
    input_blocks : int
        Parts the input channels are cut into, so that each fits the nearest cache.
    width : int
        Widest vector, in floats.
    """

    view: Literal["direct", "packed", "shifted"] = "direct"
    crosses: bool = False
    together: int = 1
    input_blocks: int = 1
    width: int = 16

    def __str__(self) -> str:
        """Return a short name."""
        parts = [self.view, "run" if self.crosses else "rows"]
        parts += [f"o{self.together}"] * (self.together > 1)
        parts += [f"i{self.input_blocks}"] * (self.input_blocks > 1)
        parts += [f"v{self.width}"] * (self.width < WIDTHS[0])
        return "-".join(parts)


def conv(
    name: str,
    source: Plane,
    target: Plane,
    weight: Floats,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: Epilogue | None = None,
    variant: Variant | None = None,
) -> Emitted:
    """Return C source of a convolution.

    Parameters
    ----------
    name : str
        Of the C function; its tables' names start with it.
    source, target : Plane
        Input and output; the source's border must be at least the padding.
    weight : ndarray of float32, shape (outputs, channels / groups, kernel rows, kernel columns)
    padding : tuple of int
        Rows and columns, or top, bottom, left and right.
    variant : Variant
        Default: `choose`.

    Raises
    ------
    RvsmError
        If the sizes do not fit each other, or the variant does not fit the layer.
    """
    layer = make_layer(
        source, target, weight, stride, padding, dilation, groups, epilogue or Epilogue()
    )
    return emit(name, layer, variant or Variant())


def make_layer(
    source: Plane,
    target: Plane,
    weight: Floats,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: Epilogue | None = None,
) -> Layer:
    """Return the checked layer of the same arguments as `conv`."""
    sides = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
    return Layer(source, target, weight, stride, sides, dilation, groups, epilogue or Epilogue())


def emit(name: str, layer: Layer, variant: Variant) -> Emitted:
    """Return C source of a checked layer."""
    if not 1 <= variant.together <= layer.target.channels:
        raise RvsmError(f"{variant} needs at least {variant.together} output channels.")
    if not 1 <= variant.input_blocks <= layer.source.channels:
        raise RvsmError(f"{variant} needs at least {variant.input_blocks} input channels.")
    if variant.view == "direct":
        view = direct(layer)
    else:
        view = copied(layer, variant.view == "shifted", variant.crosses)
    if variant.crosses and view.step != view.pitch:
        raise RvsmError(f"{variant} needs a stride of 1 across rows; choose a packed copy.")
    if variant.together == 1:
        tables = sparse_tables(name, layer, view, variant.input_blocks)
    else:
        tables = joint_tables(name, layer, view, variant.together, variant.input_blocks)
    code = tables.code
    if layer.epilogue.bias is not None:
        code += array("float", f"{name}_bias", floats(layer.epilogue.bias))
    bodies, scratch = [], 0
    for width in (w for w in WIDTHS if w <= variant.width or w == 1):
        lines, more = body(
            name, layer, view, tables, width, variant.together, variant.crosses,
            variant.input_blocks,
        )  # fmt: skip
        bodies.append((width, lines))
        scratch = max(scratch, more)
    scratch += view.scratch
    head = ["const float *restrict in", "float *restrict out"]
    head += ["const float *restrict residual"] * layer.epilogue.residual
    head += ["float *restrict scratch"] * (scratch > 0)
    lines = [f"static void {name}({', '.join(head)})", "{"]
    lines += indent(view.prepare.splitlines())
    for width, text in bodies:
        mark = "#if" if width == bodies[0][0] else "#elif"
        lines.append(f"{mark} RVSM_V >= {width}" if width > 1 else "#else")
        lines += indent(text)
    lines += ["#endif", "}", ""]
    return Emitted(name, code + "\n".join(lines), layer.epilogue.residual, scratch)
