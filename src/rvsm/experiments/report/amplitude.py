"""How much tremor a network needs before it sees it: detection rate against amplitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rvsm.experiments.report.source import Bools, Floats, Predictions
from rvsm.handwriting.intervals import wilson

BINS = 12


@dataclass(frozen=True)
class Rate:
    """A share per amplitude bin with its 95 % Wilson interval; `mm` is a bin's geometric middle.

    Shares are averaged over seeds. The interval is that of the images of ONE seed, since all
    seeds score the same images.
    """

    mm: Floats
    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Detection:
    """What one method sees of tremor, by amplitude.

    Attributes
    ----------
    found
        Share of the shaky images called shaky.
    accuracy
        Balanced accuracy: the mean of the shares of both classes called rightly, regular images
        at the amplitude they were matched at; None where the data do not say which that is.
    false_alarm
        Share of the regular images called shaky, at all amplitudes together.
    """

    found: Rate
    accuracy: Rate | None
    false_alarm: float
    shaky_images: int
    regular_images: int

    def amplitude_at(self, rate: float) -> float:
        """First amplitude (mm) from which detection stays at or above rate; NaN if it never does.

        Interpolated between bins on the logarithm of the amplitude.
        """
        above = self.found.share >= rate
        if not len(above) or not above[-1]:
            return math.nan
        start = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
        if start == 0:
            return float(self.found.mm[0])
        x = np.log(self.found.mm[start - 1 : start + 1])
        y = self.found.share[start - 1 : start + 1]
        return float(np.exp(np.interp(rate, y, x)))


def detection(tables: Sequence[Predictions], bins: int = BINS) -> Detection | None:
    """Rates over amplitude from the `curve` images of one method's runs (one per seed)."""
    curves = [table.where(table.split == "curve") for table in tables]
    curves = [table for table in curves if table.shaky.any()]
    if not curves:
        return None
    seeds = len(curves)
    shaky = np.concatenate([t.shaky for t in curves])
    called = np.concatenate([t.called_shaky for t in curves])
    amplitude = np.concatenate([t.amplitude_mm for t in curves])
    matched = np.concatenate([t.matched_mm for t in curves])
    seen = shaky & (amplitude > 0)
    if not seen.any() or amplitude[seen].min() == amplitude[seen].max():
        return None
    edges = np.geomspace(amplitude[seen].min(), amplitude[seen].max(), bins + 1)
    known = matched > 0
    return Detection(
        _rate(amplitude[seen], called[seen], edges, seeds),
        _balanced(
            *(
                _rate(matched[known & kind], (called == shaky)[known & kind], edges, seeds)
                for kind in (shaky, ~shaky)
            )
        )
        if (known & ~shaky).any()
        else None,
        float(called[~shaky].mean()) if (~shaky).any() else math.nan,
        round(int(shaky.sum()) / seeds),
        round(int((~shaky).sum()) / seeds),
    )


def _rate(amplitude: Floats, success: Bools, edges: Floats, seeds: int) -> Rate:
    bins = len(edges) - 1
    which = np.clip(np.searchsorted(edges, amplitude, side="right") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins).astype(np.float64)
    hits = np.bincount(which, weights=success.astype(np.float64), minlength=bins)
    full = counts > 0
    share = hits[full] / counts[full]
    low, high = wilson(share, counts[full] / seeds)
    return Rate(np.sqrt(edges[:-1] * edges[1:])[full], share, low, high)


def _balanced(shaky: Rate, regular: Rate) -> Rate:
    """The mean of both classes in the bins that hold images of both."""
    mm, ours, theirs = np.intersect1d(shaky.mm, regular.mm, return_indices=True)
    share = (shaky.share[ours] + regular.share[theirs]) / 2
    below = [rate.share - rate.low for rate in (shaky, regular)]
    above = [rate.high - rate.share for rate in (shaky, regular)]
    return Rate(
        mm,
        share,
        share - np.hypot(below[0][ours], below[1][theirs]) / 2,
        share + np.hypot(above[0][ours], above[1][theirs]) / 2,
    )
