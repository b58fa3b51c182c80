"""Forwards: which channels have the same values whatever the input is, and which values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rvsm.deploy import ops
from rvsm.deploy.graph import Node
from rvsm.deploy.shrinking.draft import PRODUCERS, Draft, reads, spread

_SAME = 1e-12
"""Sums of the same terms in another order differ by less than this share of their size."""


@dataclass(frozen=True)
class Constants:
    """What is known of a map before any input is seen.

    Attributes
    ----------
    known : Tensor of bool, (channels,)
        Whether the channel is constant: it may differ from place to place, as at a border with
        padding, but not from input to input.
    values : Tensor, (channels, *places)
        Its values; 0 where they are not known.
    """

    known: Tensor
    values: Tensor

    @cached_property
    def even(self) -> Tensor:
        """Which channels are constant and the same in every place, ``(channels,)`` of bool."""
        return self.known & is_even(self.values)

    @cached_property
    def zero(self) -> Tensor:
        """Which channels are constant and zero, ``(channels,)`` of bool."""
        return self.known & ~self.values.reshape(len(self.known), -1).any(1)


def is_even(maps: Tensor) -> Tensor:
    """Say of each map ``maps[i]`` whether it has one value, up to rounding."""
    if maps.dim() == 1:
        return maps.isfinite()
    places = maps.flatten(1)
    low, high = places.amin(1), places.amax(1)
    # false where a value is infinite or no number
    even: Tensor = high - low <= _SAME * torch.maximum(low.abs(), high.abs())
    return even


def constants(draft: Draft) -> dict[str, Constants]:
    """Return what is constant in every value of a network.

    A row of a convolution or linear layer is constant where every channel it reads with a
    nonzero weight is; a channel of batch norm also where its scale is zero; a sum where both
    its terms are; a softmax where every channel is. All else passes constants on channel by
    channel, with the values that the layer itself computes of them.
    """
    found: dict[str, Constants] = {}
    for node in draft.graph.nodes:
        shape = draft.shapes[node.name]
        known = _known(draft, node, found)
        values = torch.zeros(shape, dtype=torch.float64)
        if known.any():
            maps = [found[name].values[None] for name in node.inputs]
            computed = ops.run(node, maps, draft.tensors)[0]
            values[known] = computed[known]
        found[node.name] = Constants(known, values)
    return found


def _known(draft: Draft, node: Node, found: dict[str, Constants]) -> Tensor:
    inputs = [found[name].known for name in node.inputs]
    channels = draft.shapes[node.name][0]
    if node.op == "input":
        return torch.zeros(channels, dtype=torch.bool)
    if node.op in PRODUCERS:
        weight = draft.tensors[node.tensors["weight"]]
        return (~reads(weight) | spread(inputs[0], node, channels)).all(1)
    if node.op == "batch_norm" and "weight" in node.tensors:
        return inputs[0] | (draft.tensors[node.tensors["weight"]] == 0)
    if node.op == "add":
        return inputs[0] & inputs[1]
    if node.op == "concat":
        return torch.cat(inputs)
    if node.op == "select":
        return inputs[0][list(node.ints("channels"))]
    if node.op == "flatten":
        return inputs[0].repeat_interleave(channels // len(inputs[0]))
    if node.op == "softmax":
        return inputs[0].all().expand(channels)
    return inputs[0]
