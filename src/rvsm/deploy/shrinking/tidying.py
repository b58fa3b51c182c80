"""Rewrites that change no value: room to cut the input, layers joined, batch norm folded."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rvsm.deploy.graph import Node
from rvsm.deploy.shrinking.draft import PRODUCERS, Draft, bias_name, fresh_name


def with_input_selected(draft: Draft) -> Draft:
    """Let a `select` of all channels stand between the input and the layers that read it.

    The input keeps its shape, whatever is read of it; the cut then takes channels out of the
    selection. It stands behind a flattening, to choose single places.
    """
    graph = draft.graph
    nodes: list[Node] = []
    selected: dict[str, str] = {}
    flat = {
        node.name
        for node in graph.nodes
        if node.op == "flatten" and node.inputs == (graph.input.name,)
    }
    for node in graph.nodes:
        if node.op != "select" and node.name not in flat:
            node = replace(node, inputs=tuple(selected.get(name, name) for name in node.inputs))
        nodes.append(node)
        if node.op == "input" or node.name in flat:
            name = fresh_name(graph, f"{node.name}_select")
            channels = tuple(range(draft.shapes[node.name][0]))
            nodes.append(Node(name, "select", (node.name,), attributes={"channels": channels}))
            selected[node.name] = name
    output = selected.get(graph.output.name, graph.output.name)
    return draft.rebuilt(nodes, {}, output)


def with_selections_joined(draft: Draft) -> Draft:
    """Make one of two selections in a row, and drop those that choose everything."""
    graph = draft.graph
    selections: dict[str, Node] = {}
    stands_for: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(stands_for.get(name, name) for name in node.inputs))
        if node.op == "select":
            channels = node.ints("channels")
            (source,) = node.inputs
            if source in selections:
                inner = selections[source]
                channels = tuple(inner.ints("channels")[place] for place in channels)
                (source,) = inner.inputs
                node = replace(node, inputs=(source,), attributes={"channels": channels})
            selections[node.name] = node
            # a network of no layer at all could not be described
            last = node.name == graph.output.name and source == graph.input.name
            if channels == tuple(range(draft.shapes[source][0])) and not last:
                stands_for[node.name] = source
                continue
        nodes.append(node)
    return draft.rebuilt(nodes, {}, stands_for.get(graph.output.name, graph.output.name))


def with_batch_norm_folded(draft: Draft) -> Draft:
    """Put batch norm into the convolution or linear layer it follows, where nobody else reads it.

    With ``s = weight / sqrt(running_var + eps)`` the rows become ``s w`` and the bias
    ``s (b - running_mean) + bias``.
    """
    readers = draft.graph.readers()
    before = {node.name: node for node in draft.graph.nodes}
    folded: dict[str, Node] = {}
    stands_for: dict[str, str] = {}
    changed: dict[str, Tensor] = {}
    for norm in draft.graph.nodes:
        if norm.op != "batch_norm" or draft.is_tied(norm):
            continue
        node = before[norm.inputs[0]]
        if node.op in PRODUCERS and not draft.is_tied(node) and len(readers[node.name]) == 1:
            own, given = draft.own(norm), draft.own(node)
            scale = (own["running_var"] + norm.number("eps")).rsqrt()
            scale = scale * own.get("weight", torch.ones_like(scale))
            weight = given["weight"]
            changed[node.tensors["weight"]] = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
            bias = given.get("bias", torch.zeros_like(scale)) - own["running_mean"]
            bias = bias * scale + own.get("bias", torch.zeros_like(scale))
            name = bias_name(draft, node)
            changed[name] = bias
            folded[node.name] = replace(node, tensors={**node.tensors, "bias": name})
            stands_for[norm.name] = node.name
    nodes = [
        replace(node, inputs=tuple(stands_for.get(name, name) for name in node.inputs))
        for node in (folded.get(node.name, node) for node in draft.graph.nodes)
        if node.name not in stands_for
    ]
    output = draft.graph.output.name
    return draft.rebuilt(nodes, changed, stands_for.get(output, output))
