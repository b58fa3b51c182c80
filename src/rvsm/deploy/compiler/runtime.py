"""A compiled network as a callable on torch tensors and NumPy arrays."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rvsm.deploy import ops
from rvsm.deploy.compiler.library import Facts, Library
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import Source, write
from rvsm.deploy.compiler.tune import fastest
from rvsm.deploy.network import Network
from rvsm.deploy.shrink import shrink
from rvsm.errors import RvsmError
from rvsm.native import build, find_compiler, no_compiler

_said = threading.Event()


class Compiled:
    """A network in machine code: takes and gives torch tensors or NumPy arrays.

    Made by :func:`compile`. Calls from several threads at once do not disturb each other.

    Attributes
    ----------
    network
        What was compiled, as a module.
    source
        The C file and its header; None where PyTorch computes for want of a compiler.
    library
        The shared library; None likewise.
    threads
        Among how many threads a batch is divided.
    """

    def __init__(
        self, network: Network, source: Source | None, library: Path | None, threads: int
    ) -> None:
        self.network = network
        self.source = source
        self.library = library
        self.threads = threads
        self._shape = network.graph.input.ints("shape")
        self._out = ops.shapes(network.graph)[network.graph.output.name]
        self._library: Library | None = None
        if library is not None and source is not None:
            facts = Facts(str(library), source.name, self._shape, self._out, source.workspace_bytes)
            self._library = Library(facts, threads)

    @property
    def facts(self) -> Facts | None:
        """What a program needs to call the library; None where PyTorch computes."""
        return None if self._library is None else self._library.facts

    @overload
    def __call__(self, images: Tensor) -> Tensor: ...
    @overload
    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]: ...
    def __call__(self, images: Tensor | NDArray[Any]) -> Tensor | NDArray[np.float32]:
        """Compute a batch.

        Parameters
        ----------
        images
            float32 ``(batch, *shape)``, contiguous or not, on the CPU.

        Returns
        -------
        Tensor or ndarray
            float32 ``(batch, *shape)`` of the kind that was given.

        Raises
        ------
        RvsmError
            If shape, dtype or device is another.
        """
        if isinstance(images, Tensor):
            if images.device.type != "cpu":
                raise RvsmError(
                    f"A compiled network runs on the CPU, and the input is on {images.device}; "
                    "move it with .cpu()."
                )
            if images.layout != torch.strided:
                raise RvsmError(
                    "A compiled network takes dense tensors, and the input is "
                    f"{str(images.layout).removeprefix('torch.')}; convert it with .to_dense()."
                )
            self._check(str(images.dtype).removeprefix("torch."), tuple(images.shape))
            return torch.from_numpy(self._compute(images.detach().numpy()))
        if isinstance(images, np.ndarray):
            return self._compute(images)
        raise RvsmError(
            f"A compiled network takes a torch tensor or a NumPy array, not a "
            f"{type(images).__name__}."
        )

    def _compute(self, images: NDArray[Any]) -> NDArray[np.float32]:
        self._check(str(images.dtype), images.shape)
        if not _laid_out(images):
            images = np.require(images, requirements=["C", "A"])
        result = np.empty((len(images), *self._out), dtype=np.float32)
        if self._library is None:
            with torch.no_grad():
                # torch warns of arrays that must not be written
                own = images if images.flags.writeable else images.copy()
                result[...] = self.network(torch.from_numpy(own)).numpy()
        else:
            self._library.run(images, result)
        return result

    def bind(self, images: NDArray[np.float32], result: NDArray[np.float32]) -> Callable[[], None]:
        """Return a function that computes the same arrays again and again, with least ado.

        Parameters
        ----------
        images
            float32 ``(batch, *shape)``, contiguous: what it holds when the function is called.
        result
            float32 ``(batch, *shape)``, contiguous; it is written.

        Returns
        -------
        callable
            Takes nothing, gives nothing. It has memory of its own: one thread at a time.

        Raises
        ------
        RvsmError
            If an array does not fit.
        """
        if not isinstance(images, np.ndarray) or not isinstance(result, np.ndarray):
            raise RvsmError("bind takes NumPy arrays; tensor.numpy() is the array of a tensor.")
        self._check(str(images.dtype), images.shape)
        wanted = (len(images), *self._out)
        fits = result.shape == wanted and result.dtype == np.float32
        if not fits or not _laid_out(images) or not result.flags.carray:
            raise RvsmError(
                "bind takes contiguous, aligned arrays, and for the result one that can be "
                f"written, float32 {wanted}, not {result.dtype} {result.shape}; "
                "numpy.ascontiguousarray and numpy.empty make them."
            )
        if self._library is not None:
            return self._library.bind(images, result)

        def run() -> None:
            result[...] = self._compute(images)

        return run

    def _check(self, dtype: str, shape: tuple[int, ...]) -> None:
        if dtype == "float32" and shape and shape[1:] == self._shape:
            return
        wanted = ", ".join(map(str, self._shape))
        raise RvsmError(
            f"The network takes float32 inputs of shape (batch, {wanted}), and this one is "
            f"{dtype} {tuple(shape)}."
        )


def _laid_out(array: NDArray[Any]) -> bool:
    """Say whether C can read an array as it lies."""
    return bool(array.flags.c_contiguous and array.flags.aligned)


def compile(model: nn.Module, example: Tensor, *, threads: int = 1, tune: bool = True) -> Compiled:
    """Turn a network into machine code that leaves its zeros out.

    Parameters
    ----------
    model
        A feed-forward network of layers rvsm knows; its tensors are copied.
    example
        A float32 input ``(batch, *shape)``; the batch may be another later.
    threads
        Among how many threads a batch is divided.
    tune
        Time several ways to compute each layer on this machine and take the fastest, once for a
        network; otherwise shape and share of zeros decide.

    Returns
    -------
    Compiled
        A callable with the model's outputs up to rounding. Where no C compiler is found it
        computes with PyTorch, and says so once.

    Raises
    ------
    UnsupportedLayer
        If the model does something that is no layer rvsm knows.
    CompilerError
        If the compiler fails.
    RvsmError
        If the example or the number of threads cannot be.

    Examples
    --------
    >>> import rvsm, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    >>> fast = rvsm.compile(model, torch.zeros(1, 8))
    >>> bool(torch.allclose(fast(torch.ones(3, 8)), model(torch.ones(3, 8))))
    True
    """
    if type(threads) is not int or threads < 1:
        raise RvsmError(f"threads is {threads!r}; give a whole number of at least 1.")
    network = shrink(model, example).cpu()
    compiler = find_compiler()
    if compiler is None:
        if not _said.is_set():
            _said.set()
            warnings.warn(
                f"{no_compiler()}: rvsm.compile computes with PyTorch instead. Install one, or "
                "let CC name one without options, to make use of the zeros.",
                RuntimeWarning,
                stacklevel=2,
            )
        return Compiled(network, None, None, threads)
    program = lower(network.graph, network.state_dict())
    source = write(program)
    if tune:
        chosen = fastest(source.layers, source.code, compiler)
        source = write(program, variants=chosen)
    return Compiled(network, source, build(source.code, compiler), threads)
