"""The account of a whole model: `report` and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm.accounting.formats import FORMATS
from rvsm.accounting.layer import Layer, account, check_countable
from rvsm.accounting.passes import Inputs
from rvsm.accounting.products import OTHER, count_products
from rvsm.accounting.tables import tables
from rvsm.accounting.units import find_units
from rvsm.errors import RvsmError
from rvsm.text import as_text

if TYPE_CHECKING:
    from rvsm.accounting.tolerance import Sensitivity

_GRID = (96, 192)


@dataclass(frozen=True)
class Report:
    """The account of a model: `print` it, hand it to rich, `plot` it, or take `to_dict()`.

    Attributes
    ----------
    layers
        The account of each parameter tensor.
    block
        Rows and columns of the blocks that were counted.
    other_macs
        Multiply-adds of the example's pass that belong to no parameter, such as the products of
        queries and keys; None without an example.
    densities
        For each tensor with two axes or more the share of nonzeros over its matrix
        ``w.flatten(1)``, in a grid of at most 96 x 192 cells: what `plot` shows.
    """

    layers: tuple[Layer, ...]
    block: tuple[int, int] = (4, 4)
    other_macs: int | None = None
    densities: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def weights(self) -> int:
        """Elements of all parameters."""
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Elements of all parameters that are not zero."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def zeros(self) -> float:
        """Share of zeros among all parameters, 0 to 1."""
        return 1 - self.nonzeros / self.weights if self.weights else 0.0

    @property
    def macs(self) -> int | None:
        """Multiply-adds with parameters in the example's pass; None where none were counted."""
        return _sum([layer.macs for layer in self.layers])

    @property
    def effective_macs(self) -> int | None:
        """Those of them with a nonzero weight."""
        return _sum([layer.effective_macs for layer in self.layers])

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes of all tensors in each format."""
        return {kind: sum(layer.bytes[kind] for layer in self.layers) for kind in FORMATS}

    @property
    def sparse_bytes(self) -> int:
        """Bytes as `rvsm.save` stores all tensors, file header apart."""
        return sum(layer.sparse_bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "block": list(self.block),
            "total": {
                "weights": self.weights,
                "nonzeros": self.nonzeros,
                "zeros": self.zeros,
                "macs": self.macs,
                "effective_macs": self.effective_macs,
                "other_macs": self.other_macs,
                "dead_units": _sum([layer.dead_units for layer in self.layers]),
                "bytes": self.bytes,
                "dense_bytes": self.bytes["dense"],
                "sparse_bytes": self.sparse_bytes,
            },
        }

    def plot(self, path: Path | str, sensitivity: "Sensitivity | None" = None) -> None:
        """Draw the report: nonzeros, multiply-adds, bytes, and where the nonzeros are.

        Parameters
        ----------
        path
            The file, replaced atomically; its ending says the format, such as ``.png``, ``.svg``.
        sensitivity
            What `rvsm.sensitivity` returned, to be drawn below.

        Raises
        ------
        RvsmError
            If matplotlib is not installed, does not know the ending, or the file cannot be written.
        """
        from rvsm.accounting.picture import draw_report, write

        write(lambda: draw_report(self, sensitivity), path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables that `rvsm inspect` prints, narrower where they would be too wide."""
        yield from tables(self, console, options)

    def __str__(self) -> str:
        return as_text(self)


def report(
    model: nn.Module | Mapping[str, Tensor],
    example: Inputs | None = None,
    *,
    samples: Inputs | Literal[False] | None = None,
    block: tuple[int, int] = (4, 4),
) -> Report:
    """Count a model's zeros and what they are worth.

    Zeros are counted by ``w == 0``. Under `rvsm.RVSM` call this inside
    ``optimizer.sparse_weights()`` or after ``optimizer.finalize()``: before that the parameters
    hold w, which has no zeros.

    Parameters
    ----------
    model
        A module, of which the parameters are counted (tied ones once), or a mapping from names
        to tensors such as `rvsm.load` returns.
    example
        An input, a tuple or list of inputs, or a mapping of them by name, to run through the
        module once (in evaluation mode, without gradients) to count multiply-adds. They are those
        of the whole example: give a batch of one for numbers per sample. Counted are convolutions
        and matrix products, by modules or by functions; padding counts as input.
    samples
        The same kind of input, on which to look for dead units: outputs of a layer that never
        changed, or that the model's output does not depend on, in any of these samples. By default
        the example; give a batch that is like the data, or False to look for none. Runs forward
        and backward once.
    block
        Rows and columns of the blocks to count on each matrix ``w.flatten(1)``.

    Returns
    -------
    Report

    Raises
    ------
    RvsmError
        If inputs come with a mapping, which cannot be run; if the module cannot take them; if a
        tensor is no ordinary one; or if the block has no size.

    Examples
    --------
    >>> import rvsm, torch
    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> _ = torch.nn.init.eye_(layer.weight)
    >>> rvsm.report(layer, torch.ones(1, 4)).to_dict()["total"]["effective_macs"]
    2
    """
    if not isinstance(model, nn.Module | Mapping):
        raise RvsmError(
            f"rvsm.report takes a module or a mapping from names to tensors, not a "
            f"{type(model).__name__}."
        )
    if len(block) != 2 or min(block) < 1:
        raise RvsmError(f"A block of {block} has no size; give rows and columns, such as (4, 4).")
    looked_at = example if samples is None else None if samples is False else samples
    tensors = dict(model.named_parameters() if isinstance(model, nn.Module) else model)
    for name, value in tensors.items():
        check_countable(name, value)
    macs = units = None
    if isinstance(model, nn.Module):
        macs = None if example is None else count_products(model, example)
        units = None if looked_at is None else find_units(model, looked_at)
    elif example is not None or looked_at is not None:
        raise RvsmError(
            "An example cannot be run through a mapping of tensors: give rvsm.report the module, "
            "or leave the example out."
        )
    return Report(
        layers=tuple(
            account(name, value, block, (macs or {}).get(name), (units or {}).get(name))
            for name, value in tensors.items()
        ),
        block=(block[0], block[1]),
        other_macs=None if macs is None else macs.get(OTHER, (0, 0))[0],
        densities={n: _density(x) for n, x in tensors.items() if x.dim() > 1 and x.numel()},
    )


@torch.no_grad()
def _density(weight: Tensor) -> NDArray[np.float32]:
    """Return the share of nonzeros in each cell of a grid over a tensor's matrix."""
    kept = (weight.flatten(1) != 0).float()
    rows, columns = (min(size, most) for size, most in zip(kept.shape, _GRID, strict=True))
    cells: NDArray[np.float32] = F.adaptive_avg_pool2d(kept[None], (rows, columns))[0].cpu().numpy()
    return cells


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
