"""Folders of real handwritten words: what they list, what of it can be used, the ink alone.

A folder is read in the layout of the German handwriting set DHSD (Riaz et al., CC BY 4.0, Zenodo
18743313): `data.csv` with the columns file_name, text, writer_id. One without `data.csv` is read as
`readers.read` does.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.morphology import closed, dilated, opened

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

INDEX = "data.csv"
_INK_SHARE = 0.4
_LEAST_INK = 50
_PAPER = 0.06
_LETTER = 16
_FAINTEST = 0.25
_RULE_ASPECT, _RULE_THICK, _RULE_LONG, _EDGE = 7, 5, 48, 7


@dataclass(frozen=True, slots=True)
class WordFile:
    """One image of the folder."""

    path: Path
    text: str
    writer: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Images of a folder of words, and by kind and name what was skipped and why."""

    words: tuple[WordFile, ...]
    skipped: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Clean:
    """An image without its paper: darkness (1 is strong ink), where ink is, and printed rules."""

    darkness: Array
    ink: Mask
    rules: Mask


@lru_cache(maxsize=4)
def index(folder: Path, person: str | None = None) -> Listing:
    """List the images that a folder's data.csv names and that exist.

    Without that file, or with a `person`, the folder is read in any layout of `readers.LAYOUTS`.

    Parameters
    ----------
    folder : Path
    person : str, optional
        Regular expression that finds the writer in each image's path.

    Raises
    ------
    DataError
        No folder, a column is missing, none of the images exists or is a word, or nobody knows who
        wrote them.
    """
    path = folder / INDEX
    if not folder.is_dir():
        raise DataError(f"There is no folder of words {folder}: check the name.")
    if person is not None or not path.is_file():
        return _listed_by_reader(folder, person)
    words: list[WordFile] = []
    skipped: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            absent = {"file_name", "text", "writer_id"} - set(reader.fieldnames or ())
            if absent:
                raise DataError(f"{path} lacks the column {', '.join(sorted(absent))}: add it.")
            for record in reader:
                name, text, writer = (record[k] for k in ("file_name", "text", "writer_id"))
                if not (name and text and writer):
                    line = f"line {reader.line_num}"
                    skipped["incomplete lines"][line] = "file_name, text or writer_id is empty"
                elif (folder / name).is_file():
                    words.append(WordFile(folder / name, text, f"writer{writer}"))
                else:
                    skipped["missing images"][name] = "there is no such file"
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}): save it as one.") from None
    if not words:
        raise DataError(f"None of the images that {path} names exists: unpack the whole set.")
    return Listing(tuple(words), dict(skipped))


def _listed_by_reader(folder: Path, person: str | None) -> Listing:
    """The words of a set in another layout; texts that nobody knows are numbers.

    A writer's images of unknown text count up, so that splits, which are cut by text too, share no
    image and have some of each writer.
    """
    from rvsm.handwriting.readers import Files, read
    from rvsm.handwriting.scans.sets import is_text

    found = read(folder, person=person)
    if not isinstance(found.source, Files):
        raise DataError(
            f"{folder} is a set in the layout {found.layout}, which has no image files: name a "
            "folder of images of words."
        )
    words: list[WordFile] = []
    skipped: dict[str, dict[str, str]] = defaultdict(dict)
    if found.left_out:
        skipped["files"].update(found.left_out)
    images = Counter[str]()
    for row in found.rows:
        if row.error:
            skipped["missing images"][row.file] = row.error
        elif not is_text(row.task):
            skipped["drawings"][row.file] = f"its task is {row.task}, not word"
        elif row.label == "shaky":
            skipped["shaky images"][row.file] = "only regular writing can be made shaky"
        elif not row.carrier:
            skipped["images of nobody"][row.file] = "tell writers by --person REGEX"
        else:
            images[row.carrier] += 1
            text = row.text or str(images[row.carrier])
            words.append(WordFile(folder / row.file, text, row.carrier))
    if not words:
        kind, names = max(skipped.items(), key=lambda item: len(item[1]))
        name, why = next(iter(names.items()))
        raise DataError(
            f"{folder} has no images of words that are known to be regular, by known writers "
            f"({len(names)} {kind}, {name} first: {why}): add some, or list them in {INDEX} with "
            "the columns file_name, text and writer_id."
        )
    return Listing(tuple(words), dict(skipped))


