"""Recorded strokes as a picture, all in one scale."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.render import draw_strokes
from rvsm.handwriting.timed import TimedStrokes, cut

PAPER_MM, PIXELS_PER_MM = 96.0, 4.0
"""Side of the square that strokes in mm are drawn on, one for everybody, and how finely."""

PEN_MM = 0.5
_UNSCALED = 96.0
_MARGIN = 8
_MOST_SIDE = 4000


def redraw(
    strokes: TimedStrokes, pixels_per_mm: float = PIXELS_PER_MM, pen_mm: float = PEN_MM
) -> Image.Image:
    """Draw strokes with a round pen of one width, so that only their path is seen.

    No pressure is drawn, which would tell one tablet from another. Strokes in mm are cut where the
    recorder paused or jumped (see `timed.cut`), which nobody drew.

    Parameters
    ----------
    strokes : TimedStrokes
    pixels_per_mm : float
        Scale of the picture; it is also noted as its resolution.
    pen_mm : float
        Width of the pen.

    Returns
    -------
    PIL.Image.Image
        Grey, dark on white. Strokes in mm are centred on a square of 96 mm, or one that holds them
        and a margin; others are drawn 96 pixels high or wide, whichever is more, with a margin of
        8 pixels.

    Raises
    ------
    DataError
        No points, or so far apart that the picture would pass 4000 pixels.
    """
    paths = [xy for _, xy in cut(strokes)] if strokes.in_mm else [p[:, 1:] for p in strokes.paths]
    every = np.concatenate(paths) if paths else np.zeros((0, 2))
    if not len(every):
        raise DataError(
            "The recording has no four points within 0.05 s of each other: check that its times "
            "are in seconds, or leave it out."
            if any(map(len, strokes.paths))
            else "The recording has no points: leave it out."
        )
    low, extent = every.min(axis=0), np.ptp(every, axis=0)
    scale = pixels_per_mm if strokes.in_mm else _UNSCALED / max(float(extent.max()), 1e-9)
    pen = pen_mm * pixels_per_mm
    needed = np.ceil(extent * scale + 2 * (_MARGIN + pen / 2))
    if needed.max() > _MOST_SIDE:
        raise DataError(
            f"The recording is {extent[0]:.0f} x {extent[1]:.0f} units large and would be drawn "
            f"beyond {_MOST_SIDE} pixels: check its scale."
        )
    if strokes.in_mm:
        needed[:] = max(round(PAPER_MM * pixels_per_mm), needed.max())
    points = (every - low - extent / 2) * scale + needed / 2
    stroke = np.repeat(np.arange(len(paths)), [len(path) for path in paths])
    width, height = needed.astype(int).tolist()
    picture = Image.fromarray(draw_strokes(points, stroke, pen, (height, width)))
    if strokes.in_mm:
        picture.info["dpi"] = (25.4 * scale, 25.4 * scale)
    return picture
