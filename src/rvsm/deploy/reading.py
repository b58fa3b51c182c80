"""The operations of a traced program, read one by one as layers of a `Graph`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from rvsm.deploy.container import NAMES
from rvsm.deploy.graph import Attribute, Graph, Node, TensorInfo, spatial
from rvsm.errors import UnsupportedLayer

BATCH = 3
"""The batch a module is traced with: a size that no layer is likely to have by itself."""

_LARGEST: float = torch.finfo(torch.float32).max
"""Where a clamp is open on one side: JSON has no infinity."""

Value: TypeAlias = str | Tensor
"""What an operation of the trace gives: a node's name, or a tensor no input has a part in."""


@dataclass
class Reading:
    """One pass over the operations of an exported program."""

    exported: Any
    input_shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    sources: dict[int, set[str]] = field(default_factory=dict)

    def graph(self) -> tuple[Graph, dict[str, Tensor]]:
        output: Value | None = None
        for node in self.exported.graph.nodes:
            match node.op:
                case "placeholder":
                    self._placeholder(node)
                case "call_function":
                    self._call(node)
                case "get_attr":
                    raise self.unsupported(node, "a nested graph")
                case "output":
                    results = node.args[0]
                    if len(results) != 1 or not isinstance(results[0], fx.Node):
                        raise UnsupportedLayer(
                            f"The module returns {len(results)} values; a network of layers "
                            "returns one tensor."
                        )
                    output = self.values[results[0]]
        if not isinstance(output, str):
            raise UnsupportedLayer("The output of the module does not depend on its input.")
        nodes = _needed(self.nodes, output)
        used = dict.fromkeys(name for node in nodes for name in node.tensors.values())
        tensors = {name: self.tensors[name] for name in used}
        infos = {
            name: TensorInfo(tuple(value.shape), NAMES[value.dtype], name in self.parameters)
            for name, value in tensors.items()
        }
        return Graph(tuple(nodes), infos), tensors

    def _placeholder(self, node: fx.Node) -> None:
        signature = self.exported.graph_signature
        if node.name in signature.inputs_to_parameters:
            name = signature.inputs_to_parameters[node.name]
            self._own(node, name, self.exported.state_dict[name])
            self.parameters.add(name)
        elif node.name in signature.inputs_to_buffers:
            name = signature.inputs_to_buffers[node.name]
            found = self.exported.state_dict.get(name, self.exported.constants.get(name))
            self._own(node, name, found)
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            name = signature.inputs_to_lifted_tensor_constants[node.name]
            self._own(node, name, self.exported.constants[name])
        elif node.name in signature.user_inputs and not self.nodes:
            self._emit(node, "input", shape=self.input_shape)
        else:
            raise UnsupportedLayer(
                f"The module has a second input, {node.name!r}; a network of layers has one."
            )

    def _own(self, node: fx.Node, name: str, value: Tensor) -> None:
        value = value.detach()
        self.values[node] = value
        self.names[id(value)] = name
        self.sources[id(value)] = {name}
        self.tensors[name] = value

    def _call(self, node: fx.Node) -> None:
        reads = [self.values[x] for x in node.all_input_nodes if x in self.values]
        if not any(isinstance(value, str) for value in reads):
            self._constant(node, [value for value in reads if isinstance(value, Tensor)])
            return
        read = _READ.get(str(node.target))
        if read is None:
            raise self.unsupported(node, str(node.target).removeprefix("aten."))
        read(self, node)
        # x.relu_() changes x for all who read it later
        target = str(node.target).split(".")
        if len(target) > 1 and target[1].endswith("_") and isinstance(node.args[0], fx.Node):
            if not node.args[0].all_input_nodes or "view" in str(node.args[0].target):
                raise self.unsupported(node, "a change in place of what is read elsewhere too")
            self.values[node.args[0]] = self.values[node]

    def _constant(self, node: fx.Node, reads: list[Tensor]) -> None:
        """Compute what depends on the module's own tensors alone."""

        def value(x: fx.Node) -> Any:
            return self.values.get(x)

        assert callable(node.target)
        arguments = fx.node.map_arg(node.args, value)
        options = fx.node.map_arg(node.kwargs, value)
        result = node.target(*arguments, **options)
        if not isinstance(result, Tensor):
            return
        self.values[node] = result
        sources = {name for x in reads for name in self.sources.get(id(x), ())}
        self.sources[id(result)] = sources

    def unsupported(self, node: fx.Node, what: str) -> UnsupportedLayer:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else kind.__name__
        name = kind.rpartition(".")[2]
        place = f"{path} ({name})" if path else f"the forward of {name or 'the module'}"
        return UnsupportedLayer(
            f"{place} does {what}, which is no layer rvsm knows; it is left whole."
        )

    # what the readers of operations use

    def source(self, node: fx.Node, place: int | fx.Node = 0) -> str:
        """Return the name of the map an operation reads."""
        argument = node.args[place] if isinstance(place, int) else place
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, str):
            raise self.unsupported(node, f"{node.target} of a constant")
        return value

    def tensor(self, node: fx.Node, place: int) -> str | None:
        """Return the name of a tensor an operation reads, None where there is none."""
        argument = node.args[place] if len(node.args) > place else None
        if argument is None:
            return None
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, Tensor):
            raise self.unsupported(node, f"{node.target} with a computed weight")
        return self._name(value, str(argument))

    def _name(self, value: Tensor, fallback: str) -> str:
        """Return a tensor's name; one computed of a single parameter takes its name and place."""
        if id(value) not in self.names:
            owners = self.sources.get(id(value), set()) & self.parameters
            read = {name for node in self.nodes for name in node.tensors.values()}
            name = fallback
            if len(owners) == 1 and not owners & read:
                (name,) = owners
                self.names = {key: own for key, own in self.names.items() if own != name}
            self.names[id(value)] = name
            self.tensors[name] = value
        return self.names[id(value)]

    def emit(
        self,
        node: fx.Node,
        op: str,
        *,
        inputs: Sequence[str] | None = None,
        tensors: Mapping[str, str | None] | None = None,
        **attributes: Attribute,
    ) -> None:
        """Append a layer that computes what the operation does."""
        inputs = (self.source(node),) if inputs is None else tuple(inputs)
        self._emit(node, op, inputs, tensors or {}, **attributes)

    def _emit(
        self,
        node: fx.Node,
        op: str,
        inputs: Sequence[str] = (),
        tensors: Mapping[str, str | None] = {},
        **attributes: Attribute,
    ) -> None:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        own = {role: name for role, name in tensors.items() if name is not None}
        path = stack[-1][0] if stack else ""
        self.nodes.append(Node(node.name, op, tuple(inputs), own, attributes, path))
        self.values[node] = node.name
        value = node.meta.get("val")
        self.shapes[node.name] = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()

    def same(self, node: fx.Node) -> None:
        """Let an operation stand for what it reads."""
        self.values[node] = self.source(node)


