"""What a picture has to beat where strokes are known: the measured size of the tremor alone."""

from __future__ import annotations

import numpy as np

from rvsm.errors import DataError
from rvsm.experiments.crossval.cases import Cases
from rvsm.experiments.crossval.metrics import Reals
from rvsm.handwriting.recorded.measure import LEAST_STROKE_S, measure_tremor


def amplitudes(cases: Cases) -> Reals:
    """The logarithm of each recording's tremor between 3 and 12 Hz, and whether it has any.

    RMS in mm; where the scale of some recordings is not known, as a part of the size of all their
    strokes. A recording without a stroke that is long enough has 0, and 1 in the second column.

    Parameters
    ----------
    cases : Cases

    Returns
    -------
    ndarray, shape (n, 2)

    Raises
    ------
    DataError
        Some are pictures, or none is long enough.
    """
    found = []
    for row in cases.collection.rows:
        if (strokes := cases.collection.strokes(row)) is None:
            raise DataError(
                f"{row.file} is a picture, of which no tremor can be measured: leave out --arm "
                "amplitude, which is for sets of recorded strokes."
            )
        found.append(measure_tremor(strokes))
    measured = [one for one in found if one is not None]
    if not measured:
        raise DataError(
            f"No recording in {cases.folder} is long enough for its tremor to be measured: leave "
            f"out --arm amplitude, or record {LEAST_STROKE_S:g} s without lifting the pen."
        )
    in_mm = all(one.rms_mm is not None for one in measured)
    sizes = np.array(
        [np.nan if one is None else one.rms_mm if in_mm else one.relative for one in found],
        dtype=np.float64,
    )
    missing = np.isnan(sizes)
    logs = np.log(np.maximum(sizes, 1e-6))
    return np.stack([np.where(missing, 0.0, logs), missing.astype(np.float64)], axis=1)
