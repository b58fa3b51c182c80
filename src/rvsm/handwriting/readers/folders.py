"""Any user's scans in folders: ``SPLIT/CLASS/...``, ``CLASS/...``, or a heap without classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rvsm.errors import DataError
from rvsm.handwriting.images import read_picture
from rvsm.handwriting.manifest import MANIFEST, SPLIT_NAMES, UNSPLIT, Row, files_below, list_images
from rvsm.handwriting.readers.base import (
    Collection,
    Files,
    class_of,
    image_files,
    relative,
)

name = "folders"
about = "image folders: [SPLIT/]CLASS/..., a manifest of rvsm, or images without classes"

_LISTS = frozenset([".csv", ".tsv"])
_PAGES = frozenset([".pdf", ".heic", ".heif", ".djvu"])
_SPLITS = frozenset(["train", "val", "test", *SPLIT_NAMES])


def fits(root: Path) -> bool:
    return root.is_dir() and next(image_files(root), None) is not None


def read(root: Path) -> Collection:
    """List the images of a folder.

    A manifest that rvsm wrote is obeyed; in one of your own a column such as person says whose
    an image is. Else a folder whose name means a class (regular or
    shaky, healthy or parkinson, control or patient, ...) gives the label, and one named train,
    val or test the split. Images without such a folder have no label.

    Raises
    ------
    DataError
        No images, or images outside the class folders of a set that has them.
    """
    if (root / MANIFEST).is_file():
        rows = tuple(looked_again(root, read_picture))  # which says what is wrong with the file
        return Collection(name, root, rows, ("regular", "shaky"), {}, Files(root))
    found: list[Row] = []
    names: dict[str, str] = {}
    for path in image_files(root):
        file = relative(path, root)
        folders = file.split("/")[:-1]
        titles = [title for title in folders if class_of(title)]
        label = class_of(titles[-1]) if titles else ""
        if titles:
            names.setdefault(label, titles[-1])
        split = next((title.lower() for title in folders if title.lower() in _SPLITS), "")
        found.append(Row(file, SPLIT_NAMES.get(split, split) or UNSPLIT, label))
    if not found:
        raise DataError(
            f"{root} holds no images: put them into {root}/regular and {root}/shaky, or list them "
            "in a CSV file with the columns file and label."
        )
    without = Counter(bool(row.label) for row in found)
    if without[True] and without[False]:
        stray = next(row.file for row in found if not row.label)
        raise DataError(
            f"{without[False]} of {len(found)} images of {root} lie in no class folder, {stray} "
            "first: move them into one, or out of the set."
        )
    classes = (names.get("regular", "regular"), names.get("shaky", "shaky")) if names else None
    return Collection(name, root, tuple(found), classes, _passed_over(root), Files(root))


def looked_again(root: Path, read: Callable[[Path], object]) -> list[Row]:
    """List the images of a data folder; what its manifest calls unreadable may be repaired.

    Parameters
    ----------
    root : Path
    read : callable
        Opens one, or raises DataError.

    Raises
    ------
    DataError
        See `manifest.list_images`.
    """
    rows = list_images(root)
    if not (root / MANIFEST).is_file():
        return rows
    return [
        replace(row, error=why_unreadable(root / row.file, read)) if row.error else row
        for row in rows
    ]


def why_unreadable(path: Path, read: Callable[[Path], object]) -> str:
    """What is wrong with an image file, empty where nothing is."""
    try:
        read(path)
    except DataError as error:
        return str(error)
    return ""


def _passed_over(root: Path) -> dict[str, str]:
    """What may have been meant to be read and is not, with the reason."""
    told = {}
    for path in files_below(root):
        if path.suffix.lower() in _PAGES:
            told[relative(path, root)] = "it is no picture: save each page as PNG or JPEG"
        elif path.suffix.lower() in _LISTS and path.parent == root:
            told[path.name] = (
                "it is not obeyed: a list needs a column file, and is named itself where there are "
                "several"
            )
    return told
