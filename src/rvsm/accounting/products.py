"""Count the multiply-adds of a pass, below the modules: whoever calls the kernels is seen."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rvsm.accounting.passes import Inputs, Owners, plain_evaluation, run, storage_of, tensors_in

OTHER = ""
"""The name under which `count_products` gives products that belong to no parameter."""

_aten = torch.ops.aten
# Where the two operands of a product stand among the arguments.
_OPERANDS: dict[Any, tuple[int, int]] = {
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.mv: (0, 1),
    _aten.dot: (0, 1),
    _aten.addmm: (1, 2),
    _aten.addbmm: (1, 2),
    _aten.baddbmm: (1, 2),
    _aten.addmv: (1, 2),
    _aten.convolution: (0, 1),
}
# A tensor computed from the example belongs to no parameter.
_FROM_EXAMPLE = ""


def count_products(model: nn.Module, example: Inputs) -> dict[str, tuple[int, int]]:
    """Return the multiply-adds of one pass by parameter, and those with a nonzero weight.

    Counted are convolutions and matrix products, by the tensors they are given: a linear layer,
    its functional form and a view of a parameter count alike, and a weight used twice counts
    twice. A weight computed from one parameter (masked, normalised, indexed) counts for it, with
    the zeros it then has. Padding counts as input: a convolution multiplies every weight once
    for each position of its output (of its input, if transposed), as dense kernels do.

    Parameters
    ----------
    model, example
        What to run, once, in evaluation mode and without gradients.

    Returns
    -------
    dict
        (all, with a nonzero weight) under the name of each parameter some product used, and
        under `OTHER` for products of activations, such as those of attention, if there are any.
    """
    watch = _Watch(Owners(model), example)
    with plain_evaluation(model), torch.no_grad(), watch:
        run(model, example)
    return watch.counts


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every kernel call; follows which memory comes from which parameter."""

    def __init__(self, owners: Owners, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, tuple[int, int]] = {}
        self._owners = owners
        self._labels = dict.fromkeys(map(storage_of, tensors_in(example)), _FROM_EXAMPLE)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operands = _OPERANDS.get(func._overloadpacket)
        if operands is None:
            # Inside inference mode whole operators arrive; what they consist of is wanted.
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        if operands is not None:
            self._count(func, args, operands, result)
        self._follow(args, kwargs or {}, result, product=operands is not None)
        return result

    def _count(
        self, func: Any, args: tuple[Any, ...], operands: tuple[int, int], result: Tensor
    ) -> None:
        left, right = args[operands[0]], args[operands[1]]
        if func._overloadpacket is _aten.convolution:
            positions = left if args[6] else result
            products = right.numel() * left.shape[0] * math.prod(positions.shape[2:])
        else:
            products = left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
        for weight in (right, left):
            if (name := self._label(weight)) and weight.numel():
                kept = products // weight.numel() * int((weight != 0).sum())
                break
        else:
            name, kept = OTHER, products
        before = self.counts.get(name, (0, 0))
        self.counts[name] = before[0] + products, before[1] + kept

    def _label(self, tensor: Tensor) -> str | None:
        """Return the parameter a tensor comes from, `_FROM_EXAMPLE`, or None for constants."""
        owner = self._owners(tensor)
        return self._labels.get(storage_of(tensor)) if owner is None else owner

    def _follow(self, args: Any, kwargs: dict[str, Any], result: Any, product: bool) -> None:
        """Label what a kernel put out by what it was given."""
        given = [*tensors_in(list(args)), *tensors_in(kwargs)]
        labelled = ((self._label(tensor), tensor) for tensor in given)
        labels = {label: tensor for label, tensor in labelled if label is not None}
        for output in tensors_in(result):
            place = storage_of(output)
            if not place or self._owners(output) is not None:
                continue
            alike = {n for n, x in labels.items() if n and x.numel() == output.numel()}
            if not labels:
                self._labels.pop(place, None)  # memory that was used before, and freed
            elif _FROM_EXAMPLE in labels or product or (len(labels) > 1 and len(alike) != 1):
                self._labels[place] = _FROM_EXAMPLE
            else:
                self._labels[place] = next(iter(alike or labels))
