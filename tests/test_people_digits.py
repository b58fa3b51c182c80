"""benchmarks.people.digits: numbers of MNIST's digits as word images."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from benchmarks.people.digits import in_a_row, write_numbers
from PIL import Image

from rvsm.handwriting.wordfiles import INDEX, index, usable


def small_mnist(folder: Path, count: int = 40) -> Path:
    """Upright strokes of many widths, a different one for each class."""
    folder.mkdir()
    classes = np.arange(count, dtype=np.uint8) % 10
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    for image, wide in zip(images, classes, strict=True):
        image[4:24, 8 : 10 + wide] = 255
    for part, kind, values in (("images-idx3", 3, images), ("labels-idx1", 1, classes)):
        head = struct.pack(f">HBB{kind}I", 0, 8, kind, *values.shape)
        with gzip.open(folder / f"train-{part}-ubyte.gz", "wb") as stream:
            stream.write(head + values.tobytes())
    return folder


def test_numbers_are_words_in_dhsds_layout(tmp_path: Path) -> None:
    mnist, out = small_mnist(tmp_path / "mnist"), tmp_path / "numbers"
    write_numbers(mnist, out, count=30, seed=3)
    words = usable(out).words
    assert len(words) == 30
    assert len({word.text for word in words}) == 30
    assert len({word.writer for word in words}) == 30
    for word in words:
        digits = word.text.partition("-")[0]
        ink = np.asarray(Image.open(word.path)) < 128
        assert ink.shape == (64, 256)
        assert ink[:, :-4].sum() == ink.sum()
        # Each class is a block of its own width, and as many stand there as the text names.
        edges = np.flatnonzero(np.diff(np.pad(ink.any(axis=0).astype(int), 1)))
        assert len(edges) // 2 == len(digits)
        wide = np.diff(edges)[::2]
        order = [2 + int(digit) for digit in digits]
        assert np.corrcoef(wide, order)[0, 1] > 0.95


def test_a_function_of_the_seed_made_once(tmp_path: Path) -> None:
    mnist = small_mnist(tmp_path / "mnist")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_numbers(mnist, tmp_path / name, count=5, seed=seed)
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert first != {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    (tmp_path / "a" / "00000.png").unlink()
    write_numbers(mnist, tmp_path / "a", count=5)
    assert len(index(tmp_path / "a").words) == 4  # the list was there: nothing is made again
    assert (tmp_path / "a" / INDEX).is_file()


def test_many_digits_are_small() -> None:
    digit = np.zeros((28, 28), dtype=np.uint8)
    digit[4:24, :] = 255
    rng = np.random.default_rng(0)
    few, many = (in_a_row([digit] * count, rng) < 128 for count in (3, 18))
    for ink, count in ((few, 3), (many, 18)):
        assert np.count_nonzero(np.diff(ink.any(axis=0).astype(int)) == 1) == count
        assert not ink[:, -4:].any()
    assert 18 <= few.any(axis=1).sum() <= 27
    assert 6 <= many.any(axis=1).sum() <= 10
