"""Sparse neural networks by relaxed variable splitting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvsm import recipes
    from rvsm.accounting import report, sensitivity
    from rvsm.deploy.compiler.runtime import Compiled, compile
    from rvsm.deploy.files import load, save
    from rvsm.deploy.network import load_network
    from rvsm.deploy.shrink import shrink, shrink_report
    from rvsm.errors import (
        CompilerError,
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
    "Compiled",
    "CompilerError",
    "ConfigError",
    "DataError",
    "FileFormatError",
    "Rule",
    "RuleError",
    "RunError",
    "RvsmError",
    "UnsupportedLayer",
    "compile",
    "load",
    "load_network",
    "recipes",
    "report",
    "save",
    "sensitivity",
    "shrink",
    "shrink_report",
]

# Imported when first used: `import rvsm` alone does not wait for torch.
_HOME = {
    "RVSM": "rvsm.optim",
    "Rule": "rvsm.optim",
    "Compiled": "rvsm.deploy.compiler.runtime",
    "compile": "rvsm.deploy.compiler.runtime",
    "report": "rvsm.accounting",
    "sensitivity": "rvsm.accounting",
    "load": "rvsm.deploy.files",
    "load_network": "rvsm.deploy.network",
    "save": "rvsm.deploy.files",
    "shrink": "rvsm.deploy.shrink",
    "shrink_report": "rvsm.deploy.shrink",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "recipes":
        return import_module("rvsm.recipes")
    value = getattr(import_module(_HOME.get(name, "rvsm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
