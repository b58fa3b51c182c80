"""Images in memory: read a split once, then hand out augmented batches as fast as they are used."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rvsm.atomic import atomic_write, make_folder
from rvsm.errors import DataError, RvsmError
from rvsm.experiments.aside import set_aside
from rvsm.experiments.config import AugmentationConfig
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.images import SIZE, read_grey
from rvsm.handwriting.manifest import LABELS, Row, require_two_classes
from rvsm.handwriting.readers import is_own, layout_of
from rvsm.handwriting.readers.folders import looked_again, why_unreadable

_CACHE_FORMAT = "1"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Split:
    """The images of one split, decoded.

    Parameters
    ----------
    images
        uint8 ``(N, H, W)``, ink = 255 and paper = 0.
    labels
        int64 ``(N,)``, an index into :data:`LABELS`.
    rows
        What the manifest says about each image, in the same order.
    skipped
        The files of the split that could not be read, each with its reason in ``error``.
    """

    images: Tensor
    labels: Tensor
    rows: tuple[Row, ...]
    skipped: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)


def load_split(
    folder: Path,
    name: str,
    size: tuple[int, int],
    *,
    rows: Sequence[Row] | None = None,
    progress: Progress | None = None,
) -> Split:
    """Read one split of a data folder at the size a network wants.

    The decoded images are kept in ``<folder>/.cache`` under the sizes and times of every image
    file, so that many runs over one folder decode it once; a changed file is decoded again.

    Parameters
    ----------
    folder
        Data folder, with a manifest or only class folders.
    name
        Split, such as ``train``.
    size
        Rows and columns of the result: those of the images (64x256 unless the folder says
        otherwise, see :func:`whole_size`), or a whole fraction of them (block averages).
    rows
        The manifest's rows, where the caller has read them already.
    progress
        Called with (images read, images in all).

    Raises
    ------
    DataError
        If the split is missing, a class has no image in it that can be read, or ``size`` does not
        fit.
    """
    whole = whole_size(folder)
    check_size(size, whole)
    all_rows = read_rows(folder) if rows is None else rows
    usable = usable_rows(folder, all_rows, name)
    cache = folder / ".cache" / f"{name}-{size[0]}x{size[1]}.npz"
    key = _fingerprint(folder, usable, size)
    cached = _read_cache(cache, key)
    if cached is None:
        images, readable = _decode(folder, usable, whole, size, progress)
        _write_cache(cache, key, images, readable)
    else:
        images, readable = cached
        if progress is not None:
            progress(len(usable), len(usable))
    kept = tuple(usable[index] for index in readable)
    labels = torch.tensor([LABELS.index(row.label) for row in kept])
    sound = set(readable.tolist())
    damaged = [row for index, row in enumerate(usable) if index not in sound]
    named = (replace(row, error=why_unreadable(folder / row.file, read_grey)) for row in damaged)
    skipped = (*(row for row in all_rows if row.split == name and row.error), *named)
    _require_both(folder, name, kept, skipped)
    return Split(torch.from_numpy(images), labels, kept, skipped)


def first_of(split: Split, most: int) -> Split:
    """Return the first images of each class, half of `most` each or what there is; 0 for all."""
    if most == 0:
        return split
    each = -(-most // len(LABELS))
    classes = [torch.nonzero(split.labels == label)[:each, 0] for label in range(len(LABELS))]
    kept = torch.cat(classes).sort().values
    rows = tuple(split.rows[index] for index in kept.tolist())
    return Split(split.images[kept], split.labels[kept], rows, split.skipped)


def joined(split: Split, others: Mapping[Path, Split]) -> Split:
    """Return the images of a split and those of others, whose files their folder names."""
    if not others:
        return split
    rows, skipped = list(split.rows), list(split.skipped)
    for folder, other in others.items():
        rows += [replace(row, file=str(folder / row.file)) for row in other.rows]
        skipped += [replace(row, file=str(folder / row.file)) for row in other.skipped]
    parts = [split, *others.values()]
    images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
    return Split(images, labels, tuple(rows), tuple(skipped))


def usable_rows(folder: Path, rows: Sequence[Row], name: str) -> list[Row]:
    """Return the images of a split that are not known to be unreadable.

    Raises
    ------
    DataError
        If the split is missing or has images of one class only.
    """
    wanted = [row for row in rows if row.split == name]
    usable = [row for row in wanted if not row.error]
    if not usable:
        splits = ", ".join(sorted({row.split for row in rows})) or "none"
        raise DataError(
            f'{folder} has no readable images in its split "{name}" (splits found: {splits}); '
            "make a data set with `rvsm data make`, or check the folder with `rvsm data check`."
        )
    _require_both(folder, name, usable, [row for row in wanted if row.error])
    return usable


def _require_both(folder: Path, name: str, sound: Sequence[Row], damaged: Sequence[Row]) -> None:
    """Raise DataError where a class of a split has no image that can be read."""
    found = {row.label for row in sound}
    for label in LABELS:
        if label in found:
            continue
        if lost := [row for row in damaged if row.label == label]:
            raise DataError(
                f'None of the {len(lost)} {label} images in the split "{name}" of {folder} can be '
                f"read, {lost[0].file} first ({lost[0].error.rstrip('.')}); replace them: "
                f"`rvsm data check {folder}` names them all."
            )
        instead = "" if name == "train" else ", or take that split away"
        raise DataError(
            f'The split "{name}" of {folder} holds only {sound[0].label} images; add {label} ones'
            f"{instead}: both classes are needed."
        )


def read_rows(folder: Path) -> list[Row]:
    """Read the manifest; what it does not name, :func:`rvsm.experiments.aside.set_aside` does."""
    return set_aside(folder, listed_rows(folder))


def listed_rows(folder: Path) -> list[Row]:
    """Read the manifest; what it calls unreadable is looked at again, as it may be repaired.

    Raises
    ------
    DataError
        There is no such folder, it holds no images, or only one of the two classes; of a set in
        another layout it says how that becomes a data folder.
    """
    try:
        rows = looked_again(folder, read_grey)
        require_two_classes(rows, folder)
    except DataError:
        if not (layout := _layout_of_others(folder)):
            raise
        raise DataError(
            f"{folder} is no data folder but a set in the layout {layout}: make one of it with "
            f"`rvsm data import {folder} DIR`, and name that."
        ) from None
    return rows


def _layout_of_others(folder: Path) -> str:
    with contextlib.suppress(DataError):
        return "" if is_own(folder) else layout_of(folder)
    return ""


def check_size(size: tuple[int, int], whole: tuple[int, int] = SIZE) -> None:
    """Raise DataError where images of ``whole`` size cannot be reduced to ``size`` by blocks."""
    if min(size) < 1 or whole[0] % size[0] or whole[1] % size[1]:
        raise DataError(
            f"Images of {whole[0]}x{whole[1]} pixels cannot be reduced to {size[0]}x{size[1]}; "
            f"set network.size to a whole fraction, such as [{whole[0] // 2}, {whole[1] // 2}]."
        )


def reduce_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn an image (ink dark on light) into ink = 255 on 0 at ``size``, by block averages.

    Raises
    ------
    DataError
        If ``size`` is not a whole fraction of the image's size.
    """
    height, width = image.shape
    check_size(size, (height, width))
    tall, wide = height // size[0], width // size[1]
    if (tall, wide) == (1, 1):
        return 255 - image
    # Over axes as short as a block's numpy's mean takes five times as long.
    rows = functools.reduce(np.add, (image[i::tall].astype(np.int32) for i in range(tall)))
    sums = functools.reduce(np.add, (rows[:, j::wide] for j in range(wide)))
    ink: NDArray[np.uint8] = np.rint(255.0 - sums / (tall * wide)).astype(np.uint8)
    return ink


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images ``(B, H, W)`` as float ``(B, 1, H, W)`` with ink = 1."""
    return images.unsqueeze(1).to(torch.float32).mul_(1 / 255)


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Flip, shift and bend every image of a batch by its own draw; what moves in is paper.

    Parameters
    ----------
    images
        uint8 ``(B, H, W)``.
    config
        Which changes, and how large.
    generator
        Source of the draws, on the CPU.

    Returns
    -------
    Tensor
        float ``(B, 1, H, W)``, ink = 1.

    Notes
    -----
    Flips and shifts are one table of row numbers and one of column numbers per image, so the
    whole batch is a single gather out of a padded copy.
    """
    count, height, width = images.shape
    rows = _positions(count, height, config.shift_rows, config.flip_vertical, generator)
    columns = _positions(count, width, config.shift_columns, config.flip_horizontal, generator)
    padding = (config.shift_columns,) * 2 + (config.shift_rows,) * 2
    padded = F.pad(images, padding)
    device = images.device
    which = torch.arange(count, device=device).view(-1, 1, 1)
    moved = padded[which, rows.to(device).unsqueeze(2), columns.to(device).unsqueeze(1)]
    result = to_float(moved)
    if config.elastic > 0:
        result = bend(result, config.elastic, config.elastic_knot, generator)
    if config.contrast > 0:
        factor = 1 + config.contrast * (2 * torch.rand(count, generator=generator) - 1)
        result = result.mul_(factor.to(device).view(-1, 1, 1, 1)).clamp_(max=1.0)
    return result


