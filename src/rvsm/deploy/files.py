"""One file for a sparse model: safetensors outside, sparse parts inside, no pickle.

`save` writes a tensor with many zeros as its kept values plus their places (see
`rvsm.deploy.coding`), every other tensor plainly, whichever is smaller. `load` gives back the
same bits: -0.0, NaN payloads and tied tensors included. Any safetensors reader opens the file;
docs/file-format.md tells what it finds there.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from rvsm.atomic import atomic_write
from rvsm.deploy import coding
from rvsm.deploy.container import DTYPES, NAMES, Container, Part, read_container, write_container
from rvsm.errors import FileFormatError, RvsmError

VERSION = 1
_MODEL = TypeVar("_MODEL", bound=nn.Module)
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}
# A sparse tensor costs about this many bytes of header more than a plain one.
_ENTRY_BYTES = 120


def save(
    model: nn.Module | Mapping[str, Tensor],
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    *,
    negative_zeros: bool = True,
) -> None:
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
    negative_zeros
        Keep -0.0 as it is, at the price of a stored value for each. Masks multiplied into
        weights leave many of them; False writes them as 0.0.

    Raises
    ------
    RvsmError
        For a value that is not a strided tensor with a supported dtype, or a path that cannot
        be written.

    Examples
    --------
    >>> import rvsm, torch
    >>> layer = torch.nn.Linear(300, 10)
    >>> _ = torch.nn.init.zeros_(layer.weight)
    >>> rvsm.save(layer, "/tmp/layer.safetensors")
    >>> bool((rvsm.load("/tmp/layer.safetensors")["weight"] == 0).all())
    True
    """
    tensors = _state(model) if isinstance(model, nn.Module) else dict(model)
    entries: dict[str, dict[str, Any]] = {}
    parts: dict[str, Part] = {}
    first_with: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        if not negative_zeros and tensor.is_floating_point():
            tensors[name] = torch.where(tensor == 0, torch.zeros_like(tensor), tensor)
        if identity := _identity(tensor):
            if original := first_with.get(identity):
                entries[name] = {"coding": "alias", "of": original}
                continue
            first_with[identity] = name
        entries[name], own = _encode(name, tensors[name], tensors)
        parts.update(own)
    texts = {
        "rvsm_version": str(VERSION),
        "tensors": json.dumps(entries, separators=(",", ":")),
        "metadata": json.dumps(dict(metadata or {}), separators=(",", ":")),
    }
    with atomic_write(path) as stream:
        write_container(stream, Container(texts, parts))


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
    stored = _Stored.read(path)
    if model is None:
        return stored.tensors()
    target = _state(model)
    # Before anything is decoded: a file for another model must not cost its memory.
    stored.check_fits(target)
    tensors = stored.tensors()
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(tensors[name])
    return model


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the texts given to `save` as `metadata`."""
    return _Stored.read(path).metadata


def sparse_bytes(tensor: Tensor) -> int:
    """Return the bytes `save` needs for the values and places of one tensor, header apart."""
    return stored(tensor)[1]


def stored(tensor: Tensor) -> tuple[str, int]:
    """Return the coding `save` picks for one tensor, and its `sparse_bytes`."""
    entry, parts = _encode("", tensor, {})
    return entry["coding"], sum(part.data.size for part in parts.values())


def check_whole(name: str, tensor: Tensor) -> None:
    """Raise RvsmError if `tensor` is one rank's part of a DTensor."""
    if hasattr(tensor, "full_tensor"):
        raise RvsmError(
            f"{name!r} is spread over several processes; inside optimizer.sparse_weights() gather "
            "the model with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) and pass that mapping."
        )


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state_dict without the names that wrappers add."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    # A submodule compiled by itself leaves its wrapper's name in the middle.
    return {name.replace("._orig_mod.", "."): value for name, value in model.state_dict().items()}


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise RvsmError(
            f"Cannot save {name!r}: it is a {type(tensor).__name__}, not a tensor; "
            "leave it out or convert it with torch.as_tensor."
        )
    check_whole(name, tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
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


def _raw(tensor: Tensor) -> coding.Bytes:
    """Return the bytes of a tensor's elements, in row-major order."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    raw: coding.Bytes = plain.view(torch.uint8).numpy()
    return raw


def _encode(
    name: str, tensor: Tensor, taken: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Part]]:
    """Return a tensor's index entry and parts, in the smallest coding."""
    dtype, shape, elements = NAMES[tensor.dtype], list(tensor.shape), tensor.numel()
    raw = _raw(tensor)
    dense = {"coding": "dense"}, {name: Part(dtype, shape, raw)}
    names = {kind: f"{name}:{kind}" for kind in ("values", "bitmask", "gaps")}
    if any(part in taken for part in names.values()):
        return dense  # another tensor bears the name that a part would have
    width = tensor.element_size()
    words = raw.view(_WORDS[width])
    # By bits, not by value: -0.0 equals zero and must come back as it was.
    places: coding.Places = np.flatnonzero(words).astype(np.int64)
    bits = coding.best_bits(places, elements)
    size_of = {
        "dense": raw.size,
        "bitmask": places.size * width + (elements + 7) // 8 + _ENTRY_BYTES,
        "gaps": places.size * width
        + (coding.gap_codes(places, elements, bits) * bits + 7) // 8
        + _ENTRY_BYTES,
    }
    chosen = min(size_of, key=lambda kind: size_of[kind])
    if chosen == "dense":
        return dense
    values = Part(dtype, [places.size], words[places].view(np.uint8))
    entry: dict[str, Any] = {"coding": chosen, "shape": shape}
    if chosen == "bitmask":
        packed = coding.bitmask_encode(places, elements)
    else:
        packed, codes = coding.gaps_encode(places, elements, bits)
        entry |= {"bits": bits, "codes": codes}
    return entry, {
        names["values"]: values,
        names[chosen]: Part("U8", [packed.size], packed),
    }


@dataclass(frozen=True)
class _Stored:
    """A file that has been read and whose checksum holds, not yet decoded."""

    path: Path
    entries: dict[str, dict[str, Any]]
    parts: dict[str, Part]
    metadata: dict[str, str]

    @classmethod
    def read(cls, path: Path | str) -> "_Stored":
        path = Path(path)
        container = read_container(path, VERSION)
        entries = _json_object(path, container.texts.get("tensors"), "list of tensors")
        metadata = _json_object(path, container.texts.get("metadata"), "metadata")
        if not all(isinstance(entry, dict) for entry in entries.values()):
            raise damaged(path, "the list of tensors is not as it must be")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise damaged(path, "its metadata are not texts")
        stored = cls(path, entries, container.parts, metadata)
        stored._check_names()
        return stored

    def _check_names(self) -> None:
        """Every part belongs to one tensor, and every tensor has its parts."""
        used = []
        for name, entry in self.entries.items():
            used += {
                "dense": [name],
                "bitmask": [f"{name}:values", f"{name}:bitmask"],
                "gaps": [f"{name}:values", f"{name}:gaps"],
                "alias": [],
            }.get(self._coding(name, entry), [])
        if sorted(used) != sorted(self.parts):
            raise damaged(self.path, "its parts are not those of its tensors")

    def _coding(self, name: str, entry: Mapping[str, Any]) -> str:
        kind = entry.get("coding")
        if kind == "alias":
            original = self.entries.get(entry.get("of", ""))
            if original is None or original.get("coding") == "alias":
                raise damaged(self.path, f"{name!r} is tied to a tensor that is not there")
        elif kind not in ("dense", "bitmask", "gaps"):
            raise damaged(self.path, f"{name!r} is written in an unknown way")
        return str(kind)

    def described(self, name: str) -> tuple[list[int], str]:
        """Return the shape and safetensors dtype of a tensor, from the header alone."""
        entry = self.entries[name]
        if entry["coding"] == "alias":
            return self.described(entry["of"])
        if entry["coding"] == "dense":
            return self.parts[name].shape, self.parts[name].dtype
        shape = entry.get("shape")
        if not isinstance(shape, list) or not all(
            isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63
            for size in shape
        ):
            raise damaged(self.path, f"the shape of {name!r} is not a shape")
        return shape, self.parts[f"{name}:values"].dtype

    def check_fits(self, target: Mapping[str, object]) -> None:
        """Raise unless names, shapes and dtypes are those of the model."""
        problems = []
        for label, odd in (
            ("the file lacks", [name for name in target if name not in self.entries]),
            ("the model lacks", [name for name in self.entries if name not in target]),
        ):
            if odd:
                more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                problems.append(f"{label} {', '.join(odd[:3])}{more}")
        for name, value in target.items():
            if name not in self.entries or problems:
                continue
            if not isinstance(value, Tensor):
                problems.append(f"{name} is no tensor in the model")
                continue
            shape, dtype = self.described(name)
            if shape != list(value.shape) or dtype != NAMES.get(value.dtype):
                problems.append(
                    f"{name} is {dtype} {shape} in the file and "
                    f"{NAMES.get(value.dtype, value.dtype)} {list(value.shape)} in the model"
                )
        if problems:
            raise FileFormatError(
                f"{self.path} does not fit this model: {'; '.join(problems)}; build the model "
                "as it was when saved, or use rvsm.load(path) to get the tensors alone."
            )

    def tensors(self) -> dict[str, Tensor]:
        """Decode everything, in the order of the file's list."""
        decoded = {
            name: self._decode(name)
            for name, entry in self.entries.items()
            if entry["coding"] != "alias"
        }
        return {name: decoded[entry.get("of", name)] for name, entry in self.entries.items()}

    def _decode(self, name: str) -> Tensor:
        entry = self.entries[name]
        shape, dtype = self.described(name)
        if entry["coding"] == "dense":
            return _tensor(self.parts[name].data.copy(), dtype, shape)
        values = self.parts[f"{name}:values"]
        packed = self.parts[f"{name}:{entry['coding']}"]
        elements = math.prod(shape)
        if packed.dtype != "U8" or len(values.shape) != 1:
            raise damaged(self.path, f"the parts of {name!r} have the wrong type")
        if not coding.fits(elements, values.data.size + packed.data.size):
            raise damaged(self.path, f"{name!r} claims more elements than its bytes can tell")
        try:
            if entry["coding"] == "bitmask":
                places = coding.bitmask_decode(packed.data, elements)
            else:
                count, bits = entry.get("codes"), entry.get("bits")
                if not isinstance(count, int) or not isinstance(bits, int):
                    raise ValueError("the gap codes are not described")
                places = coding.gaps_decode(packed.data, count, bits, elements)
        except ValueError as error:
            raise damaged(self.path, f"in {name!r} {error}") from error
        if places.size != values.shape[0]:
            raise damaged(self.path, f"{name!r} has another number of values than of places")
        word = _WORDS[DTYPES[dtype].itemsize]
        full = np.zeros(elements, dtype=word)
        full[places] = values.data.view(word)
        return _tensor(full.view(np.uint8), dtype, shape)


def damaged(path: Path, cause: str) -> FileFormatError:
    """Return the error for a file that cannot be what `save` wrote."""
    return FileFormatError(f"{path} is damaged: {cause}; copy or make the file again.")


def _json_object(path: Path, text: str | None, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its {what} cannot be read") from error
    if not isinstance(value, dict):
        raise damaged(path, f"its {what} is not as it must be")
    return value


def _tensor(raw: coding.Bytes, dtype: str, shape: list[int]) -> Tensor:
    if raw.size == 0:  # NumPy gives it a stride that torch cannot view
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.from_numpy(raw).view(DTYPES[dtype]).reshape(shape)
