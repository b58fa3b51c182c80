"""Whether there is writing at all: a blank page, noise or a photograph gets no answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.morphology import depths
from rvsm.handwriting.ranks import quantile
from rvsm.handwriting.scans.normalise import Normalised, normalise
from rvsm.handwriting.scans.paper import Mask
from rvsm.handwriting.scans.segment import segment

Kind = Literal["writing", "blank", "noise", "photo"]

LEAST_INK = 30
MOST_UNREST = 0.2
MOST_INK = 0.4
MOST_WIDTH_RATIO = 3.2
MOST_WIDTH = 0.12
LEAST_STROKES = 0.5
_STROKE = 8
_LEAST_CONTRAST = 10  # of 255: faint pencil has more
_CLEAR = 64
_DOT = 16  # pixels as a network reads it: 2 mm at the scale of training
_ENOUGH_PIXELS = 1_000_000  # letters of an A4 page are 10 pixels high there
_LINES, _WORDS = 3, 6


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


def blank_or_dot(grey: GreyImage, size: tuple[int, int]) -> str:
    """Why a picture that is to be fitted to `size` shows nothing; empty where it does."""
    low, high = int(grey.min()), int(grey.max())
    if high - low < _LEAST_CONTRAST:
        return "there is no ink"
    away = np.abs(grey.astype(np.int16) - np.median(grey))
    mask = away > min(_CLEAR, (high - low) // 3)
    tall, wide = (np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (1, 0))
    scale = min(size[0] / grey.shape[0], size[1] / grey.shape[1])
    return "there is no more than a dot" if max(tall, wide) * scale < _DOT else ""


def judge_unread(grey: GreyImage) -> tuple[Verdict, str]:
    """Judge a picture that is not to be normalised, and say whether it looks like a page.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)
        What is beyond a million pixels is judged at a reduced size.

    Returns
    -------
    Verdict
    str
        See `page_of_words`.
    """
    times = math.ceil(math.sqrt(grey.size / _ENOUGH_PIXELS))
    picture = Image.fromarray(grey)
    found = normalise(picture.reduce(times) if times > 1 else picture, rules=True, isolate="none")
    verdict = judge(found)
    return verdict, page_of_words(found.ink) if verdict.writing else ""


def page_of_words(ink: Mask) -> str:
    """A hint where what was taken for one word is three lines and six words or more, else empty."""
    found = segment(ink)
    if found.lines < _LINES or len(found.words) < _WORDS:
        return ""
    return f"it looks like a page of {len(found.words)} words: ask with --pages"
