"""A network as a C file and its header, for programs without Python."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rvsm.atomic import atomic_write
from rvsm.deploy import ops
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import write
from rvsm.deploy.compiler.tune import fastest
from rvsm.deploy.shrink import shrink
from rvsm.errors import CompilerError, RvsmError
from rvsm.native import find_compiler, no_compiler


@dataclass(frozen=True)
class CAccount:
    """What was written.

    Attributes
    ----------
    path, header
        The files.
    name
        Prefix of the functions.
    bytes
        Of the C file.
    weights, nonzeros
        Of the network's parameters; only nonzeros are in the file, where zeros pay.
    input_shape, output_shape
        Of one sample.
    workspace_bytes
        Memory a thread needs.
    """

    path: Path
    header: Path
    name: str
    bytes: int
    weights: int
    nonzeros: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    workspace_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        plain = asdict(self) | {"path": str(self.path), "header": str(self.header)}
        return {key: list(x) if isinstance(x, tuple) else x for key, x in plain.items()}

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.bytes:,} bytes) and {self.header.name}: {self.nonzeros:,} of "
            f"{self.weights:,} weights, functions {self.name}_*, "
            f"{self.workspace_bytes:,} bytes of memory a thread. Its first lines say how to "
            "compile it."
        )


def export_c(
    model: nn.Module,
    example: Tensor,
    path: Path | str,
    *,
    name: str | None = None,
    batched: bool = True,
    tune: bool = False,
) -> CAccount:
    """Write a network as one C file without dependencies, and a header.

    Parameters
    ----------
    model
        A feed-forward network of layers rvsm knows.
    example
        An input ``(batch, *shape)``.
    path
        Of the C file, ``*.c``; the header goes beside it.
    name
        Prefix of all functions, a C identifier; the file's name by default.
    batched
        Write code for samples side by side, too, which batches of 8 and more are computed with.
        Without it the file is half as long and a workspace holds the maps of one sample.
    tune
        Time several ways to compute each layer on this machine and write the fastest; otherwise
        shape and share of zeros decide.

    Raises
    ------
    CompilerError
        If `tune` finds no C compiler, or it fails.
    UnsupportedLayer
        If the model does something that is no layer rvsm knows.
    RvsmError
        If the path does not end in ``.c`` or cannot be written, or the name is none.
    """
    path = Path(path)
    if path.suffix != ".c":
        raise RvsmError(f"{path} is no name of a C file: let it end in .c.")
    network = shrink(model, example)
    name = name or _identifier(path.stem)
    program = lower(network.graph, network.state_dict())
    source = write(program, name, batched=batched, file=shlex.quote(path.name))
    if tune:
        compiler = find_compiler()
        if compiler is None:
            raise CompilerError(
                f"{no_compiler()}: install one to time with, or let CC name one without options, "
                "or export without tuning."
            )
        chosen = fastest(source.layers, source.code, compiler)
        source = write(program, name, chosen, batched, shlex.quote(path.name))
    header = path.with_suffix(".h")
    with atomic_write(header) as declared, atomic_write(path) as defined:
        declared.write(source.header.encode())
        declared.flush()  # a disk that is full leaves both files as they were
        defined.write(source.code.encode())
    parameters = list(model.parameters())
    return CAccount(
        path=path,
        header=header,
        name=name,
        bytes=len(source.code.encode()),
        weights=sum(parameter.numel() for parameter in parameters),
        nonzeros=sum(int((parameter != 0).sum()) for parameter in parameters),
        input_shape=network.graph.input.ints("shape"),
        output_shape=ops.shapes(network.graph)[network.graph.output.name],
        workspace_bytes=source.workspace_bytes,
    )


def _identifier(text: str) -> str:
    """Return a C identifier as near to a text as can be."""
    text = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return text if text[:1].isalpha() else f"network_{text}"
