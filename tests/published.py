"""Where the published sets lie that some tests read: never a part of the project."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("RVSM_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""The folder above them."""
