"""Whether a page lies sideways, and which way it was turned, from where its ink lies."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rvsm.errors import DataError
from rvsm.handwriting.scans.paper import Mask
from rvsm.handwriting.scans.rules import rule_mask
from rvsm.handwriting.scans.segment import letter_size, segment
from rvsm.handwriting.scans.skew import skew_deg, turned

QUARTERS = (0, 90, 180, 270)
"""By how much a page can be turned, degrees clockwise."""

_COARSE = 1200
_SURER = 1.25
_LONG = 10
_SMOOTH = 0.5
_DARK = 128


def check_turn(turn: int | None) -> None:
    """Raise DataError unless a page can be turned by so many degrees."""
    if turn is not None and turn not in QUARTERS:
        known = ", ".join(map(str, QUARTERS))
        raise DataError(
            f"A page is not turned by {turn} degrees: give --turn one of {known}, clockwise."
        )


def sideways_deg(ink: Mask) -> int:
    """By how much to turn a page clockwise so that its lines run across it.

    Ink crowds into bands along the lines of a text, and not across them: the page lies sideways
    where its columns are more uneven than its rows, by a quarter at least, each seen at the angle
    that crowds it most (`skew_deg`), without rules, and averaged over half a letter. Uneven is the
    standard deviation over the mean. One line of writing has no bands, nor has a short list a side
    ten letters long: such a page is taken to be upright.

    Of the two ways to turn it, that one is chosen whose lines begin more evenly than they end:
    writing is flush on the left. A page upside down is not told from an upright one.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    int
        0, 90 or 270.
    """
    ink = in_blocks(ink)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return 0
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = letter_size(ink)
    if min(ink.shape) < _LONG * size:
        return 0
    upright, lying = without_rules(ink), without_rules(np.rot90(ink, -1))
    if _unevenness(lying, size) <= _SURER * _unevenness(upright, size):
        return 0
    return 90 if _flush_left(lying) else 270


def in_blocks(ink: Mask) -> Mask:
    """The ink in blocks, enough of them to show letters."""
    block = max(1, round(max(ink.shape) / _COARSE))
    height, width = (side // block * block for side in ink.shape)
    parts = ink[:height, :width].reshape(height // block, block, width // block, block)
    return np.asarray(parts.any(axis=(1, 3)))


def without_rules(ink: Mask) -> Mask:
    """The ink turned level, without rules of either direction: they are the strongest bands.

    A lone rule down the picture is found where that lies sideways.
    """
    grey = np.where(ink, np.uint8(0), np.uint8(255))
    level = turned(grey, skew_deg(ink)) < _DARK
    return np.asarray(level & ~rule_mask(level) & ~rule_mask(level.T).T)


def _unevenness(ink: Mask, size: float) -> float:
    """Standard deviation over mean of the ink in each row from the first to the last with any."""
    profile = ink.sum(axis=1).astype(np.float64)
    rows = np.flatnonzero(profile)
    if not len(rows):
        return 0.0
    profile = ndimage.gaussian_filter1d(profile[rows[0] : rows[-1] + 1], _SMOOTH * size)
    return float(profile.std() / profile.mean())


def _flush_left(ink: Mask) -> bool:
    """Whether lines begin at one place rather than end there."""
    edges: dict[int, list[int]] = {}
    for word in segment(ink).words:
        left, right = edges.setdefault(word.line, [word.box[0], word.box[2]])
        edges[word.line] = [min(left, word.box[0]), max(right, word.box[2])]
    if not edges:
        return True
    starts, ends = np.std(list(edges.values()), axis=0)
    return bool(starts <= ends)
