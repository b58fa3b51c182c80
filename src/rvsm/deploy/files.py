"""One file for a sparse model: safetensors outside, sparse parts inside, no pickle.

`save` writes a tensor with many zeros as its kept values plus their places (see
`rvsm.deploy.coding`), every other tensor plainly, whichever is smaller. `load` gives back the
same bits: -0.0, NaN payloads and tied tensors included. Any safetensors reader opens the file;
docs/file-format.md tells what it finds there.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor

from rvsm.atomic import atomic_write
from rvsm.deploy.compression import check_level
from rvsm.deploy.container import NAMES, Container, strict_json, write_container
from rvsm.deploy.entries import Encoded, encode
from rvsm.deploy.saved import Saved, account
from rvsm.deploy.stored import MAX_ARCHITECTURE, Stored
from rvsm.deploy.values import choose_forms
from rvsm.errors import RvsmError

_MODEL = TypeVar("_MODEL", bound=nn.Module)
_LEVEL = 19


def save(
    model: nn.Module | Mapping[str, Tensor],
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    *,
    values: str | Mapping[str, str] | None = None,
    zstd: bool | int = False,
    negative_zeros: bool = True,
    architecture: Mapping[str, Any] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
) -> Saved:
    """Write a model's tensors to one file, sparse ones small.

    Parameters
    ----------
    model
        A module (its `state_dict`, without the prefixes of `torch.compile` and of parallel
        wrappers) or a mapping from names to tensors. To store exact zeros save after
        `optimizer.finalize()` or inside `optimizer.sparse_weights()`.
    path
        The file, replaced atomically; `.safetensors` is the customary ending.
    metadata
        Short texts to keep with the tensors; `read_metadata` returns them.
    values
        How to write the values of floating tensors with two dimensions or more, where that makes
        the file smaller; biases, buffers and integers stay as they are. ``"exact"``, bit for bit,
        by default; ``"float16"`` or ``"bfloat16"``, rounded to nearest; ``"codebook"``, codes of
        8 bits or fewer for at most 256 values per tensor, or ``"codebook-N"`` for N, 4 to 256. A
        mapping from fnmatch patterns on names to these says it for each tensor (whatever its
        dimensions); the last match wins. `load` gives back the dtype the tensor had; zeros stay
        zeros and nonzeros stay nonzeros.
    zstd
        Compress arrays too, without loss: True, or a level from 1 to 22 (19 by default). Needs
        ``rvsm[zstd]``, to read it as well.
    negative_zeros
        Keep -0.0 as it is, at the price of a stored value for each. Masks multiplied into
        weights leave many of them; False writes them as 0.0.
    architecture
        A description of the network in plain JSON, for `read_architecture`; by default what
        ``model.describe()`` returns, where the model has such a method.
    evaluate
        Called with the model as it is, and again with the tensors as they will be read from the
        file: the accuracies of the account. The model is then put back, bit for bit.

    Returns
    -------
    Saved
        An account of bytes, codings and errors, to `print` or to take `to_dict()` of.

    Raises
    ------
    RvsmError
        For a value that is not a strided tensor with a supported dtype, a name or metadata that
        are no texts, a value that the form asked
        for cannot hold (beyond the range of float16, NaN in a codebook), an unknown form or
        pattern, a description that is not plain JSON, or a path that cannot be written.

    Examples
    --------
    >>> import rvsm, torch
    >>> layer = torch.nn.Linear(300, 10)
    >>> _ = torch.nn.init.zeros_(layer.weight)
    >>> saved = rvsm.save(layer, "/tmp/layer.safetensors")
    >>> bool((rvsm.load("/tmp/layer.safetensors")["weight"] == 0).all())
    True
    """
    if zstd is not False:
        check_level(_LEVEL if zstd is True else zstd)
    if evaluate is not None and not isinstance(model, nn.Module):
        raise RvsmError(
            "evaluate= needs a model to call: give rvsm.save the module instead of its tensors."
        )
    if not isinstance(model, nn.Module | Mapping):
        raise RvsmError(
            f"rvsm.save takes a module or a mapping from names to tensors, not a "
            f"{type(model).__name__}."
        )
    tensors = _state(model) if isinstance(model, nn.Module) else dict(model)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise RvsmError(
                f"metadata holds {key!r}: {text!r}, and a file keeps texts alone; convert with str."
            )
    description = _description(model, architecture)
    forms = choose_forms(tensors, values)
    aliases: dict[str, str] = {}
    encoded: dict[str, Encoded] = {}
    first_with: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        if identity := _identity(tensor):
            if original := first_with.get(identity):
                aliases[name] = original
                continue
            first_with[identity] = name
        if not negative_zeros and tensor.is_floating_point():
            tensor = torch.where(tensor == 0, torch.zeros_like(tensor), tensor)
        encoded[name] = encode(name, tensor, tensors, forms.get(name))
        if zstd is not False:
            encoded[name] = encoded[name].packed(_LEVEL if zstd is True else zstd, tensors)
    entries: dict[str, dict[str, Any]] = {
        name: {"coding": "alias", "of": aliases[name]} if name in aliases else encoded[name].entry
        for name in tensors
    }
    parts = {key: part for each in encoded.values() for key, part in each.parts.items()}
    version = 1 if description is None and not any(map(_is_new, encoded.values())) else 2
    texts = {
        "rvsm_version": str(version),
        "tensors": json.dumps(entries, separators=(",", ":")),
        "metadata": json.dumps(dict(metadata or {}), separators=(",", ":")),
    }
    if description is not None:
        texts["architecture"] = description
    stored = Stored(Path(path), entries, parts)
    accuracies = None
    if evaluate is not None and isinstance(model, nn.Module):
        accuracies = _accuracies(model, evaluate, stored.tensors())
    with atomic_write(path) as stream:
        size = write_container(stream, Container(texts, parts))
    return account(stored, tensors, encoded, version, size, accuracies)


@overload
def load(path: Path | str) -> dict[str, Tensor]: ...
@overload
def load(path: Path | str, model: _MODEL) -> _MODEL: ...
def load(path: Path | str, model: nn.Module | None = None) -> dict[str, Tensor] | nn.Module:
    """Read what `save` wrote.

    Parameters
    ----------
    path
        The file.
    model
        A module to load into. Names, shapes and dtypes must agree; the module is changed only
        once the whole file has been read and found sound.

    Returns
    -------
    The model, or without one the tensors by name (on the CPU, in the order they were saved).

    Raises
    ------
    FileFormatError
        If the file is damaged, newer than this version, not ours, or does not fit the model.
    RvsmError
        If the file cannot be read.
    """
    stored = Stored.read(path)
    if model is None:
        return stored.tensors()
    target = _state(model)
    # Before anything is decoded: a file for another model must not cost its memory.
    stored.check_fits(target)
    _copy(stored.tensors(), target)
    return model


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the texts given to `save` as `metadata`."""
    return Stored.read(path).metadata


