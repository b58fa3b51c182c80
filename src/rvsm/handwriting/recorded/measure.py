"""How fast and how large the tremor of somebody's strokes is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rvsm.handwriting.recorded.residual import END_S, LEAST_S, peak_hz, pieces, pooled_rms
from rvsm.handwriting.timed import TimedStrokes

LEAST_STROKE_S = LEAST_S + 2 * END_S
"""How long a stroke must last without lifting the pen for its tremor to be measured."""


@dataclass(frozen=True, slots=True)
class TremorMeasure:
    """The movement between 3 and 12 Hz of a pen.

    Attributes
    ----------
    frequency_hz : float
        At which there is most power. A steady hand and a tablet's noise have such a frequency too:
        it means little where `rms_mm` is below 0.1.
    rms_mm : float or None
        RMS length of the displacements; None where the scale is not known.
    relative : float
        The same as a part of the height or width of all strokes, whichever is more.
    seconds : float
        Time that it was measured over.
    """

    frequency_hz: float
    rms_mm: float | None
    relative: float
    seconds: float


def measure_tremor(strokes: TimedStrokes) -> TremorMeasure | None:
    """Measure the tremor of strokes over time, as the tremor library does.

    Each unbroken stretch goes on an even grid of times and through a band-pass of 3 to 12 Hz that
    shifts no phase (see `residual`).

    Parameters
    ----------
    strokes : TimedStrokes
        Times in seconds; positions in mm where the scale is known.

    Returns
    -------
    TremorMeasure or None
        None where no stroke lasts `LEAST_STROKE_S`, 2.3 s, without a pause.

    Examples
    --------
    >>> t = np.arange(0, 6, 0.008)
    >>> line = np.stack([t, 15 * t, 0.5 * np.sin(2 * np.pi * 5 * t)], axis=1)
    >>> found = measure_tremor(TimedStrokes((line,), in_mm=True))
    >>> round(found.frequency_hz, 1), round(found.rms_mm, 2)
    (5.0, 0.35)
    """
    found = pieces(strokes)
    if not found:
        return None
    size = pooled_rms(found)
    extent = float(np.ptp(np.concatenate(strokes.paths)[:, 1:], axis=0).max())
    return TremorMeasure(
        peak_hz(found),
        size if strokes.in_mm else None,
        size / extent if extent else 0.0,
        sum(piece.seconds for piece in found),
    )
