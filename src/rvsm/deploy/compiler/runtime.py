"""A compiled network as a callable on torch tensors and NumPy arrays."""

from __future__ import annotations

import ctypes
import threading
import warnings
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rvsm.deploy.compiler.build import build, find_compiler
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import Source, write
from rvsm.deploy.compiler.tune import fastest
from rvsm.deploy.network import Network
from rvsm.deploy.shrink import shrink
from rvsm.errors import RvsmError

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
        with torch.no_grad():
            parameters = next(network.parameters(), torch.zeros(()))
            probe = torch.zeros(1, *self._shape, dtype=parameters.dtype)
            self._out = tuple(network(probe).shape[1:])
        self._local = threading.local()
        if library is not None and source is not None:
            loaded = ctypes.CDLL(str(library))
            self._run = getattr(loaded, f"{source.name}_run_parallel")
            self._init = getattr(loaded, f"{source.name}_init")
            pointer = ctypes.c_void_p
            self._run.argtypes = [pointer, pointer, ctypes.c_size_t, pointer, ctypes.c_int]
            self._run.restype = None
            self._init.argtypes = [pointer]
            self._init.restype = None

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
            if images.dtype == torch.float32:
                return torch.from_numpy(self._compute(images.detach().numpy()))
            self._refuse(str(images.dtype), tuple(images.shape))
        if isinstance(images, np.ndarray):
            return self._compute(images)
        raise RvsmError(
            f"A compiled network takes a torch tensor or a NumPy array, not a "
            f"{type(images).__name__}."
        )

    def _compute(self, images: NDArray[Any]) -> NDArray[np.float32]:
        if images.dtype != np.float32 or images.shape[1:] != self._shape or images.ndim == 0:
            self._refuse(str(images.dtype), images.shape)
        images = np.ascontiguousarray(images)
        result = np.empty((len(images), *self._out), dtype=np.float32)
        if self.library is None:
            with torch.no_grad():
                result[...] = self.network(torch.from_numpy(images)).numpy()
            return result
        self._run(
            images.ctypes.data, result.ctypes.data, len(images), self._workspace(), self.threads
        )
        return result

    def _refuse(self, dtype: str, shape: tuple[int, ...]) -> None:
        wanted = ", ".join(map(str, self._shape))
        raise RvsmError(
            f"The network takes float32 inputs of shape (batch, {wanted}), and this one is "
            f"{dtype.removeprefix('torch.')} {tuple(shape)}."
        )

    def _workspace(self) -> int:
        """Return the address of this thread's workspaces, one for each thread of a batch."""
        found = getattr(self._local, "workspace", None)
        if found is None:
            assert self.source is not None
            size = self.source.workspace_bytes
            found = np.empty(size * self.threads, dtype=np.uint8)
            for thread in range(self.threads):
                self._init(found.ctypes.data + thread * size)
            self._local.workspace = found
        address: int = found.ctypes.data
        return address


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
    if threads < 1:
        raise RvsmError(f"threads is {threads}; give at least 1.")
    network = shrink(model, example).cpu()
    compiler = find_compiler()
    program = lower(network.graph, network.state_dict())
    source = write(program)
    if compiler is None:
        if not _said.is_set():
            _said.set()
            warnings.warn(
                "No C compiler was found (cc, gcc, clang or the variable CC): rvsm.compile "
                "computes with PyTorch instead. Install one to make use of the zeros.",
                RuntimeWarning,
                stacklevel=2,
            )
        return Compiled(network, None, None, threads)
    if tune:
        chosen = fastest(source.layers, source.code, compiler)
        source = write(program, variants=chosen)
    return Compiled(network, source, build(source.code, compiler), threads)
