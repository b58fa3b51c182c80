"""From a `Graph` to the steps of compiled code: batch normalisation folded, neighbours fused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from torch import Tensor

from rvsm.deploy import ops
from rvsm.deploy.compiler import steps
from rvsm.deploy.compiler.steps import Activation, Floats, Shape, Step, Window
from rvsm.deploy.graph import Graph, Node
from rvsm.errors import RvsmError


@dataclass(frozen=True)
class Program:
    """Steps in order, the name and shape of the input, and the name of the output."""

    input: str
    input_shape: Shape
    steps: tuple[Step, ...]
    output: str

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every value."""
        return {self.input: self.input_shape, **{s.output: s.shape for s in self.steps}}


def lower(graph: Graph, tensors: Mapping[str, Tensor]) -> Program:
    """Turn layers into steps and fuse what can be stored at once.

    Parameters
    ----------
    graph, tensors
        A network, as `rvsm.deploy.network.Network` holds it.

    Returns
    -------
    Program
        The same function up to rounding: folding is done in float64.

    Raises
    ------
    RvsmError
        If a weight is not finite.
    """
    shapes = {name: _planar(shape) for name, shape in ops.shapes(graph).items()}
    found: list[Step] = []
    for node in graph.nodes[1:]:
        arrays = {
            role: tensors[name].detach().double().cpu().numpy()
            for role, name in node.tensors.items()
        }
        for role, array in arrays.items():
            if not np.isfinite(array).all():
                raise RvsmError(
                    f"{node.tensors[role]} holds infinite or undefined values; such a network "
                    "cannot be compiled."
                )
        found.append(_LOWER[node.op](node, shapes, arrays))
    program = Program(graph.input.name, shapes[graph.input.name], tuple(found), graph.output.name)
    for rules in _RULES:
        program = _everywhere(program, rules)
    return replace(program, steps=tuple(_single(step) for step in program.steps))


def _single(step: Step) -> Step:
    """Round the float64 arrays of a step."""
    with np.errstate(over="ignore"):  # it is looked for below
        arrays = {
            name: np.ascontiguousarray(value, dtype=np.float32)
            for name, value in vars(step).items()
            if isinstance(value, np.ndarray)
        }
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise RvsmError(
                f"The {name} of {step.output} overflows float32; such a network cannot be compiled."
            )
    return replace(step, **arrays)  # type: ignore[arg-type]


def _planar(shape: Shape) -> Shape:
    """Return channels, rows and columns of a map of any number of axes; a vector as it is."""
    return (shape[0], math.prod(shape[1:-1]), shape[-1]) if len(shape) > 1 else shape