@lru_cache(maxsize=4)
def usable(folder: Path, person: str | None = None) -> Listing:
    """Read all images of a folder and leave out those that are damaged or show no writing.

    Raises
    ------
    DataError
        As `index`, or no image is left.
    """
    listed = index(folder, person)
    words: list[WordFile] = []
    skipped = defaultdict(dict, {kind: dict(names) for kind, names in listed.skipped.items()})
    for word in listed.words:
        name = word.path.relative_to(folder).as_posix()
        try:
            if clean(word.path) is None:
                skipped["images without writing"][name] = "there is hardly any ink"
            else:
                words.append(word)
        except DataError as error:
            skipped["unreadable images"][name] = str(error).replace(str(word.path), name)
    if not words:
        kind, names = next(iter(skipped.items()))
        raise DataError(
            f"None of the {len(listed.words)} images in {folder} shows writing ({len(names)} "
            f"{kind}, {next(iter(names))} first): replace them."
        )
    return Listing(tuple(words), dict(skipped))


def clean(path: Path) -> Clean | None:
    """Take the paper and printed rules off an image of a word; None where hardly any ink is left.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    grey = read_grey(path)
    darkness = np.clip((float(np.median(grey)) - grey) / 255.0, 0.0, 1.0)
    darkness = np.where(darkness > _PAPER, darkness, 0.0)
    if np.count_nonzero(darkness) < _LEAST_INK:
        return None
    rules = ruled_lines(darkness > _INK_SHARE * np.quantile(darkness[darkness > 0], 0.9))
    darkness = evened(np.where(rules, 0.0, darkness))
    ink = darkness > _INK_SHARE
    faint = ruled_lines(ink)
    rules |= faint
    ink &= ~faint
    return Clean(darkness, ink, rules) if ink.sum() >= _LEAST_INK else None


def evened(darkness: Array) -> Array:
    """Ink as dark at the end of a word as at its beginning, where a pen runs dry.

    Divided by the strong ink of the columns around: the 90th percentile within some letters, no
    less than a quarter of the whole word's, so that what paper has left does not become ink.

    Parameters
    ----------
    darkness : ndarray of float, shape (h, w)
        0 where there is paper.

    Returns
    -------
    ndarray of float, shape (h, w)
        1 is strong ink.
    """
    if not darkness.any():
        return darkness
    width = darkness.shape[1]
    whole = np.quantile(darkness[darkness > 0], 0.9)
    centres, levels = [], []
    for start in range(0, width, _LETTER):
        around = darkness[:, max(0, start - _LETTER) : start + 2 * _LETTER]
        around = around[around > 0]
        if around.size >= _LEAST_INK:
            centres.append(start + _LETTER / 2)
            levels.append(max(np.quantile(around, 0.9), _FAINTEST * whole))
    if not levels:
        return np.minimum(darkness / whole, 1.0)
    return np.asarray(np.minimum(darkness / np.interp(np.arange(width), centres, levels), 1.0))


def ruled_lines(ink: Mask) -> Mask:
    """The pixels of printed rules.

    Rules are pieces that are thin and long: level ones near the upper or lower edge, or longer
    than any dash, and upright ones of full height; thin pieces level with a rule, which are more
    of it; and level lines through the writing near an edge, where strokes that cross them stay.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    ndarray of bool, shape (h, w)
    """
    height, width = ink.shape
    crossing = _crossing_lines(ink)
    labels, count = ndimage.label(ink & ~crossing, structure=np.ones((3, 3)))
    pieces = ndimage.find_objects(labels, count)
    rules, thin = [False], []
    rule_rows: Mask = np.asarray(crossing.any(axis=1), dtype=np.bool_)
    for rows, columns in pieces:
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        outside = rows.stop <= height // 4 or rows.start >= height - height // 4
        level = tall <= _RULE_THICK and wide >= (_RULE_ASPECT * tall if outside else _RULE_LONG)
        cut_off = (rows.start == 0 or rows.stop > height - _EDGE) and tall <= _RULE_THICK
        beside = columns.start < _EDGE or columns.stop > width - _EDGE
        upright = wide <= _RULE_THICK and tall >= (0.5 if beside else 0.75) * height
        rules.append(level or cut_off or upright)
        thin.append(outside and tall <= _RULE_THICK)
        if level and wide >= _RULE_LONG:
            rule_rows[rows] = True
    near = ndimage.binary_dilation(rule_rows, iterations=_RULE_THICK // 2)
    for number, (rows, _) in enumerate(pieces):
        rules[number + 1] |= thin[number] and bool(near[rows].all())
    return np.asarray(np.array(rules)[labels] | crossing, dtype=np.bool_)


def _crossing_lines(ink: Mask) -> Mask:
    """Level lines in the outer quarters that touch writing: no thicker than 3 pixels, 48 long."""
    thin = ink & ~opened(ink, (4, 1))
    lines = closed(np.pad(thin, ((0, 0), (4, 4))), (1, 5))[:, 4:-4]
    lines = dilated(lines, (3, 1))  # one that is not quite level
    lines = opened(lines, (1, _RULE_LONG)) & thin
    row, quarter = np.arange(len(ink))[:, None], len(ink) // 4
    outer = (row < quarter) | (row >= len(ink) - quarter)
    return np.asarray(lines & outer, dtype=np.bool_)
