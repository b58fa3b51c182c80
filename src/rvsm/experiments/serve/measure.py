"""The 3 to 12 Hz part of a drawing's movement, measured as it is in recordings of tablets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rvsm.experiments.serve.drawing import Array, Drawing
from rvsm.handwriting.recorded.measure import LEAST_RMS_MM, frequency
from rvsm.handwriting.recorded.residual import pieces, pooled_rms
from rvsm.handwriting.timed import TimedStrokes

LEAST_S = 1.0
"""What must be left of unbroken strokes, all together, to measure anything."""

END_S, LEAST_PIECE_S = 0.1, 0.3
"""Thrown away at both ends of a stroke, and what must still be left of it.

Less than of a recording, since words are written in short strokes. Of a made word at 15 and 30
mm/s with a tremor of 0.9 mm this measures 0.92 and 0.95 mm, and 0.08 and 0.31 mm without any: fast
letters are in the band themselves.
"""

_STILL_S = 0.02
_LONGEST_REST_S = 2.0


@dataclass(frozen=True)
class Measured:
    """How a pen trembled.

    Attributes
    ----------
    rms_mm : float or None
        Root mean square length of the movement between 3 and 12 Hz; None where nothing could be
        measured.
    frequency_hz : float or None
        As `rvsm.handwriting.recorded.measure.frequency` tells it.
    seconds : float
        Of the drawing, what was measured.
    reason : str
        Why something is None; empty otherwise.
    """

    rms_mm: float | None
    frequency_hz: float | None
    seconds: float
    reason: str


def measure(drawing: Drawing) -> Measured:
    """Measure frequency and amplitude of the tremor in the strokes of a drawing.

    Strokes are cut and filtered as `rvsm.handwriting.recorded.residual` does it, in shorter pieces.

    Parameters
    ----------
    drawing : Drawing

    Returns
    -------
    Measured
    """
    strokes = TimedStrokes(tuple(map(rested, drawing.paths)), in_mm=True)
    parts = pieces(strokes, end_s=END_S, least_s=LEAST_PIECE_S)
    seconds = sum(part.seconds for part in parts)
    if seconds < LEAST_S:
        return Measured(
            None, None, seconds, "the strokes are too short: draw a slow line or spiral"
        )
    rms = pooled_rms(parts)
    hz, reason = frequency(parts, small=rms < LEAST_RMS_MM)
    return Measured(rms, hz, seconds, reason)


def rested(path: Array) -> Array:
    """A stroke with the times in which it rested filled in.

    A browser tells of no movement where there is none: in the gap between two events the pen stood
    still until shortly before the second. Rests of more than 2 s stay gaps.

    Parameters
    ----------
    path : ndarray, shape (n, 3)

    Returns
    -------
    ndarray, shape (m, 3)
    """
    gaps = np.diff(path[:, 0])
    out = [path[:1]]
    for number, gap in enumerate(gaps.tolist()):
        if 2 * _STILL_S < gap < _LONGEST_REST_S:
            times = path[number, 0] + np.arange(_STILL_S, gap - _STILL_S / 2, _STILL_S)
            held = np.repeat(path[number : number + 1, 1:], len(times), axis=0)
            out.append(np.column_stack([times, held]))
        out.append(path[number + 1 : number + 2])
    return np.concatenate(out)
