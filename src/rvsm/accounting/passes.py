"""How a model is run to be counted: as it is evaluated, and left as it was."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rvsm.errors import RvsmError, first_line
from rvsm.modes import evaluating

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]
"""One input of a model, a tuple or list of them, or a mapping of them by name."""


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Return the model's output.

    Raises
    ------
    RvsmError
        If the model cannot take the inputs.
    """
    if not isinstance(inputs, Tensor | Sequence | Mapping):
        raise RvsmError(
            f"An example is a {type(inputs).__name__}; give a tensor, a tuple of inputs or a "
            "mapping of them by name."
        )
    try:
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    except RvsmError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in tensors_in(inputs))
        raise RvsmError(
            f"{type(model).__name__} cannot take an example of {shapes or 'no tensors'}: "
            f"{first_line(error)}; give an example as the module is used."
        ) from error


@contextlib.contextmanager
def plain_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and torch in a state where it computes step by step.

    Fused kernels (of attention and of recurrent layers) and compiled code hide their products;
    their plain forms, which compute the same, do not. Everything is put back afterwards.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            set_flags: Callable[..., Any] = torch.backends.mkldnn.set_flags
            stack.callback(set_flags, set_flags(False)[0])
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and asking costs seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.enter_context(evaluating(model))
        yield


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


class Owners:
    """Which parameter a tensor lies in, be it a view of it."""

    def __init__(self, model: nn.Module) -> None:
        self._ranges: dict[int, list[tuple[int, int, str]]] = {}
        for name, parameter in model.named_parameters():
            if place := storage_of(parameter):
                start = _first_byte(parameter)
                end = start + parameter.numel() * parameter.element_size()
                self._ranges.setdefault(place, []).append((start, end, name))

    def __call__(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter whose memory a tensor begins in, None if none."""
        ranges = self._ranges.get(storage_of(tensor), ())
        return next((n for start, end, n in ranges if start <= _first_byte(tensor) < end), None)


def storage_of(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse layouts and meta tensors have none
        return 0


def _first_byte(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * tensor.element_size()
