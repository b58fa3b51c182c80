"""What tests of several files begin with."""

from __future__ import annotations

import pytest
from hypothesis import settings

from commandline import Run, run_here

# A fifth of a second, hypothesis' limit, is what a busy machine needs for nothing at times.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: run_here(capfd, *arguments)