def read_architecture(path: Path | str) -> dict[str, Any] | None:
    """Return the description of the network that `save` was given, None where it had none.

    It is plain JSON from the file, and of a stranger's file anything at all: take from it only
    what you know.

    Raises
    ------
    FileFormatError
        If the file is damaged, or the description is longer than `MAX_ARCHITECTURE` or no JSON
        object.
    RvsmError
        If the file cannot be read.
    """
    return Stored.read(path).architecture


def sparse_bytes(tensor: Tensor) -> int:
    """Return the bytes `save` needs for the values and places of one tensor, header apart."""
    return stored(tensor)[1]


def stored(tensor: Tensor) -> tuple[str, int]:
    """Return the coding `save` picks for one tensor, and its `sparse_bytes`."""
    encoded = encode("", tensor, {})
    return encoded.entry["coding"], encoded.size


def check_whole(name: str, tensor: Tensor) -> None:
    """Raise RvsmError if `tensor` is one rank's part of a DTensor."""
    if hasattr(tensor, "full_tensor"):
        raise RvsmError(
            f"{name!r} is spread over several processes; inside optimizer.sparse_weights() gather "
            "the model with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) and pass that mapping."
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile` and parallel wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state_dict without the names that wrappers add."""
    state = unwrapped(model).state_dict()
    # A submodule compiled by itself leaves its wrapper's name in the middle.
    return {name.replace("._orig_mod.", "."): value for name, value in state.items()}


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])


def _accuracies(
    model: nn.Module, evaluate: Callable[[nn.Module], float], stored: Mapping[str, Tensor]
) -> tuple[float, float]:
    """Return what `evaluate` says of the model as it is and with the stored tensors."""
    state = _state(model)
    kept = {name: value.detach().clone() for name, value in state.items()}
    try:
        before = float(evaluate(model))
        _copy(stored, state)
        return before, float(evaluate(model))
    finally:
        _copy(kept, state)


def _description(
    model: nn.Module | Mapping[str, Tensor], given: Mapping[str, Any] | None
) -> str | None:
    """Return the description of the network as JSON, or None."""
    if given is None and isinstance(model, nn.Module):
        # A parameter or submodule may bear that name too.
        describe = getattr(unwrapped(model), "describe", None)
        given = describe() if inspect.ismethod(describe) else None
    if given is None:
        return None
    cause = "it is no mapping"
    if isinstance(given, Mapping):
        try:
            text = json.dumps(dict(given), separators=(",", ":"), allow_nan=False)
            if strict_json(text) == given and len(text) <= MAX_ARCHITECTURE:
                return text
            cause = "it comes back from JSON as another value, or is too long"
        except (TypeError, ValueError, RecursionError) as error:
            cause = str(error)
    raise RvsmError(
        f"The description of the network is not plain JSON ({cause}): make describe() return a "
        "dict of texts, numbers, bools, None, lists and dicts, or save model.state_dict()."
    )


def _is_new(encoded: Encoded) -> bool:
    """Say whether readers of version 1 could not read a tensor."""
    return (
        encoded.entry["coding"] == "rice"
        or not {"dtype", "code_bits"}.isdisjoint(encoded.entry)
        or any(part.compressed for part in encoded.parts.values())
    )


def _check_tensor(name: object, tensor: object) -> None:
    if not isinstance(name, str) or name == "__metadata__":
        raise RvsmError(
            f"Cannot save a tensor as {name!r}: a name is a text other than '__metadata__', which "
            "safetensors files keep for themselves; rename it."
        )
    if not isinstance(tensor, Tensor):
        raise RvsmError(
            f"Cannot save {name!r}: it is a {type(tensor).__name__}, not a tensor; "
            "leave it out or convert it with torch.as_tensor."
        )
    check_whole(name, tensor)
    # It claims to be strided, and has no bytes of its own.
    packed = isinstance(tensor, SparseSemiStructuredTensor)
    if packed or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise RvsmError(
            f"Cannot save {name!r}: only ordinary dense tensors with data can be saved; "
            "convert it with .to_dense(), .dequantize() or by loading its weights first."
        )
    if tensor.dtype not in NAMES:
        raise RvsmError(
            f"Cannot save {name!r}: the dtype {tensor.dtype} has no place in the safetensors "
            "format; convert it to another."
        )


def _identity(tensor: Tensor) -> tuple[Any, ...] | None:
    """Return what two names of the same (tied) tensor have in common; None if empty."""
    if tensor.numel() == 0:
        return None
    return (
        str(tensor.device),
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )
