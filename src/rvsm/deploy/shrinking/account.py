"""What a shrunk network has left of every layer, and how far its outputs are from before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from rvsm.deploy.graph import Graph, Node
from rvsm.deploy.ops import shapes
from rvsm.deploy.shrinking.draft import PRODUCERS
from rvsm.text import as_text


@dataclass(frozen=True)
class Size:
    """How large a layer is: channels read and given, weights with biases, multiply-adds.

    Multiply-adds are those of one sample in convolutions and linear layers.
    """

    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    macs: int = 0


@dataclass(frozen=True)
class ShrunkLayer:
    """One layer with weights before and after; what is gone has size 0."""

    name: str
    op: str
    before: Size
    after: Size


@dataclass(frozen=True)
class ShrinkReport:
    """The account of `rvsm.shrink`: `print` it, hand it to rich, or take `to_dict()`.

    Attributes
    ----------
    layers
        Every layer that had weights, in the order they run.
    difference
        The largest difference of an output from the module's, both in float64 before the
        tensors are rounded to their own dtype: that the cut is right.
    rounded_difference
        The same in the module's own dtype: what a user sees.
    scale
        The largest output, for comparison.
    dtype
        The module's own dtype.
    """

    layers: tuple[ShrunkLayer, ...]
    difference: float
    rounded_difference: float
    scale: float
    dtype: str

    @property
    def channels_removed(self) -> int:
        """Output channels and units of convolutions and linear layers that are gone."""
        return sum(
            layer.before.outputs - layer.after.outputs
            for layer in self.layers
            if layer.op in PRODUCERS
        )

    def total(self) -> tuple[Size, Size]:
        """Return weights and multiply-adds of all layers, before and after."""
        sides = ([x.before for x in self.layers], [x.after for x in self.layers])
        before, after = (
            Size(weights=sum(x.weights for x in side), macs=sum(x.macs for x in side))
            for side in sides
        )
        return before, after

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        before, after = self.total()
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "total": {
                "channels_removed": self.channels_removed,
                "weights_before": before.weights,
                "weights": after.weights,
                "macs_before": before.macs,
                "macs": after.macs,
            },
            "difference_float64": self.difference,
            f"difference_{self.dtype}": self.rounded_difference,
            "scale": self.scale,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table that `rvsm shrink` prints, and the differences below it."""
        before, after = self.total()
        columns: list[tuple[str, str, Callable[[Size], str]]] = [
            (
                "channels",
                "",
                lambda size: f"{size.inputs} > {size.outputs}" if size.outputs else "-",
            ),
            ("weights", "", lambda size: f"{size.weights:,}"),
            ("MACs", "", lambda size: f"{size.macs:,}"),
        ]
        table = Table(show_footer=True)
        table.add_column("layer", footer="all", overflow="fold")
        for title, _, cell in columns:
            for when, whole in (("before", before), ("after", after)):
                footer = "" if title == "channels" else cell(whole)
                table.add_column(f"{title} {when}", footer=footer, justify="right", no_wrap=True)
        for layer in self.layers:
            cells = (cell(size) for *_, cell in columns for size in (layer.before, layer.after))
            table.add_row(layer.name, *cells)
        yield table
        yield (
            f"{self.channels_removed} channels removed; outputs up to {self.scale:.3g} differ by "
            f"at most {self.difference:.1e} in float64, {self.rounded_difference:.1e} in "
            f"{self.dtype}."
        )

    def __str__(self) -> str:
        return as_text(self)


def layer_sizes(before: Graph, after: Graph) -> tuple[ShrunkLayer, ...]:
    """Compare the layers of two networks that have weights, by their names."""
    old, new = _sizes(before), _sizes(after)
    return tuple(
        ShrunkLayer(_label(node), node.op, old[node.name], new.get(node.name, Size()))
        for node in before.nodes
        if node.name in old
    )


def _sizes(graph: Graph) -> dict[str, Size]:
    found, counted = {}, set()
    values = shapes(graph)
    for node in graph.nodes:
        if not node.tensors:
            continue
        weights = 0
        for role in ("weight", "bias"):
            name = node.tensors.get(role)
            if name is not None and name not in counted:
                counted.add(name)
                weights += math.prod(graph.tensors[name].shape)
        macs = 0
        outputs, *places = values[node.name]
        if node.op in PRODUCERS:
            shape = graph.tensors[node.tensors["weight"]].shape
            macs = math.prod(shape) * math.prod(places)
        found[node.name] = Size(values[node.inputs[0]][0], outputs, weights, macs)
    return found


def _label(node: Node) -> str:
    """Return the layer's name in the module, as its tensors tell it."""
    name = node.tensors.get("weight") or next(iter(node.tensors.values()))
    return name.rpartition(".")[0] or name
