"""Pictures that are one picture turned, mirrored, stretched or given other margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.handwriting.duplicates import Array, coarse, near_identical, thumbnail
from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.scans.paper import levels

Rings = npt.NDArray[np.complex64]

ALIKE = 0.94
_RINGS, _ANGLES, _HARMONICS = 24, 128, 32
_FINER = 3
_REACH = 2.5  # standard deviations of the ink: the corners of an evenly filled square
_WIDE, _LEAST, _LONGER = 1.6, 32, 0.08
_BLOCK, _PAIRS = 500, 2000


@dataclass(frozen=True, slots=True)
class Look:
    """What `copies` compares of a picture.

    Attributes
    ----------
    thumbnail : ndarray
        Of `duplicates.thumbnail`.
    rings : ndarray
        Of `rings`.
    length : float
        Logarithm of how much longer than wide the ink is, by its standard deviations.
    """

    thumbnail: Array
    rings: Rings
    length: float


def look(grey: GreyImage) -> Look:
    """Reduce a picture to what tells its copies.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)
    """
    dark = coarse(grey)
    return Look(thumbnail(dark), *rings(dark))


def rings(dark: Array) -> tuple[Rings, float]:
    r"""A picture's ink along rings, as Fourier series whose moduli no turn changes.

    Rings are laid twice. The first are ellipses about the ink's mean :math:`m` with covariance
    :math:`C`, at :math:`m + C^{1/2} u`: of a picture that was turned, mirrored, scaled or cut to
    its ink, :math:`u` is only turned or mirrored. The second are circles about the middle of
    the picture, within it: where a picture was turned its corners are gone, and with them the
    ends of lines. Of pictures much wider than high these say too little, and are zero.

    Parameters
    ----------
    dark : ndarray of float, shape (h, w)
        Of `duplicates.coarse`.

    Returns
    -------
    rings : ndarray of complex, shape (2, 24, 33)
        Each of the two of length 1, or zero where there is no ink, or fewer than 32 rows or
        columns: of digits of 28 x 28 one in 150 pairs would be taken for copies.
    length : float
        Of `Look`; 0 where there are no rings.
    """
    seen = np.where(dark > levels(dark)[0], dark, 0.0)
    ink = np.pad(ndimage.uniform_filter(seen, 3), 1)
    found, length = np.zeros((2, _RINGS, _HARMONICS + 1), dtype=np.complex64), 0.0
    if min(dark.shape) >= _LEAST and (total := float(ink.sum())) > 0:
        share = ink / total
        rows, columns = np.arange(ink.shape[0]), np.arange(ink.shape[1])
        middle = np.array([rows @ share.sum(axis=1), share.sum(axis=0) @ columns])
        down, right = rows - middle[0], columns - middle[1]
        across = down @ share @ right
        spread = [
            [down**2 @ share.sum(axis=1), across],
            [across, share.sum(axis=0) @ right**2],
        ]
        values, vectors = np.linalg.eigh(np.array(spread))
        lengths = np.sqrt(np.maximum(values, 0.25))
        length = float(np.log(lengths[1] / lengths[0]))
        root = (vectors * lengths) @ vectors.T
        found[0] = _series(ink, middle, _REACH * root)
        sides = np.array(dark.shape)
        if sides.max() <= _WIDE * sides.min():
            found[1] = _series(ink, (sides + 1) / 2, sides.min() / 2 * np.eye(2))
    return found, length


@lru_cache(maxsize=1)
def _places() -> Array:
    """Points within the unit circle, several to a place of a ring, shape (2, points)."""
    radius = (np.arange(_RINGS * _FINER) + 0.5) / (_RINGS * _FINER)
    angle = 2 * np.pi * np.arange(_ANGLES * _FINER) / (_ANGLES * _FINER)
    return np.stack([np.outer(radius, np.sin(angle)), np.outer(radius, np.cos(angle))]).reshape(
        2, -1
    )


def _series(ink: Array, middle: Array, scale: Array) -> Rings:
    far = np.array(ink.shape)[:, None] - 1
    rows, columns = np.clip(np.rint(middle[:, None] + scale @ _places()), 0, far).astype(np.int64)
    grid = ink[rows, columns].reshape(_RINGS, _FINER, _ANGLES, _FINER).mean(axis=(1, 3))
    area = (np.arange(_RINGS)[:, None] + 0.5) / _RINGS
    grid = (grid - (area * grid).sum() / (area.sum() * _ANGLES)) * np.sqrt(area)
    series = np.fft.rfft(grid, axis=1)[:, : _HARMONICS + 1]
    series[:, 1:] *= np.sqrt(2)
    norm = float(np.linalg.norm(series))
    return np.asarray(series / norm if norm > 1e-6 else 0 * series, dtype=np.complex64)


def turned(looks: Sequence[Look], least: float = ALIKE) -> list[tuple[int, int]]:
    r"""Pairs of pictures whose rings correlate by more than `least`, one turned or mirrored.

    With :math:`s_k = \sum_r a_{rk} \bar b_{rk}` the correlation after a turn by :math:`\theta` is
    :math:`\mathrm{Re} \sum_k s_k e^{ik\theta}`, and no more than :math:`\sum_{rk} |a_{rk}|
    |b_{rk}|`, which one product of matrices tells of all pairs: few are left to be turned. A
    mirrored :math:`b` is its conjugate. Coordinates of the covariance forget how long the ink is
    for its width, which a copy keeps and two bars do not: that has to agree within 8 %.

    Copies in the public sets have 0.97 and more (the spirals of volunteer 55 in
    parkinsons-drawings, turned by 18 degrees and saved anew; 0.99 their mirrored waves); different
    drawings end at 0.73 there, at 0.82 among 1,500 words of DHSD, and at 0.91 among 113 spirals of
    UCI along one template.

    Parameters
    ----------
    looks : sequence of Look
    least : float

    Returns
    -------
    list of (int, int)
        Positions, the smaller one first, in order.
    """
    pairs: set[tuple[int, int]] = set()
    lengths = np.array([found.length for found in looks])
    for frame in (0, 1) if looks else ():
        series = np.stack([found.rings[frame] for found in looks])
        moduli = np.abs(series).reshape(len(series), -1)
        for start in range(0, len(series), _BLOCK):
            bound = moduli[start : start + _BLOCK] @ moduli[start:].T
            first, second = np.nonzero(np.triu(bound > least, 1))
            for some in range(0, len(first), _PAIRS):
                a, b = (start + side[some : some + _PAIRS] for side in (first, second))
                if frame == 0:
                    kept = abs(lengths[a] - lengths[b]) < _LONGER
                    a, b = a[kept], b[kept]
                alike = _correlation(series[a], series[b]) > least
                pairs.update(zip(a[alike].tolist(), b[alike].tolist(), strict=True))
    return sorted(pairs)


def _correlation(first: Rings, second: Rings) -> Array:
    """The greatest over all turns, mirrored or not, of each pair."""
    best = np.full(len(first), -1.0)
    for other in (second.conj(), second):
        series = (first * other).sum(axis=1)
        series[:, 1:] /= 2
        curve = np.fft.irfft(series, 2 * _ANGLES, axis=1) * 2 * _ANGLES
        best = np.maximum(best, curve.max(axis=1))
    return best


def copies(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Pairs of pictures that are nearly the same, as they lie or turned, mirrored and so on.

    Parameters
    ----------
    looks : sequence of Look

    Returns
    -------
    list of (int, int)
        Positions, the smaller one first, in order.
    """
    same = near_identical([found.thumbnail for found in looks])
    return sorted({*same, *turned(looks)})