def _pair(values: Sequence[int], fill: int) -> tuple[int, int]:
    """Return rows and columns; a signal has one row."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


# One layer, one step. Affine maps stay in float64 until all is folded.


class _Base(TypedDict):
    output: str
    inputs: tuple[str, ...]
    shape: Shape


def _base(node: Node, shapes: Mapping[str, Shape]) -> _Base:
    """Return what every step has."""
    return {"output": node.name, "inputs": node.inputs, "shape": shapes[node.name]}


def _conv(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    weight = arrays["weight"]
    padding = node.ints("padding")
    if weight.ndim == 3:
        weight, padding = weight[:, :, None], (0, 0, *padding)
    top, bottom, left, right = padding
    return steps.Conv(
        **_base(node, shapes),
        weight=weight,
        bias=arrays.get("bias", np.zeros(len(weight))),
        stride=_pair(node.ints("stride"), 1),
        padding=(top, bottom, left, right),
        dilation=_pair(node.ints("dilation"), 1),
        groups=int(node.number("groups")),
    )


def _linear(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    weight = arrays["weight"]
    return steps.Linear(
        **_base(node, shapes),
        weight=weight,
        bias=arrays.get("bias", np.zeros(len(weight))),
    )


def _norm(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    mean, var = arrays["running_mean"], arrays["running_var"]
    scale = arrays.get("weight", np.ones_like(mean)) / np.sqrt(var + node.number("eps"))
    shift = arrays.get("bias", np.zeros_like(mean)) - mean * scale
    return steps.Affine(**_base(node, shapes), scale=scale, shift=shift)


def _pool(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    height, width = shapes[node.inputs[0]][1:]
    out_height, out_width = shapes[node.name][1:]
    kernel, stride = _pair(node.ints("kernel"), 1), _pair(node.ints("stride"), 1)
    padding = _pair(node.ints("padding"), 0)
    largest = node.op == "max_pool"
    dilation = _pair(node.ints("dilation"), 1) if largest else (1, 1)
    rows = _windows(out_height, height, kernel[0], stride[0], padding[0], dilation[0])
    columns = _windows(out_width, width, kernel[1], stride[1], padding[1], dilation[1])
    divisors = None
    if not largest:
        counted = bool(node.attributes["count_padding"])
        sizes = [
            _counts(out_height, height, kernel[0], stride[0], padding[0], counted),
            _counts(out_width, width, kernel[1], stride[1], padding[1], counted),
        ]
        divisors = np.outer(np.array(sizes[0]), np.array(sizes[1])).astype(float)
    return steps.Pool(
        **_base(node, shapes),
        source_shape=shapes[node.inputs[0]],
        rows=rows,
        columns=columns,
        dilation=dilation,
        divisors=divisors,
    )


def _windows(
    count: int, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Window, ...]:
    found = []
    for place in range(count):
        start = place * stride - padding
        stop = min(start + (kernel - 1) * dilation + 1, size)
        if start < 0:
            start += math.ceil(-start / dilation) * dilation
        found.append((start, stop))
    return tuple(found)


def _counts(
    count: int, size: int, kernel: int, stride: int, padding: int, counted: bool
) -> list[int]:
    """Return by how many places each mean is divided: with those of the padding, or without."""
    found = []
    for place in range(count):
        start = place * stride - padding
        stop = min(start + kernel, size + padding)
        found.append(stop - start if counted else min(stop, size) - max(start, 0))
    return found


def _adaptive(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    sides = [
        tuple((i * size // count, -((-(i + 1) * size) // count)) for i in range(count))
        for size, count in zip(shapes[node.inputs[0]][1:], shapes[node.name][1:], strict=True)
    ]
    divisors = None
    if node.op == "adaptive_avg_pool":
        lengths = [[stop - start for start, stop in side] for side in sides]
        divisors = np.outer(np.array(lengths[0]), np.array(lengths[1])).astype(float)
    return steps.Pool(
        **_base(node, shapes),
        source_shape=shapes[node.inputs[0]],
        rows=sides[0],
        columns=sides[1],
        divisors=divisors,
    )


def _pointwise(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    activation = Activation(node.op)
    if node.op == "leaky_relu":
        activation = Activation("leaky_relu", node.number("slope"))
    elif node.op == "clamp":
        high = node.number("high")  # the stronger, where they cross
        activation = Activation("clamp", min(node.number("low"), high), high)
    elif node.op == "gelu" and node.attributes["tanh"]:
        activation = Activation("gelu_tanh")
    elif node.op == "add":
        activation = Activation()
    return steps.Pointwise(**_base(node, shapes), activation=activation)


def _concat(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    return steps.Concat(**_base(node, shapes))


def _select(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    return steps.Select(
        **_base(node, shapes),
        channels=node.ints("channels"),
    )


def _flatten(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    return steps.Flatten(**_base(node, shapes))


def _softmax(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Floats]) -> Step:
    return steps.Softmax(
        **_base(node, shapes),
        log=bool(node.attributes["log"]),
    )


_LOWER: dict[str, Callable[[Node, Mapping[str, Shape], Mapping[str, Floats]], Step]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _norm,
    "max_pool": _pool,
    "avg_pool": _pool,
    "adaptive_max_pool": _adaptive,
    "adaptive_avg_pool": _adaptive,
    **dict.fromkeys(
        ("relu", "leaky_relu", "clamp", "sigmoid", "tanh", "silu", "gelu", "add"), _pointwise
    ),
    "concat": _concat,
    "select": _select,
    "flatten": _flatten,
    "softmax": _softmax,
}

# Rules take a step and the step that makes its first input, which nobody else reads, and return
# what does the work of both, or None.
Rule = Callable[[Step, Step], tuple[Step, ...] | None]
FUSED = ("relu", "leaky_relu", "sigmoid", "tanh")
"""Activations that are computed before sums are stored; a clamp to 0 ... 6 is another."""


def _everywhere(program: Program, rules: Sequence[Rule]) -> Program:
    """Apply the first rule that fits, until none does."""
    while (changed := _once(program, rules)) is not None:
        program = changed
    return program


def _once(program: Program, rules: Sequence[Rule]) -> Program | None:
    uses = Counter(name for step in program.steps for name in step.inputs)
    uses[program.output] += 1
    makers = {step.output: step for step in program.steps}
    for place, step in enumerate(program.steps):
        for other in _orders(step):
            maker = makers.get(other.inputs[0])
            if maker is None or uses[maker.output] != 1:
                continue
            for rule in rules:
                new = rule(other, maker)
                if new is None:
                    continue
                # At the later place everything either of them reads is there.
                before = [x for x in program.steps[:place] if x is not maker]
                after = program.steps[place + 1 :]
                return replace(program, steps=(*before, *new, *after))
    return None


def _orders(step: Step) -> list[Step]:
    """Return a step, and a sum with its terms the other way round."""
    if isinstance(step, steps.Pointwise) and len(step.inputs) == 2:
        return [step, replace(step, inputs=step.inputs[::-1])]
    return [step]


def _fold_affine(step: Step, maker: Step) -> tuple[Step, ...] | None:
    """Put an affine map into the weights before it; largest values do not mind a scale >= 0."""
    if not isinstance(step, steps.Affine):
        return None
    if isinstance(maker, steps.Pool) and maker.divisors is None and (step.scale >= 0).all():
        (source,) = maker.inputs
        return (
            replace(step, inputs=(source,), output=maker.output, shape=maker.source_shape),
            replace(maker, inputs=(maker.output,), output=step.output),
        )
    if isinstance(maker, steps.Conv | steps.Linear) and maker.activation.kind == "none":
        axes = (-1,) + (1,) * (maker.weight.ndim - 1)
        return (
            replace(
                maker,
                output=step.output,
                weight=maker.weight * step.scale.reshape(axes),
                bias=maker.bias * step.scale + step.shift,
            ),
        )
    return None


def _fuse_sum(step: Step, maker: Step) -> tuple[Step, ...] | None:
    if (
        isinstance(step, steps.Pointwise)
        and len(step.inputs) == 2
        and step.inputs[0] != step.inputs[1]
        and isinstance(maker, steps.Conv)
        and len(maker.inputs) == 1
        and maker.pool is None
        and maker.activation.kind == "none"
    ):
        return (
            replace(
                maker,
                output=step.output,
                inputs=(*maker.inputs, step.inputs[1]),
                activation=step.activation,
            ),
        )
    return None


def _fuse_activation(step: Step, maker: Step) -> tuple[Step, ...] | None:
    if not isinstance(step, steps.Pointwise) or len(step.inputs) == 2:
        return None
    activation = step.activation
    fused = activation.kind in FUSED or activation == Activation("clamp", 0, 6)
    plain = getattr(maker, "activation", activation).kind == "none"
    pooled = isinstance(maker, steps.Conv) and maker.pool is not None
    if not fused or not plain or (pooled and not activation.rises):
        return None
    if isinstance(maker, steps.Conv | steps.Linear | steps.Affine | steps.Pointwise):
        return (replace(maker, output=step.output, activation=activation),)
    return None


def _fuse_pool(step: Step, maker: Step) -> tuple[Step, ...] | None:
    if not isinstance(step, steps.Pool) or step.divisors is not None:
        return None
    if (
        not isinstance(maker, steps.Conv)
        or len(maker.inputs) == 2
        or maker.pool is not None
        or not maker.activation.rises
    ):
        return None
    size = tuple(windows[0][1] - windows[0][0] for windows in (step.rows, step.columns))
    for windows, side in zip((step.rows, step.columns), size, strict=True):
        if any(window != (i * side, (i + 1) * side) for i, window in enumerate(windows)):
            return None
    if step.dilation != (1, 1):
        return None
    return (replace(maker, output=step.output, shape=step.shape, pool=(size[0], size[1])),)


_RULES: tuple[tuple[Rule, ...], ...] = (
    (_fold_affine,),
    (_fuse_sum, _fuse_activation),
    (_fuse_pool,),
    (_fuse_activation,),
)
