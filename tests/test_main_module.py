"""``python -m rvsm`` is the command line."""

from __future__ import annotations

import subprocess
import sys

import rvsm


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "rvsm", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"rvsm {rvsm.__version__}\n"
