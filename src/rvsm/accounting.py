"""How sparse is a model: zeros, dead filters, multiply-adds and bytes, tensor by tensor."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor, nn

from rvsm.deploy.files import check_whole, sparse_bytes
from rvsm.errors import RvsmError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layer:
    """The account of one parameter tensor.

    Attributes
    ----------
    name, shape, weights
        Name, shape and number of elements.
    nonzeros, zeros
        Elements with (w != 0), and the share of the others, 0 to 1.
    filters, zero_filters
        Slices along the first axis (output channels or rows), and how many are wholly zero;
        None for tensors with one axis or none.
    inputs, zero_inputs
        The same along the second axis (input channels or columns).
    macs, effective_macs
        Multiply-adds of the example's pass through this tensor, and those of them with a
        nonzero weight; None without an example or where the tensor's use is not known.
    dense_bytes, sparse_bytes
        Bytes as stored plainly, and as `rvsm.save` stores them, file header apart.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    zeros: float
    filters: int | None
    zero_filters: int | None
    inputs: int | None
    zero_inputs: int | None
    macs: int | None
    effective_macs: int | None
    dense_bytes: int
    sparse_bytes: int


@dataclass(frozen=True)
class Report:
    """The account of a model: `print` it, hand it to rich, or take `to_dict()`."""

    layers: tuple[Layer, ...]

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        known = [layer for layer in self.layers if layer.macs is not None]
        return {
            "layers": [asdict(layer) | {"shape": list(layer.shape)} for layer in self.layers],
            "total": {
                "weights": self.weights,
                "nonzeros": self.nonzeros,
                "zeros": self.zeros,
                "macs": sum(layer.macs or 0 for layer in known) if known else None,
                "effective_macs": (
                    sum(layer.effective_macs or 0 for layer in known) if known else None
                ),
                "dense_bytes": sum(layer.dense_bytes for layer in self.layers),
                "sparse_bytes": sum(layer.sparse_bytes for layer in self.layers),
            },
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table that `rvsm inspect` prints, with fewer columns where it is too wide."""
        table = self._table()
        unbounded = options.update(max_width=10_000)
        wanted = Measurement.get(console, unbounded, table).maximum
        yield table if wanted <= options.max_width else self._table(short=True)

    def _table(self, short: bool = False) -> Table:
        total = self.to_dict()["total"]
        columns: list[tuple[str, str, Callable[[Layer], str]]] = [
            ("weights", f"{self.weights:,}", lambda layer: f"{layer.weights:,}"),
            ("nonzeros", f"{self.nonzeros:,}", lambda layer: f"{layer.nonzeros:,}"),
            ("zeros", _percent(self.zeros), lambda layer: _percent(layer.zeros)),
        ]
        if not short:
            columns += [
                ("zero outputs", "", lambda layer: _share(layer.zero_filters, layer.filters)),
                ("zero inputs", "", lambda layer: _share(layer.zero_inputs, layer.inputs)),
            ]
        if total["macs"] is not None:
            columns += [
                ("MACs", _count(total["macs"]), lambda layer: _count(layer.macs)),
                ("kept", _count(total["effective_macs"]), lambda x: _count(x.effective_macs)),
            ]
        if not short:
            footer = f"{total['dense_bytes']:,}"
            columns.append(("bytes", footer, lambda layer: f"{layer.dense_bytes:,}"))
        footer = f"{total['sparse_bytes']:,}"
        columns.append(("sparse", footer, lambda layer: f"{layer.sparse_bytes:,}"))
        box = SIMPLE if short else HEAVY_HEAD
        table = Table(show_footer=True, box=box, pad_edge=not short, collapse_padding=short)
        table.add_column("tensor", footer="all", overflow="fold")
        table.add_column("shape", overflow="fold")
        for title, footer, _ in columns:
            table.add_column(title, footer=footer, justify="right", no_wrap=True)
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape)) or "-"
            table.add_row(layer.name, shape, *(cell(layer) for *_, cell in columns))
        return table

    def __str__(self) -> str:
        console = Console(width=160, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()


def report(
    model: nn.Module | Mapping[str, Tensor], example: Tensor | Sequence[Any] | None = None
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
        An input, or a tuple or list of inputs, to run through the module once (in evaluation
        mode, without gradients) to count multiply-adds. They are those of the whole example:
        give a batch of one for numbers per sample. Counted are convolution and linear layers.

    Returns
    -------
    Report

    Raises
    ------
    RvsmError
        If an example comes with a mapping, which cannot be run.

    Examples
    --------
    >>> import rvsm, torch
    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> _ = torch.nn.init.eye_(layer.weight)
    >>> rvsm.report(layer, torch.ones(1, 4)).to_dict()["total"]["effective_macs"]
    2
    """
    if isinstance(model, nn.Module):
        tensors: Mapping[str, Tensor] = dict(model.named_parameters())
        uses = {} if example is None else _uses(model, example)
    elif example is None:
        tensors, uses = model, {}
    else:
        raise RvsmError(
            "An example cannot be run through a mapping of tensors: give rvsm.report the module, "
            "or leave the example out."
        )
    return Report(
        tuple(_account(name, value.detach(), uses.get(name)) for name, value in tensors.items())
    )


def _account(name: str, weight: Tensor, uses: int | None) -> Layer:
    """Account for one tensor, each weight of which is used `uses` times."""
    check_whole(name, weight)
    kept = weight != 0
    nonzeros = int(kept.sum())
    filters = zero_filters = inputs = zero_inputs = None
    if weight.dim() >= 2:
        filters, inputs = weight.shape[:2]
        if weight.numel():
            zero_filters = filters - int(kept.flatten(1).any(1).sum())
            zero_inputs = inputs - int(kept.transpose(0, 1).flatten(1).any(1).sum())
    return Layer(
        name=name,
        shape=tuple(weight.shape),
        weights=weight.numel(),
        nonzeros=nonzeros,
        zeros=1 - nonzeros / weight.numel() if weight.numel() else 0.0,
        filters=filters,
        zero_filters=zero_filters,
        inputs=inputs,
        zero_inputs=zero_inputs,
        macs=None if uses is None else uses * weight.numel(),
        effective_macs=None if uses is None else uses * nonzeros,
        dense_bytes=weight.numel() * weight.element_size(),
        sparse_bytes=sparse_bytes(weight),
    )


def _uses(model: nn.Module, example: Tensor | Sequence[Any]) -> dict[str, int]:
    """Return how often the example's pass multiplies each element of each weight."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    uses: dict[str, int] = {}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        times = _times(module, inputs[0] if inputs else None, output)
        name = names.get(id(getattr(module, "weight", None)))
        if times is not None and name is not None:
            uses[name] = uses.get(name, 0) + times

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            handle = module.register_forward_hook(count)
            stack.callback(handle.remove)
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        model(*([example] if isinstance(example, Tensor) else example))
    return uses


def _times(module: nn.Module, first: Any, output: Any) -> int | None:
    """Return how often a layer multiplies each of its weights, None for other modules."""
    if isinstance(module, _CONVOLUTIONS) and isinstance(output, Tensor):
        return _positions(output, len(module.kernel_size))
    if isinstance(module, _TRANSPOSED) and isinstance(first, Tensor):
        return _positions(first, len(module.kernel_size))
    if isinstance(module, nn.Linear) and isinstance(first, Tensor):
        return math.prod(first.shape[:-1])
    return None


def _positions(features: Tensor, spatial: int) -> int:
    """Return the positions in space, times the batch if there is one, of a feature map."""
    channel = features.dim() - spatial - 1
    return math.prod(features.shape[:channel]) * math.prod(features.shape[channel + 1 :])


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode and back in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _percent(share: float) -> str:
    """Return a share in percent, never rounded up to 100 % or down to 0 %."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return f"{share:.4%}"
    return f"{share:.1%}"


def _share(part: int | None, whole: int | None) -> str:
    return "" if part is None else f"{part}/{whole}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
