"""JSON files that somebody may have edited or cut short: what they hold is checked when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def read_object(path: Path, schema: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON object in a file, all of it, if what `schema` names is of its types.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is no JSON, no object, or an entry is of another type: the cause, for a sentence of
        the caller's.
    """
    content: dict[str, Any] = _read(path, schema, dict)
    return content


def read_list(path: Path, schema: type[BaseModel]) -> list[Any]:
    """Return the JSON list in a file, under the same conditions and errors."""
    content: list[Any] = _read(path, schema, list)
    return content


def _read(path: Path, schema: type[BaseModel], kind: type) -> Any:
    from pydantic import ValidationError

    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if not isinstance(content, kind):
        raise ValueError(f"it is no JSON {'object' if kind is dict else 'list'}")
    try:
        schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"{place}: {message}") from None
    return content