def _needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """Return the layers the output depends on, the output last."""
    wanted = {output}
    kept = []
    for node in reversed(nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
            kept.append(node)
        elif node.op == "input":
            raise UnsupportedLayer("The output of the module does not depend on its input.")
    return kept[::-1]


def _argument(node: fx.Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def _ints(node: fx.Node, place: int, rank: int, default: Sequence[int] = (0,)) -> tuple[int, ...]:
    value = _argument(node, place, default)
    values = [value] if isinstance(value, int) else list(value)
    return spatial(values or list(default), rank)


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape) - 2


def _batched(reading: Reading, node: fx.Node) -> None:
    argument = node.args[0]
    assert isinstance(argument, fx.Node)
    wanted = _rank(node) + 2
    if argument.meta["val"].dim() != wanted:
        raise reading.unsupported(node, f"{node.target} of a map without a batch axis")


def _conv(reading: Reading, node: fx.Node) -> None:
    rank = _rank(node)
    dilation = _ints(node, 5, rank, (1,))
    padding = _argument(node, 4, [0])
    weight = reading.tensor(node, 1)
    assert weight is not None
    kernel = reading.tensors[weight].shape[2:]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pairs = tuple(size for t in total for size in (t // 2, t - t // 2))
    elif padding == "valid":
        pairs = (0, 0) * rank
    else:
        pairs = tuple(size for p in spatial(list(padding), rank) for size in (p, p))
    reading.emit(
        node,
        "conv",
        tensors={"weight": weight, "bias": reading.tensor(node, 2)},
        stride=_ints(node, 3, rank, (1,)),
        padding=pairs,
        dilation=dilation,
        groups=int(_argument(node, 6, 1)),
    )


def _linear(reading: Reading, node: fx.Node) -> None:
    if len(node.meta["val"].shape) != 2:
        raise reading.unsupported(node, "a linear layer on every place of a map")
    tensors = {"weight": reading.tensor(node, 1), "bias": reading.tensor(node, 2)}
    reading.emit(node, "linear", tensors=tensors)


def _batch_norm(reading: Reading, node: fx.Node) -> None:
    if _argument(node, 5, False) or _argument(node, 3, None) is None:
        raise reading.unsupported(node, "normalisation by the statistics of the batch")
    roles = ("weight", "bias", "running_mean", "running_var")
    tensors = {role: reading.tensor(node, place) for place, role in enumerate(roles, start=1)}
    reading.emit(node, "batch_norm", tensors=tensors, eps=float(_argument(node, 7, 1e-5)))


def _window(reading: Reading, node: fx.Node) -> dict[str, tuple[int, ...]]:
    """Return what both kinds of pooling have."""
    _batched(reading, node)
    rank = _rank(node)
    kernel = _ints(node, 1, rank)
    stride, padding = _ints(node, 2, rank, kernel), _ints(node, 3, rank)
    return {"kernel": kernel, "stride": stride, "padding": padding}


def _max_pool(reading: Reading, node: fx.Node) -> None:
    attributes: dict[str, Any] = {
        **_window(reading, node),
        "dilation": _ints(node, 4, _rank(node), (1,)),
        "ceil": bool(_argument(node, 5, False)),
    }
    reading.emit(node, "max_pool", **attributes)


def _avg_pool(reading: Reading, node: fx.Node) -> None:
    if _argument(node, 6, None) is not None:
        raise reading.unsupported(node, "average pooling with a divisor of its own")
    attributes: dict[str, Any] = {
        **_window(reading, node),
        "ceil": bool(_argument(node, 4, False)),
        "count_padding": bool(_argument(node, 5, True)),
    }
    reading.emit(node, "avg_pool", **attributes)


def _adaptive(op: str) -> Callable[[Reading, fx.Node], None]:
    def read(reading: Reading, node: fx.Node) -> None:
        value = node.meta["val"]
        shape = (value[0] if isinstance(value, (tuple, list)) else value).shape
        reading.emit(node, op, size=tuple(shape[2:]))
        reading.shapes[node.name] = tuple(shape[1:])

    return read


def _mean(reading: Reading, node: fx.Node) -> None:
    source = reading.source(node)
    rank = len(reading.shapes[source]) - 1
    axes = _argument(node, 1, None)
    axes = sorted(axis % (rank + 2) for axis in (axes or []))
    if rank < 1 or axes != list(range(2, rank + 2)) or node.kwargs:
        raise reading.unsupported(node, "a mean that is not over all places of a map")
    reading.emit(node, "adaptive_avg_pool", size=(1,) * rank)
    channels = reading.shapes[source][0]
    reading.shapes[node.name] = (channels, *(1,) * rank)
    if not _argument(node, 2, False):
        pooled = node.name
        flat = Node(f"{pooled}_flat", "flatten", (pooled,), path=reading.nodes[-1].path)
        reading.nodes.append(flat)
        reading.shapes[flat.name] = (channels,)
        reading.values[node] = flat.name


def _reshape(reading: Reading, node: fx.Node) -> None:
    source = reading.source(node)
    before, after = reading.shapes[source], tuple(node.meta["val"].shape)
    if after[0] != BATCH:
        raise reading.unsupported(node, "a change of shape that moves the batch axis")
    if after[1:] == before:
        reading.same(node)
    elif len(after) == 2:
        reading.emit(node, "flatten")
    else:
        raise reading.unsupported(node, "a change of shape other than flattening")


def _plain(op: str) -> Callable[[Reading, fx.Node], None]:
    return lambda reading, node: reading.emit(node, op)


def _clamp(low: float, high: float) -> Callable[[Reading, fx.Node], None]:
    def read(reading: Reading, node: fx.Node) -> None:
        bounds = (_argument(node, 1, None), _argument(node, 2, None))
        bottom = low if bounds[0] is None else float(bounds[0])
        top = high if bounds[1] is None else float(bounds[1])
        reading.emit(node, "clamp", low=bottom, high=top)

    return read


def _leaky_relu(reading: Reading, node: fx.Node) -> None:
    reading.emit(node, "leaky_relu", slope=float(_argument(node, 1, 0.01)))


def _gelu(reading: Reading, node: fx.Node) -> None:
    reading.emit(node, "gelu", tanh=node.kwargs.get("approximate", "none") == "tanh")


def _add(reading: Reading, node: fx.Node) -> None:
    if node.kwargs.get("alpha", 1) != 1 or not isinstance(node.args[1], fx.Node):
        raise reading.unsupported(node, "a sum with a number")
    inputs = (reading.source(node, 0), reading.source(node, 1))
    if reading.shapes[inputs[0]] != reading.shapes[inputs[1]]:
        raise reading.unsupported(node, "a sum of maps of different shape")
    reading.emit(node, "add", inputs=inputs)


def _concat(reading: Reading, node: fx.Node) -> None:
    maps = node.args[0]
    assert isinstance(maps, (list, tuple))
    if _argument(node, 1, 0) % len(node.meta["val"].shape) != 1:
        raise reading.unsupported(node, "a concatenation other than along the channels")
    inputs = [reading.source(node, x) for x in maps if isinstance(x, fx.Node)]
    reading.emit(node, "concat", inputs=inputs)


def _slice(reading: Reading, node: fx.Node) -> None:
    source = reading.source(node)
    shape = (BATCH, *reading.shapes[source])
    axis = _argument(node, 1, 0) % len(shape)
    start, stop, step = (_argument(node, place, None) for place in (2, 3, 4))
    places = range(shape[axis])[slice(start, stop, step)]
    if len(places) == shape[axis]:
        reading.same(node)
    elif axis == 1:
        reading.emit(node, "select", channels=tuple(places))
    else:
        raise reading.unsupported(node, "cutting a map")


def _softmax(log: bool) -> Callable[[Reading, fx.Node], None]:
    def read(reading: Reading, node: fx.Node) -> None:
        if _argument(node, 1, 1) % len(node.meta["val"].shape) != 1:
            raise reading.unsupported(node, "a softmax other than over the channels")
        reading.emit(node, "softmax", log=log)

    return read


def _dropout(reading: Reading, node: fx.Node) -> None:
    if _argument(node, 2, False):
        raise reading.unsupported(node, "dropout while evaluating")
    reading.same(node)


def _to(reading: Reading, node: fx.Node) -> None:
    argument = node.args[0]
    assert isinstance(argument, fx.Node)
    if node.meta["val"].dtype != argument.meta["val"].dtype:
        raise reading.unsupported(node, "a change of dtype")
    reading.same(node)


def _item(reading: Reading, node: fx.Node) -> None:
    # pooling returns the places of the maxima too: nobody reads them, or `source` says so
    if node.args[1] == 0:
        reading.same(node)


def _nothing(reading: Reading, node: fx.Node) -> None:
    pass


_READ: dict[str, Callable[[Reading, fx.Node], None]] = {
    **dict.fromkeys(("aten.conv1d.default", "aten.conv2d.default"), _conv),
    **dict.fromkeys(("aten.conv1d.padding", "aten.conv2d.padding"), _conv),
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    **dict.fromkeys(("aten.max_pool1d.default", "aten.max_pool2d.default"), _max_pool),
    **dict.fromkeys(("aten.avg_pool1d.default", "aten.avg_pool2d.default"), _avg_pool),
    "aten.adaptive_avg_pool1d.default": _adaptive("adaptive_avg_pool"),
    "aten.adaptive_avg_pool2d.default": _adaptive("adaptive_avg_pool"),
    "aten.adaptive_max_pool1d.default": _adaptive("adaptive_max_pool"),
    "aten.adaptive_max_pool2d.default": _adaptive("adaptive_max_pool"),
    "aten.mean.dim": _mean,
    **dict.fromkeys(("aten.relu.default", "aten.relu_.default"), _plain("relu")),
    **dict.fromkeys(("aten.leaky_relu.default", "aten.leaky_relu_.default"), _leaky_relu),
    **dict.fromkeys(("aten.sigmoid.default", "aten.sigmoid_.default"), _plain("sigmoid")),
    **dict.fromkeys(("aten.tanh.default", "aten.tanh_.default"), _plain("tanh")),
    **dict.fromkeys(("aten.silu.default", "aten.silu_.default"), _plain("silu")),
    "aten.gelu.default": _gelu,
    **dict.fromkeys(("aten.hardtanh.default", "aten.hardtanh_.default"), _clamp(-1.0, 1.0)),
    **dict.fromkeys(("aten.relu6.default", "aten.relu6_.default"), _clamp(0.0, 6.0)),
    **dict.fromkeys(("aten.clamp.default", "aten.clamp_.default"), _clamp(-_LARGEST, _LARGEST)),
    **dict.fromkeys(("aten.add.Tensor", "aten.add_.Tensor"), _add),
    "aten.cat.default": _concat,
    "aten.slice.Tensor": _slice,
    **dict.fromkeys(
        (
            f"aten.{name}.{overload}"
            for name, overload in (
                ("flatten", "using_ints"),
                ("view", "default"),
                ("reshape", "default"),
                ("squeeze", "dim"),
                ("squeeze", "dims"),
                ("squeeze", "default"),
            )
        ),
        _reshape,
    ),
    "aten.softmax.int": _softmax(log=False),
    "aten.log_softmax.int": _softmax(log=True),
    **dict.fromkeys(
        (
            f"aten.{name}.default"
            for name in (
                "dropout",
                "dropout_",
                "feature_dropout",
                "alpha_dropout",
                "feature_alpha_dropout",
            )
        ),
        _dropout,
    ),
    **dict.fromkeys(
        (f"aten.{name}.default" for name in ("contiguous", "clone", "alias", "detach", "detach_")),
        Reading.same,
    ),
    **dict.fromkeys(("aten.to.dtype", "aten.to.dtype_layout", "aten._to_copy.default"), _to),
    "aten._assert_tensor_metadata.default": _nothing,
    str(operator.getitem): _item,
}
