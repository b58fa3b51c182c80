"""What a network computes, as plain data: layers of a closed list of types, and how they connect.

Everything that takes a network apart goes through a `Graph`: shrinking, the compiler, and the
description by which a file rebuilds a network without running anyone's code. `rvsm.deploy.tracing`
makes one of a module, `rvsm.deploy.network` a module of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rvsm.errors import FileFormatError

Attribute = int | float | bool | tuple[int, ...]

FORMAT = 1
_MOST_NODES = 100_000
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class OpKind:
    """What a type of layer takes.

    Attributes
    ----------
    inputs
        How many maps it reads; None for one or more.
    tensors, optional
        The roles of its tensors, those it must have and those it may have.
    attributes
        Name and type of each attribute: ``int``, ``float``, ``bool`` or ``tuple`` (of int).
    """

    inputs: int | None = 1
    tensors: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    attributes: Mapping[str, type] = field(default_factory=dict)


_WINDOW = {"kernel": tuple, "stride": tuple, "padding": tuple}
OPS: Mapping[str, OpKind] = MappingProxyType(
    {
        "input": OpKind(inputs=0, attributes={"shape": tuple}),
        # padding: before and after, axis by axis (top, bottom, left, right)
        "conv": OpKind(
            tensors=("weight",),
            optional=("bias",),
            attributes={"stride": tuple, "padding": tuple, "dilation": tuple, "groups": int},
        ),
        "linear": OpKind(tensors=("weight",), optional=("bias",)),
        "batch_norm": OpKind(
            tensors=("running_mean", "running_var"),
            optional=("weight", "bias"),
            attributes={"eps": float},
        ),
        "max_pool": OpKind(attributes={**_WINDOW, "dilation": tuple, "ceil": bool}),
        "avg_pool": OpKind(attributes={**_WINDOW, "ceil": bool, "count_padding": bool}),
        "adaptive_max_pool": OpKind(attributes={"size": tuple}),
        "adaptive_avg_pool": OpKind(attributes={"size": tuple}),
        "relu": OpKind(),
        "leaky_relu": OpKind(attributes={"slope": float}),
        "clamp": OpKind(attributes={"low": float, "high": float}),
        "sigmoid": OpKind(),
        "tanh": OpKind(),
        "silu": OpKind(),
        "gelu": OpKind(attributes={"tanh": bool}),
        "add": OpKind(inputs=2),
        "concat": OpKind(inputs=None),  # along the channels
        "select": OpKind(attributes={"channels": tuple}),
        "flatten": OpKind(),
        "softmax": OpKind(attributes={"log": bool}),  # over the channels
    }
)
"""Every type of layer there is."""


@dataclass(frozen=True)
class Node:
    """One layer.

    Attributes
    ----------
    name
        Unique in the graph.
    op
        A key of :data:`OPS`.
    inputs
        Names of the nodes it reads, all before it.
    tensors
        From role (``weight``, ``bias`` ...) to the tensor's name, as in a ``state_dict``.
    attributes
        As :data:`OPS` says.
    path
        Where in the module it came from, for messages; no part of the description.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    tensors: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    path: str = ""

    def ints(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a tuple."""
        value = self.attributes[name]
        assert isinstance(value, tuple)
        return value

    def number(self, name: str) -> float:
        """Return an attribute that is a number or a truth value."""
        value = self.attributes[name]
        assert not isinstance(value, tuple)
        return value


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor, and whether it is a parameter or a buffer."""

    shape: tuple[int, ...]
    dtype: str
    parameter: bool


@dataclass(frozen=True)
class Graph:
    """Layers in the order they run; the first is the input, the last the output.

    Shapes have no batch axis: a node's value is ``(batch, *shape)``, and samples of a batch do
    not meet.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorInfo]

    @property
    def input(self) -> Node:
        """The node that stands for the network's input."""
        return self.nodes[0]

    @property
    def output(self) -> Node:
        """The node whose value the network returns."""
        return self.nodes[-1]

    def readers(self) -> dict[str, list[Node]]:
        """Return for each node the nodes that read it."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain lists, texts and numbers, ready for JSON."""
        return {
            "format": FORMAT,
            "nodes": [
                {
                    "name": node.name,
                    "op": node.op,
                    "inputs": list(node.inputs),
                    "tensors": dict(node.tensors),
                    "attributes": {
                        key: list(value) if isinstance(value, tuple) else value
                        for key, value in node.attributes.items()
                    },
                }
                for node in self.nodes
            ],
            "tensors": {
                name: {
                    "shape": list(info.shape),
                    "dtype": info.dtype,
                    "parameter": info.parameter,
                }
                for name, info in self.tensors.items()
            },
        }

    @classmethod
    def from_dict(cls, description: Any) -> Graph:
        """Invert :meth:`to_dict`, believing nothing.

        Raises
        ------
        FileFormatError
            If the description is not one that `to_dict` writes: an unknown type of layer or
            attribute, a layer that reads a later one, a number out of range.
        """
        match description:
            case {"format": int(version), "nodes": list(nodes), "tensors": dict(tensors)}:
                pass
            case _:
                raise _broken("it has not the form of one")
        if version != FORMAT:
            raise FileFormatError(
                f"The description of the network has format {version} and this rvsm reads "
                f"{FORMAT}: upgrade rvsm."
            )
        if not 2 <= len(nodes) <= _MOST_NODES:
            raise _broken(f"it has {len(nodes)} layers")
        infos = {name: _tensor_info(name, entry) for name, entry in tensors.items()}
        seen: set[str] = set()
        parsed = []
        for entry in nodes:
            node = _node(entry, seen, infos)
            if (node.op == "input") is bool(seen):
                raise _broken("the input is not its first layer, and that alone")
            seen.add(node.name)
            parsed.append(node)
        return cls(tuple(parsed), infos)


def _tensor_info(name: str, entry: Any) -> TensorInfo:
    match entry:
        case {"shape": list(shape), "dtype": str(dtype), "parameter": bool(parameter)} if (
            len(entry) == 3 and len(shape) <= 8 and all(_is_size(size) for size in shape)
        ):
            if not all(name.split(".")):
                raise _broken(f"{name!r} is no name of a tensor")
            return TensorInfo(tuple(shape), dtype, parameter)
    raise _broken(f"tensor {name!r} is described wrongly")


def _node(entry: Any, seen: set[str], tensors: Mapping[str, TensorInfo]) -> Node:
    match entry:
        case {
            "name": str(name),
            "op": str(op),
            "inputs": list(inputs),
            "tensors": dict(own),
            "attributes": dict(attributes),
        } if len(entry) == 5 and name and name not in seen:
            pass
        case _:
            raise _broken("a layer is described wrongly, or two have one name")
    kind = OPS.get(op)
    if kind is None:
        raise _broken(f"layer {name!r} is of an unknown type {op!r}")
    count_fits = len(inputs) >= 1 if kind.inputs is None else len(inputs) == kind.inputs
    if not count_fits or not all(isinstance(x, str) and x in seen for x in inputs):
        raise _broken(f"layer {name!r} reads what is not before it")
    roles = {*kind.tensors, *kind.optional}
    if not (
        set(kind.tensors) <= set(own) <= roles
        and all(isinstance(tensor, str) and tensor in tensors for tensor in own.values())
    ):
        raise _broken(f"layer {name!r} has not the tensors of a {op}")
    if set(attributes) != set(kind.attributes):
        raise _broken(f"layer {name!r} has not the attributes of a {op}")
    checked = {key: _attribute(name, key, attributes[key], kind) for key in kind.attributes}
    return Node(name, op, tuple(inputs), own, checked)


def _attribute(node: str, key: str, value: Any, kind: OpKind) -> Attribute:
    wanted = kind.attributes[key]
    if wanted is tuple and isinstance(value, list) and all(_is_size(x) for x in value):
        return tuple(value)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is int and _is_size(value):
        return int(value)
    if wanted is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise _broken(f"{key} of layer {node!r} is not what it must be")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _broken(cause: str) -> FileFormatError:
    return FileFormatError(
        f"The description of the network is damaged: {cause}; copy or make the file again."
    )


def spatial(values: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return one number per spatial axis, of one number for all or one for each."""
    return tuple(values) * rank if len(values) == 1 else tuple(values)
