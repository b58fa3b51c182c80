"""A word written by a made-up hand, steady or trembling, as if it had been drawn on the page."""

from __future__ import annotations

import numpy as np

from rvsm.handwriting.kinematics import pen_times
from rvsm.handwriting.strokes import HersheyCarrier
from rvsm.handwriting.tremor import physiological, tremor

TEXT = "writing"
X_HEIGHT_MM = 6.0
SPEED_MM_S = 20.0
TREMOR_MM, TREMOR_HZ = 0.9, 6.0
KINDS = ("steady", "shaky")


def example(kind: str, rng: np.random.Generator) -> tuple[list[list[list[float]]], float]:
    """Timed strokes of a word.

    Parameters
    ----------
    kind : "steady" or "shaky"
        With a tremor of 6 Hz and 0.9 mm RMS, or without.
    rng : source of randomness.

    Returns
    -------
    list
        Strokes of points [ms, x, y]: mm, y downwards, from the upper left corner of the word.
    float
        How far down the line is that the letters stand on, mm.
    """
    placed, x = [], 0.0
    for glyph in HersheyCarrier("scripts", "Hershey Script").glyphs(TEXT):
        placed += [path * X_HEIGHT_MM + [x, 0.0] for path in glyph.strokes]
        x += glyph.advance * X_HEIGHT_MM
    strokes = np.repeat(np.arange(len(placed)), [len(path) for path in placed])
    points = np.concatenate(placed)
    times = pen_times(points, strokes, SPEED_MM_S)
    points = points + physiological(times, rng)
    if kind == "shaky":
        points = points + tremor(times, rng, TREMOR_MM, TREMOR_HZ)
    top = float(points[:, 1].max())
    points = (points - [points[:, 0].min(), top]) * [1.0, -1.0]
    told = np.column_stack([1000.0 * times, points]).round(3)
    return [told[strokes == number].tolist() for number in range(len(placed))], top
