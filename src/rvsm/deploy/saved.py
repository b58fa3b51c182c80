"""What saving a model cost and changed: the account that `rvsm.save` returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from rvsm.deploy.entries import Encoded
from rvsm.deploy.stored import Stored
from rvsm.text import as_text


@dataclass(frozen=True)
class SavedTensor:
    """The account of one tensor in the file.

    Attributes
    ----------
    name, shape, dtype
        What it is; dtype as safetensors calls it.
    coding, values
        How its places ("dense", "bitmask", "gaps", "rice") and its values ("exact", "F16",
        "BF16", "codebook of 256") are written; "alias" for one tied to another, counted there.
    compressed
        Whether zstd made any of its arrays smaller.
    elements, kept
        Elements, and values written for them apart from zeros.
    dense_bytes, bytes
        Written plainly, and in this file, header apart.
    bound_bytes
        The information in it, log2 C(elements, kept) bits for the places and the bits of the
        kept values as written, codebook included.
    max_error, rms_error
        The largest and the root of the mean squared difference between the kept values and what
        is read back, in units of the values; infinite and NaN values left out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    coding: str
    values: str
    compressed: bool
    elements: int
    kept: int
    dense_bytes: int
    bytes: int
    bound_bytes: float
    max_error: float
    rms_error: float


@dataclass(frozen=True)
class Saved:
    """The account of a file: `print` it, hand it to rich, or take `to_dict()`.

    Attributes
    ----------
    path, version, bytes
        The file, the version of its layout, and its whole size.
    tensors
        One account each.
    accuracy_before, accuracy_after
        What ``evaluate`` said of the model and of the tensors as stored; None without one.
    """

    path: Path
    version: int
    bytes: int
    tensors: tuple[SavedTensor, ...]
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors written plainly, tied ones once."""
        return sum(tensor.dense_bytes for tensor in self.tensors)

    @property
    def bound_bytes(self) -> float:
        """The sum of the tensors' bounds."""
        return sum(tensor.bound_bytes for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        return asdict(self) | {
            "path": str(self.path),
            "dense_bytes": self.dense_bytes,
            "bound_bytes": self.bound_bytes,
            "tensors": [asdict(t) | {"shape": list(t.shape)} for t in self.tensors],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table that `rvsm export` prints, and the accuracies under it."""
        table = Table(show_footer=True)
        table.add_column("tensor", footer="all, with header", overflow="fold")
        table.add_column("places", overflow="fold")
        table.add_column("values", overflow="fold")
        for title, footer in (
            ("kept", f"{sum(tensor.kept for tensor in self.tensors):,}"),
            ("dense", f"{self.dense_bytes:,}"),
            ("bytes", f"{self.bytes:,}"),
            ("bound", f"{self.bound_bytes:,.0f}"),
            ("max error", ""),
            ("rms", ""),
        ):
            table.add_column(title, footer=footer, justify="right")
        for tensor in self.tensors:
            table.add_row(
                tensor.name,
                tensor.coding + (", zstd" if tensor.compressed else ""),
                tensor.values,
                *(f"{n:,}" for n in (tensor.kept, tensor.dense_bytes, tensor.bytes)),
                f"{tensor.bound_bytes:,.0f}",
                *(f"{e:.2g}" if e else "0" for e in (tensor.max_error, tensor.rms_error)),
            )
        yield table
        if self.accuracy_before is not None and self.accuracy_after is not None:
            change = self.accuracy_after - self.accuracy_before
            yield (
                f"Accuracy {self.accuracy_before:.4f} before, {self.accuracy_after:.4f} as "
                f"stored: {change:+.4f}"
            )

    def __str__(self) -> str:
        return as_text(self)


def account(
    stored: Stored,
    tensors: Mapping[str, Tensor],
    encoded: Mapping[str, Encoded],
    version: int,
    size: int,
    accuracies: tuple[float, float] | None,
) -> Saved:
    """Return the account of a file.

    Parameters
    ----------
    stored
        The file as it will be read.
    tensors, encoded
        What was saved, and how; a tied tensor is encoded once.
    version, size
        The version of its layout, and its size in bytes.
    accuracies
        Before and after, where they were measured.
    """
    rows = []
    for name, tensor in tensors.items():
        shape, dtype = stored.described(name)
        found = encoded.get(name)
        if found is None:
            row = SavedTensor(name, tuple(shape), dtype, "alias", "", False, 0, 0, 0, 0, 0.0, 0, 0)
            rows.append(row)
            continue
        exact = {"dtype", "code_bits"}.isdisjoint(found.entry)
        largest, rms = (0.0, 0.0) if exact else _errors(tensor, stored.tensor(name))
        rows.append(
            SavedTensor(
                name=name,
                shape=tuple(shape),
                dtype=dtype,
                coding=found.entry["coding"],
                values="exact" if exact else _form(name, found),
                compressed=any(part.compressed for part in found.parts.values()),
                elements=found.elements,
                kept=found.kept,
                dense_bytes=tensor.numel() * tensor.element_size(),
                bytes=found.size,
                bound_bytes=found.bound,
                max_error=largest,
                rms_error=rms,
            )
        )
    return Saved(stored.path, version, size, tuple(rows), *(accuracies or ()))


def _form(name: str, encoded: Encoded) -> str:
    book = encoded.parts.get(f"{name}:codebook")
    if book is not None:
        return f"codebook of {book.shape[0]}"
    return next(part.dtype for part in encoded.parts.values() if part.dtype in ("F16", "BF16"))


def _errors(tensor: Tensor, stored: Tensor) -> tuple[float, float]:
    """Return the largest and the root mean square error over the finite nonzero values."""
    exact = tensor.detach().cpu().double()
    kept = (exact != 0) & exact.isfinite()
    errors = (stored.double() - exact)[kept]
    if not errors.numel():
        return 0.0, 0.0
    return float(errors.abs().max()), float(errors.square().mean().sqrt())
