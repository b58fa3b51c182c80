"""From a module to a `Graph`: which layers of the closed list it runs, and how they connect."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rvsm.deploy.network import Network
from rvsm.deploy.reading import BATCH, Reading
from rvsm.errors import RvsmError, UnsupportedLayer, first_line
from rvsm.modes import evaluating


def trace(model: nn.Module, example: Tensor) -> Network:
    """Describe what a module computes in evaluation mode by layers of the closed list.

    Parameters
    ----------
    model
        The module; it takes one tensor and returns one. It is left as it was.
    example
        An input ``(batch, *shape)``, of which shape and dtype count.

    Returns
    -------
    Network
        The same function, with the module's own tensors (copies) under their own names. What
        the module computes of its tensors alone is computed once, here.

    Raises
    ------
    UnsupportedLayer
        If an operation is not in the list, named with its path in the module; or if the module
        treats the samples of a batch differently or together.
    RvsmError
        If the module cannot take the example, or is none.
    """
    if not isinstance(model, nn.Module):
        raise RvsmError(
            f"A {type(model).__name__} is no module: give the network itself, not its tensors or "
            "its file; rvsm.load_network rebuilds a network from a file that holds its layers."
        )
    check_example(example)
    with evaluating(model), torch.no_grad():
        first = example[:1]
        batch = torch.cat([first] * BATCH)
        try:
            with _quiet():
                exported = torch.export.export(model, (batch,), strict=False)
        except Exception as error:
            raise UnsupportedLayer(_why_not(model, first, error)) from error
        reading = Reading(exported, tuple(first.shape[1:]))
        network = Network(*reading.graph()).to(first.device).eval()
        _check_agreement(model, network, first)
    return network


def check_example(example: Tensor) -> None:
    """Raise unless an example is a batch of at least one floating-point sample."""
    if not isinstance(example, Tensor):
        raise RvsmError(
            f"The example is a {type(example).__name__}; give a tensor (batch, channels, ...)."
        )
    if example.dim() < 2 or example.shape[0] == 0 or not example.is_floating_point():
        raise RvsmError(
            f"The example has shape {tuple(example.shape)} and dtype {example.dtype}; give a "
            "floating-point batch of at least one sample, (batch, channels, ...)."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's tracing from warning and logging: what fails is told by the error."""
    # torch.__trace keeps a level of its own, and records of megabytes where anyone listens
    loggers = [logging.getLogger(name) for name in ("torch", "torch.__trace")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # torch.export prints the graph of what it cannot trace
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _why_not(model: nn.Module, example: Tensor, error: Exception) -> str:
    """Tell an example the module cannot take from a module that cannot be traced."""
    try:
        model(example)
    except Exception as own:
        return (
            f"{type(model).__name__} cannot take an example of shape {tuple(example.shape)}: "
            f"{first_line(own)}; give an example as the module is used."
        )
    return (
        f"{type(model).__name__} cannot be traced ({first_line(error)}); its forward must "
        "not depend on the values of its input."
    )


def _check_agreement(model: nn.Module, network: Network, example: Tensor) -> None:
    """Raise unless the layers compute what the module does, whatever the batch."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    noise = torch.rand(2, *example.shape[1:], generator=generator).to(example)
    for images in (example, torch.cat([noise, example])):
        wanted, got = model(images), network(images)
        # weights of a run that diverged are traced like others: shapes agree, and NaN with NaN
        scale = 1 + float(wanted.abs().nan_to_num(0.0, 0.0).amax())
        close = got.shape == wanted.shape and torch.allclose(
            got, wanted, rtol=1e-3, atol=1e-4 * scale, equal_nan=True
        )
        if not close:
            raise UnsupportedLayer(
                f"{type(model).__name__} does not treat every sample of a batch alike and by "
                "itself, which a network of layers does; take apart what depends on the batch."
            )
