"""From a layer and a variant to C source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rvsm.deploy.kernels.block import best_block, by_images
from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Floats, Layer, Pair, Plane
from rvsm.deploy.kernels.loops import body, covered
from rvsm.deploy.kernels.prelude import WIDTHS
from rvsm.deploy.kernels.tables import array, floats, joint_tables, sparse_tables
from rvsm.deploy.kernels.text import indent
from rvsm.deploy.kernels.vector import columns_body, columns_code, gather_body, gather_code
from rvsm.deploy.kernels.view import copied, direct, placed
from rvsm.errors import RvsmError

Kernel = Literal["direct", "packed", "shifted", "gather", "columns", "images"]


@dataclass(frozen=True)
class Variant:
    """How a layer is computed.

    Parameters
    ----------
    kernel : str
        "direct" reads the source (stride 1 across columns only), "packed" a copy with a part for
        each phase of the stride, "shifted" one with a part for each kernel column. For maps of one
        place, "gather" computes outputs in the lanes of vectors from sparse weights, "columns"
        from dense ones. "images" is for maps of several images side by side.
    crosses : bool
        Let vectors run on from row to row, for narrow maps.
    together : int
        Output channels computed at once, sharing what they read: 1 for sparse weights, more where
        zeros are few.
    input_blocks : int
        Parts the input channels are cut into, so that each fits the nearest cache.
    width : int
        Widest vector, in floats.
    tile : pair of int, optional
        Output rows and columns for which a copy is made at a time (default: all), or for "images"
        those whose sums are in registers at once.
    """

    kernel: Kernel = "direct"
    crosses: bool = False
    together: int = 1
    input_blocks: int = 1
    width: int = 16
    tile: Pair | None = None

    def __str__(self) -> str:
        """Return a short name."""
        if self.kernel in ("gather", "columns"):
            return self.kernel
        parts: list[str] = [self.kernel]
        parts += ["run" if self.crosses else "rows"] * (self.kernel != "images")
        parts += [f"{self.tile[0]}x{self.tile[1]}"] if self.tile else []
        parts += [f"o{self.together}"] * (self.together > 1)
        parts += [f"i{self.input_blocks}"] * (self.input_blocks > 1)
        parts += [f"v{self.width}"] * (self.width < WIDTHS[0])
        return "-".join(parts)


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
    """Return the checked layer of a convolution.

    Parameters
    ----------
    source, target : Plane
        Input and output; the source's border must be at least the padding.
    weight : ndarray of float32, shape (outputs, channels / groups, kernel rows, kernel columns)
    padding : tuple of int
        Rows and columns, or top, bottom, left and right.

    Raises
    ------
    RvsmError
        If the sizes do not fit each other.
    """
    sides = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
    return Layer(source, target, weight, stride, sides, dilation, groups, epilogue or Epilogue())


def linear_layer(weight: Floats, epilogue: Epilogue | None = None, lanes: int = 1) -> Layer:
    """Return the checked layer of a linear layer, y[o, l] = sum over i of w[o, i] x[i, l].

    Parameters
    ----------
    weight : ndarray of shape (outputs, features)
    lanes : int
        Images; input and output are matrices [feature][lane].
    """
    if weight.ndim != 2 or lanes < 1:
        raise RvsmError("A linear layer needs a weight of two dimensions and at least one lane.")
    outputs, features = weight.shape
    source, target = Plane(features, 1, lanes), Plane(outputs, 1, lanes)
    return make_layer(source, target, weight[:, :, None, None], epilogue=epilogue)


def extent(layer: Layer, variant: Variant) -> Pair:
    """Return the output rows and columns of a copy: whole pooling windows, not more than all."""
    if variant.tile is None or variant.kernel in ("direct", "images"):
        return layer.needed
    pool = layer.epilogue.pool or (1, 1)
    rows, columns = (
        min(size, max(window, part // window * window))
        for size, part, window in zip(layer.needed, variant.tile, pool, strict=True)
    )
    return rows, columns


def emit(name: str, layer: Layer, variant: Variant) -> Emitted:
    """Return C source of a checked layer."""
    if not 1 <= variant.together <= layer.target.channels:
        raise RvsmError(f"{variant} needs at least {variant.together} output channels.")
    if not 1 <= variant.input_blocks <= layer.source.channels:
        raise RvsmError(f"{variant} needs at least {variant.input_blocks} input channels.")
    widths = [w for w in WIDTHS if w <= variant.width or w == 1]
    _check_order(layer, variant)
    if variant.kernel in ("gather", "columns"):
        return _emit_vector(name, layer, variant, widths)
    if variant.kernel == "images":
        view = placed(layer)
        widths = [width for width in widths if layer.source.lanes % width == 0]
    elif variant.kernel == "direct":
        view = direct(layer)
    else:
        view = copied(layer, variant.kernel == "shifted", variant.crosses, extent(layer, variant))
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
    for width in widths:
        if variant.kernel == "images":
            block = by_images(layer, view, width, variant.tile or (1, 1))
        else:
            block = best_block(
                layer, view, width, variant.together, variant.crosses, tables.entries
            )
        lines, more = body(name, layer, view, tables, block, variant.together, variant.input_blocks)
        bodies.append((width, lines))
        scratch = max(scratch, more)
    scratch += view.scratch
    inner = [*view.prepare.splitlines(), *_by_width(bodies)]
    if view.extent != layer.needed:
        inner = covered("x0", layer.needed[1], view.extent[1], inner)
        inner = covered("y0", layer.needed[0], view.extent[0], inner)
    return _function(name, layer, code, inner, scratch)


def _check_order(layer: Layer, variant: Variant) -> None:
    """Raise if the kernel is not one for maps that lie like these."""
    images = layer.source.lanes
    if (variant.kernel == "images") != (images > 1):
        raise RvsmError(f"{variant} does not fit maps of {images} images; choose another.")
    if images > 1 and images % 4:
        raise RvsmError(
            f"{images} images do not fill vectors; let as many lie side by side as divide by 4."
        )
    if images == 1 and (layer.source.column, layer.target.column) != (1, 1):
        raise RvsmError(
            "Maps of one image whose channels lie together at each place have no kernel; let the "
            "order be channels."
        )


def _emit_vector(name: str, layer: Layer, variant: Variant, widths: list[int]) -> Emitted:
    if layer.needed != (1, 1):
        raise RvsmError(f"{variant} is for maps of one place, not {layer.needed}; choose another.")
    tables, loops = {
        "gather": (gather_code, gather_body),
        "columns": (columns_code, columns_body),
    }[variant.kernel]
    bodies = [(width, loops(name, layer, width)) for width in widths]
    return _function(name, layer, tables(name, layer, direct(layer)), _by_width(bodies), 0)


def _by_width(bodies: list[tuple[int, list[str]]]) -> list[str]:
    """Return bodies for several widths, of which the preprocessor picks the widest it may."""
    lines = []
    for width, text in bodies:
        mark = "#if" if width == bodies[0][0] else "#elif"
        lines += [f"{mark} RVSM_V >= {width}" if width > 1 else "#else", *text]
    return [*lines, "#endif"]


def _function(name: str, layer: Layer, code: str, inner: list[str], scratch: int) -> Emitted:
    head = ["const float *restrict in", "float *restrict out"]
    head += ["const float *restrict residual"] * layer.epilogue.residual
    head += ["float *restrict scratch"] * (scratch > 0)
    lines = [f"static void {name}({', '.join(head)})", "{", *indent(inner), "}", ""]
    return Emitted(name, code + "\n".join(lines), layer.epilogue.residual, scratch)
