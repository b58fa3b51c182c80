"""Names of what ``rvsm serve --store`` keeps, by which ``rvsm predict`` knows them again."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from pathlib import Path

_BESIDE_A_SCAN = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-[0-9a-f]{6}-scan\.json")


def new_name(kind: str) -> str:
    """A name without ending for a new ``drawing`` or ``scan``, of the date and random letters."""
    return f"{datetime.now():%Y-%m-%d-%H%M%S}-{secrets.token_hex(3)}-{kind}"


def is_beside_a_scan(file: Path) -> bool:
    """Whether a file has the name of an answer that is kept beside its scan."""
    return _BESIDE_A_SCAN.fullmatch(file.name) is not None
