"""How fast and how large the tremor of somebody's strokes is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rvsm.handwriting.recorded.residual import END_S, LEAST_S, Piece, peak_hz, pieces, pooled_rms
from rvsm.handwriting.timed import TimedStrokes
from rvsm.handwriting.tremor import FREQUENCY_RANGE_HZ

LEAST_STROKE_S = LEAST_S + 2 * END_S
"""How long a stroke must last without lifting the pen for its tremor to be measured."""

LEAST_RMS_MM = 0.05
"""What a movement must have for its frequency to be told.

Positions in whole pixels of 0.26 mm alone make about half of this.
"""

_LEAST_OF_SIZE = 0.0005  # the same in a drawing of 10 cm, where the scale is not known


@dataclass(frozen=True, slots=True)
class TremorMeasure:
    """The movement between 3 and 12 Hz of a pen.

    Attributes
    ----------
    frequency_hz : float or None
        At which there is most power; None where that tells of no tremor (see `frequency`).
    rms_mm : float or None
        RMS length of the displacements; None where the scale is not known.
    relative : float
        The same as a part of the height or width of all strokes, whichever is more.
    seconds : float
        Time that it was measured over.
    reason : str
        Why there is no frequency; empty where there is one.
    """

    frequency_hz: float | None
    rms_mm: float | None
    relative: float
    seconds: float
    reason: str = ""


def frequency(parts: list[Piece], *, small: bool) -> tuple[float | None, str]:
    """The frequency at which a movement between 3 and 12 Hz is strongest, where it is tremor's.

    Parameters
    ----------
    parts : list of Piece
    small : bool
        Whether the movement is smaller than `LEAST_RMS_MM`, and may be noise.

    Returns
    -------
    float or None
        None where the movement is small, or strongest below 4 Hz, as that of plain writing is.
    str
        Why there is none.
    """
    if small:
        return None, "the movement is too small for a frequency"
    peak = peak_hz(parts)
    if peak < FREQUENCY_RANGE_HZ[0]:
        return None, "it is strongest below 4 Hz, where plain writing is too"
    return peak, ""


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
    relative = size / extent if extent else 0.0
    small = size < LEAST_RMS_MM if strokes.in_mm else relative < _LEAST_OF_SIZE
    hz, reason = frequency(found, small=small)
    return TremorMeasure(
        hz,
        size if strokes.in_mm else None,
        relative,
        sum(piece.seconds for piece in found),
        reason,
    )
