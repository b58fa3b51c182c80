"""The memory a runtime takes for a network, in a process of its own.

``python -m rvsm.deploy.benching.memory RUNTIME FOLDER SHAPE BATCH...`` prints a JSON list: for
each batch the peak of resident memory since just before the network was loaded, less what was
resident then, in bytes. The packages are imported and the inputs written by then.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 600


def measure(
    runtime: str, folder: Path, shape: Sequence[int], batches: Sequence[int]
) -> list[int] | str:
    """Return the peaks in bytes, batches in order and one process for all, or why there are none.

    A later batch's peak includes what the earlier ones needed.
    """
    if not Path("/proc/self/clear_refs").exists():
        return "the memory of a process can be told on Linux only"
    command = [sys.executable, "-W", "ignore", "-m", __name__, runtime, str(folder)]
    command += [",".join(map(str, shape)), *map(str, batches)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_SECONDS} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        return f"its process failed: {said[-1]}"
    found: list[int] = json.loads(lines[-1])
    return found


def _status(key: str) -> int:
    """Return an entry of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def _main(runtime: str, folder: str, shape: str, *batches: str) -> None:
    import numpy as np

    from rvsm.deploy.benching.runners import RUNTIMES, Files

    known = RUNTIMES[runtime]
    for package in known.packages:
        importlib.import_module(package)
    if "torch" in known.packages:
        import torch

        import rvsm.deploy.network  # noqa: F401

        torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    sizes = [int(size) for size in shape.split(",")]
    images = {int(batch): rng.random((int(batch), *sizes), dtype=np.float32) for batch in batches}
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    bind = known.open(Files(Path(folder)), 1)
    found = []
    for batch in images.values():
        bound = bind(batch)
        for _ in range(2):
            bound.run()
        found.append(max(0, _status("VmHWM") - before))
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
