"""Drawing strokes and outlines as grey images, through matplotlib's Agg rasteriser.

Images are 64x256 pixels at 8 pixels a millimetre: 8 mm high, 32 mm wide.
Coordinates are pixels, x to the right, y upwards from the lower edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HEIGHT, WIDTH = 64, 256
PIXELS_PER_MM = 8.0
_CLOSE, _LINE, _MOVE = 79, 2, 1
_SIMPLIFY_PX = 1 / 9


def draw_strokes(
    points: Array,
    stroke: NDArray[np.intp],
    pen: float,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
) -> NDArray[np.uint8]:
    """Draw polylines with a round pen.

    Parameters
    ----------
    points : (n, 2) pixels.
    stroke : (n,) number of the stroke of each point, not decreasing.
    pen : width of the pen, pixels.
    shape : height and width of the image, pixels.

    Returns
    -------
    grey image of that shape, ink 0 on white 255, anti-aliased.
    """
    codes = np.full(len(points), _LINE, dtype=np.uint8)
    codes[_starts(stroke)] = _MOVE
    return 255 - _agg(shape).draw(points, codes, pen)


def draw_outline(points: Array, contour: NDArray[np.intp], grow: float = 0.0) -> NDArray[np.uint8]:
    """Fill closed contours (non-zero winding), made `grow` pixels bolder all round.

    Parameters
    ----------
    points : (n, 2) pixels.
    contour : (n,) number of the contour of each point, not decreasing.
    grow : pixels added to every side by drawing the rim with a pen; 0 adds nothing.

    Returns
    -------
    (64, 256) grey image, ink 0 on white 255, anti-aliased.
    """
    codes = _closed(contour)
    return 255 - _agg((HEIGHT, WIDTH)).draw(points, codes, 2.0 * grow, fill=True)


def fill_mask(
    contours: Sequence[Array], shape: tuple[int, int], pen: float = 0.0
) -> NDArray[np.bool_]:
    """Filled contours as a boolean image of the given (height, width), row 0 at y = 0.

    `pen` is the width in pixels of the line along the contours; 0 draws none.
    """
    points = np.concatenate(contours)
    contour = np.repeat(np.arange(len(contours)), [len(c) for c in contours])
    return np.asarray(_Agg(shape).draw(points, _closed(contour), pen, fill=True)[::-1] > 127)


def _starts(group: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.concatenate([[True], group[1:] != group[:-1]])


def _closed(contour: NDArray[np.intp]) -> NDArray[np.uint8]:
    codes = np.full(len(contour), _LINE, dtype=np.uint8)
    starts = _starts(contour)
    codes[starts] = _MOVE
    codes[np.concatenate([starts[1:], [True]])] = _CLOSE
    return codes


class _Agg:
    """One reusable Agg canvas; the alpha channel is the ink."""

    def __init__(self, shape: tuple[int, int]) -> None:
        from matplotlib.backends.backend_agg import RendererAgg
        from matplotlib.transforms import IdentityTransform

        canvas: Any = RendererAgg(shape[1], shape[0], 72)  # type: ignore[no-untyped-call]
        self._canvas = canvas
        self._identity = IdentityTransform()

    def draw(
        self, points: Array, codes: NDArray[np.uint8], pen: float, *, fill: bool = False
    ) -> NDArray[np.uint8]:
        from matplotlib.path import Path as Outline

        self._canvas.clear()
        context = self._canvas.new_gc()
        context.set_linewidth(max(pen, 0.0))
        context.set_capstyle("round")
        context.set_joinstyle("round")
        context.set_antialiased(True)
        path = Outline(points, codes)
        # set here, so that a user's matplotlibrc cannot change the images
        path.should_simplify, path.simplify_threshold = True, _SIMPLIFY_PX
        face = (0.0, 0.0, 0.0) if fill else None
        self._canvas.draw_path(context, path, self._identity, face)
        return np.array(np.asarray(self._canvas.buffer_rgba())[..., 3])


@lru_cache(maxsize=2)
def _agg(shape: tuple[int, int]) -> _Agg:
    return _Agg(shape)
