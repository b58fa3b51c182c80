"""What rich draws as plain text."""

from __future__ import annotations

from rich.console import Console, RenderableType


def as_text(drawn: RenderableType, width: int = 160) -> str:
    """Return what rich would print on a terminal of so many columns, without colours."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get().rstrip()