def bend(images: Tensor, strength: float, knot: int, generator: torch.Generator) -> Tensor:
    """Bend every image by its own smooth field of displacements (elastic deformation).

    Parameters
    ----------
    images
        float ``(B, 1, H, W)``.
    strength
        Largest RMS displacement along each axis, in pixels; each image draws its own below it.
    knot
        Distance of the knots of the field, a uniform cubic B-spline, in pixels: what is shorter
        stays straight.
    generator
        Source of the draws, on the CPU.

    References
    ----------
    Simard, Steinkraus and Platt 2003, Best practices for convolutional neural networks.
    """
    count, _, height, width = images.shape
    rows, columns, places = (
        t.to(images.device)
        for t in (_spline(height, knot), _spline(width, knot), _places(height, width))
    )
    knots = torch.randn(count, 2, rows.shape[1], columns.shape[1], generator=generator)
    knots *= strength * torch.rand(count, 1, 1, 1, generator=generator)
    # Drawn as (y, x); grid_sample wants (x, y), with -1 and 1 at the edges of the image.
    knots = knots.flip(1) * torch.tensor([2 / width, 2 / height]).view(2, 1, 1)
    grid = rows @ (knots.to(images.device) @ columns.T)
    grid += places
    return F.grid_sample(images, grid.movedim(1, -1), align_corners=False)


