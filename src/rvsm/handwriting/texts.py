"""The words that are written: a list of everyday English and German words and names."""

from __future__ import annotations

from importlib.resources import files


def words() -> list[str]:
    """All words of the built-in list, without repetition, in its order."""
    text = files("rvsm.handwriting").joinpath("words.txt").read_text(encoding="utf-8")
    return list(dict.fromkeys(text.split()))
