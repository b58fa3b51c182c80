"""What is told in plain text: what rich draws, and lists too long to tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def as_text(drawn: RenderableType, width: int = 160) -> str:
    """Return what rich would print on a terminal of so many columns, without colours."""
    from rich.console import Console

    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get().rstrip()


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each reason: of how many names it is, the first of them, and the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return [
        (f"{some(of)}: " if len(of) == 1 else f"{len(of)} ({some(of)}): ") + reason
        for reason, of in names.items()
    ]
