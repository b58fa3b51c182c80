"""Which code draws the images, and whether two descriptions are of the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import rvsm


@lru_cache(maxsize=1)
def generator_version() -> str:
    """Version of the package and digest of the sources that decide on the images."""
    digest = hashlib.sha256()
    for file in sorted(files("rvsm.handwriting").iterdir(), key=lambda f: f.name):
        if file.name.endswith((".py", ".txt")) and file.name not in _NO_PIXELS:
            digest.update(file.read_bytes())
    return f"{rvsm.__version__}+{digest.hexdigest()[:12]}"


def alike(generator: str, other: str) -> bool:
    """Whether two generators, as dataset.json names them, draw the same images."""
    same = _DREW_ALIKE | {generator_version()}
    return generator == other or {generator, other} <= same


def differing(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Keys of `asked` that tell of other images than those `found`; generators may be `alike`."""
    other = [key for key, value in asked.items() if found.get(key) != value]
    if "generator" in other and alike(str(found.get("generator")), str(asked["generator"])):
        other.remove("generator")
    return other


_DREW_ALIKE: frozenset[str] = frozenset(["0.1.0+4a2d726ce5c3"])
"""Earlier generators whose images are those of this one, bit for bit; any change of pixels empties
this set."""

_NO_PIXELS = frozenset(
    [
        "__init__.py",
        "alone.py",
        "appearing.py",
        "block.py",
        "check.py",
        "datasets.py",
        "description.py",
        "differences.py",
        "duplicates.py",
        "findings.py",
        "generator.py",
        "intervals.py",
        "leaks.py",
        "linear.py",
        "made.py",
        "manifest.py",
        "network.py",
        "shaken.py",
        "spool.py",
        "strokejson.py",
        "turned.py",
    ]
)
