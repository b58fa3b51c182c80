"""Lines of C, nested."""

from __future__ import annotations

_INDENT = "    "


def indent(lines: list[str]) -> list[str]:
    """Return the lines one level deeper."""
    return [line if line.startswith("#") else _INDENT + line for line in lines]


def braced(head: str, lines: list[str]) -> list[str]:
    """Return ``head { lines }``."""
    return [f"{head} {{", *indent(lines), "}"]
