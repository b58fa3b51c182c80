"""Keep drawings and scans with their answers, where that was asked for."""

from __future__ import annotations

import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rvsm.atomic import atomic_write, make_folder
from rvsm.experiments.serve.drawing import Drawing

_REMEMBERED = 1000
_ENDINGS = {
    b"%PDF-": "pdf",
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
    b"GIF8": "gif",
    b"BM": "bmp",
}
_NOT_KEPT = {"picture", "evidence", "grey"}
_BESIDE_A_SCAN = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-[0-9a-f]{6}-scan\.json")


class Store:
    """A folder of what the page was asked.

    A drawing is one JSON file of strokes, as `rvsm.handwriting.strokejson` reads them, and answer;
    as it grows, its file is replaced. A scan is its file as it came, with a JSON file of the answer
    beside it. Names are dates and random letters: nothing a browser says becomes part of one.

    Parameters
    ----------
    folder
        Made where missing.

    Raises
    ------
    RvsmError
        If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._names: OrderedDict[str, str] = OrderedDict()

    def drawing(self, key: str, drawing: Drawing, answer: Mapping[str, Any]) -> str:
        """Keep a drawing, in place of an earlier state of it under the same key.

        Returns
        -------
        str
            The file's name.
        """
        name = self._names.get(key) if key else None
        if name is None:
            name = f"{_stamp()}-drawing.json"
            if key:
                self._names[key] = name
                while len(self._names) > _REMEMBERED:
                    self._names.popitem(last=False)
        strokes = [path.round(6).tolist() for path in drawing.paths]
        self._json(name, {"in_mm": True, "strokes": strokes, "answer": _bare(answer)})
        return name

    def scan(self, data: bytes, answer: Mapping[str, Any]) -> str:
        """Keep a scan; returns the file's name."""
        ending = next((end for start, end in _ENDINGS.items() if data.startswith(start)), "bin")
        stem = f"{_stamp()}-scan"
        name = f"{stem}.{ending}"
        with atomic_write(self.folder / name) as stream:
            stream.write(data)
        self._json(f"{stem}.json", {"scan": name, "answer": _bare(answer)})
        return name

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.folder / name) as stream:
            stream.write(json.dumps(content, indent=1).encode())


def is_beside_a_scan(file: Path) -> bool:
    """Whether a file has the name of an answer that a `Store` keeps beside its scan."""
    return _BESIDE_A_SCAN.fullmatch(file.name) is not None


def _stamp() -> str:
    return f"{datetime.now():%Y-%m-%d-%H%M%S}-{secrets.token_hex(3)}"


def _bare(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without its pictures, which can be made again."""
    words = [{k: v for k, v in word.items() if k not in _NOT_KEPT} for word in answer["words"]]
    return {**answer, "words": words}
