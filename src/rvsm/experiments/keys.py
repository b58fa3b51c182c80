"""The keys of a configuration as Markdown tables, for ``rvsm train --keys`` and docs/config.md."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rvsm.experiments.config import DEFAULT_RULES, SECTIONS, RuleConfig, TrainConfig

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def keys_table() -> str:
    """Return one table for the top level and one per section: key, values, default, meaning."""
    tables = [_table(TrainConfig)]
    for name, model in SECTIONS.items():
        title, text = f"[{name}]", _plain(inspect.getdoc(model))
        if model is RuleConfig:
            title, text = f"[{title}]", f"{text} Where there are none, {_rules()}."
        tables.append(f"### `{title}`\n\n{text}\n\n{_table(model)}")
    return "\n".join(tables)


def _rules() -> str:
    return " and ".join(
        f"`{rule.pattern}` has sparsity {rule.sparsity:g}" for rule in DEFAULT_RULES
    )


def _table(model: type[BaseModel]) -> str:
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in SECTIONS or model is not TrainConfig:
            values = _values(field.annotation, field.metadata)
            cells = (f"`{name}`", values, _default(field), _plain(field.description))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _values(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say in words what a type admits, with the bounds that go with it."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values(inner[0], _unpacked(inner[1:]))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return _values(next(kind for kind in inner if kind is not type(None)), metadata)
    if origin is tuple:
        number = "any number of" if inner[1:] == (...,) else str(len(inner))
        return f"list of {number}: {_values(inner[0])}"
    told = [_NAMES[annotation]]
    for bound in _unpacked(metadata):
        told += [f"{sign} {getattr(bound, name):g}" for name, sign in _BOUNDS.items()
                 if hasattr(bound, name)]  # fmt: skip
    return ", ".join(told)


def _unpacked(metadata: Iterable[Any]) -> list[Any]:
    """Return bounds one by one: pydantic's own field holds several."""
    return [
        bound
        for entry in metadata
        for bound in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"


def _plain(text: str | None) -> str:
    """Return a docstring as one line of Markdown."""
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")
