"""A module that computes a `Graph`: what a shrunk network is, and what a file rebuilds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from rvsm.deploy import ops
from rvsm.deploy.container import DTYPES, NAMES
from rvsm.deploy.files import load, read_architecture
from rvsm.deploy.graph import Graph
from rvsm.errors import FileFormatError, RvsmError, first_line

_LARGEST_MAP = 2**28


class Network(nn.Module):
    """An ordinary module made of a description: layers of a closed list of types.

    Parameters and buffers stand under the names the described network gives them, in nested
    modules without code of their own, so `state_dict` has the keys of the module it came from.

    Parameters
    ----------
    graph
        The layers.
    tensors
        The values of its tensors by name; left out, they are zeros.

    Raises
    ------
    FileFormatError
        If the layers do not fit together or the tensors do not fit the description.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.graph = graph
        _check(graph, tensors)
        for name, info in graph.tensors.items():
            value = (
                torch.zeros(info.shape, dtype=DTYPES[info.dtype])
                if tensors is None
                else tensors[name].detach().clone()
            )
            *path, leaf = name.split(".")
            home: nn.Module = self
            for part in path:
                if not hasattr(home, part):
                    home.add_module(part, nn.Module())
                home = home.get_submodule(part)
            if info.parameter:
                home.register_parameter(
                    leaf, nn.Parameter(value, requires_grad=value.is_floating_point())
                )
            else:
                home.register_buffer(leaf, value)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output ``(batch, *shape)`` for an input ``(batch, *shape)``."""
        wanted = self.graph.input.ints("shape")
        if tuple(images.shape[1:]) != wanted:
            raise RvsmError(
                f"The network takes inputs of shape (batch, {', '.join(map(str, wanted))}), and "
                f"this one is {tuple(images.shape)}."
            )
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        values = {self.graph.input.name: images}
        for node in self.graph.nodes[1:]:
            values[node.name] = ops.run(
                node, [values[name] for name in node.inputs], tensors, self.training
            )
        return values[self.graph.output.name]

    def describe(self) -> dict[str, Any]:
        """Return the description from which :meth:`from_description` rebuilds the network."""
        return self.graph.to_dict()

    @classmethod
    def from_description(cls, description: Any, tensors: Mapping[str, Tensor]) -> Network:
        """Rebuild a network from its description and its tensors.

        Raises
        ------
        FileFormatError
            If the description is damaged or does not fit the tensors.
        """
        return cls(Graph.from_dict(description), tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .double() and its like change dtypes, and the description tells them
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        infos = {
            name: replace(info, dtype=NAMES[own[name].dtype])
            for name, info in self.graph.tensors.items()
        }
        self.graph = replace(self.graph, tensors=infos)
        return self

    def extra_repr(self) -> str:
        """Return the layers, a line each."""
        return "\n".join(
            f"({node.name}): {node.op}({', '.join(node.inputs)})" for node in self.graph.nodes
        )


def _check(graph: Graph, tensors: Mapping[str, Tensor] | None) -> None:
    names = list(graph.tensors)
    for name in names:
        if any(other.startswith(f"{name}.") for other in names):
            raise _misfit(f"{name!r} is a tensor and a module")
        if any(hasattr(nn.Module, part) for part in name.split(".")) or name == "graph":
            raise _misfit(f"{name!r} is a name a module keeps for itself")
    if tensors is not None:
        if set(tensors) != set(graph.tensors):
            odd = sorted(set(tensors) ^ set(graph.tensors))
            raise _misfit(f"its tensors are not those described, {odd[0]!r} among them")
        for name, info in graph.tensors.items():
            if (
                tuple(tensors[name].shape) != info.shape
                or NAMES.get(tensors[name].dtype) != info.dtype
            ):
                raise _misfit(f"tensor {name!r} is not as described")
    elif not all(info.dtype in DTYPES for info in graph.tensors.values()):
        raise _misfit("a tensor has an unknown dtype")
    try:
        shapes = ops.shapes(graph)
        ops.check(graph, shapes)
    except (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise _misfit(f"its layers do not fit together ({first_line(error)})") from error
    if max(math.prod(shape) for shape in shapes.values()) > _LARGEST_MAP:
        raise _misfit(f"a map of it has more than {_LARGEST_MAP} elements")


def _misfit(cause: str) -> FileFormatError:
    return FileFormatError(
        f"The description of the network cannot be built: {cause}; copy or make the file again."
    )


def load_network(path: Path | str) -> Network:
    """Rebuild the network whose description a file holds.

    Parameters
    ----------
    path
        A file `rvsm.save` wrote of a `Network`, such as a shrunk one, or the model of a run.

    Returns
    -------
    Network
        In evaluation mode. No code of the file's is run: its layers are of a closed list of types.

    Raises
    ------
    FileFormatError
        If the file is damaged or not ours, or holds tensors without a description.
    RvsmError
        If it cannot be read.
    """
    description = read_architecture(Path(path))
    if description is None:
        raise FileFormatError(
            f"{path} holds tensors and not the layers that use them: build the model in Python as "
            "it was when saved, and use rvsm.load(path, model)."
        )
    return Network.from_description(description, load(path)).eval()
