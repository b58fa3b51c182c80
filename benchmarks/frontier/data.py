"""Images in one tensor: idx files, CIFAR's binary batches, the project's own tasks, digits."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rvsm.atomic import explain
from rvsm.errors import DataError
from rvsm.experiments.data import load_split, seeded

Part = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` between 0 and 1, and labels ``(N,)``."""

IDX = {
    "train-images-idx3-ubyte.gz": {
        "6bbc9ace898e44ae57da46a324031adb": "mnist",
        "f4a8712d7a061bf5bd6d2ca38dc4d50a": "fashion-mnist",
    },
    "train-labels-idx1-ubyte.gz": {
        "a25bea736e30d166cdddb491f175f624": "mnist",
        "9018921c3c673c538a1fc5bad174d6f9": "fashion-mnist",
    },
    "t10k-images-idx3-ubyte.gz": {
        "2646ac647ad5339dbf082846283269ea": "mnist",
        "8181f5470baa50b63fa0f6fddb340f0a": "fashion-mnist",
    },
    "t10k-labels-idx1-ubyte.gz": {
        "27ae3e4e09519cfbb04c329615203637": "mnist",
        "15d484375f8d13e6eb1aabb0c3f46965": "fashion-mnist",
    },
}
"""The MD5 sums of the published files, unpacked: gzip may be run anew."""

CIFAR_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST = "test_batch.bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Data:
    """A training and a test set.

    Parameters
    ----------
    name : str
        What rows call it.
    train, test : Part
        The published sets.
    validation : Part, optional
        Where the set has its own, with fonts or writers held out; otherwise `split` cuts one.
    published : bool
        Whether every file has the MD5 sum of the published one.
    """

    name: str
    train: Part
    test: Part
    validation: Part | None = None
    published: bool = False

    def split(self, held_out: int) -> tuple[Part, Part | None]:
        """Return what to train on and what to validate on, always the same images.

        `held_out` images of the training set, drawn once and for all; where the set has its own
        validation images those, whatever `held_out` says.
        """
        if self.validation is not None:
            return self.train, self.validation
        if held_out == 0:
            return self.train, None
        x, y = self.train
        if not 0 < held_out < len(y):
            raise DataError(
                f"{self.name} has {len(y)} images to train on and {held_out} were to be held out; "
                "hold out fewer."
            )
        order = torch.randperm(len(y), generator=seeded(held_out)).to(y.device)
        held, kept = order[:held_out], order[held_out:].sort().values
        return (x[kept], y[kept]), (x[held], y[held])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel over the training set."""
        x = self.train[0]
        # Sums of whole numbers, so that every machine and device finds the same.
        mean, square, count = torch.zeros(()), torch.zeros(()), x.numel() // x.shape[1]
        for part in x.split(5000):
            levels = part.mul(255).round().to(torch.int64)
            mean = mean.to(x.device) + levels.sum((0, 2, 3)).double() / count
            square = square.to(x.device) + levels.square().sum((0, 2, 3)).double() / count
        deviation = (square - mean.square()).sqrt()
        shape = (1, -1, 1, 1)
        return (mean / 255).float().view(shape), (deviation / 255).float().view(shape)

    def to(self, device: str) -> Data:
        """Return the set on a device."""

        def moved(part: Part) -> Part:
            return part[0].to(device), part[1].to(device)

        own = None if self.validation is None else moved(self.validation)
        return replace(self, train=moved(self.train), test=moved(self.test), validation=own)


def digits() -> Data:
    """Return scikit-learn's 1,797 digits; 30 % are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.3, random_state=0, stratify=labels)
    x, x_test = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in parts[:2])
    y, y_test = (torch.tensor(part) for part in parts[2:])
    return Data("digits", (x, y), (x_test, y_test))


