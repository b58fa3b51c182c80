"""2:4 weights in the form that the sparse tensor cores of a GPU multiply."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from rvsm.errors import RvsmError
from rvsm.optim.rule import clean_name

_CAPABILITY = (8, 0)
"""The first GPUs with sparse tensor cores (Ampere)."""


@dataclass(frozen=True)
class SemiStructured:
    """What `to_semi_structured` did.

    Attributes
    ----------
    converted
        Names of the weights that are semi-structured now.
    left
        Why each other weight stayed dense, by name.
    """

    converted: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: 2:4" for name in self.converted]
        return "\n".join(lines + [f"{name}: dense, {why}" for name, why in self.left.items()])


def holds_2_4(weight: Tensor) -> bool:
    """Say whether at most 2 of every 4 neighbouring inputs are not zero.

    Parameters
    ----------
    weight
        ``(outputs, inputs, ...)``: blocks lie along the second axis, as those of `NM(2, 4)`.

    Returns
    -------
    bool
        False also where 4 does not divide the inputs, or there are none.

    Examples
    --------
    >>> import torch
    >>> holds_2_4(torch.tensor([[0.0, 1.0, 2.0, 0.0]]))
    True
    >>> holds_2_4(torch.ones(1, 4))
    False
    """
    if weight.dim() < 2 or weight.shape[1] == 0 or weight.shape[1] % 4:
        return False
    kept = torch.unflatten(weight.detach(), 1, (-1, 4)).ne(0).sum(2)
    return bool((kept <= 2).all())


def to_semi_structured(model: nn.Module, names: Sequence[str] | None = None) -> SemiStructured:
    """Replace weights of linear layers that are 2:4 by torch's semi-structured tensors.

    The outputs are those of the dense layers within the rounding of the dtype. The weights are
    for inference: `requires_grad` is off, and they are neither saved nor moved; `to_dense` takes
    everything back. Convert after `optimizer.finalize()`, since before it the parameters may hold
    weights without zeros.

    Parameters
    ----------
    model
        A module on a GPU with sparse tensor cores, in float16, bfloat16 or int8.
    names
        Patterns of the weights to convert, as in `Rule`; by default all of linear layers. Any
        other weight is not touched and not listed.

    Returns
    -------
    SemiStructured
        The names converted, and why each of the others was left dense.

    Raises
    ------
    RvsmError
        If a pattern matches no weight of a linear layer, or the GPU fails at one. The model is
        as it was then.

    Notes
    -----
    cuSPARSELt is used where torch was built with it, else CUTLASS; which shapes and dtypes they
    take is torch's own table.

    References
    ----------
    Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378.
    """
    layers = _linear_layers(model)
    if names is not None:
        if isinstance(names, str):
            raise RvsmError(f"names is the text {names!r}; give a list of names, [{names!r}].")
        for pattern in names:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise RvsmError(
                    f"{pattern!r} matches no weight of a linear layer; the model has "
                    f"{', '.join(list(layers)[:5]) or 'none'}."
                )
        layers = {
            name: layer
            for name, layer in layers.items()
            if any(fnmatchcase(name, pattern) for pattern in names)
        }
    elsewhere = _read_elsewhere(model)
    backend = _backend()
    made: dict[int, nn.Parameter] = {}
    left: dict[str, str] = {}
    for name, layer in layers.items():
        weight = layer.weight
        if id(weight) in made:
            continue
        why = elsewhere.get(id(weight)) or obstacle(weight, backend)
        if type(layer) is not nn.Linear:
            why = f"{type(layer).__name__} may read it in its own way"
        if why is not None:
            left[name] = why
        else:
            made[id(weight)] = _converted(name, weight, backend)
    done = {name: layer for name, layer in layers.items() if name not in left}
    _replace(done, made)
    return SemiStructured(tuple(done), left)


def to_dense(model: nn.Module) -> tuple[str, ...]:
    """Replace all semi-structured weights by dense ones with the same values.

    Parameters
    ----------
    model
        What `to_semi_structured` was given.

    Returns
    -------
    tuple of str
        The names of the weights replaced; their `requires_grad` is off.
    """
    made: dict[int, nn.Parameter] = {}
    layers = {
        name: layer
        for name, layer in _linear_layers(model).items()
        if isinstance(layer.weight.data, SparseSemiStructuredTensor)
    }
    for layer in layers.values():
        if id(layer.weight) not in made:
            with torch.no_grad():
                dense = layer.weight.data.to_dense()
            made[id(layer.weight)] = nn.Parameter(dense, requires_grad=False)
    _replace(layers, made)
    return tuple(layers)


def obstacle(weight: Tensor, backend: type[SparseSemiStructuredTensor]) -> str | None:
    """Say why a weight cannot become semi-structured, or return None if it can.

    Parameters
    ----------
    weight
        ``(outputs, inputs)``.
    backend
        torch's class for the tensor, which knows the dtypes and shapes it takes.
    """
    if isinstance(weight.data, SparseSemiStructuredTensor):
        return "it is semi-structured already"
    found = []
    # torch's table: no copy of ours that a new version would make wrong.
    limits = backend._DTYPE_SHAPE_CONSTRAINTS
    if weight.dtype not in limits:
        found.append(f"{weight.dtype} is none of {', '.join(map(str, limits))}")
    else:
        rows, columns = limits[weight.dtype].sparse_min_rows, limits[weight.dtype].sparse_min_cols
        if 0 in weight.shape or weight.shape[0] % rows or weight.shape[1] % columns:
            found.append(
                f"its shape {tuple(weight.shape)} is no multiple of ({rows}, {columns}), as "
                f"{weight.dtype} needs"
            )
    if not holds_2_4(weight):
        found.append("it is not 2:4")
    elif weight.is_floating_point() and not weight.isfinite().all():
        found.append("it holds infinite weights or no numbers")
    if (why := _gpu_obstacle(weight.device)) is not None:
        found.append(why)
    return "; ".join(found) or None


def _gpu_obstacle(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"it is on the device {device}, not on a CUDA GPU"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no sparse tensor cores"
    return None


def _replace(layers: dict[str, nn.Linear], made: dict[int, nn.Parameter]) -> None:
    """Put into each layer what was made of its weight, once for a layer with two names."""
    for layer in dict.fromkeys(layers.values()):
        layer.weight = made[id(layer.weight)]


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by the names of their weights, tied ones under each name."""
    return {
        clean_name(f"{path}.weight" if path else "weight"): module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
    }


def _read_elsewhere(model: nn.Module) -> dict[int, str]:
    """Return, by id, parameters that modules other than linear layers hold too."""
    return {
        id(parameter): f"{path or 'the model'} ({type(module).__name__}) holds it too"
        for path, module in model.named_modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }


def _backend() -> type[SparseSemiStructuredTensor]:
    forced = SparseSemiStructuredTensor._FORCE_CUTLASS
    if forced or not torch.backends.cusparselt.is_available():
        return SparseSemiStructuredTensorCUTLASS
    return SparseSemiStructuredTensorCUSPARSELT


def _converted(
    name: str, weight: Tensor, backend: type[SparseSemiStructuredTensor]
) -> nn.Parameter:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch tells once that the interface may change; what we use of it is here.
            warnings.filterwarnings("ignore", ".*SparseSemiStructuredTensor is in prototype.*")
            sparse = backend.from_dense(weight.detach().contiguous())
            return nn.Parameter(sparse, requires_grad=False)
    except RuntimeError as error:
        raise RvsmError(
            f"Cannot convert {name}: {str(error).splitlines()[0].rstrip('.')}; leave it out by "
            "naming the others in names."
        ) from error
