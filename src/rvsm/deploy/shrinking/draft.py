"""A network while it is taken apart: its graph, and its tensors in double precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rvsm.deploy import ops
from rvsm.deploy.container import DTYPES
from rvsm.deploy.graph import Graph, Node
from rvsm.deploy.network import Network

PRODUCERS = ("conv", "linear")
"""The types of layer whose channels are rows of a weight."""


@dataclass(frozen=True)
class Draft:
    """A graph and its tensors, float64 on the CPU.

    `graph.tensors` keeps the dtype each tensor is to have in the end.
    """

    graph: Graph
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: Network) -> Draft:
        """Return a network's layers with copies of its tensors."""
        own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        names = network.graph.tensors
        return cls(
            network.graph,
            {name: own[name].detach().to("cpu", torch.float64, copy=True) for name in names},
        )

    def network(self, *, double: bool = False) -> Network:
        """Return the module, in evaluation mode: in its own dtypes or in double precision."""
        tensors, infos = {}, {}
        for name, info in self.graph.tensors.items():
            dtype = "F64" if double else info.dtype
            tensors[name] = self.tensors[name].to(DTYPES[dtype])
            infos[name] = replace(info, dtype=dtype)
        return Network(Graph(self.graph.nodes, infos), tensors).eval()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value, without the batch."""
        return ops.shapes(self.graph)

    @cached_property
    def tied(self) -> frozenset[str]:
        """The names of the tensors that are used more than once."""
        uses = Counter(name for node in self.graph.nodes for name in node.tensors.values())
        return frozenset(name for name, count in uses.items() if count > 1)

    def is_tied(self, node: Node) -> bool:
        """Say whether a layer shares a tensor, so that its values are not its own to change."""
        return not self.tied.isdisjoint(node.tensors.values())

    def own(self, node: Node) -> dict[str, Tensor]:
        """Return a layer's tensors by role."""
        return {role: self.tensors[name] for role, name in node.tensors.items()}

    def parts(self, node: Node) -> list[tuple[str, slice]]:
        """Return the inputs of a concatenation, each with the channels it fills."""
        found, start = [], 0
        for name in node.inputs:
            stop = start + self.shapes[name][0]
            found.append((name, slice(start, stop)))
            start = stop
        return found

    def rebuilt(self, nodes: Sequence[Node], changed: Mapping[str, Tensor], output: str) -> Draft:
        """Return the draft with these layers, of which those the output needs, and new tensors.

        A tensor that is new takes dtype and kind of the weight beside it.
        """
        wanted, kept = {output}, []
        for node in reversed(nodes):
            if node.name in wanted or node.op == "input":
                wanted.update(node.inputs)
                kept.append(node)
        kept.reverse()
        infos, tensors = {}, {}
        for node in kept:
            for name in node.tensors.values():
                info = self.graph.tensors.get(name)
                if info is None:
                    info = self.graph.tensors[node.tensors["weight"]]
                tensors[name] = changed[name] if name in changed else self.tensors[name]
                infos[name] = replace(info, shape=tuple(tensors[name].shape))
        return Draft(Graph(tuple(kept), infos), tensors)


def bias_name(draft: Draft, node: Node) -> str:
    """Return the name of a layer's bias, a fresh one beside its weight if it has none."""
    if "bias" in node.tensors:
        return node.tensors["bias"]
    home, dot, leaf = node.tensors["weight"].rpartition(".")
    name = f"{home}{dot}bias" if leaf == "weight" else f"{home}{dot}{leaf}_bias"
    while name in draft.graph.tensors:
        name += "_"
    return name


def fresh_name(graph: Graph, name: str) -> str:
    """Return a name no layer has yet, like this one."""
    taken = {node.name for node in graph.nodes}
    while name in taken:
        name += "_"
    return name


def groups_of(node: Node) -> int:
    """Return the groups of a convolution, 1 for a linear layer."""
    return int(node.number("groups")) if node.op == "conv" else 1


def reads(weight: Tensor) -> Tensor:
    """Return which slices ``weight[row, column]`` hold a nonzero: ``(rows, columns)``."""
    found: Tensor = weight != 0
    return found.flatten(2).any(2) if weight.dim() > 2 else found


def spread(channels: Tensor, node: Node, rows: int) -> Tensor:
    """Lay values of input channels out as the weight's rows read them: ``(rows, columns)``."""
    groups = groups_of(node)
    if groups == 1:
        return channels.expand(rows, -1)
    return channels.view(groups, -1).repeat_interleave(rows // groups, 0)


def gathered(pairs: Tensor, node: Node) -> Tensor:
    """Return the input channels for which any pair ``(row, column)`` is set."""
    groups = groups_of(node)
    return pairs.reshape(groups, pairs.shape[0] // groups, -1).any(1).flatten()