def read_idx(path: Path) -> tuple[Tensor, str]:
    """Return the uint8 array of a gzipped idx file, and the MD5 sum of what was unpacked.

    Raises
    ------
    DataError
        If the file is missing, cut short or no idx file of bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise DataError(explain(error, path, "read")) from error
    rank = content[3] if len(content) >= 4 else 0
    header = 4 + 4 * rank
    if content[:3] != b"\0\0\x08" or not 1 <= rank <= 3 or len(content) < header:
        raise DataError(f"{path} is no idx file of bytes; name the folder of the original files.")
    shape = [int(n) for n in np.frombuffer(content, ">u4", rank, 4)]
    array = np.frombuffer(content, np.uint8, offset=header)
    if array.size != np.prod(shape):
        raise DataError(
            f"{path} holds {array.size} bytes where its header says {shape}; fetch it again."
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return torch.from_numpy(array.reshape(shape).copy()), digest


def idx(folder: Path, name: str) -> Data:
    """Read a set of the four gzipped idx files of MNIST's layout.

    Raises
    ------
    DataError
        If a file is missing or damaged, or images and labels differ in number.
    """
    arrays, published = [], True
    for file, sums in IDX.items():
        array, digest = read_idx(folder / file)
        arrays.append(array)
        published = published and sums.get(digest) == name
    parts = []
    for images, labels in (arrays[:2], arrays[2:]):
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise DataError(
                f"{folder}: images of shape {tuple(images.shape)} and labels of shape "
                f"{tuple(labels.shape)} do not belong together; fetch the four files again."
            )
        parts.append((images.unsqueeze(1).float().div_(255), labels.long()))
    return Data(name, parts[0], parts[1], published=published)


def cifar10(folder: Path) -> Data:
    """Read CIFAR-10's binary version: records of a label and 3,072 bytes, red first.

    Raises
    ------
    DataError
        If a file is missing, cut short or has labels above 9.
    """

    def read(name: str) -> Part:
        path = folder / name
        try:
            content = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise DataError(explain(error, path, "read")) from error
        if content.size == 0 or content.size % _CIFAR_RECORD:
            raise DataError(
                f"{path} holds {content.size} bytes, no whole number of records of "
                f"{_CIFAR_RECORD}; fetch the binary version of CIFAR-10."
            )
        records = torch.from_numpy(content.reshape(-1, _CIFAR_RECORD).copy())
        labels = records[:, 0].long()
        if int(labels.max()) > 9:
            raise DataError(f"{path} has labels above 9; fetch the binary version of CIFAR-10.")
        return records[:, 1:].reshape(-1, 3, 32, 32).float().div_(255), labels

    train = [read(name) for name in CIFAR_TRAIN]
    together = (torch.cat([x for x, _ in train]), torch.cat([y for _, y in train]))
    return Data("cifar-10", together, read(CIFAR_TEST))


def handwriting(folder: Path, name: str) -> Data:
    """Read a folder made by ``rvsm data make``, at the size the paper's network sees.

    The test set is ``test-unseen``: fonts or writers, and texts, that training never saw.
    """
    size = (32, 128)

    def read(split: str) -> Part:
        found = load_split(folder, split, size)
        return found.images.unsqueeze(1).float().div_(255), found.labels

    return Data(name, read("train"), read("test-unseen"), read("val"))


READERS: dict[str, Callable[[Path], Data]] = {
    "mnist": partial(idx, name="mnist"),
    "fashion-mnist": partial(idx, name="fashion-mnist"),
    "cifar-10": cifar10,
    "fonts": partial(handwriting, name="fonts"),
    "pen": partial(handwriting, name="pen"),
}


@dataclass(frozen=True)
class Folders:
    """Where the sets are: folders by name, and one that holds the rest under their names."""

    named: Mapping[str, Path]
    parent: Path | None = None

    @staticmethod
    def parse(texts: list[str]) -> Folders:
        """Read what was given to ``--data``: NAME=FOLDER, or a folder of folders.

        Raises
        ------
        DataError
            If a name is not one of `READERS`.
        """
        named: dict[str, Path] = {}
        parent = None
        for text in texts:
            name, equals, path = text.partition("=")
            if not equals:
                parent = Path(text)
            elif name in READERS:
                named[name] = Path(path)
            else:
                raise DataError(f"--data {text}: {name} is not one of {', '.join(READERS)}.")
        return Folders(named, parent)

    def find(self, name: str) -> Path | None:
        """Return the folder of a set, None where there is none."""
        folder = self.named.get(name) or (self.parent / name if self.parent else None)
        return folder if folder is not None and folder.is_dir() else None

    def read(self, name: str) -> Data:
        """Read a set.

        Raises
        ------
        DataError
            If its folder was not given or it cannot be read.
        """
        if name == "digits":
            return digits()
        folder = self.find(name)
        if folder is None:
            wanted = self.named.get(name) or (self.parent or Path("FOLDER")) / name
            raise DataError(
                f"There is no folder {wanted} with the data of {name}; give --data FOLDER, which "
                f"has it under that name, or --data {name}=FOLDER."
            )
        return READERS[name](folder)
