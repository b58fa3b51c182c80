"""What a network has to beat: edges and a straight line (HOG and logistic regression)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rvsm.experiments.crossval.metrics import Ints, Reals

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the l2 penalty, of which the inner folds choose one."""

DRAWING, WRITING = (200, 200), (128, 256)
"""Rows and columns at which edges are counted in drawings and in words."""


def hog_features(
    ink: npt.NDArray[np.uint8], progress: Callable[[int, int], None] | None = None
) -> Reals:
    """Histograms of oriented gradients of images made black and white by Otsu's threshold.

    Nine orientations, cells of 10 x 10 pixels, blocks of 2 x 2 cells normalised by their l1 norm:
    the usual choice for the spirals of Zham et al.

    Parameters
    ----------
    ink : ndarray of uint8, shape (n, rows, columns)
    progress : callable, optional

    Returns
    -------
    ndarray, shape (n, features)

    References
    ----------
    Dalal & Triggs 2005, Histograms of oriented gradients for human detection.
    """
    from skimage import filters
    from skimage.feature import hog

    otsu: Any = filters.threshold_otsu
    rows = []
    for number, image in enumerate(ink, start=1):
        level = otsu(image) if image.max() > image.min() else 0
        rows.append(
            hog(
                (image > level).astype(np.float64),
                orientations=9,
                pixels_per_cell=(10, 10),
                cells_per_block=(2, 2),
                block_norm="L1",
                transform_sqrt=True,
            ).astype(np.float32)
        )
        if progress is not None:
            progress(number, len(ink))
    return np.asarray(np.stack(rows), dtype=np.float64)


@dataclass(frozen=True)
class Line:
    """A linear model on standardised features."""

    mean: Reals
    weights: Reals
    offset: float

    def __call__(self, features: Reals) -> Reals:
        """Log-odds of class 1, shape (n,)."""
        return np.asarray((features - self.mean) @ self.weights + self.offset)


def fit_line(features: Reals, labels: Ints, strength: float) -> Line:
    """Logistic regression with an l2 penalty, scikit-learn's, for few images of many features.

    The weights lie in the span of the images, so the model is fitted in their coordinates: the
    same model in a hundredth of the time.

    Parameters
    ----------
    features : ndarray, shape (n, f)
    labels : ndarray of int, shape (n,)
    strength : float
        Scikit-learn's C.
    """
    return fit_lines(features, labels, (strength,))[0]


def fit_lines(features: Reals, labels: Ints, strengths: Sequence[float]) -> list[Line]:
    """`fit_line` at several strengths, the coordinates computed once."""
    found = coordinates(features)
    return [found.line(labels, strength) for strength in strengths]


@dataclass(frozen=True)
class Coordinates:
    """Images in an orthonormal basis of the span of their standardised features.

    Attributes
    ----------
    mean, spread : ndarray, shape (f,)
        Of the features; the spread is what they are divided by, infinite where one never varies.
    basis : ndarray, shape (f, r)
    inputs : ndarray, shape (n, r)
        No columns where all images are alike.
    """

    mean: Reals
    spread: Reals
    basis: Reals
    inputs: Reals

    def line(self, labels: Ints, strength: float) -> Line:
        """Fit the logistic regression of `fit_line` to the images."""
        from sklearn.linear_model import LogisticRegression

        if not self.inputs.shape[1]:
            share = float(labels.mean())
            return Line(self.mean, np.zeros(len(self.mean)), float(np.log(share / (1 - share))))
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-6)
        model.fit(self.inputs, labels)
        weights = self.basis @ model.coef_[0] / self.spread
        return Line(self.mean, np.asarray(weights), float(model.intercept_[0]))


def coordinates(features: Reals, spread: Reals | None = None) -> Coordinates:
    """Standardise features, and find the basis in which as many numbers as images say all.

    `spread` is what they are divided by, by default their standard deviations.
    """
    mean = features.mean(axis=0)
    if spread is None:
        spread = features.std(axis=0)
        spread = np.where(spread > 1e-9, spread, np.inf)
    centred = (features - mean) / spread
    if centred.shape[1] > len(centred):
        values, vectors = np.linalg.eigh(centred @ centred.T)
        kept = values > 1e-10 * max(float(values[-1]), 1e-300)
        basis = centred.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    else:
        basis = np.eye(centred.shape[1])
    return Coordinates(mean, spread, basis, centred @ basis)
