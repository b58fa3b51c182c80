"""Compile a run's network beside the page: it answers with PyTorch until that is done.

Tracing and timing a network takes seconds to a minute and would block the page; so a process of
its own, ``python -m rvsm.experiments.serve.compiling RUN``, does it and tells where the library is.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rvsm.deploy.compiler.library import Facts, Library
from rvsm.native import find_compiler


class Compiling:
    """A compilation under way.

    Parameters
    ----------
    run_dir
        A finished run.
    ready
        Called from a thread with the compiled network, if it comes to that.
    """

    def __init__(self, run_dir: Path, ready: Callable[[Callable[[Tensor], Tensor]], None]) -> None:
        self._ready = ready
        command = [sys.executable, "-m", "rvsm.experiments.serve.compiling", str(run_dir)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # ctrl-C is for the page, which then ends this
        )
        threading.Thread(target=self._wait, name="rvsm-compiling", daemon=True).start()

    def stop(self) -> None:
        """End the process where it still runs."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3)

    def _wait(self) -> None:
        out, _ = self._process.communicate()
        if self._process.returncode == 0 and out:
            self._ready(called(json.loads(out)))


def start(run_dir: Path, ready: Callable[[Callable[[Tensor], Tensor]], None]) -> Compiling | None:
    """Begin to compile; None where there is no C compiler."""
    return None if find_compiler() is None else Compiling(run_dir, ready)


def called(told: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """A compiled network as a function of tensors.

    Parameters
    ----------
    told
        The facts of `main`.
    """
    shapes = {name: tuple(told[name]) for name in ("input_shape", "output_shape")}
    facts = Facts(**{**told, **shapes})
    library = Library(facts, 1)

    def network(images: Tensor) -> Tensor:
        result = np.empty((len(images), *facts.output_shape), dtype=np.float32)
        library.run(np.ascontiguousarray(images.numpy()), result)
        return torch.from_numpy(result)

    return network


def main(run_dir: Path) -> None:
    """Compile the network of a run and print the facts of its library as JSON."""
    import rvsm
    from rvsm.experiments.runs import load_run

    torch.set_num_threads(1)
    _, net = load_run(run_dir)
    facts = rvsm.compile(net, torch.zeros(1, 1, *net.size)).facts
    if facts is not None:
        sys.stdout.write(json.dumps(asdict(facts)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
