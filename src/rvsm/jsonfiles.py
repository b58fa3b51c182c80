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
    from pydantic import ValidationError

    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    try:
        schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"{place}: {message}") from None
    return content