@functools.lru_cache(maxsize=8)
def _places(height: int, width: int) -> Tensor:
    """Return where the pixels of an image are: x and y in [-1, 1], ``(2, height, width)``."""
    unmoved = torch.eye(2, 3).unsqueeze(0)
    grid: Tensor = F.affine_grid(unmoved, [1, 1, height, width], align_corners=False)
    return grid[0].movedim(-1, 0).contiguous()


@functools.lru_cache(maxsize=8)
def _spline(length: int, knot: int) -> Tensor:
    """Return the values of the cubic B-splines ``(length, knots)``, of unit variance on average."""
    place = torch.arange(length).view(-1, 1) / knot + 1 - torch.arange(length // knot + 4)
    far = place.abs()
    values = torch.where(far < 1, 2 / 3 - far**2 + far**3 / 2, (2 - far).clamp(min=0) ** 3 / 6)
    return values / values.square().sum(1).mean().sqrt()


def _positions(
    count: int, length: int, shift: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Draw for each image where its pixels along one axis come from in the padded copy."""
    offset = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator)
    straight = torch.arange(length).expand(count, length)
    if flip:
        turned = torch.randint(0, 2, (count, 1), generator=generator).bool()
        straight = torch.where(turned, length - 1 - straight, straight)
    return straight + offset


class Batches:
    """Minibatches of a split held in memory, the same for the same (seed, epoch) whatever came
    before: that is what lets a killed run continue to the identical bits.

    Parameters
    ----------
    split
        The images.
    batch_size
        Images per batch; the last batch of an epoch may hold fewer.
    seed
        Seeds the order of every epoch and the changes to every batch.
    augmentation
        None: in order and unchanged, for evaluation.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        device: str = "cpu",
    ) -> None:
        self.split = split
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and changes of the pass whose first batch is fetched next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.augmentation is None:
            for start in range(0, len(self.split), self.batch_size):
                part = slice(start, start + self.batch_size)
                yield to_float(self.images[part]), self.labels[part]
            return
        order = torch.randperm(len(self.split), generator=seeded(self.seed, self.epoch))
        for number, chosen in enumerate(torch.split(order, self.batch_size)):
            generator = seeded(self.seed, self.epoch, number)
            picked = chosen.to(self.images.device)
            yield augment(self.images[picked], self.augmentation, generator), self.labels[picked]

    def sample(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """Yield batches of `count` images (all, if fewer), unchanged; always the same ones."""
        order = torch.randperm(len(self.split), generator=seeded(self.seed))[:count]
        for chosen in torch.tensor_split(order, -(-len(order) // batch_size)):
            yield to_float(self.images[chosen.to(self.images.device)])


def seed_of(*numbers: int) -> int:
    """Mix whole numbers (seed, epoch, batch) into one 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator that depends on these numbers and on nothing else."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def _decode(
    folder: Path,
    rows: Sequence[Row],
    whole: tuple[int, int],
    size: tuple[int, int],
    progress: Progress | None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images; a file that turned unreadable since the manifest is left out."""
    images = np.empty((len(rows), *size), np.uint8)
    readable: list[int] = []
    for index, row in enumerate(rows):
        with contextlib.suppress(DataError):
            images[len(readable)] = reduce_image(read_grey(folder / row.file, whole), size)
            readable.append(index)
        if progress is not None and (index % 100 == 99 or index + 1 == len(rows)):
            progress(index + 1, len(rows))
    if not readable:
        raise DataError(
            f"None of the {len(rows)} images of {folder} can be read; run `rvsm data check`."
        )
    return images[: len(readable)], np.array(readable, np.int64)


def _fingerprint(folder: Path, rows: Sequence[Row], size: tuple[int, int]) -> str:
    """Hash the name, length and time of change of every file: a cache is trusted only by it."""
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {size}".encode())
    for row in rows:
        try:
            status = (folder / row.file).stat()
            line = f"\n{row.file} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            line = f"\n{row.file} missing"
        digest.update(line.encode())
    return digest.hexdigest()


def _read_cache(path: Path, key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return stored["images"], stored["readable"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(
    path: Path, key: str, images: NDArray[np.uint8], readable: NDArray[np.int64]
) -> None:
    """Keep the decoded images; a folder that cannot be written simply gets no cache."""
    with contextlib.suppress(RvsmError):
        make_folder(path.parent)
        with atomic_write(path) as file:
            np.savez(file, key=np.array(key), images=images, readable=readable)
