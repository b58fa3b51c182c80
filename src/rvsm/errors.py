"""The errors rvsm raises on purpose: one sentence each, with cause and remedy."""

import re


class RvsmError(Exception):
    """Base of every error a user can cause; the command line prints it without a traceback."""


class RuleError(RvsmError, ValueError):
    """A penalty, rule or optimizer option that cannot work."""


class ConfigError(RvsmError, ValueError):
    """A configuration file or option that does not fit the schema."""


class DataError(RvsmError):
    """A data folder, image, font or stroke file that cannot be used."""


class RunError(RvsmError):
    """A run folder, checkpoint or training run that cannot go on."""


class FileFormatError(RvsmError):
    """A sparse model file that is damaged, too new or not ours."""


class UnsupportedLayer(RvsmError):
    """A module that does something for which rvsm knows no layer."""


class CompilerError(RvsmError):
    """A C compiler that is missing, fails, or has no safe place for what it makes."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    # Colours are for terminals, and the hints of torch for its developers.
    line = re.sub(r"\x1b\[\d*m|\s*For more information, run with.*", "", line)
    return line.rstrip(".;:!") or type(error).__name__
