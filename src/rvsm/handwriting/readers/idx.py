"""Images in the idx files of MNIST and its kin, plain or gzipped.

``train-images-idx3-ubyte[.gz]`` with ``train-labels-idx1-ubyte[.gz]``, and ``t10k-...`` for the
test. Their classes are not regular and shaky: `Row.text` holds the class, `Row.label` is empty.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.manifest import UNSPLIT, Row
from rvsm.handwriting.readers.base import Collection, relative, require_rows
from rvsm.handwriting.timed import TimedStrokes

name = "idx"
about = "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (MNIST and its kin)"

_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_BYTE, _MOST_BYTES = 8, 1_000_000_000


def fits(root: Path) -> bool:
    return bool(_images(root))


def _images(root: Path) -> list[Path]:
    found = [root] if root.is_file() else root.glob("*images*idx3-ubyte*")
    return sorted(p for p in found if "idx3-ubyte" in p.name and p.suffix in {"", ".gz"})


def read(root: Path) -> Collection:
    """List the images, with their classes where the file of labels lies beside them.

    Raises
    ------
    DataError
        A file that is cut short or no idx file, or labels of another number.
    """
    folder = root.parent if root.is_file() else root
    rows: list[Row] = []
    for path in _images(root):
        count = len(read_idx(path))
        labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        texts = [""] * count
        if labels != path and labels.is_file():
            texts = [str(label) for label in read_idx(labels).tolist()]
        if len(texts) != count:
            raise DataError(f"{labels} has {len(texts)} labels for {count} images: fetch it anew.")
        split = _SPLITS.get(path.name.partition("-")[0], UNSPLIT)
        file = relative(path, folder)
        rows += [Row(f"{file}#{i}", split, "", text=text) for i, text in enumerate(texts)]
    listed = require_rows(rows, root, "it wants train-images-idx3-ubyte.gz")
    return Collection(name, folder, listed, None, {}, _Arrays(folder))


@dataclass(frozen=True)
class _Arrays:
    root: Path

    def picture(self, row: Row) -> Image.Image:
        file, _, number = row.file.partition("#")
        return Image.fromarray(read_idx(self.root / file)[int(number)])

    def strokes(self, row: Row) -> TimedStrokes | None:
        return None


@lru_cache(maxsize=4)
def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file of bytes.

    Parameters
    ----------
    path : Path
        Gzipped where its name ends in ``.gz``.

    Returns
    -------
    ndarray of uint8, read-only

    Raises
    ------
    DataError
        It is damaged, not of bytes, or does not hold as many as it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(_MOST_BYTES)
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if zero or kind != _BYTE:
            raise DataError(f"{path} is not an idx file of bytes: give one that is.")
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        return values.reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): fetch it anew.") from None
