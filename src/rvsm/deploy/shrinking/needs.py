"""Backwards: which channels the output needs, once what is constant is folded into biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rvsm.deploy import ops
from rvsm.deploy.graph import Node
from rvsm.deploy.shrinking.constants import Constants, is_even
from rvsm.deploy.shrinking.draft import (
    PRODUCERS,
    Draft,
    bias_name,
    gathered,
    groups_of,
    reads,
    spread,
)


@dataclass
class Needs:
    """What the output needs, and layers that compute it with fewer nonzeros.

    Attributes
    ----------
    draft
        The network with its constants folded: the same output, of the same shapes throughout.
    needed
        For every node ``(channels,)`` of bool: whether the output depends on the channel, or
        shows it. The others may have any value.
    constant
        The convolutions and linear layers that read nothing any more, though there are layers
        with weights before them.
    """

    draft: Draft
    needed: dict[str, Tensor]
    constant: set[str] = field(default_factory=set)


def needs(draft: Draft, known: Mapping[str, Constants]) -> Needs:
    """Find what is needed, from the output back to the input.

    A weight that reads a constant channel goes into the bias where its part of the sum has one
    value in every place; at a border where the constant meets padding it has not, and stays. A
    row that is constant becomes a bias, one nobody needs becomes zero.
    """
    needed = {
        node.name: torch.zeros(draft.shapes[node.name][0], dtype=torch.bool)
        for node in draft.graph.nodes
    }
    needed[draft.graph.output.name][:] = True
    unread = _zero_in_every_use(draft, known)
    changed = {
        name: draft.tensors[name].masked_fill(_wide(m, draft.tensors[name]), 0.0)
        for name, m in unread.items()
    }
    weighted: dict[str, bool] = {}
    for node in draft.graph.nodes:
        weighted[node.name] = bool(node.tensors) or any(weighted[name] for name in node.inputs)
    nodes: list[Node] = []
    constant = set()
    for node in reversed(draft.graph.nodes):
        wanted = needed[node.name]
        if node.op in PRODUCERS:
            (source,) = node.inputs
            if not draft.is_tied(node):
                node = _simplified(draft, node, known, wanted, changed)
            name = node.tensors["weight"]
            pairs = reads(changed.get(name, draft.tensors[name]))
            # one that comes first reads the input and is as small as it can be
            if not draft.is_tied(node) and not pairs.any() and weighted[source]:
                constant.add(node.name)
            needed[source] |= gathered(pairs & wanted[:, None], node)
        elif node.op == "batch_norm":
            if not draft.is_tied(node):
                _silence(draft, node, wanted, changed)
            if "weight" in node.tensors:
                wanted = wanted & (draft.tensors[node.tensors["weight"]] != 0)
            needed[node.inputs[0]] |= wanted
        elif node.op == "concat":
            for name, part in draft.parts(node):
                needed[name] |= wanted[part]
        elif node.op == "select":
            needed[node.inputs[0]][torch.tensor(node.ints("channels"))[wanted]] = True
        elif node.op == "flatten":
            source = node.inputs[0]
            needed[source] |= wanted.view(len(needed[source]), -1).any(1)
        elif node.op == "softmax":
            needed[node.inputs[0]] |= wanted.any()
        else:
            for name in node.inputs:
                needed[name] |= wanted
        nodes.append(node)
    folded = draft.rebuilt(nodes[::-1], changed, draft.graph.output.name)
    return Needs(folded, needed, constant)


def _wide(pairs: Tensor, weight: Tensor) -> Tensor:
    return pairs.view(*pairs.shape, *(1,) * (weight.dim() - 2))


def _zero_in_every_use(draft: Draft, known: Mapping[str, Constants]) -> dict[str, Tensor]:
    """Return for each weight of several layers the slices that all of them multiply by zero."""
    found: dict[str, Tensor] = {}
    for node in draft.graph.nodes:
        name = node.tensors.get("weight")
        if node.op in PRODUCERS and name in draft.tied:
            zero = spread(known[node.inputs[0]].zero, node, draft.shapes[node.name][0])
            found[name] = found[name] & zero if name in found else zero
    return found


def _simplified(
    draft: Draft,
    node: Node,
    known: Mapping[str, Constants],
    wanted: Tensor,
    changed: dict[str, Tensor],
) -> Node:
    """Fold what a convolution or linear layer reads of constants into its bias."""
    name = node.tensors["weight"]
    weight = draft.tensors[name]
    given = draft.own(node).get("bias")
    bias = torch.zeros(len(weight), dtype=weight.dtype) if given is None else given.clone()
    used = reads(weight)
    own = known[node.name]
    first = own.values.flatten(1)[:, 0] if own.values.dim() > 1 else own.values
    settled = own.even & used.any(1)
    bias[settled] = first[settled]
    bias[~wanted] = 0.0
    moving = wanted & ~own.even
    source = known[node.inputs[0]]
    gone, shift = _foldable(node, weight, used & moving[:, None], source)
    bias += shift
    gone |= used & ~moving[:, None]
    if gone.any():
        changed[name] = weight.masked_fill(_wide(gone, weight), 0.0)
    staying = used & ~gone & spread(source.even, node, len(weight))
    if node.op == "conv" and staying.any():
        changed[name] = _on_one_constant(node, changed.get(name, weight), staying, source)
    if given is None:
        if not bias.any():
            return node
        node = replace(node, tensors={**node.tensors, "bias": bias_name(draft, node)})
        changed[node.tensors["bias"]] = bias
    elif not torch.equal(bias, given):
        changed[node.tensors["bias"]] = bias
    return node


def _foldable(node: Node, weight: Tensor, used: Tensor, source: Constants) -> tuple[Tensor, Tensor]:
    """Return the slices ``weight[row, column]`` that add a constant, and the sum of each row's."""
    pairs = used & spread(source.known, node, len(weight))
    shift = torch.zeros(len(weight), dtype=weight.dtype)
    if not pairs.any():
        return pairs, shift
    if node.op == "linear":
        pairs &= source.values.isfinite()
        return pairs, (weight * pairs) @ source.values.where(source.values.isfinite(), 0.0)
    groups = groups_of(node)
    rows, columns = len(weight) // groups, weight.shape[1]
    alone = replace(
        node,
        inputs=("map",),
        tensors={"weight": "weight"},
        attributes={**node.attributes, "groups": 1},
    )
    for channel in (source.known & ~source.zero).nonzero().flatten().tolist():
        group, column = divmod(channel, columns)
        block = slice(group * rows, (group + 1) * rows)
        one = weight[block, column : column + 1]
        parts = ops.run(alone, [source.values[None, channel : channel + 1]], {"weight": one})[0]
        pairs[block, column] &= is_even(parts)
        shift[block] += parts.flatten(1)[:, 0].where(pairs[block, column], 0.0)
    return pairs, shift


