"""What tests of several files begin with."""

from __future__ import annotations

import pytest

from commandline import Run, run_here


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: run_here(capfd, *arguments)
