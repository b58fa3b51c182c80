"""Global features of an image: what a short cut could use to guess the class without seeing tremor.

A network that tells shaky from regular writing by how much ink there is has learnt nothing. The
features here measure amount, place, thickness, number of pieces and space between them; `matching`
makes them alike in both classes and `check` proves it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rvsm.handwriting.images import GreyImage

Array = npt.NDArray[np.float64]

FEATURES = (
    "ink_fraction",
    "box_left",
    "box_top",
    "box_width",
    "box_height",
    "stroke_width",
    "components",
    "empty_columns",
)
"""Names of the columns of `global_features`, in order."""

INK_BELOW = 160
"""Pixels darker than this grey are ink."""

_EIGHT = np.ones((3, 3), dtype=bool)


def global_features(image: GreyImage) -> Array:
    r"""Measure one image.

    With the darkness :math:`d = 1 - grey/255` and ink pixels those darker than grey 160:

    - ``ink_fraction``: mean of d, so that the mean grey is 255 (1 - ink_fraction);
    - ``box_left``, ``box_top``, ``box_width``, ``box_height``: the bounding box of the ink, pixels;
    - ``stroke_width``: :math:`2 \sum d / \sum |\nabla d|`, pixels. By the co-area formula the sum
      of gradient lengths is the perimeter, and a pen line of length L and width w has area L w and
      perimeter 2 L however it bends (Steiner), so a trembling line does not read as a thicker
      one; grey levels make it finer than a pixel. A skeleton is 20 times slower and grows spurs on
      rough edges;
    - ``components``: connected pieces of ink, diagonals joined;
    - ``empty_columns``: share of the columns within the box that hold no ink.

    Roughness of the edges and blots at crossings are left out: they are the tremor itself.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w)
        Dark ink on white.

    Returns
    -------
    ndarray of float64, shape (8,)
        In the order of `FEATURES`; all zero for a blank image.
    """
    ink = image < INK_BELOW
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        return np.zeros(len(FEATURES))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    # Everything else happens inside the box and a rim of one pixel: most of the paper is blank.
    padded = np.zeros((image.shape[0] + 2, image.shape[1] + 2), dtype=np.uint8)
    np.subtract(255, image, out=padded[1:-1, 1:-1])
    dark = padded[top : bottom + 2, left : right + 2].astype(np.float32) / 255
    dx, dy = np.diff(dark, axis=1)[:-1], np.diff(dark, axis=0)[:, :-1]
    perimeter = float(np.sqrt(dx * dx + dy * dy).sum(dtype=np.float64))
    pieces = ndimage.label(ink[top:bottom, left:right], structure=_EIGHT)[1]
    area = float(dark.sum(dtype=np.float64))
    total = float(padded.sum(dtype=np.int64)) / 255
    return np.array(
        [
            total / image.size,
            left,
            top,
            right - left,
            bottom - top,
            2 * area / max(perimeter, 1e-9),
            pieces,
            1 - columns.size / (right - left),
        ]
    )


def expand(features: Array) -> Array:
    """Functions of the features whose means, if equal, leave a linear model next to nothing.

    First the features whitened: along any direction, however little of the spread lies there, a
    difference of means is what a linear model sees (ink over stroke width, which is the length of
    the strokes, has little spread). Then the products of all pairs of them, for a linear score
    also tells classes apart that differ in its variance. Then the logs, for skewness.

    Parameters
    ----------
    features : ndarray of float64, shape (n, f)
        Nonnegative, as `global_features` gives them.

    Returns
    -------
    ndarray of float64, shape (n, f + f (f + 1) / 2 + f)
        Columns of mean 0 and standard deviation about 1; one that never varies is all zero. The
        products are those of the pairs of `numpy.triu_indices`, in that order.
    """
    white = scaled(features)
    white = white @ whitening(white, 1e-3)
    i, j = np.triu_indices(white.shape[1])
    products = white[:, i] * white[:, j]
    return np.hstack([white, products - products.mean(axis=0), scaled(np.log1p(features))])


def whitening(columns: Array, ridge: float) -> Array:
    """Matrix that turns rows into ones of unit covariance, `ridge` added to all variances."""
    covariance = np.atleast_2d(np.cov(columns, rowvar=False))
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(columns.shape[1]))
    return np.asarray(vectors / np.sqrt(values))


def scaled(columns: Array) -> Array:
    """Columns of mean 0 and standard deviation 1; one that never varies is all zero."""
    spread = columns.std(axis=0)
    # A constant column has a spread of rounding error, not of zero.
    flat = spread <= 1e-9 * np.maximum(np.abs(columns).max(axis=0, initial=0.0), 1e-12)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(flat, np.inf, spread))