def _on_one_constant(node: Node, weight: Tensor, pairs: Tensor, source: Constants) -> Tensor:
    """Read one constant channel in place of several, in each group of a convolution.

    Channels ``c`` of one value ``v_c`` in all places add ``w_c * v_c``, padded; so does the
    channel ``d`` with ``sum of w_c v_c / v_d`` as its weight.
    """
    weight = weight.clone()
    groups = groups_of(node)
    rows, columns = len(weight) // groups, weight.shape[1]
    values = source.values.flatten(1)[:, 0]
    for group in range(groups if columns > 1 else 0):
        block = slice(group * rows, (group + 1) * rows)
        several = pairs[block].any(0).nonzero().flatten()
        if len(several) < 2:
            continue
        given = values[group * columns + several]
        # the largest value: no weight grows by the division
        one = int(given.abs().argmax())
        moved = weight[block][:, several] * _wide(
            pairs[block][:, several] * (given / given[one]), weight
        )
        weight[block] = weight[block].masked_fill(_wide(pairs[block], weight), 0.0)
        weight[block, several[one]] += moved.sum(1)
    return weight


def _silence(draft: Draft, node: Node, wanted: Tensor, changed: dict[str, Tensor]) -> None:
    """Give the channels of batch norm that nobody needs the value zero."""
    for role, name in node.tensors.items():
        tensor = draft.tensors[name]
        still = tensor.masked_fill(~wanted, 1.0 if role == "running_var" else 0.0)
        if not torch.equal(still, tensor):
            changed[name] = still
