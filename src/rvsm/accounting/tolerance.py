"""How many zeros each layer bears: one layer at a time is pruned, the model scored."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn

from rvsm.accounting.layer import check_countable
from rvsm.accounting.tables import percent
from rvsm.bars import progress_bars
from rvsm.errors import RvsmError
from rvsm.text import as_text

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class LayerCurve:
    """The score of a model over the sparsity of one of its layers.

    Attributes
    ----------
    name, weights
        The tensor and its number of elements.
    zeros
        Zeros of the tensor at each point, rising; the first is that of the tensor as it is.
    scores
        What `evaluate` returned at each point; the first is that of the model as it is.
    """

    name: str
    weights: int
    zeros: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Share of zeros at each point, 0 to 1."""
        return tuple(zeros / self.weights for zeros in self.zeros)


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found: `print` it, hand it to rich, `plot` it, or take `to_dict()`.

    Attributes
    ----------
    score
        Of the model as it is.
    sparsities
        What was asked for.
    layers
        A curve for each tensor.
    """

    score: float
    sparsities: tuple[float, ...]
    layers: tuple[LayerCurve, ...]

    def bearable(self, drop: float = 0.01) -> dict[str, float]:
        """Return for each tensor the largest sparsity up to which no score lies lower by more.

        Parameters
        ----------
        drop
            How much the score may fall, in its own unit: 0.01 of an accuracy is one point.
        """
        found = {}
        for layer in self.layers:
            found[layer.name] = layer.sparsities[0]
            for share, score in zip(layer.sparsities, layer.scores, strict=True):
                if not score >= self.score - drop:
                    break
                found[layer.name] = share
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        layers = [
            {**asdict(layer), "sparsities": list(layer.sparsities)}
            | {"zeros": list(layer.zeros), "scores": list(layer.scores)}
            for layer in self.layers
        ]
        return {"score": self.score, "sparsities": list(self.sparsities), "layers": layers}

    def plot(self, path: Path | str) -> None:
        """Draw a curve for each layer: its ending says the format, such as ``.png``.

        Raises
        ------
        RvsmError
            If matplotlib is not installed, does not know the ending, or the file cannot be written.
        """
        from rvsm.accounting.picture import draw_sensitivity, write

        write(lambda: draw_sensitivity(self), path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield a table: a row for each layer, a column for each sparsity."""
        table = Table(
            title=f"Score with one tensor pruned; {self.score:.4g} as it is",
            title_justify="left",
            box=SIMPLE,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("tensor", overflow="fold")
        table.add_column("zeros now", justify="right", no_wrap=True)
        for sparsity in self.sparsities:
            table.add_column(f"{sparsity:.4g}", justify="right", no_wrap=True)
        for layer in self.layers:
            scores = dict(zip(layer.zeros[1:], layer.scores[1:], strict=True))
            wanted = [round(sparsity * layer.weights) for sparsity in self.sparsities]
            cells = [f"{scores[zeros]:.4g}" if zeros in scores else "" for zeros in wanted]
            table.add_row(layer.name, percent(layer.sparsities[0]), *cells)
        yield table

    def __str__(self) -> str:
        return as_text(self)


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    *,
    sparsities: Sequence[float] = SPARSITIES,
    layers: Sequence[str] | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Sensitivity:
    """Score a model with one tensor at a time pruned by magnitude, all others as they are.

    Of a tensor's n weights the ``round(s n)`` smallest in size become zero; of equals the first
    in row-major order. Zeros that are there already count among them: a tensor begins at the
    sparsity it has, and what is asked for at or below that is left out. Nothing is trained: with
    training a layer bears more, so the curves tell which layers bear less than others, not how
    sparse the model can be. Choose sparsities on data that are neither trained nor tested on.

    Parameters
    ----------
    model
        The model. Each tensor is put back bit for bit, also when `evaluate` raises.
    evaluate
        Takes the model, returns a number, the higher the better, such as an accuracy. It must
        bring the model into evaluation mode itself.
    sparsities
        Shares of zeros to try, 0 to 1.
    layers
        Names or fnmatch patterns of the parameters to try; by default all with two axes or more.
    progress
        Show a bar on standard error if that is a terminal; or a function of (scored, in all).

    Returns
    -------
    Sensitivity

    Raises
    ------
    RvsmError
        If a sparsity is no share, a pattern matches nothing, or `evaluate` returns no number.

    Examples
    --------
    >>> import rvsm, torch
    >>> layer = torch.nn.Linear(10, 10, bias=False)
    >>> kept = rvsm.sensitivity(layer, lambda m: int((m.weight != 0).sum()), sparsities=[0.9])
    >>> kept.layers[0].scores
    (100.0, 10.0)
    """
    asked = tuple(sorted({float(sparsity) for sparsity in sparsities}))
    if not all(0 <= sparsity <= 1 for sparsity in asked):
        raise RvsmError(f"sparsities {list(sparsities)} must be shares of zeros from 0 to 1.")
    chosen = _chosen(model, layers)
    steps = {name: _steps(weight, asked) for name, weight in chosen.items()}
    told = _Told(progress, 1 + sum(len(own) - 1 for own in steps.values()))
    with told.bar():
        score = _number(evaluate(model))
        told.one_more()
        curves = []
        for name, weight in chosen.items():
            scores = [score]
            for zeros in steps[name][1:]:
                with _pruned(weight, zeros):
                    scores.append(_number(evaluate(model)))
                told.one_more()
            curves.append(LayerCurve(name, weight.numel(), steps[name], tuple(scores)))
    return Sensitivity(score, asked, tuple(curves))


def _chosen(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    if patterns is None:
        chosen = {name: x for name, x in parameters.items() if x.dim() > 1}
    else:
        patterns = [patterns] if isinstance(patterns, str) else patterns
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise RvsmError(
                    f"layers: {pattern!r} matches no parameter; the model has "
                    f"{', '.join(parameters) or 'none'}."
                )
        chosen = {n: x for n, x in parameters.items() if any(fnmatchcase(n, p) for p in patterns)}
    for name, weight in chosen.items():
        check_countable(name, weight)
    return {name: weight for name, weight in chosen.items() if weight.numel()}


def _steps(weight: Tensor, sparsities: Sequence[float]) -> tuple[int, ...]:
    """Return the zeros a tensor has, and the higher numbers asked for."""
    now = int((weight == 0).sum())
    asked = sorted({round(sparsity * weight.numel()) for sparsity in sparsities})
    return (now, *(zeros for zeros in asked if zeros > now))


@contextlib.contextmanager
def _pruned(weight: Tensor, zeros: int) -> Iterator[None]:
    """Make the smallest of a tensor zero, and put it back afterwards."""
    kept = weight.detach().clone()
    smallest = kept.abs().flatten().argsort(stable=True)[:zeros]
    flags = torch.zeros(kept.numel(), dtype=torch.bool, device=kept.device)
    flags[smallest] = True
    try:
        with torch.no_grad():
            weight.masked_fill_(flags.view(kept.shape), 0)
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def _number(score: Any) -> float:
    try:
        return float(score.detach() if isinstance(score, Tensor) else score)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RvsmError(
            f"evaluate returned a {type(score).__name__}, not a number; let it return one score, "
            "such as an accuracy."
        ) from error


class _Told:
    """Who is told how many scores are there: a bar, or the caller's function."""

    def __init__(self, progress: bool | Callable[[int, int], None], total: int) -> None:
        self._console = Console(stderr=True)
        shown = progress is True and self._console.is_terminal
        self._bars = progress_bars(self._console, disable=not shown)
        self._tell = progress if callable(progress) else None
        self._done, self._total = 0, total

    @contextlib.contextmanager
    def bar(self) -> Iterator[None]:
        """Show the bar, if there is to be one, for as long as the block runs."""
        with self._bars:
            self._task = self._bars.add_task("sensitivity", total=self._total)
            yield

    def one_more(self) -> None:
        """Tell that one more score is there."""
        self._done += 1
        self._bars.update(self._task, completed=self._done)
        if self._tell is not None:
            self._tell(self._done, self._total)
