"""One tensor in a file: its entry in the list of tensors, and the arrays that hold it."""

import math
from collections.abc import Container as Names
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rvsm.deploy import coding
from rvsm.deploy.container import COMPRESSED, DTYPES, NAMES, Part, is_shape
from rvsm.deploy.values import Exact, Form, as_tensor, raw_bytes, read_values, values_dtype

_PLACES = ("bitmask", "gaps", "rice")
CODINGS = ("dense", *_PLACES, "alias")
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}
# A sparse tensor costs about this many bytes of header more than a plain one.
_ENTRY_BYTES = 120


@dataclass(frozen=True)
class Encoded:
    """A tensor as it will stand in the file.

    Attributes
    ----------
    entry, parts
        Its entry, and its arrays by name.
    elements, kept
        How many elements it has, and how many of them are not zero (-0.0 is not, where values
        are exact).
    value_bits
        The bits of the kept values as written, a codebook included.
    """

    entry: dict[str, Any]
    parts: dict[str, Part]
    elements: int
    kept: int
    value_bits: int

    @property
    def size(self) -> int:
        """Bytes of the arrays."""
        return sum(part.data.size for part in self.parts.values())

    @property
    def bound(self) -> float:
        """The information in places and values, in bytes: (log2 C(n, k) + value_bits) / 8."""
        n, k = self.elements, self.kept
        places = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        return (places / math.log(2) + self.value_bits) / 8

    def packed(self, level: int, taken: Names[str]) -> "Encoded":
        """Return it with those arrays compressed that get smaller by it."""
        parts = {
            name: part if name + COMPRESSED in taken else part.packed(level)
            for name, part in self.parts.items()
        }
        found = replace(self, parts=parts)
        return found if coding.fits(self.elements, found.size) else self


def encode(name: str, tensor: Tensor, taken: Names[str], form: Form | None = None) -> Encoded:
    """Return a tensor in the coding that takes the fewest bytes.

    Parameters
    ----------
    name, tensor
        The tensor.
    taken
        The names of all tensors, which no array may bear.
    form
        How to write its values, where that saves anything; exactly by default.
    """
    exact = _encode(name, tensor, taken, Exact())
    if form is None or isinstance(form, Exact) or _any_taken(name, taken, ("codes", "codebook")):
        return exact
    other = _encode(name, tensor, taken, form)
    return other if other.size < exact.size else exact


def part_names(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the arrays of a tensor, by what they are to it ("" is the tensor itself)."""
    kind = entry["coding"]
    if kind == "alias":
        return {}
    own = "" if kind == "dense" else "values"
    roles = ["codes", "codebook"] if "code_bits" in entry else [own]
    roles += [kind] if kind in _PLACES else []
    return {role: f"{name}:{role}" if role else name for role in roles}


def describe(
    name: str, entry: Mapping[str, Any], parts: Mapping[str, Part]
) -> tuple[list[int], str]:
    """Return the shape and safetensors dtype of a tensor that is no alias, from the header alone.

    Raises
    ------
    ValueError
        If its entry is damaged or does not agree with its arrays.
    """
    own = {role: parts[part] for role, part in part_names(name, entry).items()}
    shape = own[""].shape if "" in own else entry.get("shape")
    if not is_shape(shape):
        raise ValueError("the shape is not a shape")
    if "values" in own and len(own["values"].shape) != 1:
        raise ValueError("the values have the wrong type")
    return shape, values_dtype(entry, own)


def decode(name: str, entry: Mapping[str, Any], parts: Mapping[str, Part]) -> Tensor:
    """Invert `encode` for a tensor that is no alias.

    Raises
    ------
    ValueError
        If entry and arrays cannot be what `encode` returned.
    """
    shape, dtype = describe(name, entry, parts)
    own = {role: parts[part] for role, part in part_names(name, entry).items()}
    elements = math.prod(shape)
    if not coding.fits(elements, sum(part.data.size for part in own.values())):
        raise ValueError("there are more elements than its bytes can tell")
    if entry["coding"] == "dense":
        return read_values(entry, own, elements).reshape(shape)
    places = _places(entry, own[entry["coding"]], elements)
    word = _WORDS[DTYPES[dtype].itemsize]
    full = np.zeros(elements, dtype=word)
    full[places] = raw_bytes(read_values(entry, own, places.size)).view(word)
    return as_tensor(full.view(np.uint8), dtype).reshape(shape)


def _places(entry: Mapping[str, Any], part: Part, elements: int) -> coding.Places:
    if part.dtype != "U8" or len(part.shape) != 1:
        raise ValueError("the places have the wrong type")
    packed = part.plain()
    if entry["coding"] == "bitmask":
        return coding.bitmask_decode(packed, elements)
    count, bits = entry.get("codes"), entry.get("bits")
    if type(count) is not int or type(bits) is not int:
        raise ValueError("the codes of the places are not described")
    decode = coding.gaps_decode if entry["coding"] == "gaps" else coding.rice_decode
    return decode(packed, count, bits, elements)


def _any_taken(name: str, taken: Names[str], roles: tuple[str, ...]) -> bool:
    return any(f"{name}:{role}" in taken for role in roles)


def _encode(name: str, tensor: Tensor, taken: Names[str], form: Form) -> Encoded:
    exact = isinstance(form, Exact)
    if not exact:
        tensor = torch.where(tensor == 0, torch.zeros_like(tensor), tensor)
    shape, elements = list(tensor.shape), tensor.numel()
    data = raw_bytes(tensor)
    words = data.view(_WORDS[tensor.element_size()])
    # By bits, not by value: -0.0 equals zero and must come back as it was.
    places: coding.Places = np.flatnonzero(words).astype(np.int64)
    flat = as_tensor(data, NAMES[tensor.dtype])
    kept = as_tensor(words[places].view(np.uint8), NAMES[tensor.dtype])
    bits = coding.best_bits(places, elements)
    low, rice = coding.rice_bits(places)
    sparse = form.width(kept) * places.size + _ENTRY_BYTES
    size_of = {
        "dense": form.width(flat) * elements,
        "bitmask": sparse + (elements + 7) // 8,
        "gaps": sparse + (coding.gap_codes(places, elements, bits) * bits + 7) // 8,
    }
    # Readers of version 1 do not know it, and beside exact values it saves less than 2 %.
    if not exact and coding.fits(elements, rice):
        size_of["rice"] = sparse + rice
    chosen = min(size_of, key=lambda kind: size_of[kind])
    entry: dict[str, Any] = {"coding": "dense"}
    if chosen == "dense" or _any_taken(name, taken, ("values", *_PLACES)):
        written = form.write(name, flat, shape, "")
        entry |= {} if "" in written.parts else {"shape": shape}
        own = written.parts
    else:
        written = form.write(name, kept, [places.size], "values")
        entry |= {"coding": chosen, "shape": shape}
        if chosen == "bitmask":
            packed = coding.bitmask_encode(places, elements)
        elif chosen == "gaps":
            packed, codes = coding.gaps_encode(places, elements, bits)
            entry |= {"bits": bits, "codes": codes}
        else:
            packed = coding.rice_encode(places, low)
            entry |= {"bits": low, "codes": places.size}
        own = written.parts | {chosen: Part("U8", [packed.size], packed)}
    return Encoded(
        entry | written.entry,
        {f"{name}:{role}" if role else name: part for role, part in own.items()},
        elements,
        places.size,
        places.size * written.width_bits + written.shared_bits,
    )
