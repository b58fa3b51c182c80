"""The cut: a network with the channels that stay, and without the layers that do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rvsm.deploy.graph import Attribute, Node
from rvsm.deploy.shrinking.constants import Constants
from rvsm.deploy.shrinking.draft import PRODUCERS, Draft, fresh_name, groups_of
from rvsm.deploy.shrinking.needs import Needs


def cut(found: Needs, kept: Mapping[str, Tensor], known: Mapping[str, Constants]) -> Draft:
    """Return the network of the channels that are kept.

    A sum with a term that is zero wherever it is needed becomes its other term; a layer that
    reads nothing any more reads one channel of the input, times zero.
    """
    cutting = _Cutting(found, kept, known)
    for node in found.draft.graph.nodes:
        if kept[node.name].any():
            cutting.add(node)
    draft = found.draft
    output = cutting.stands_for[draft.graph.output.name]
    return draft.rebuilt(cutting.nodes, cutting.tensors, output)


@dataclass
class _Cutting:
    """The new network, layer by layer."""

    found: Needs
    kept: Mapping[str, Tensor]
    known: Mapping[str, Constants]
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stands_for: dict[str, str] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Append what is left of a layer."""
        draft, own = self.found.draft, self.kept[node.name]
        inputs = list(node.inputs)
        if node.op == "concat":
            inputs = [name for name, part in draft.parts(node) if own[part].any()]
        elif node.op == "add":
            inputs = [name for name in inputs if not self._adds_nothing(name, node)]
            inputs = inputs or [node.inputs[0]]
        if node.op in ("concat", "add") and len(inputs) == 1:
            self.stands_for[node.name] = self.stands_for[inputs[0]]
            return
        attributes = dict(node.attributes)
        if node.name in self.found.constant:
            inputs, attributes = self._nothing_to_read(node)
            weight = draft.tensors[node.tensors["weight"]]
            ones = (1,) * (weight.dim() - 1)
            self.tensors[node.tensors["weight"]] = weight.new_zeros(int(own.sum()), *ones)
        elif node.op in PRODUCERS:
            source, groups = self.kept[inputs[0]], groups_of(node)
            weight = draft.tensors[node.tensors["weight"]]
            self.tensors[node.tensors["weight"]] = _cut_weight(weight, own, source, groups)
            if groups > 1:
                attributes["groups"] = int(own.view(groups, -1).any(1).sum())
        elif node.op == "select":
            places = self.kept[inputs[0]].cumsum(0) - 1
            chosen = torch.tensor(node.ints("channels"))[own]
            attributes["channels"] = tuple(places[chosen].tolist())
        for role, name in node.tensors.items():
            if node.op == "batch_norm" or role == "bias":
                self.tensors[name] = draft.tensors[name][own]
        self._append(node, inputs, attributes)

    def _append(self, node: Node, inputs: list[str], attributes: dict[str, Attribute]) -> None:
        sources = tuple(self.stands_for[name] for name in inputs)
        self.nodes.append(replace(node, inputs=sources, attributes=attributes))
        self.stands_for[node.name] = node.name

    def _adds_nothing(self, name: str, node: Node) -> bool:
        """Say whether a term of a sum is zero in all channels that are needed."""
        return bool((self.known[name].zero | ~self.found.needed[node.name]).all())

    def _nothing_to_read(self, node: Node) -> tuple[list[str], dict[str, Attribute]]:
        """Make a map of one channel and the right places for a layer whose weights are zero."""
        source, places = self.found.draft.graph.input, self.found.draft.shapes[node.name][1:]
        shape = source.ints("shape")
        steps: list[tuple[str, dict[str, Attribute]]] = []
        if node.op == "linear" and len(shape) > 1:
            steps.append(("flatten", {}))
        steps.append(("select", {"channels": (0,)}))
        attributes: dict[str, Attribute] = {}
        if node.op == "conv":
            rank = len(places)
            steps.append(("adaptive_avg_pool", {"size": places}))
            attributes = {
                "stride": (1,) * rank,
                "padding": (0, 0) * rank,
                "dilation": (1,) * rank,
                "groups": 1,
            }
        last = source.name
        for op, own in steps:
            name = fresh_name(self.found.draft.graph, f"{node.name}_{op}")
            self._append(Node(name, op, path=node.path), [last], own)
            last = name
        return [last], attributes


def _cut_weight(weight: Tensor, outputs: Tensor, inputs: Tensor, groups: int) -> Tensor:
    """Return the slices ``weight[row, column]`` whose channels are kept at both ends."""
    rows = weight[outputs]
    if groups == 1:
        return rows[:, inputs]
    columns = inputs.view(groups, -1).repeat_interleave(len(weight) // groups, 0)[outputs]
    return rows[columns].view(len(rows), -1, *weight.shape[2:])
