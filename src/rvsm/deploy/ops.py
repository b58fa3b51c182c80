"""Every type of layer of a `Graph` as torch computes it: what all other ways are measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rvsm.deploy.graph import Attribute, Graph, Node

Maps = Sequence[Tensor]
_POOLS: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("max_pool", 1): F.max_pool1d,
    ("max_pool", 2): F.max_pool2d,
    ("avg_pool", 1): F.avg_pool1d,
    ("avg_pool", 2): F.avg_pool2d,
    ("adaptive_max_pool", 1): F.adaptive_max_pool1d,
    ("adaptive_max_pool", 2): F.adaptive_max_pool2d,
    ("adaptive_avg_pool", 1): F.adaptive_avg_pool1d,
    ("adaptive_avg_pool", 2): F.adaptive_avg_pool2d,
}


def run(node: Node, maps: Maps, tensors: Mapping[str, Tensor], training: bool = False) -> Tensor:
    """Compute one layer.

    Parameters
    ----------
    node
        The layer; not ``input``.
    maps
        What it reads, each ``(batch, *shape)``.
    tensors
        Tensors by name.
    training
        Whether batch normalisation takes the statistics of the batch and updates its own.

    Returns
    -------
    Tensor
        ``(batch, *shape)``.
    """
    own = {role: tensors[name] for role, name in node.tensors.items()}
    if node.op == "batch_norm":
        return F.batch_norm(
            maps[0],
            own["running_mean"],
            own["running_var"],
            own.get("weight"),
            own.get("bias"),
            training,
            eps=node.number("eps"),
        )
    return _RUN[node.op](node, maps, own)


def _conv(node: Node, maps: Maps, own: Mapping[str, Tensor]) -> Tensor:
    weight, bias = own["weight"], own.get("bias")
    rank = weight.dim() - 2
    padding = node.ints("padding")
    before, after = padding[::2], padding[1::2]
    x = maps[0]
    if before != after:
        pairs = [size for pair in zip(before[::-1], after[::-1], strict=True) for size in pair]
        x, before = F.pad(x, pairs), (0,) * rank
    conv: Callable[..., Tensor] = F.conv1d if rank == 1 else F.conv2d
    return conv(
        x,
        weight,
        bias,
        node.ints("stride"),
        before,
        node.ints("dilation"),
        int(node.number("groups")),
    )


def _pool(node: Node, maps: Maps, own: Mapping[str, Tensor]) -> Tensor:
    rank = maps[0].dim() - 2
    function = _POOLS[node.op, rank]
    if node.op.startswith("adaptive"):
        return function(maps[0], node.ints("size"))
    options: dict[str, Attribute] = {
        "kernel_size": node.ints("kernel"),
        "stride": node.ints("stride"),
        "padding": node.ints("padding"),
        "ceil_mode": node.attributes["ceil"],
    }
    if node.op == "max_pool":
        options["dilation"] = node.ints("dilation")
    else:
        options["count_include_pad"] = node.attributes["count_padding"]
    return function(maps[0], **options)


def _softmax(node: Node, maps: Maps, own: Mapping[str, Tensor]) -> Tensor:
    return F.log_softmax(maps[0], 1) if node.attributes["log"] else F.softmax(maps[0], 1)


def _select(node: Node, maps: Maps, own: Mapping[str, Tensor]) -> Tensor:
    channels = torch.tensor(node.ints("channels"), device=maps[0].device)
    return maps[0].index_select(1, channels)


_RUN: dict[str, Callable[[Node, Maps, Mapping[str, Tensor]], Tensor]] = {
    "conv": _conv,
    "linear": lambda node, maps, own: F.linear(maps[0], own["weight"], own.get("bias")),
    "max_pool": _pool,
    "avg_pool": _pool,
    "adaptive_max_pool": _pool,
    "adaptive_avg_pool": _pool,
    "relu": lambda node, maps, own: F.relu(maps[0]),
    "leaky_relu": lambda node, maps, own: F.leaky_relu(maps[0], node.number("slope")),
    "clamp": lambda node, maps, own: maps[0].clamp(node.number("low"), node.number("high")),
    "sigmoid": lambda node, maps, own: maps[0].sigmoid(),
    "tanh": lambda node, maps, own: maps[0].tanh(),
    "silu": lambda node, maps, own: F.silu(maps[0]),
    "gelu": lambda node, maps, own: F.gelu(
        maps[0], approximate="tanh" if node.attributes["tanh"] else "none"
    ),
    "add": lambda node, maps, own: maps[0] + maps[1],
    "concat": lambda node, maps, own: torch.cat(list(maps), 1),
    "select": _select,
    "flatten": lambda node, maps, own: maps[0].flatten(1),
    "softmax": _softmax,
}


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Return the shape of every node's value, without the batch axis.

    Raises
    ------
    RuntimeError
        If layers do not fit together, as torch says it.
    """
    # Batches of none on the CPU: torch takes a second to import what its meta device asks for.
    # Weights are one number seen everywhere, which takes no memory however large they claim to be.
    none = torch.zeros(())
    tensors = {name: none.expand(info.shape) for name, info in graph.tensors.items()}
    values: dict[str, Tensor] = {graph.input.name: torch.empty(0, *graph.input.ints("shape"))}
    for node in graph.nodes[1:]:
        maps = [values[name] for name in node.inputs]
        if node.op == "select":  # of channels that are not there `check` tells more
            taken = len(node.ints("channels"))
            values[node.name] = maps[0].new_empty(0, taken, *maps[0].shape[2:])
            continue
        try:
            values[node.name] = run(node, maps, tensors)
        except RuntimeError as error:
            raise RuntimeError(f"layer {node.name!r}: {error}") from error
    return {name: tuple(value.shape[1:]) for name, value in values.items()}


