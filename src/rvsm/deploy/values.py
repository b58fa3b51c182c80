"""How the values of a tensor are written: as they are, narrower, or as codes of a codebook.

A form encodes the kept values of one tensor and leaves in its entry what a reader needs to give
them back in the tensor's own dtype.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rvsm.deploy import codebook, coding
from rvsm.deploy.container import DTYPES, NAMES, Part
from rvsm.errors import RvsmError
from rvsm.text import some

_LARGEST = 1e100  # squares of larger ones would overflow


@dataclass(frozen=True)
class Written:
    """Values as a form wrote them.

    Attributes
    ----------
    entry
        What the tensor's entry tells of them.
    parts
        Arrays by the last part of their name, "" standing for the tensor's own.
    width_bits, shared_bits
        The bits of each value, and of what all values share.
    """

    entry: dict[str, Any]
    parts: dict[str, Part]
    width_bits: int
    shared_bits: int = 0


class Form(Protocol):
    """A way to write values; all but `Exact` write zeros of either sign as 0.0."""

    def takes(self, tensor: Tensor) -> bool:
        """Return whether a tensor of this dtype can be written so, and might gain."""

    def width(self, values: Tensor) -> float:
        """Return the bytes each of these values takes."""

    def write(self, name: str, values: Tensor, shape: list[int], own: str) -> Written:
        """Write values, one-dimensional, as an array of `shape`, called `own` where it can be."""


@dataclass(frozen=True)
class Exact:
    """Values as they are, bit for bit."""

    def takes(self, tensor: Tensor) -> bool:
        return True

    def width(self, values: Tensor) -> float:
        return values.element_size()

    def write(self, name: str, values: Tensor, shape: list[int], own: str) -> Written:
        part = Part(NAMES[values.dtype], shape, raw_bytes(values))
        return Written({}, {own: part}, 8 * part.width)


@dataclass(frozen=True)
class Half:
    """Values rounded to the nearest of a 16-bit dtype (float64 by way of float32).

    What would become zero becomes the smallest nonzero number of its sign instead: the support
    stays. A finite value that would become infinite is refused.
    """

    dtype: torch.dtype

    def takes(self, tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.element_size() > self.dtype.itemsize

    def width(self, values: Tensor) -> float:
        return self.dtype.itemsize

    def write(self, name: str, values: Tensor, shape: list[int], own: str) -> Written:
        narrow = values.to(self.dtype)
        limits = torch.finfo(self.dtype)
        if bool((narrow.isinf() & values.isfinite()).any()):
            raise RvsmError(
                f"{name!r} holds values beyond {limits.max:g}, the largest of {self._name}: write "
                f"it as {'bfloat16 or ' if self.dtype == torch.float16 else ''}'exact' by a "
                "pattern in values=."
            )
        least = torch.tensor(limits.smallest_normal * limits.eps, dtype=self.dtype)
        lost = (narrow == 0) & (values != 0)
        narrow = torch.where(lost, torch.copysign(least, narrow), narrow)
        part = Part(NAMES[self.dtype], shape, raw_bytes(narrow))
        return Written({"dtype": NAMES[values.dtype]}, {own: part}, 8 * part.width)

    @property
    def _name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Codebook:
    """Values as codes of a few bits for at most `size` values of the tensor's own dtype."""

    size: int = codebook.MAX_SIZE

    def takes(self, tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.element_size() > 1

    def width(self, values: Tensor) -> float:
        return self._bits(min(self.size, np.unique(values.double().numpy()).size)) / 8

    def write(self, name: str, values: Tensor, shape: list[int], own: str) -> Written:
        wide = values.double()
        if not bool((wide.abs() <= _LARGEST).all()):
            raise RvsmError(
                f"{name!r} holds infinity, NaN or values beyond {_LARGEST:g}, for which there is "
                "no codebook: write it as 'exact' by a pattern in values=."
            )
        means, codes = codebook.fit(wide.numpy(), self.size)
        bits = self._bits(means.size)
        book = raw_bytes(torch.from_numpy(means).to(values.dtype))
        packed = coding.pack(codes, bits)
        parts = {
            "codes": Part("U8", [packed.size], packed),
            "codebook": Part(NAMES[values.dtype], [means.size], book),
        }
        return Written({"code_bits": bits}, parts, bits, 8 * book.size)

    @staticmethod
    def _bits(size: int) -> int:
        return max(1, (size - 1).bit_length())


def read_form(name: object) -> Form:
    """Return the form that a name stands for.

    Raises
    ------
    RvsmError
        If it stands for none.
    """
    match = re.fullmatch(r"codebook(?:-(\d{1,3}))?", name) if isinstance(name, str) else None
    size = int(match[1] or codebook.MAX_SIZE) if match else 0
    if codebook.MIN_SIZE <= size <= codebook.MAX_SIZE:
        return Codebook(size)
    if name == "exact":
        return Exact()
    if name in ("float16", "bfloat16"):
        return Half(getattr(torch, str(name)))
    raise RvsmError(
        f"values={name!r} is not known: choose exact, float16, bfloat16, codebook, or codebook-N "
        f"with N from {codebook.MIN_SIZE} to {codebook.MAX_SIZE}."
    )


def choose_forms(
    tensors: Mapping[str, Tensor], values: str | Mapping[str, str] | None
) -> dict[str, Form]:
    """Return the form asked for of each tensor that can be written otherwise than exactly.

    A single name is for tensors with two dimensions or more; a mapping from fnmatch patterns to
    names is for whatever they match, the last that matches winning.

    Raises
    ------
    RvsmError
        If a name is not known or a pattern matches nothing.
    """
    if not isinstance(values, Mapping):
        form = read_form("exact" if values is None else values)
        asked = {name: form for name, tensor in tensors.items() if tensor.dim() >= 2}
    else:
        asked = {}
        for pattern, wanted in values.items():
            form = read_form(wanted)
            matched = [name for name in tensors if fnmatchcase(name, pattern)]
            if not matched:
                raise RvsmError(
                    f"values={{{pattern!r}: ...}} matches no tensor: the names are "
                    f"{some(tensors, 5)}."
                )
            asked |= dict.fromkeys(matched, form)
    return {name: form for name, form in asked.items() if form.takes(tensors[name])}


def read_values(entry: Mapping[str, Any], parts: Mapping[str, Part], count: int) -> Tensor:
    """Return `count` values in the tensor's own dtype, one-dimensional.

    Parameters
    ----------
    entry, parts
        As in `Written`.
    count
        Known from the places; there must be as many.

    Raises
    ------
    ValueError
        If entry and parts disagree, or a code stands for nothing.
    """
    dtype = DTYPES[values_dtype(entry, parts)]
    if "code_bits" not in entry:
        part = _plain(parts)
        if math.prod(part.shape) != count:
            raise ValueError("there is another number of values than of places")
        return as_tensor(part.plain(), part.dtype).to(dtype)
    codes, book = parts["codes"], parts["codebook"]
    numbers = coding.unpack(codes.plain(), count, entry["code_bits"])
    if count and numbers.max() >= book.shape[0]:
        raise ValueError("a code stands for no value")
    return as_tensor(book.plain(), book.dtype)[torch.from_numpy(numbers)]


def values_dtype(entry: Mapping[str, Any], parts: Mapping[str, Part]) -> str:
    """Return the name of the tensor's own dtype, from the header alone.

    Raises
    ------
    ValueError
        If the entry does not describe these parts.
    """
    if "code_bits" in entry:
        codes, book, bits = parts["codes"], parts["codebook"], entry["code_bits"]
        if (
            type(bits) is not int
            or not 1 <= bits <= 8
            or codes.dtype != "U8"
            or len(codes.shape) != 1
            or len(book.shape) != 1
            or not book.shape[0] <= 1 << bits
            or not DTYPES[book.dtype].is_floating_point
            or "dtype" in entry
        ):
            raise ValueError("the codebook is described wrongly")
        return book.dtype
    stored = _plain(parts).dtype
    if "dtype" not in entry:
        return stored
    dtype = entry["dtype"]
    if stored not in ("F16", "BF16") or dtype not in ("F32", "F64"):
        raise ValueError("the dtype is described wrongly")
    return str(dtype)


def _plain(parts: Mapping[str, Part]) -> Part:
    return parts["values"] if "values" in parts else parts[""]


def raw_bytes(tensor: Tensor) -> coding.Bytes:
    """Return the bytes of a tensor's elements, in row-major order."""
    if tensor.numel() == 0:  # may have a stride of 0, which torch cannot view
        return np.empty(0, dtype=np.uint8)
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    data: coding.Bytes = plain.view(torch.uint8).numpy()
    return data


def as_tensor(data: coding.Bytes, dtype: str) -> Tensor:
    """Invert `raw_bytes`, in one dimension."""
    if data.size == 0:  # the same from NumPy
        return torch.empty(0, dtype=DTYPES[dtype])
    if not data.flags.writeable:
        data = data.copy()
    return torch.from_numpy(data).view(DTYPES[dtype])
