"""C text of functions on maps: where a place is, and loops over all places."""

from __future__ import annotations

from rvsm.deploy.kernels import Plane


def function(name: str, inputs: int, body: str, tables: str = "") -> str:
    """Return a C function that reads `inputs` values in0, in1 ... and writes out."""
    arguments = ", ".join(f"const float *restrict in{i}" for i in range(inputs))
    return f"{tables}static void {name}({arguments}, float *restrict out)\n{{\n{body}}}\n\n"


def at(plane: Plane, c: str, y: str, x: str) -> str:
    """Return the index of a place of image l; single rows and columns fall away."""
    terms = [str(plane.origin)] if plane.origin else []
    terms += [f"{c} * {plane.plane}"] if c != "0" else []
    terms += [f"{y} * {plane.line}"] if y != "0" and plane.height > 1 else []
    if x != "0" and plane.width > 1:
        terms += [x if plane.column == 1 else f"({x}) * {plane.column}"]
    terms += ["l"] if plane.lanes > 1 else []
    return " + ".join(terms) or "0"


def each(plane: Plane, statement: str, channels: int | None = None, inner: str = "") -> str:
    """Return loops over channels c, rows y, columns x and images l around a statement.

    Parameters
    ----------
    channels
        How many, if not all; 0 for no loop over them.
    inner
        Loops, of "l" alone, that the statement holds itself.
    """
    loops = {
        "c": plane.channels if channels is None else channels,
        "y": plane.height,
        "x": plane.width,
        "l": plane.lanes,
    }
    order = "cyxl" if plane.order == "channels" else "yxcl"
    heads = [
        f"for (int {index} = 0; {index} < {loops[index]}; {index}++)"
        for index in order
        if loops[index] > (index != "c") and index not in inner
    ]
    lines = [*heads, f"{{ {statement} }}"]
    return "".join(f"{'    ' * (depth + 1)}{line}\n" for depth, line in enumerate(lines))
