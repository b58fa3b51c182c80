"""Arrays as small PNG data URIs: paper, evidence and weights."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

# Vermilion speaks for shaky, violet for regular: apart for every common colour blindness.
SHAKY_RGB = (213, 94, 0)
REGULAR_RGB = (88, 76, 190)
_ZERO_RGBA = (128, 128, 128, 34)

Bytes = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def paper(image: Bytes) -> str:
    """A grey image as a 16-level PNG: looks the same at a third of the size."""
    levels = (image.astype(np.uint16) * 15 + 127) // 255
    picture = Image.fromarray(levels.astype(np.uint8), mode=None).convert("P")
    picture.putpalette([value for level in range(16) for value in (level * 17,) * 3])
    return _uri(picture, bits=4)


def evidence(values: Reals, limit: float) -> str:
    """Signed evidence as a translucent layer: opacity |value| / limit, colour by its sign."""
    return _uri(_signed(values, limit, zero=(0, 0, 0, 0), floor=0.0))


def explained(image: Bytes, values: Reals, limit: float, scale: int = 4) -> Image.Image:
    """A grey image with signed evidence laid over it, enlarged to be looked at."""
    height, width = image.shape
    size = (scale * width, scale * height)
    under = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    layer = _signed(values, limit, zero=(0, 0, 0, 0), floor=0.0)
    over = layer.resize(size, Image.Resampling.BICUBIC)
    # Ink stays readable: what lies over it is at most two thirds opaque.
    over.putalpha(over.getchannel("A").point(lambda value: value * 2 // 3))
    return Image.alpha_composite(under, over).convert("RGB")


def near_square(planes: Reals) -> int:
    """How many planes (n, height, width) to put side by side for a sheet about 3 : 1."""
    n, height, width = planes.shape
    columns = round(math.sqrt(3 * n * (height + 1) / (width + 1)))
    return max(1, min(int(n), columns))


def weights(values: Reals, columns: int) -> tuple[str, int, int]:
    """A stack of planes (n, height, width) as one sheet; exact zeros are left faint.

    Opacity is the square root of |w| over the largest |w|, so that small survivors show too.

    Returns
    -------
    uri, width, height
        Size in weights (one pixel each, with a one-pixel gap between planes).
    """
    n, height, width = values.shape
    lines = math.ceil(n / columns)
    sheet = np.zeros((lines * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    largest = float(np.abs(values).max()) or 1.0
    for index in range(n):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        plane = np.sign(values[index]) * np.sqrt(np.abs(values[index]) / largest)
        sheet[top : top + height, left : left + width] = np.asarray(
            _signed(plane, 1.0, zero=_ZERO_RGBA, floor=0.3)
        )
    return _uri(Image.fromarray(sheet)), sheet.shape[1], sheet.shape[0]


def _signed(
    values: Reals, limit: float, zero: tuple[int, int, int, int], floor: float
) -> Image.Image:
    strength = np.clip(np.abs(values) / limit, 0, 1)
    out = np.empty((*values.shape, 4), np.uint8)
    out[..., :3] = np.where((values > 0)[..., None], SHAKY_RGB, REGULAR_RGB)
    out[..., 3] = np.round(255 * (floor + (1 - floor) * strength))
    out[values == 0] = zero
    return Image.fromarray(out)


def _uri(picture: Image.Image, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
