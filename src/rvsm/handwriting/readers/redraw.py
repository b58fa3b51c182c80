"""Recorded strokes as a picture, all in one scale."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.readers.base import TimedStrokes
from rvsm.handwriting.render import draw_strokes

PIXELS_PER_MM = 4.0
PEN_MM = 0.5
_UNSCALED = 96.0
_MARGIN = 8
_MOST_SIDE = 4000


def redraw(
    strokes: TimedStrokes, pixels_per_mm: float = PIXELS_PER_MM, pen_mm: float = PEN_MM
) -> Image.Image:
    """Draw strokes with a round pen of one width, so that only their path is seen.

    Parameters
    ----------
    strokes : TimedStrokes
    pixels_per_mm : float
        Scale of the picture; it is also noted as its resolution. Strokes without a scale are
        drawn 96 pixels high or wide, whichever is more.
    pen_mm : float
        Width of the pen.

    Returns
    -------
    PIL.Image.Image
        Grey, dark on white, with a margin of 8 pixels.

    Raises
    ------
    DataError
        No points, or so far apart that the picture would pass 4000 pixels.
    """
    every = np.concatenate(strokes.paths)[:, 1:] if strokes.paths else np.zeros((0, 2))
    if not len(every):
        raise DataError("The recording has no points: leave it out.")
    low, extent = every.min(axis=0), np.ptp(every, axis=0)
    scale = pixels_per_mm if strokes.in_mm else _UNSCALED / max(float(extent.max()), 1e-9)
    pen = pen_mm * pixels_per_mm
    margin = _MARGIN + pen / 2
    width, height = (int(np.ceil(side)) for side in extent * scale + 2 * margin)
    if max(width, height) > _MOST_SIDE:
        raise DataError(
            f"The recording is {extent[0]:.0f} x {extent[1]:.0f} units large and would be drawn "
            f"beyond {_MOST_SIDE} pixels: check its scale."
        )
    points = (every - low) * scale + margin
    stroke = np.repeat(np.arange(len(strokes.paths)), [len(path) for path in strokes.paths])
    picture = Image.fromarray(draw_strokes(points, stroke, pen, (height, width)))
    if strokes.in_mm:
        picture.info["dpi"] = (25.4 * scale, 25.4 * scale)
    return picture
