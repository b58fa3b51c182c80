"""Which outputs of each layer say anything: looked at in a pass, and asked by its gradient."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rvsm.accounting.passes import Inputs, Owners, plain_evaluation, run, tensors_in

# Layers' functions, and at which axis from the end their outputs have the units.
_UNITS_AT = {
    F.linear: -1,
    torch.conv1d: -2,
    torch.conv2d: -3,
    torch.conv3d: -4,
    torch.conv_transpose1d: -2,
    torch.conv_transpose2d: -3,
    torch.conv_transpose3d: -4,
}


@dataclass(frozen=True)
class Units:
    """How many outputs a layer has, and how many of them told nothing in a pass.

    Attributes
    ----------
    number
        Outputs: channels of a convolution, rows of a linear layer.
    constant
        Those with one value at all positions of all samples; None where each has one value only.
    unused
        Those from which no gradient comes back: None where gradients cannot be taken.
    dead
        Those in either state; None where neither is known.
    """

    number: int
    constant: int | None
    unused: int | None
    dead: int | None


@dataclass
class _Use:
    """One call of a layer: which of its units were constant, and how to ask its gradient."""

    constant: Tensor | None
    number: int
    axis: int
    edge: GradientEdge | None


def find_units(model: nn.Module, samples: Inputs) -> dict[str, Units]:
    """Return what the units of each layer did in one pass, under the names of the weights.

    A unit is unused where the gradient of the output (of its product with fixed random numbers,
    which leaves no room for chance) is exactly zero at all its positions in all samples: the
    layers that read it have zero columns for it, or an activation never lets it through. Other
    samples may use a unit that these do not. Both are asked through any architecture. A weight
    used several times has a dead unit where all uses agree. Followed are the functions of
    linear and convolution layers, called by modules or directly, on a parameter or a view of it.

    Parameters
    ----------
    model, samples
        What to run, once forward and once backward, in evaluation mode. No ``grad`` is touched.
    """
    watch = _Watch(Owners(model))
    with plain_evaluation(model), _differentiable(model), torch.enable_grad():
        with watch:
            output = run(model, samples)
        uses = [(name, use) for name, own in watch.uses.items() for use in own]
        unused = _unused(output, [use for _, use in uses])
    states: dict[str, list[tuple[_Use, Tensor | None]]] = {}
    for (name, use), state in zip(uses, unused, strict=True):
        states.setdefault(name, []).append((use, state))
    return {
        name: _together(own)
        for name, own in states.items()
        if len({use.number for use, _ in own}) == 1
    }


class _Watch(TorchFunctionMode):
    """Notes the outputs of layers' functions as they are called."""

    def __init__(self, owners: Owners) -> None:
        super().__init__()
        self.uses: dict[str, list[_Use]] = {}
        self._owners = owners

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if (axis := _UNITS_AT.get(func)) is not None and output.is_floating_point():
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            if (name := self._owners(weight)) is not None:
                self.uses.setdefault(name, []).append(_use(output, axis))
        return output


def _use(output: Tensor, axis: int) -> _Use:
    values = _by_unit(output.detach(), axis)
    several = values.shape[1] > 1
    constant = (values == values[:, :1]).all(1).cpu() if several else None
    # The edge is taken now: an activation that works in place would hide the layer behind it.
    edge = get_gradient_edge(output) if output.requires_grad else None
    return _Use(constant, len(values), axis, edge)


def _by_unit(values: Tensor, axis: int) -> Tensor:
    """Return an output, or its gradient, as a matrix with a row for each unit."""
    return values.unsqueeze(-1).movedim(axis - 1, 0).flatten(1)


def _unused(output: Any, uses: list[_Use]) -> list[Tensor | None]:
    """Return for each use which units the output does not depend on, None where unknown."""
    ends = [x for x in tensors_in(output) if x.requires_grad]
    edges = [use.edge for use in uses if use.edge is not None]
    if not ends or not edges:
        return [None for _ in uses]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in ends]
    gradients = iter(torch.autograd.grad(ends, edges, weights, allow_unused=True))
    return [None if use.edge is None else _silent(next(gradients), use) for use in uses]


def _silent(gradient: Tensor | None, use: _Use) -> Tensor:
    if gradient is None:  # nothing leads from there to the output
        return torch.ones(use.number, dtype=torch.bool)
    return (_by_unit(gradient, use.axis) == 0).all(1).cpu()


def _together(uses: list[tuple[_Use, Tensor | None]]) -> Units:
    """Return the units that are dead in every use."""
    constant = [use.constant for use, _ in uses]
    unused = [state for _, state in uses]
    dead = [_either(*pair) for pair in zip(constant, unused, strict=True)]
    return Units(uses[0][0].number, _in_all(constant), _in_all(unused), _in_all(dead))


def _either(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _in_all(states: list[Tensor | None]) -> int | None:
    known = [state for state in states if state is not None]
    return int(torch.stack(known).all(0).sum()) if len(known) == len(states) else None


@contextlib.contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Ask all parameters for gradients, frozen ones too, so that every layer can be asked."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
