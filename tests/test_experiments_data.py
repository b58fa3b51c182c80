"""Splits in memory, their cache and the batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from drawings import make_folder
from rvsm.errors import DataError
from rvsm.experiments import data as data_module
from rvsm.experiments.config import AugmentationConfig
from rvsm.experiments.data import (
    Batches,
    augment,
    bend,
    first_of,
    load_split,
    read_rows,
    reduce_image,
    seeded,
    to_float,
)
from rvsm.handwriting.check import check
from rvsm.handwriting.description import read_description

SIZE = (32, 128)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("drawn"), {"train": 12, "val": 6})


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


def test_a_split_is_read_as_ink_on_paper(folder: Path) -> None:
    split = load_split(folder, "train", SIZE)
    assert split.images.shape == (12, *SIZE)
    assert split.images.dtype == torch.uint8
    assert 0 < split.images.float().mean() < 30, "paper is 0"
    assert split.labels.bincount().tolist() == [6, 6]
    assert [row.label == "shaky" for row in split.rows] == split.labels.bool().tolist()
    assert split.skipped == ()


def test_the_first_of_each_class_are_the_first_in_their_order(folder: Path) -> None:
    split = load_split(folder, "train", SIZE)
    part = first_of(split, 6)
    assert part.labels.bincount().tolist() == [3, 3]
    for label in ("regular", "shaky"):
        every = [row.file for row in split.rows if row.label == label]
        assert [row.file for row in part.rows if row.label == label] == every[:3]
    places = [split.rows.index(row) for row in part.rows]
    assert places == sorted(places)
    assert torch.equal(part.images, split.images[places])
    assert first_of(split, 0) is split
    assert len(first_of(split, 1)) == 2
    assert first_of(split, 99).rows == split.rows


def test_reducing_averages_blocks() -> None:
    image = np.full((64, 256), 255, np.uint8)
    image[0:2, 0:2] = [[0, 255], [255, 255]]
    ink = reduce_image(image, SIZE)
    assert ink[0, 0] == 64
    assert ink.sum() == 64
    assert reduce_image(image, (64, 256))[0, 0] == 255
    with pytest.raises(DataError, match="whole fraction"):
        reduce_image(image, (30, 128))


@pytest.mark.parametrize("size", [(64, 256), (32, 128), (16, 64), (64, 128), (8, 256)])
def test_reducing_is_the_mean_of_each_block(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 256), dtype=np.uint8)
    blocks = image.reshape(size[0], 64 // size[0], size[1], 256 // size[1])
    expected = np.rint(255.0 - blocks.mean(axis=(1, 3))).astype(np.uint8)
    np.testing.assert_array_equal(reduce_image(image, size), expected)


def test_the_second_reading_comes_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_split(folder, "train", SIZE)

    def fail(*_: object) -> None:
        raise AssertionError("the images were decoded again")

    monkeypatch.setattr(data_module, "read_grey", fail)
    second = load_split(folder, "train", SIZE)
    assert torch.equal(first.images, second.images)
    assert first.rows == second.rows


def test_a_changed_image_is_seen_though_the_manifest_is_the_same(folder: Path) -> None:
    before = load_split(folder, "train", SIZE)
    shutil.copy(folder / before.rows[1].file, folder / before.rows[0].file)
    after = load_split(folder, "train", SIZE)
    assert torch.equal(after.images[0], before.images[1])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_cache_is_not_trusted(folder: Path, damage: bytes | None) -> None:
    first = load_split(folder, "train", SIZE)
    (cache,) = (folder / ".cache").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:-100] if damage is None else damage)
    assert torch.equal(load_split(folder, "train", SIZE).images, first.images)


def test_no_cache_is_no_obstacle(folder: Path) -> None:
    (folder / ".cache").write_text("a file where the folder should be")
    assert len(load_split(folder, "train", SIZE)) == 12


def test_unreadable_images_are_counted(folder: Path) -> None:
    file = folder / read_rows(folder)[0].file
    file.write_bytes(file.read_bytes()[:50])
    for _ in range(2):
        split = load_split(folder, "train", SIZE)
        assert len(split) == 11
        (skipped,) = split.skipped
        assert folder / skipped.file == file
        assert str(file) in skipped.error
        assert all((folder / row.file) != file for row in split.rows)


@pytest.mark.parametrize("noted", [False, True])
def test_a_class_that_cannot_be_read_is_no_class_to_do_without(folder: Path, noted: bool) -> None:
    files = sorted((folder / "val" / "shaky").iterdir())
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    if noted:
        check(folder, note=True)
    told = rf'None of the 3 shaky images in the split "val" of {folder} .*{files[0].name} first'
    for _ in range(2):  # from the cache too
        with pytest.raises(DataError, match=told):
            load_split(folder, "val", SIZE)
    assert len(load_split(folder, "train", SIZE)) == 12


def test_a_repaired_image_is_used_whatever_the_manifest_says(folder: Path) -> None:
    first, second = sorted((folder / "train" / "shaky").iterdir())[:2]
    whole = first.read_bytes()
    for file in (first, second):
        file.write_bytes(whole[:50])
    check(folder, note=True)
    assert len(load_split(folder, "train", SIZE)) == 10
    first.write_bytes(whole)
    split = load_split(folder, "train", SIZE)
    assert first in {folder / row.file for row in split.rows}
    assert [folder / row.file for row in split.skipped] == [second]
    assert "cut short" in split.skipped[0].error


def test_a_split_of_one_class(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",train,shaky,", ",train,regular,"))
    with pytest.raises(DataError, match=r'"train" of .* holds only regular images'):
        load_split(folder, "train", SIZE)


def test_a_split_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match=r'"test".*splits found: train, val.*rvsm data make'):
        load_split(folder, "test", SIZE)


@pytest.mark.parametrize("column", ["carrier", "person", "patient"])
def test_a_folder_without_validation_gives_some_of_its_carriers(
    column: str, tmp_path: Path
) -> None:
    make_folder(tmp_path, {"train": 12})
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    head = lines[0].split(",").index("carrier")
    changed = [line.split(",") for line in lines[1:]]
    for number, line in enumerate(changed):
        line[head] = f"writer {number % 12}"
    names = lines[0].replace("carrier,", f"{column},")
    manifest.write_text("\n".join([names, *(",".join(line) for line in changed)]))
    rows = read_rows(tmp_path)
    carriers = {split: {r.carrier for r in rows if r.split == split} for split in ("train", "val")}
    assert carriers["train"]
    assert carriers["val"]
    assert not carriers["train"] & carriers["val"]
    assert rows == read_rows(tmp_path)


@pytest.mark.parametrize("count", [3, 4, 40])
def test_an_unsplit_folder_is_cut_in_three(tmp_path: Path, count: int) -> None:
    """Both classes are in each part, an eighth of them in validation and in the test."""
    drawn = make_folder(tmp_path / "drawn", {"train": 2 * count})
    own = tmp_path / "own"
    for label in ("regular", "shaky"):
        shutil.copytree(drawn / "train" / label, own / label)
    (own / "shaky" / "notes.txt").write_text("not an image")
    rows = read_rows(own)
    assert {(r.split, r.label) for r in rows} == {
        (split, label) for split in ("train", "val", "test") for label in ("regular", "shaky")
    }
    for split in ("val", "test"):
        assert sum(r.split == split for r in rows) == 2 * -(-count // 8)
    assert rows == read_rows(own)
    assert len(load_split(own, "train", SIZE, rows=rows).skipped) == 1
    for file in list(own.glob("regular/*.png"))[2:]:
        file.unlink()
    with pytest.raises(DataError, match=r"too few images: 2 regular .* at least 3 of each class"):
        read_rows(own)


def test_validation_keeps_both_classes_where_there_are_few(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 8, "test": 4})
    (tmp_path / "manifest.csv").unlink()
    rows = read_rows(tmp_path)
    assert {r.label for r in rows if r.split == "val"} == {"regular", "shaky"}
    assert {r.label for r in rows if r.split == "train"} == {"regular", "shaky"}


def test_the_description_of_a_folder(folder: Path) -> None:
    told = read_description(folder)
    assert told is not None
    assert told["task"] == "pen"
    (folder / "dataset.json").write_text("[1]")
    with pytest.raises(DataError, match="no JSON object"):
        read_description(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_description(folder)
    (folder / "dataset.json").unlink()
    assert read_description(folder) is None


def test_batches_depend_on_seed_and_epoch_alone(folder: Path) -> None:
    split = load_split(folder, "train", SIZE)

    def epoch(number: int, seed: int = 0) -> list[torch.Tensor]:
        batches = Batches(split, 5, seed, AugmentationConfig())
        batches.set_epoch(number)
        return [images for images, _ in batches]

    assert [len(images) for images in epoch(0)] == [5, 5, 2]
    for first, second in zip(epoch(3), epoch(3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(epoch(0)[0], epoch(1)[0])
    assert not torch.equal(epoch(0)[0], epoch(0, seed=1)[0])


def test_an_epoch_holds_every_image_once(folder: Path) -> None:
    split = load_split(folder, "train", SIZE)
    still = AugmentationConfig(
        flip_horizontal=False, flip_vertical=False, shift_rows=0, shift_columns=0
    )
    seen = torch.cat([images for images, _ in Batches(split, 5, 0, still)])
    assert sorted(seen.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted(to_float(split.images).sum((1, 2, 3)).tolist())
    )
    plain = torch.cat([images for images, _ in Batches(split, 5)])
    assert torch.equal(plain, to_float(split.images))
    assert len(Batches(split, 5)) == 3


def test_augmentation_is_flips_and_shifts_of_each_image() -> None:
    images = torch.zeros(40, 8, 16, dtype=torch.uint8)
    images[:, 3, 5] = 255
    config = AugmentationConfig(shift_rows=1, shift_columns=2)
    moved = augment(images, config, seeded(1))
    assert moved.shape == (40, 1, 8, 16)
    assert moved.sum((1, 2, 3)).tolist() == [1.0] * 40
    places = {tuple(place[2:].tolist()) for place in moved.nonzero()}
    rows = {base + shift for base in (3, 8 - 1 - 3) for shift in (-1, 0, 1)}
    columns = {base + shift for base in (5, 16 - 1 - 5) for shift in range(-2, 3)}
    assert {row for row, _ in places} == rows
    assert {column for _, column in places} == columns


def test_what_shifts_in_is_paper_and_contrast_stays_in_range() -> None:
    images = torch.full((30, 8, 16), 255, dtype=torch.uint8)
    config = AugmentationConfig(shift_rows=2, shift_columns=3, contrast=0.3)
    moved = augment(images, config, seeded(2))
    assert float(moved.max()) <= 1
    assert float(moved.min()) == 0
    inside = moved[:, 0, 2:-2, 3:-3]
    assert float(inside.min()) >= 0.7 - 1e-6
    assert len({round(float(value), 4) for value in inside[:, 0, 0]}) > 5


def test_bending_is_smooth_random_and_within_its_strength() -> None:
    ramp = torch.arange(128.0).expand(64, 1, 32, 128) / 128
    bent = bend(ramp, 1.0, 12, seeded(3))
    assert torch.equal(bent, bend(ramp, 1.0, 12, seeded(3)))
    # A ramp shows the displacement along its columns, in pixels.
    shift = 128 * (bent - ramp)[:, 0, 9:-9, 12:-12]
    rms = shift.square().mean((1, 2)).sqrt()
    assert 0.3 < rms.mean() < 0.8
    assert rms.max() < 3
    assert rms.min() < 0.4, "every image has its own strength"
    bend_of_knot = shift[..., 2:] - 2 * shift[..., 1:-1] + shift[..., :-2]
    assert bend_of_knot.abs().max() < 0.15, "nothing as short as a tremor"
    straight = bend(ramp, 0.0, 12, seeded(3))
    torch.testing.assert_close(straight, ramp)


def test_what_is_bent_in_is_paper() -> None:
    ink = torch.ones(8, 1, 32, 128)
    bent = bend(ink, 4.0, 12, seeded(4))
    assert bent.min() == 0
    assert bent.max() <= 1
