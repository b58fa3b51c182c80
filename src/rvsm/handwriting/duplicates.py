"""Pictures that are nearly the same, whatever their size, tint and file format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.scans.paper import darkness

Array = npt.NDArray[np.float64]

SIDE = 32
ALIKE = 0.95
MOST = 6000
_BLOCK = 500
_COARSE = 256
_LEAST = 0.01


def coarse(grey: GreyImage) -> Array:
    """How dark a picture is against its paper, no side longer than 256.

    The paper is evened out: shadows that two photographs share do not make them alike.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)
    """
    picture = Image.fromarray(grey)
    picture.thumbnail((_COARSE, _COARSE), Image.Resampling.BOX)
    return darkness(np.asarray(picture))[0]


def thumbnail(dark: Array) -> Array:
    """A picture's ink as a vector of length 1: averaged to 32x32, its mean taken away.

    Parameters
    ----------
    dark : ndarray of float, shape (h, w)
        Of `coarse`.

    Returns
    -------
    ndarray of float, shape (1024,)
        Zeros of a picture that is all of one brightness.
    """
    picture = Image.fromarray(dark.astype(np.float32))
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    values = small.ravel() - small.mean()
    norm = float(np.linalg.norm(values))
    return values / norm if norm > _LEAST else np.zeros_like(values)


def near_identical(thumbnails: Sequence[Array], least: float = ALIKE) -> list[tuple[int, int]]:
    """Pairs of pictures whose thumbnails correlate by more than `least`.

    Among different drawings of the public sets correlations end at 0.90 (0.67 in
    parkinsons-drawings, 0.90 in 114 spirals of UCI along one template and in 800 words of DHSD);
    copies of six of their pictures, scaled by 3/4 or 3/2, tinted or compressed, kept 0.988.

    Parameters
    ----------
    thumbnails : sequence of ndarray, shapes (1024,)
        Of `thumbnail`.
    least : float

    Returns
    -------
    list of (int, int)
        Positions, the smaller one first, in order.
    """
    if not thumbnails:
        return []
    every = np.asarray(thumbnails, dtype=np.float32)
    pairs = []
    for start in range(0, len(every), _BLOCK):
        alike = every[start : start + _BLOCK] @ every[start:].T > least
        for first, second in np.argwhere(np.triu(alike, 1)).tolist():
            pairs.append((start + first, start + second))
    return pairs
