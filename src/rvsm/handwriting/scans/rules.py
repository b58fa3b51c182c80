"""Printed rules of a page."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rvsm.handwriting.morphology import closed, dilated, opened
from rvsm.handwriting.scans.paper import Mask
from rvsm.handwriting.wordfiles import ruled_lines

_RULE_SHARE = 0.3
_WORD_HEIGHT = 96


def rule_mask(ink: Mask, least: float | None = None) -> Mask:
    """Pixels of ruled lines: thin, level, and longer than any stroke of the writing.

    Small pictures of single words are looked at as `wordfiles.ruled_lines` does; in larger ones a
    line is a rule where it runs on for 0.3 of the width, gaps of 2 % allowed.

    Parameters
    ----------
    ink : ndarray of bool, shape (h, w)
    least : float, optional
        How long a line in a larger one is that is a rule, pixels, where not 0.3 of the width.

    Returns
    -------
    ndarray of bool, shape (h, w)
    """
    height, width = ink.shape
    if height <= _WORD_HEIGHT:
        return ruled_lines(ink)
    if least is None:
        least = _RULE_SHARE * width
    if least > width:
        return np.zeros_like(ink)
    thick = max(2, round(height / 200))
    gap = max(3, round(width / 50))
    thin = ink & ~opened(ink, (thick + 2, 1))
    joined = closed(np.pad(thin, ((0, 0), (gap, gap))), (1, gap))
    joined = dilated(joined[:, gap:-gap], (3, 1))
    lines = opened(joined, (1, max(40, round(least))))
    if not lines.any():
        return np.zeros_like(ink)
    # Of a rule that is not quite level, or thicker, the rows beside are part.
    lines = dilated(lines, (2 * thick + 1, 1))
    # Where a rule is faint only dashes of it are left: level pieces in its rows.
    rows = np.asarray(lines.any(axis=1))
    labels, count = ndimage.label(ink & ~(lines & thin), structure=np.ones((3, 3)))
    dashes = [False] + [
        bool(rows[r].all()) and c.stop - c.start >= r.stop - r.start
        for r, c in ndimage.find_objects(labels, count)
    ]
    return np.asarray((lines & thin) | np.array(dashes)[labels], dtype=np.bool_)
