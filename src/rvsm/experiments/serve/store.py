"""Keep drawings and scans with their answers, where that was asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rvsm.atomic import atomic_write, make_folder
from rvsm.experiments.kept import new_name
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
            name = f"{new_name('drawing')}.json"
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
        stem = new_name("scan")
        name = f"{stem}.{ending}"
        with atomic_write(self.folder / name) as stream:
            stream.write(data)
        self._json(f"{stem}.json", {"scan": name, "answer": _bare(answer)})
        return name

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.folder / name) as stream:
            stream.write(json.dumps(content, indent=1).encode())


def _bare(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without its pictures, which can be made again."""
    words = [{k: v for k, v in word.items() if k not in _NOT_KEPT} for word in answer["words"]]
    return {**answer, "words": words}
