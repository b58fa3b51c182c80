"""Ink apart from its paper: which of the two is dark, how bright the paper is where, how much ink.

All functions take 8-bit grey of any size and work on it as a whole; none knows what is written.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.morphology import spread
from rvsm.handwriting.ranks import median, quantile

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_COARSE = 128  # longest side of the map of the paper's brightness
_WINDOW = 15  # of that map: what is narrower than an eighth of the picture is not paper
_FINE, _ROUGH = 512, 48
_LEAST_CONTRAST = 0.08
_NOISE_LEVELS = 4.0
_GRAINY, _SOFTER = 0.01, 0.8
_SPECK = 4
_SAMPLED = 1 << 13


def darkness(grey: GreyImage) -> tuple[Array, bool]:
    """How dark each place is against the paper around it.

    The paper's brightness is the closing of a coarse copy (the brightest within an eighth of the
    picture, nearly), smoothed; so shadows and tints vanish and strokes stay. Light writing on a
    dark ground is turned over first.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)

    Returns
    -------
    ndarray of float, shape (h, w)
        0 is paper, 1 black on white paper: 1 - grey / paper.
    bool
        Whether the picture was light on dark.
    """
    inverted = light_on_dark(grey)
    positive = 255 - grey if inverted else grey
    paper = np.maximum(brightness(positive), 1.0)
    return np.clip(1.0 - positive / paper, 0.0, 1.0), inverted


def light_on_dark(grey: GreyImage) -> bool:
    """Whether the writing is lighter than its ground.

    Against a local median, which follows shadows, strokes stick out to one side; the ground must
    also be darker than medium grey, since white lines are rarely drawn on light paper.
    """
    coarse = shrunk(grey, _FINE)
    middle = median(_sampled(coarse))
    if middle >= 128:
        return False
    rough = shrunk(grey, _ROUGH)
    size = max(3, min(9, min(rough.shape) // 4 * 2 + 1))
    ground = _grown(ndimage.median_filter(rough, size=size), coarse.shape)
    beyond = coarse - ground
    dark, light = -np.quantile(beyond, 0.005), np.quantile(beyond, 0.995)
    return bool(light > 1.5 * dark)


def brightness(grey: GreyImage) -> Array:
    """Brightness of the paper at every place, strokes closed over.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)
        Dark on light.

    Returns
    -------
    ndarray of float, shape (h, w)
    """
    coarse = shrunk(grey, _COARSE, bright=True)
    size = max(3, min(_WINDOW, min(coarse.shape)))
    paper = ndimage.grey_closing(np.pad(coarse, size, mode="edge"), size=(size, size))
    paper = ndimage.gaussian_filter1d(paper, size / 4, axis=0)[size:-size]
    paper = ndimage.gaussian_filter1d(paper, size / 4, axis=1)[:, size:-size]
    return _grown(paper, grey.shape)


def ink_mask(dark: Array) -> Mask:
    """Where there is ink: pieces darker than the paper's texture that are somewhere truly dark.

    A piece of ink is above the first of the `levels` throughout and above the second somewhere, so
    that a stroke is followed to where it fades (hysteresis, Canny 1986).

    Parameters
    ----------
    dark : ndarray of float, shape (h, w)
        Of `darkness`.

    Returns
    -------
    ndarray of bool, shape (h, w)
        Specks of fewer than 4 pixels are left out.
    """
    # Grain is of single pixels and strokes are not: smoothing costs it most of its contrast.
    texture = _texture(dark)
    seen, grainy = dark, texture[1] > _GRAINY
    if grainy:
        seen = ndimage.gaussian_filter(dark, _SOFTER)
        texture = _texture(seen)
    floor, strong = levels(seen, texture)
    labels, count = ndimage.label(seen > floor, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(dark.shape, dtype=np.bool_)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sure = np.bincount(labels[seen > strong], minlength=count + 1)
    keep = (sizes >= _SPECK) & (sure >= 1)
    keep[0] = False
    ink = np.asarray(keep[labels], dtype=np.bool_)
    # Smoothing also widens strokes: back to what is itself darker than paper.
    return ink & (dark > floor) if grainy else ink


def levels(dark: Array, texture: tuple[float, float] | None = None) -> tuple[float, float]:
    """Darkness that ink must have everywhere, and that it must have somewhere.

    The first is 0.08, or 4 times the paper's noise, or 0.25 of strong ink, whichever is most; the
    second 0.45 of strong ink (the 90th percentile of what is above paper), and no less than the
    first.
    """
    middle, noise = texture or _texture(dark)
    floor = max(_LEAST_CONTRAST, middle + _NOISE_LEVELS * noise)
    above = dark[dark > floor]
    if not above.size:
        return floor, floor
    level = quantile(above, 0.9)
    return max(floor, 0.25 * level), max(floor, 0.45 * level)


def _texture(dark: Array) -> tuple[float, float]:
    """Median, and standard deviation of the paper's texture by the median absolute deviation.

    Of large pictures a grid of some 8,000 pixels tells both to a hundredth or two.
    """
    seen = _sampled(dark)
    middle = median(seen)
    return middle, 1.4826 * median(np.abs(seen - middle))


def _sampled(values: Array) -> Array:
    step = max(1, int((values.size / _SAMPLED) ** 0.5))
    return values[::step, ::step]


def cleaned(dark: Array, ink: Mask) -> GreyImage:
    """Black ink on white paper, with soft edges and no texture of paper.

    The strongest ink (the 90th percentile) becomes black, whatever pen and paper were; what is
    farther than two pixels from ink becomes white.

    Parameters
    ----------
    dark : ndarray of float, shape (h, w)
    ink : ndarray of bool, shape (h, w)

    Returns
    -------
    ndarray of uint8, shape (h, w)
    """
    if not ink.any():
        return np.full(dark.shape, 255, dtype=np.uint8)
    level = quantile(dark[ink], 0.9)
    floor = 0.25 * level
    near = spread(ink, 2)
    share = np.clip((dark - floor) / (level - floor), 0.0, 1.0) * near
    return np.asarray(np.rint(255.0 * (1.0 - share)), dtype=np.uint8)


def shrunk(grey: GreyImage, most: int, *, bright: bool = False) -> Array:
    """Blocks of a grey image, so that no side is longer than `most`: their means, or brightest."""
    step = -(-max(grey.shape) // most)
    if step == 1:
        return grey.astype(np.float64)
    height, width = (-(-side // step) for side in grey.shape)
    missing = ((0, height * step - grey.shape[0]), (0, width * step - grey.shape[1]))
    padded = np.pad(grey, missing, mode="edge") if any(map(any, missing)) else grey
    # Row by row of a block: reducing over an axis as short as this one takes ten times as long.
    columns = [padded[:, start::step] for start in range(step)]
    if bright:
        # Means of row maxima: paper shows between close lines, a glint hardly counts.
        rows = functools.reduce(np.maximum, columns).astype(np.int64)
        return np.asarray(sum(rows[start::step] for start in range(step)) / step)
    rows = functools.reduce(np.add, (part.astype(np.int64) for part in columns))
    return np.asarray(sum(rows[start::step] for start in range(step)) / step**2)


def _grown(values: Array, shape: tuple[int, int]) -> Array:
    picture = Image.fromarray(values.astype(np.float32))
    grown = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(grown, dtype=np.float64)
