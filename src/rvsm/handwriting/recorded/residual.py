"""What of a pen's movement is tremor: its 3 to 12 Hz part, on an even grid of times.

A recording is cut wherever the pen lifts, the stamps pause or run backwards, or the pen jumps.
Each piece is put on an even grid by a cubic spline and filtered forwards and backwards, so that
no phase is shifted; what lies near its ends, where the filter has to guess, is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvsm.handwriting.timed import TimedStrokes, cut
from rvsm.handwriting.tremor import rms

Array = npt.NDArray[np.float64]

RATE_HZ = 200.0
BAND_HZ = (3.0, 12.0)
ORDER = 4
"""Of the Butterworth filter; run both ways its slope is twice that."""

END_S = 0.4
"""Thrown away at both ends of a piece: the filter's answer to a step has died down by then."""

LEAST_S = 1.5
"""What a piece must still last to be kept."""

_WINDOW_S = 2.0


@dataclass(frozen=True)
class Piece:
    """An unbroken stretch of tremor: (n, 2) millimetres at `RATE_HZ`.

    `path_mm` is the length of what the pen wrote meanwhile, its tremor taken off.
    """

    residual_mm: Array
    path_mm: float

    @property
    def seconds(self) -> float:
        return len(self.residual_mm) / RATE_HZ


def pieces(strokes: TimedStrokes, *, end_s: float = END_S, least_s: float = LEAST_S) -> list[Piece]:
    """Cut a recording and take the tremor out of each piece.

    Parameters
    ----------
    strokes : TimedStrokes
        Stamps, however uneven.
    end_s, least_s : float
        Thrown away at both ends of a piece, and what it must still last to be kept.

    Returns
    -------
    list of Piece
        Those that last long enough after their ends are off; none where the recording is too short.
        Of strokes without a scale they are in the recorder's unit.
    """
    found = []
    for t, xy in cut(strokes):
        if t[-1] - t[0] < least_s + 2 * end_s:
            continue
        end = round(end_s * RATE_HZ)
        points = uniform(t, xy)
        residual = bandpassed(points)
        written = np.diff((points - residual)[end:-end], axis=0)
        found.append(Piece(residual[end:-end], float(np.hypot(*written.T).sum())))
    return found


def uniform(time_s: Array, points_mm: Array, rate_hz: float = RATE_HZ) -> Array:
    """Points at even times, (m, 2), by a cubic spline through uneven ones (stamps increasing)."""
    from scipy.interpolate import CubicSpline

    count = int(np.floor((time_s[-1] - time_s[0]) * rate_hz)) + 1
    grid = time_s[0] + np.arange(count) / rate_hz
    return np.asarray(CubicSpline(time_s, points_mm)(grid))


def bandpassed(points_mm: Array, rate_hz: float = RATE_HZ) -> Array:
    """The part between `BAND_HZ`, no phase shifted: a Butterworth filter run both ways.

    The piece is continued at both ends by its point reflection, which keeps value and slope.
    """
    from scipy import signal

    sections = signal.butter(ORDER, BAND_HZ, "bandpass", fs=rate_hz, output="sos")
    reach = min(round(rate_hz), len(points_mm) - 1)
    return np.asarray(signal.sosfiltfilt(sections, points_mm, axis=0, padtype="odd", padlen=reach))


def pooled_rms(parts: list[Piece]) -> float:
    """RMS length in mm over all samples of some pieces."""
    return rms(np.concatenate([part.residual_mm for part in parts]))


def peak_hz(parts: list[Piece]) -> float:
    """Frequency within `BAND_HZ` at which the power of both axes together is largest.

    Welch's periodograms over windows of 2 s, averaged over the pieces by their length.
    """
    from scipy import signal

    total: Array | None = None
    for part in parts:
        window = min(round(_WINDOW_S * RATE_HZ), len(part.residual_mm))
        f, power = signal.welch(
            part.residual_mm, RATE_HZ, nperseg=window, nfft=round(10 * RATE_HZ), axis=0
        )
        weighted = power.sum(axis=1) * part.seconds
        total = weighted if total is None else total + weighted
    assert total is not None
    inside = (f >= BAND_HZ[0]) & (f <= BAND_HZ[1])
    return float(f[inside][np.argmax(total[inside])])
