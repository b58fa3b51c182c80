"""Images of the frontier: read as published, split once, moved and bent alike for all."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.frontier.augment import augmented, moved
from benchmarks.frontier.data import Data, Folders, cifar10, digits, idx, read_idx
from benchmarks.frontier.options import Options
from benchmarks.frontier.training import Batches
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from frontier_sets import (
    FILES,
    TINY,
    idx_bytes,
    write_cifar,
    write_idx,
)
from published import DATA
from rvsm.errors import DataError


@pytest.fixture(scope="module")
def images() -> Data:
    return digits()


# Reading


def test_idx_files_are_read(tmp_path: Path) -> None:
    x, y, x_test, y_test = write_idx(tmp_path)
    found = idx(tmp_path, "mnist")
    assert not found.published
    assert torch.equal(found.train[0].mul(255).round().int().squeeze(1), torch.tensor(x).int())
    assert found.train[1].tolist() == y.tolist()
    assert found.test[0].shape == (len(x_test), 1, 28, 28)
    assert found.test[1].tolist() == y_test.tolist()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_published_files_are_known(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not on this machine")
    found = idx(DATA / name, name)
    assert found.published
    assert (len(found.train[1]), len(found.test[1])) == (60_000, 10_000)
    assert not idx(DATA / name, "mnist" if name != "mnist" else "fashion-mnist").published


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda b: gzip.compress(gzip.decompress(b)[:-5]), "where its header says"),
        (lambda b: b[: len(b) // 2], "is damaged"),
        (lambda b: b"no gzip", "is damaged"),
        (lambda b: gzip.compress(b"\0\0\x0d\1" + bytes(8)), "no idx file of bytes"),
        (lambda b: gzip.compress(b""), "no idx file of bytes"),
        (lambda b: gzip.compress(idx_bytes(np.zeros((3, 28, 28)))), "do not belong together"),
        (None, "no such file"),
    ],
)
def test_damaged_idx_files_are_told(tmp_path: Path, damage, told: str) -> None:
    write_idx(tmp_path)
    path = tmp_path / FILES[0]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=told) as caught:
        idx(tmp_path, "mnist")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@given(st.binary(max_size=40))
def test_no_bytes_break_the_idx_reader(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.gz"
        path.write_bytes(gzip.compress(content))
        try:
            array, _ = read_idx(path)
        except DataError:
            return
    assert array.dtype == torch.uint8


def test_cifar_batches_are_read(tmp_path: Path) -> None:
    first, labels = write_cifar(tmp_path)
    found = cifar10(tmp_path)
    assert found.train[0].shape == (40, 3, 32, 32)
    assert torch.equal(found.train[0][:8].mul(255).round().int(), torch.tensor(first).int())
    assert found.train[1][:8].tolist() == labels.tolist()
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="no whole number of records"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match="labels above 9"):
        cifar10(tmp_path)


def test_folders_are_named_or_found(tmp_path: Path) -> None:
    write_idx(tmp_path / "all" / "mnist")
    write_idx(tmp_path / "elsewhere", train=30)
    folders = Folders.parse([str(tmp_path / "all"), f"fashion-mnist={tmp_path / 'elsewhere'}"])
    assert len(folders.read("mnist").train[1]) == 60
    assert len(folders.read("fashion-mnist").train[1]) == 30
    with pytest.raises(DataError, match="all/pen with the data of pen; give --data"):
        folders.read("pen")
    with pytest.raises(DataError, match="svhn is not one of mnist"):
        Folders.parse(["svhn=/tmp"])


def test_the_split_is_a_split(images: Data) -> None:
    train_part, validation = images.split(300)
    assert validation is not None
    assert (len(train_part[1]), len(validation[1])) == (len(images.train[1]) - 300, 300)
    whole = torch.cat([train_part[0], validation[0]]).flatten(1)
    rows = sorted(map(tuple, whole.tolist()))
    assert rows == sorted(map(tuple, images.train[0].flatten(1).tolist()))
    again = images.split(300)[1]
    assert again is not None
    assert torch.equal(again[1], validation[1])
    assert images.split(0) == (images.train, None)
    with pytest.raises(DataError, match="hold out fewer"):
        images.split(len(images.train[1]))


def test_statistics_are_those_of_the_images(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    found = cifar10(tmp_path)
    mean, deviation = found.statistics()
    wide = found.train[0].double().movedim(1, 0).flatten(1)
    assert torch.allclose(mean.flatten().double(), wide.mean(1), atol=1e-6)
    assert torch.allclose(deviation.flatten().double(), wide.std(1, correction=0), atol=1e-6)


# Augmentation and batches


@given(st.integers(0, 3), st.booleans(), st.integers(0, 1000))
def test_moving_is_padding_and_cutting(most: int, flip: bool, seed: int) -> None:
    x = torch.rand(6, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    found = moved(x, most, flip, torch.Generator().manual_seed(seed))
    padded = F.pad(x, (most,) * 4)
    for image, own in zip(found, padded, strict=True):
        cuts = [
            own[:, i : i + 5, j : j + 7] for i in range(2 * most + 1) for j in range(2 * most + 1)
        ]
        mirrored = [cut.flip(2) for cut in cuts] if flip else []
        assert any(torch.equal(image, cut) for cut in cuts + mirrored)
    if most == 0 and not flip:
        assert torch.equal(found, x)


def test_every_shift_and_mirror_comes() -> None:
    x = torch.zeros(400, 1, 5, 5)
    x[:, 0, 2, 1] = 1
    found = moved(x, 1, True, torch.Generator().manual_seed(0))
    places = {tuple(image.nonzero()[0].tolist()[1:]) for image in found}
    assert places == {(i, j) for i in (1, 2, 3) for j in (0, 1, 2, 3, 4) if j != 2} | {
        (i, 2) for i in (1, 2, 3)
    }


def test_the_same_images_in_the_same_order_for_all(images: Data) -> None:
    o = Options(batch=64, shift=1, elastic=0.5)
    one, two = (Batches(images.train, images.statistics(), o, seed=3) for _ in range(2))
    for (x, y, places), (x2, y2, places2) in zip(one.chunks(1), two.chunks(1), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert torch.equal(places, places2)
        assert torch.equal(images.train[1][places], y)
    seen = torch.cat([places for _, _, places in one.chunks(0)])
    assert seen.sort().values.tolist() == list(range(len(images.train[1])))
    assert not torch.equal(seen, torch.cat([places for _, _, places in one.chunks(1)]))


def test_unchanged_batches_are_the_images(images: Data) -> None:
    mean, deviation = images.statistics()
    batches = Batches(images.train, (mean, deviation), TINY, seed=0)
    for x, _, places in batches.chunks(0):
        assert torch.equal(x, (images.train[0][places] - mean) / deviation)
    plain = augmented(
        images.train[0][:9], shift=0, flip=False, elastic=0.0, knot=8, generator=torch.Generator()
    )
    assert torch.equal(plain, images.train[0][:9])