def check(graph: Graph, found: Mapping[str, tuple[int, ...]]) -> None:
    """Look at what torch lets pass on tensors without data: indices, broadcasts, odd sizes.

    Parameters
    ----------
    graph
        The layers, of which tensors have their shapes.
    found
        The `shapes` of their values.

    Raises
    ------
    ValueError
        If a layer is not one that computes what its type says.
    """
    for node in graph.nodes:
        sources = [found[name] for name in node.inputs]
        own = {role: graph.tensors[name].shape for role, name in node.tensors.items()}
        cause = _misfit(node, sources, own)
        if cause is None and not all(found[node.name]):
            cause = "gives maps without elements"
        if cause is not None:
            raise ValueError(f"layer {node.name!r} {cause}")


def _misfit(
    node: Node, sources: Sequence[tuple[int, ...]], own: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Say what is wrong with a layer."""
    wanted: dict[str, tuple[int, ...]] = {}
    rank = len(sources[0]) - 1 if sources else 0
    match node.op:
        case "input" if not node.ints("shape"):
            return "has no channels"
        case "conv" | "linear":
            if len(own["weight"]) != (2 + rank):
                return "has a weight with another number of axes"
            wanted = {"bias": own["weight"][:1]}
        case "batch_norm":
            wanted = dict.fromkeys(own, sources[0][:1])
        case "add" if sources[0] != sources[1]:
            return "adds maps of different shape"
        case "select" if not set(node.ints("channels")) <= set(range(sources[0][0])):
            return "takes channels that are not there"
        case "select" if not node.ints("channels"):
            return "takes no channels"
    if any(own[role] != shape for role, shape in wanted.items() if role in own):
        return "has a tensor of another size than its channels"
    for key in ("kernel", "stride", "dilation", "size", "padding"):
        if key not in node.attributes:
            continue
        values = node.ints(key)
        if len(values) != rank * (2 if node.op == "conv" and key == "padding" else 1):
            return f"has {len(values)} numbers for its {key}"
        if key != "padding" and 0 in values:
            return f"has a {key} of 0"
    return None
