"""The functions of a compiled network, called on arrays: what runs without torch."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rvsm.native import open_library

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """What must be known of a shared library to call it.

    Attributes
    ----------
    path
        The library.
    name
        Prefix of its functions.
    input_shape, output_shape
        Of one sample.
    workspace_bytes
        Memory each thread needs.
    """

    path: str
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    workspace_bytes: int


class Library:
    """A network in a shared library. Calls from several threads at once do not disturb each other.

    Parameters
    ----------
    facts
        The library and its shapes.
    threads
        Among how many threads a batch is divided; none but its own in a process that is forked off.
    """

    def __init__(self, facts: Facts, threads: int) -> None:
        self.facts = facts
        self.threads = threads
        self._threads = ctypes.c_int(threads)  # shared with what `bind` returned
        _loaded.add(self)
        self._local = threading.local()
        loaded = open_library(Path(facts.path))
        self._run = getattr(loaded, f"{facts.name}_run_parallel")
        self._init = getattr(loaded, f"{facts.name}_init")
        pointer = ctypes.c_void_p
        self._run.argtypes = [pointer, pointer, ctypes.c_size_t, pointer, ctypes.c_int]
        self._run.restype = None
        self._init.argtypes = [pointer]
        self._init.restype = None

    def run(self, images: Floats, result: Floats) -> None:
        """Compute a batch; both arrays are contiguous and of the right shapes."""
        workspace = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = self._prepared()
        self._run(
            images.ctypes.data,
            result.ctypes.data,
            len(images),
            workspace.ctypes.data,
            self._threads,
        )

    def bind(self, images: Floats, result: Floats) -> Callable[[], None]:
        """Return what computes these images into this result, with a workspace of its own."""
        workspace, run = self._prepared(), self._run
        arguments = (
            ctypes.c_void_p(images.ctypes.data),
            ctypes.c_void_p(result.ctypes.data),
            ctypes.c_size_t(len(images)),
            ctypes.c_void_p(workspace.ctypes.data),
            self._threads,
        )
        # addresses alone would let the arrays die
        held = (images, result, workspace)

        def call(held: tuple[object, ...] = held) -> None:
            run(*arguments)

        return call

    def _prepared(self) -> NDArray[np.uint8]:
        size = self.facts.workspace_bytes
        workspace = np.empty(size * self.threads, dtype=np.uint8)
        for thread in range(self.threads):
            self._init(workspace.ctypes.data + thread * size)
        return workspace


_loaded: weakref.WeakSet[Library] = weakref.WeakSet()


def _alone() -> None:
    """Keep libraries to one thread: OpenMP's others did not come along, and would be waited for."""
    for library in _loaded:
        library._threads.value = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
