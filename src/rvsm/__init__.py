"""Sparse neural networks by relaxed variable splitting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvsm.accounting import report
    from rvsm.deploy.files import load, save
    from rvsm.deploy.shrink import shrink, shrink_report
    from rvsm.errors import (
        ConfigError,
        DataError,
        FileFormatError,
        RuleError,
        RunError,
        RvsmError,
        UnsupportedLayer,
    )
    from rvsm.optim import RVSM, Rule

__version__ = "0.1.0"

__all__ = [
    "RVSM",
    "ConfigError",
    "DataError",
    "FileFormatError",
    "Rule",
    "RuleError",
    "RunError",
    "RvsmError",
    "UnsupportedLayer",
    "load",
    "report",
    "save",
    "shrink",
    "shrink_report",
]

# Imported when first used: `import rvsm` alone does not wait for torch.
_HOME = {
    "RVSM": "rvsm.optim",
    "Rule": "rvsm.optim",
    "report": "rvsm.accounting",
    "load": "rvsm.deploy.files",
    "save": "rvsm.deploy.files",
    "shrink": "rvsm.deploy.shrink",
    "shrink_report": "rvsm.deploy.shrink",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "rvsm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
