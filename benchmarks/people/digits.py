"""Numbers of MNIST's digits, as word images in DHSD's layout: regular writing of hundreds of hands.

python -m benchmarks.people.digits MNIST OUT

DHSD has thirty writers, of whom a network learns twenty by heart. MNIST's 60,000 training digits
come from some 250 people; `rvsm data make --words OUT` shakes numbers of them as it does words. A
number's digits are different people's, put in a row, so a "writer" here is no person: it keeps
numbers of training and of validation apart, and neither tests anything.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.atomic import atomic_text
from rvsm.handwriting.images import SIZE
from rvsm.handwriting.readers import read
from rvsm.handwriting.readers.idx import read_idx
from rvsm.handwriting.wordfiles import INDEX

NUMBERS = 8000
_DIGITS = (4, 20)
_SCALES = (0.9, 1.25)
_GAP = (1.0, 5.0)
_LEFT_PX, _LIFT_PX = (4.0, 10.0), 1.0
_TOP = (0.35, 0.65)
_INK = 40
_WRITERS = range(100, 400)


def write_numbers(mnist: Path, out: Path, count: int = NUMBERS, seed: int = 0) -> None:
    """Write `count` numbers of the training digits, and the list of them.

    Each is four to nineteen digits, few ones more often, on one line: at 0.9 to 1.25 of their size,
    about 20 pixels high, or as large as finds room, as DHSD's long words are small. Nothing is done
    where the list is already there.

    Parameters
    ----------
    mnist : Path
        Folder of the idx files.
    out : Path
        Made; receives the images and data.csv.
    count : int
    seed : int
    """
    if (out / INDEX).is_file():
        return
    digits, classes = _training_digits(mnist)
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    order, used = rng.permutation(len(digits)), 0
    for number in range(count):
        wanted = int(np.exp(rng.uniform(*np.log(_DIGITS))))
        if used + wanted > len(order):
            order, used = rng.permutation(len(digits)), 0
        chosen = order[used : used + wanted]
        used += wanted
        picture = in_a_row([digits[i] for i in chosen], rng)
        name = f"{number:05d}.png"
        Image.fromarray(picture).save(out / name)
        text = "".join(classes[i] for i in chosen)
        writer = _WRITERS[number % len(_WRITERS)]
        rows.append((name, f"{text}-{number}", writer))
    # Last: it says that all of them are there.
    listed = io.StringIO(newline="")
    csv.writer(listed).writerows([("file_name", "text", "writer_id"), *rows])
    atomic_text(out / INDEX, listed.getvalue())


def _training_digits(mnist: Path) -> tuple[npt.NDArray[np.uint8], list[str]]:
    rows = [row for row in read(mnist, layout="idx").rows if row.split == "train"]
    return read_idx(mnist / rows[0].file.partition("#")[0]), [row.text for row in rows]


def in_a_row(
    digits: Sequence[npt.NDArray[np.uint8]], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Black digits on a white ground of 64 x 256 pixels.

    Parameters
    ----------
    digits : sequence of ndarray of uint8, shape (28, 28)
        White on black, as MNIST has them.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint8, shape (64, 256)
    """
    left, scale, gap, top = (float(rng.uniform(*ends)) for ends in (_LEFT_PX, _SCALES, _GAP, _TOP))
    columns = [np.flatnonzero(digit.max(axis=0) > _INK) for digit in digits]
    parts = [d[:, c[0] : c[-1] + 1] for d, c in zip(digits, columns, strict=True)]
    wide = sum(part.shape[1] + gap for part in parts)
    scale = min(scale, (SIZE[1] - 2 * _LEFT_PX[0] - left) / wide)
    ink = np.zeros(SIZE, dtype=np.uint8)
    x, room = left, SIZE[0] - scale * digits[0].shape[0]
    for digit in parts:
        part = _scaled(digit, scale)
        row = round(top * room + scale * rng.uniform(-_LIFT_PX, _LIFT_PX))
        row, column = min(max(row, 0), SIZE[0] - part.shape[0]), round(x)
        spot = ink[row : row + part.shape[0], column : column + part.shape[1]]
        np.maximum(spot, part, out=spot)
        x += scale * (digit.shape[1] + gap)
    return 255 - ink


def _scaled(part: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[Any]:
    size = max(2, round(part.shape[1] * scale)), round(part.shape[0] * scale)
    return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_numbers(arguments.mnist, arguments.out)


if __name__ == "__main__":
    main()
