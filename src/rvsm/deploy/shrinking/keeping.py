"""Which channels stay: those needed, and those that layers cannot be without beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rvsm.deploy.graph import Node
from rvsm.deploy.shrinking.draft import PRODUCERS, Draft, groups_of
from rvsm.deploy.shrinking.needs import Needs


def kept_channels(found: Needs, sizes: Mapping[str, int], round_to: int) -> dict[str, Tensor]:
    """Return the least set of channels that holds all needed ones and can be cut out.

    Parameters
    ----------
    found
        What is needed.
    sizes
        By layer, the channels it had to begin with; rounding gives no layer more.
    round_to
        What the channels of convolutions and linear layers are a multiple of.

    Returns
    -------
    dict
        For every node ``(channels,)`` of bool; all False where the layer goes.
    """
    keeping = _Keeping(found.draft, found.constant, dict(found.needed))
    keeping.close()
    while round_to > 1 and keeping.round_up(sizes, round_to):
        keeping.close()
    live = keeping.live()
    return {
        name: kept if name in live else torch.zeros_like(kept)
        for name, kept in keeping.kept.items()
    }


@dataclass
class _Keeping:
    """A set of channels that grows until every layer can compute with it."""

    draft: Draft
    constant: set[str]
    kept: dict[str, Tensor]
    _uses: dict[str, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = {name: mask.clone() for name, mask in self.kept.items()}
        self.kept[self.draft.graph.input.name][:] = True
        for node in self.draft.graph.nodes:
            for name in dict.fromkeys(node.tensors.values()):
                self._uses.setdefault(name, []).append(node)

    def sources(self, node: Node) -> list[str]:
        """Return what a layer will still read."""
        if node.name in self.constant:
            return []
        if node.op == "concat":
            return [
                name for name, part in self.draft.parts(node) if self.kept[node.name][part].any()
            ]
        return list(node.inputs)

    def live(self) -> set[str]:
        """Return the layers the output is still computed from."""
        live = {self.draft.graph.output.name, self.draft.graph.input.name}
        for node in reversed(self.draft.graph.nodes):
            if node.name in live:
                live.update(self.sources(node))
        return live

    def close(self) -> None:
        """Add channels until no layer asks for more."""
        before = -1
        while before != (size := sum(int(mask.sum()) for mask in self.kept.values())):
            before = size
            live = self.live()
            for node in reversed(self.draft.graph.nodes):
                if node.name in live and node.name not in self.constant:
                    self._fit(node)
            for name in self.draft.tied:
                self._agree(name, [node for node in self._uses[name] if node.name in live])

    def round_up(self, sizes: Mapping[str, int], multiple: int) -> bool:
        """Give channels back until sizes are multiples; say whether any was."""
        grown = False
        live = self.live()
        for node in self.draft.graph.nodes:
            if node.op in PRODUCERS and node.name in live:
                own = self.kept[node.name]
                count = int(own.sum())
                full = min(len(own), sizes.get(node.name, len(own)))
                missing = min(full, -(-count // multiple) * multiple) - count
                if missing > 0:
                    own[(~own).nonzero().flatten()[:missing]] = True
                    grown = True
        return grown

    def _fit(self, node: Node) -> None:
        own = self.kept[node.name]
        if node.op == "concat":
            for name, part in self.draft.parts(node):
                if own[part].any():
                    _unite(own[part], self.kept[name])
            return
        for name in node.inputs:
            source = self.kept[name]
            if node.op in PRODUCERS:
                _fit_groups(source, own, groups_of(node))
            elif node.op == "select":
                source[torch.tensor(node.ints("channels"))[own]] = True
                if not source.any():
                    source[0] = True
            elif node.op == "flatten":
                blocks = own.view(len(source), -1)
                source |= blocks.any(1)
                blocks |= source[:, None]
            else:
                _unite(own, source)

    def _agree(self, name: str, uses: list[Node]) -> None:
        """Cut a tensor of several layers for all of them alike."""
        if len(uses) < 2:
            return
        rows = torch.stack([self.kept[node.name] for node in uses]).any(0)
        for node in uses:
            self.kept[node.name] |= rows
        if uses[0].op not in PRODUCERS or name != uses[0].tensors["weight"]:
            return
        inputs = [self.kept[node.inputs[0]] for node in uses]
        if any(groups_of(node) > 1 for node in uses):
            for node, mask in zip(uses, inputs, strict=True):
                self.kept[node.name][:] = True
                mask[:] = True
            return
        columns = torch.stack(inputs).any(0)
        for mask in inputs:
            mask |= columns


def _unite(one: Tensor, other: Tensor) -> None:
    one |= other
    other |= one


def _fit_groups(inputs: Tensor, outputs: Tensor, groups: int) -> None:
    """Leave every group of a convolution the same number of channels, or none at all."""
    if groups == 1:
        if not inputs.any():
            inputs[0] = True
        return
    ins, outs = inputs.view(groups, -1), outputs.view(groups, -1)
    alive = ins.any(1) | outs.any(1)
    for part in (ins, outs):
        most = max(1, int(part.sum(1).max()))
        for group in alive.nonzero().flatten().tolist():
            missing = most - int(part[group].sum())
            if missing > 0:
                part[group, (~part[group]).nonzero().flatten()[:missing]] = True
