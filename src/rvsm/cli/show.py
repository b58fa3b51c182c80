"""An account on the terminal: in colours that fit it, as plain text elsewhere, or as JSON."""

from __future__ import annotations

import json
from typing import Any, Protocol

import typer


class Account(Protocol):
    """What rich can draw and JSON can hold."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts."""


def show(account: Account, as_json: bool = False) -> None:
    """Print an account."""
    if as_json:
        typer.echo(json.dumps(account.to_dict(), indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(account if console.is_terminal else str(account), soft_wrap=True)
