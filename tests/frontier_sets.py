"""What the tests of the frontier share: made-up sets of images, short runs, a plan of seconds."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
from benchmarks.frontier import plan
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx_bytes(array):
    """Return a uint8 array as an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, train=60, test=20, side=28, seed=0):
    """Write the four files; a stripe's place says the class. Return the images and labels."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for count in (train, test):
        labels = np.arange(count) % 10
        images = generator.integers(0, 60, (count, side, side))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 3] += 180
        arrays += [images, labels]
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(gzip.compress(idx_bytes(array), 1))
    return arrays


def write_cifar(folder: Path, each=8, seed=0):
    """Write the six binary batches; colour and brightness say the class. Return the first."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    first = None
    for name in names:
        labels = np.arange(each) % 10
        images = generator.integers(0, 100, (each, 3, 32, 32)) + 15 * labels[:, None, None, None]
        records = np.concatenate([labels[:, None], images.reshape(each, -1)], 1).astype(np.uint8)
        (folder / name).write_bytes(records.tobytes())
        first = (images, labels) if first is None else first
    return first


TINY = Options(batch=64)
HERE = [name for name, method in METHODS.items() if method.missing() is None]
"""The methods that can take part on this machine."""


def run_of(method: str = "rvsm-l0-u", **changed: object) -> Run:
    """Return a run of a second, with options and other entries changed."""
    setting = (*METHODS[method].settings, None)[0]
    start = Run("final", "small", "digits", method, 0.9, setting, 0, 2, 0, TINY)
    options = {k: v for k, v in changed.items() if k in Options.__dataclass_fields__}
    own = {k: v for k, v in changed.items() if k not in options}
    return dataclasses.replace(start, options=TINY.with_(**options), **own)


def tiny_place(**changed: object) -> plan.Place:
    who = tuple(plan.Contender(name) for name in ("dense", "rvsm-l0-u", "hard-concrete"))
    return dataclasses.replace(plan.Place("small", "digits", (0.8, 0.9), who, 2), **changed)


def make_tiny(monkeypatch) -> plan.Place:
    """Put a plan of seconds in the place of the quick tier: three contenders, one share."""
    small = dataclasses.replace(NETWORKS["small"], epochs=2, tune_epochs=1)
    monkeypatch.setitem(NETWORKS, "small", small)
    place = tiny_place(sparsities=(0.9,))
    monkeypatch.setitem(plan.TIERS, "quick", [place])
    return place
