"""Confidence intervals of shares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


Z_95 = 1.959964
"""Quantile of the normal distribution for intervals of 95 %."""


def wilson(share: Reals | float, n: Reals | float, z: float = Z_95) -> tuple[Reals, Reals]:
    r"""Wilson's score interval of a share seen in n trials, at 95 % unless `z` says otherwise.

    With the share p, the ends are

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}.

    Parameters
    ----------
    share : float or ndarray, 0 to 1
    n : float or ndarray, above 0
    z : float
        Quantile of the normal distribution.

    Returns
    -------
    tuple of ndarray
        Lower and upper ends, of the shape of the arguments, within 0 and 1.

    References
    ----------
    Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    p = np.asarray(share, dtype=np.float64)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
