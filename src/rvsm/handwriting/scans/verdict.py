"""Whether there is writing at all: a blank page, noise or a photograph gets no answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from rvsm.handwriting.morphology import depths
from rvsm.handwriting.ranks import quantile
from rvsm.handwriting.scans.normalise import Normalised

Kind = Literal["writing", "blank", "noise", "photo"]

LEAST_INK = 30
MOST_UNREST = 0.2
MOST_INK = 0.4
MOST_WIDTH_RATIO = 3.2
MOST_WIDTH = 0.12
LEAST_STROKES = 0.5
_STROKE = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture holds, and why in a few words; empty for writing."""

    kind: Kind
    reason: str

    @property
    def writing(self) -> bool:
        """Whether it may be asked about tremor."""
        return self.kind == "writing"


def judge(found: Normalised) -> Verdict:
    """Tell writing and drawing from what is neither, by the statistics of the ink alone.

    - blank: less than 30 pixels of ink;
    - photo: over 20 % of what is not ink is darker than paper, or over 40 % is ink, or strokes are
      of uneven width (95th percentile over 3.2 times the median) or thicker than 24 % of the
      picture's short side, measured by the distance of ink to its rim;
    - noise: half of the ink or more lies in specks of less than 8 pixels.

    Bounds lie beyond all of 150 words of DHSD, 60 parkinsons-drawings and 160 made words looked at
    (unrest at most 0.11, ink 0.25, width ratio 3.0, width 0.11). Small cuttings of a photograph
    can pass for writing.

    Parameters
    ----------
    found : Normalised

    Returns
    -------
    Verdict
    """
    count = int(found.ink.sum())
    if found.unrest > MOST_UNREST:
        return Verdict("photo", f"{found.unrest:.0%} of the ground is not clean paper")
    if count < LEAST_INK:
        return Verdict("blank", "there is hardly any ink")
    if found.ink_share > MOST_INK:
        return Verdict("photo", f"{found.ink_share:.0%} of the picture is dark")
    labels, number = ndimage.label(found.ink, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    extents = [
        max(part.stop - part.start for part in place)
        for place in ndimage.find_objects(labels, number)
    ]
    strokes = float(sizes[np.array(extents) >= _STROKE].sum()) / count
    if strokes < LEAST_STROKES:
        return Verdict("noise", f"{1 - strokes:.0%} of the ink is specks")
    rim = depths(found.ink)
    middle, thick = quantile(rim, 0.5), quantile(rim, 0.95)
    if thick > MOST_WIDTH_RATIO * middle or thick > MOST_WIDTH * min(found.ink.shape):
        return Verdict("photo", "there are areas rather than strokes")
    return Verdict("writing", "")
