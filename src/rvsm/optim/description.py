"""Rules in words: what a checkpoint says of the rules it was made under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rvsm.optim.checks import is_number
from rvsm.optim.rule import Rule

TOLD = ("mode", "made")
"""Keys of the options and of the rules in words."""


def rule_text(rule: Rule) -> str:
    """Return what a rule penalises and how, without its strengths, as one line of text."""
    second = "" if rule.subgradient is None else f", subgradient={text(rule.subgradient[0])}"
    return f"Rule({rule.pattern!r}, {text(rule.penalty)}, groups={text(rule.groups)}{second})"


def text(value: object) -> str:
    """Return text that is equal for equal values, in every process.

    ``TransformedL1(a=1)`` and ``TransformedL1(a=1.0)`` are one penalty. A class of a user's own
    whose repr is an address goes by its name.
    """
    if is_number(value):
        return repr(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.repr]
        inner = ", ".join(f"{name}={text(getattr(value, name))}" for name in fields)
        return f"{type(value).__qualname__}({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{text(k)}: {text(value[k])}" for k in sorted(value, key=str)) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(text, value)) + ")"
    found = repr(value)
    return type(value).__qualname__ if " at 0x" in found else found


def difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """Return how the rules that made `saved` numbers differ from those of `own`, None if not.

    What an older checkpoint does not say is taken to be equal.
    """
    for kind in TOLD:
        theirs = saved.get(kind, {})
        for key, value in own[kind].items():
            if theirs.get(key, value) != value:
                name = f"{key} is" if kind == "mode" else f"rule {key} is"
                return f"{name} {theirs[key]!s} there and {value!s} here"
    theirs, ours = saved["rules"], own["rules"]
    if theirs.keys() != ours.keys():
        return f"rules {_listed(theirs)} hold there and rules {_listed(ours)} here"
    for key, strengths in ours.items():
        if theirs[key].keys() != strengths.keys():
            return f"rule {key} has {_listed(theirs[key])} there and {_listed(strengths)} here"
    return None


def _listed(keys: Mapping[str, Any]) -> str:
    return ", ".join(sorted(keys)) or "none"
