"""A contact sheet: pictures as they are beside what normalising makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rvsm.errors import DataError
from rvsm.handwriting.images import GreyImage, grey_of
from rvsm.handwriting.readers import Collection
from rvsm.handwriting.scans.sets import How, isolations, normalised
from rvsm.handwriting.scans.verdict import judge

_GAP, _LINE = 6, 14
_GROUND, _TEXT = (225, 225, 225), (0, 0, 0)


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet.

    `before` is as stored, `after` what was made of it, or None where `caption` says why there is
    nothing.
    """

    before: Image.Image | None
    after: GreyImage | None
    caption: str


def sheet_of(
    collection: Collection,
    *,
    count: int = 32,
    seed: int = 0,
    isolate: How = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """A contact sheet of some pictures of a set, drawn by `seed`, in the order of the set.

    Parameters
    ----------
    collection : Collection
    count : int
    seed : int
    isolate : {"auto", "colour", "registration", "none"}
        See `sets.isolations`.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    PIL.Image.Image
        RGB; pictures that cannot be read or hold no writing say so in their captions.
    """
    order = np.random.default_rng(seed).permutation(len(collection.rows))[:count]
    rows = [collection.rows[index] for index in np.sort(order).tolist()]
    tiles, pens = [], isolations(collection, isolate)
    for done, row in enumerate(rows, start=1):
        name = " ".join(filter(None, (row.file.rpartition("/")[2], row.carrier, row.label)))
        try:
            picture, found = normalised(collection, row, pens[row.task])
            verdict = judge(found)
            told = "" if verdict.writing else f": no writing here, {verdict.reason}"
            tiles.append(Tile(picture, found.grey, name + told))
        except DataError as error:
            tiles.append(Tile(None, None, str(error)))
        if progress is not None:
            progress(done, len(rows))
    wide = np.median([t.before.width / t.before.height for t in tiles if t.before] or [1.0])
    cell = (240, 80) if wide > 2 else (160, 160)
    return contact_sheet(tiles, columns=3 if wide > 2 else 4, cell=cell)


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int = 4, cell: tuple[int, int] = (160, 160)
) -> Image.Image:
    """Draw tiles on one sheet, before and after side by side over their captions.

    Parameters
    ----------
    tiles : sequence of Tile
    columns : int
        Pairs in a row.
    cell : (int, int)
        Width and height in pixels of each of the two pictures; they are scaled down to fit.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    wide, high = 2 * cell[0] + 2 * _GAP, cell[1] + _LINE + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * wide + _GAP, max(1, rows) * high + _GAP), _GROUND)
    pen = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left = _GAP + number % columns * wide
        top = _GAP + number // columns * high
        after = None if tile.after is None else Image.fromarray(tile.after)
        for place, picture in enumerate((tile.before, after)):
            if picture is not None:
                shown = _flat(picture)
                shown.thumbnail(cell)
                sheet.paste(shown, (left + place * (cell[0] + 2), top))
        pen.text((left, top + cell[1]), _shortened(tile.caption, 2 * cell[0]), fill=_TEXT)
    return sheet


def _shortened(caption: str, width: int) -> str:
    most = width // 6
    return caption if len(caption) <= most else caption[: most - 3] + "..."


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode in {"L", "RGB"}:
        return picture.convert("RGB")
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(grey_of(picture)).convert("RGB")
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
