"""One image of one text: written or printed, by a steady or a trembling hand.

Both classes are drawn from the same texts, styles, sizes and positions. What a tremor would do to
the whole picture both get in another way: letters leave the line, each in one piece, until the text
is as tall as a large tremor would make it; in regular texts letters stand closer and are wider by
as much, in shaky ones, where they would touch, they stand apart and are narrower; pens balance the
length of the strokes, which smooth waves lengthen in regular texts. A regular text has a virtual
tremor for this, and a shaky one a virtual steady hand. So neither room, ink, width of strokes nor
their number says to which class an image belongs. `rvsm.handwriting.matching` removes what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import DataError
from rvsm.handwriting import kinematics, render, tremor
from rvsm.handwriting.strokes import Carrier, Glyph

Array = NDArray[np.float64]
Index = NDArray[np.intp]

X_HEIGHT_MM = 2.5
SPEED_MM_S = 14.0
_SPEED_LOG_SD = 0.15
_MARGIN_MM = 0.25
_ROOM = np.array([render.WIDTH, render.HEIGHT]) / render.PIXELS_PER_MM - 2 * _MARGIN_MM
_TRIES = 60
_TALL_AS_MM = (0.95, 1.35)
_STEEPEST = 0.6
"""The largest slope of the line that letters stand on."""
_STRETCH = (0.65, 1.5)
_CLOSEST = -0.2
"""Spacing in x-heights at which letters touch; closer, they would lie on one another."""
_TOUCH = {"fonts": 0.85, "pen": 1.1}
# Exponent of the pen's width against the length of the strokes: the pen of "pen" makes up for
# longer strokes; outlines keep their ink by themselves, their rims do the opposite.
_PEN_BALANCE = {"fonts": -0.3, "pen": 0.15}


@dataclass(frozen=True)
class Sample:
    """An image of a text and how it was made.

    `image` is (64, 256) uint8, ink 0 on white 255; `meta` maps column names of the manifest to
    numbers (tremor_frequency_hz and tremor_amplitude_mm are 0 for a regular text).
    """

    image: NDArray[np.uint8]
    text: str
    carrier: str
    meta: dict[str, float]


@dataclass(frozen=True)
class _Layout:
    """A text set out in millimetres, its lower left corner anywhere."""

    points: Array
    stroke: Index
    outline: Array
    contour: Index
    nearest: Index
    letter: Index


@dataclass(frozen=True)
class _Style:
    x_height_mm: float
    slant_deg: float
    width: float
    spacing: float
    turn_deg: float
    shrink: float
    jitter: float
    speed_mm_s: float
    pen_mm: float


class Generator:
    """Draws samples of one task.

    Parameters
    ----------
    task : "fonts" or "pen".
    carriers : fonts or writers to draw from, all equally often.
    texts : words to draw from; two short ones are sometimes joined.

    Attributes
    ----------
    shake : the hand whose tremor it is, `tremor.modelled` unless set.

    Raises
    ------
    DataError
        If no carrier can draw any of the texts.
    """

    def __init__(self, task: str, carriers: Sequence[Carrier], texts: Sequence[str]) -> None:
        self.task = task
        self.shake: tremor.Shake = tremor.modelled
        self._drawable: list[tuple[Carrier, list[str]]] = []
        for carrier in carriers:
            drawable = [text for text in texts if text.strip() and carrier.draws(text)]
            if drawable:
                self._drawable.append((carrier, drawable))
        if not self._drawable:
            raise DataError(
                "no font draws all letters of any of the texts; add fonts or simpler texts"
            )

    def sample(self, rng: np.random.Generator, *, shaky: bool, amplitude_mm: float) -> Sample:
        """Draw one image.

        Parameters
        ----------
        rng : source of randomness; equal states give equal images.
        shaky : whether the hand trembles.
        amplitude_mm : RMS amplitude of the tremor; for a regular text that of the virtual one.
        """
        for _ in range(_TRIES):
            carrier, texts = self._drawable[rng.integers(len(self._drawable))]
            text = _pick_text(rng, texts)
            touch = _TOUCH[self.task] * amplitude_mm**1.5
            style = _spaced(self._style(rng), touch if shaky else -touch, carrier.glyphs(text))
            layout = _lay_out(carrier, text, style, rng)
            width = _span(layout.points[:, 0])
            if not 6.0 <= width <= _ROOM[0]:
                continue
            t = kinematics.pen_times(layout.points, layout.stroke, style.speed_mm_s)
            shaking, frequency = self.shake(t, rng, amplitude_mm)
            steady = tremor.waviness(t, rng, float(rng.uniform(0.1, 0.35)), style.speed_mm_s)
            noise = tremor.physiological(t, rng) + tremor.waviness(t, rng, 0.1, style.speed_mm_s)
            shaken, steadied = layout.points + shaking + noise, layout.points + steady + noise
            growth = (_span(shaken[:, 1]) - _span(steadied[:, 1])) / amplitude_mm
            tall = _span(steadied[:, 1]) + growth * rng.uniform(*_TALL_AS_MM)
            place = _letter_places(layout)
            drift = _drift(place, (shaken if shaky else steadied)[:, 1], tall, rng)
            noise = noise + drift
            displacement = (shaking if shaky else steady) + noise
            longer = _path_length(shaken, layout.stroke) / _path_length(steadied, layout.stroke)
            balance = _PEN_BALANCE[self.task]
            pen = style.pen_mm * longer ** (-balance if shaky else balance)
            ink = _displaced(layout, displacement, pen)
            spare = _ROOM - np.ptp(ink.points, axis=0) - ink.pen_mm
            if spare.min() < 0:
                continue
            image = _draw(ink, spare * rng.random(2))
            meta = {
                "tremor_frequency_hz": frequency if shaky else 0.0,
                "tremor_amplitude_mm": amplitude_mm if shaky else 0.0,
                "virtual_amplitude_mm": amplitude_mm,
                "x_height_mm": style.x_height_mm,
                "pen_mm": pen,
                "speed_mm_s": style.speed_mm_s,
                "slant_deg": style.slant_deg,
            }
            return Sample(image, text, carrier.name, meta)
        raise DataError(
            f"no text of {len(self._drawable)} fonts fitted the image in {_TRIES} tries; "
            "give words of 3 to 9 letters"
        )

    def _style(self, rng: np.random.Generator) -> _Style:
        pen = self.task == "pen"
        micrographia = rng.random() < 0.3
        x_height = X_HEIGHT_MM * float(np.exp(rng.uniform(np.log(0.7), np.log(1.3))))
        thin, thick = (0.2, 0.28 * x_height) if pen else (0.1, 0.2 * x_height)
        width = float(np.exp(_clipped(rng.normal(-0.05, 0.35), -0.7, 0.6)))
        thick *= min(width, 1.0)  # narrow letters of either class would fill in
        return _Style(
            x_height_mm=x_height,
            slant_deg=_clipped(rng.normal(0, 9 if pen else 5), -25, 25),
            width=width,
            spacing=float(rng.uniform(-0.1, 0.45)),
            turn_deg=_clipped(rng.normal(0, 1.2), -3, 3),
            shrink=float(rng.uniform(0.05, 0.4)) if micrographia else 0.0,
            jitter=float(rng.uniform(0.02, 0.08)) if pen else 0.0,
            speed_mm_s=SPEED_MM_S * float(np.exp(_SPEED_LOG_SD * rng.standard_normal())),
            pen_mm=float(np.exp(rng.uniform(np.log(thin), np.log(thick)))),
        )


def _spaced(style: _Style, shift_mm: float, glyphs: Sequence[Glyph]) -> _Style:
    """Move letters apart where a tremor will make them touch, and together where it will not.

    Letters become narrower or wider by as much: the text keeps its length.
    """
    spacing = max(style.spacing + shift_mm / style.x_height_mm, _CLOSEST)
    advance = sum(glyph.advance for glyph in glyphs)
    stretch = (advance + style.spacing * len(glyphs)) / (advance + spacing * len(glyphs))
    return replace(style, spacing=spacing, width=style.width * _clipped(stretch, *_STRETCH))


def _letter_places(layout: _Layout) -> Array:
    """For each point the mean x (mm) of its letter; its own where all is one piece."""
    x = layout.points[:, 0]
    if layout.letter[0] == layout.letter[-1]:
        return x
    count = np.maximum(np.bincount(layout.letter), 1)
    return np.asarray((np.bincount(layout.letter, x) / count)[layout.letter])


def _drift(place: Array, y: Array, tall_mm: float, rng: np.random.Generator) -> Array:
    """Displacement (mm) by which letters leave the line until `y` is as tall as `tall_mm`.

    The line is one slow sine of `place`, which is the same for all points of a letter: letters
    keep their shapes.
    """
    length = max(_span(place), 12.0) * rng.uniform(0.8, 1.6)
    wave = np.sin(2 * np.pi * ((place - place.min()) / length + rng.random()))
    low, high = 0.0, _STEEPEST * length / (2 * np.pi)
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if _span(y + middle * wave) < tall_mm else (low, middle)
    return np.stack([np.zeros_like(place), low * wave], axis=1)


def _pick_text(rng: np.random.Generator, texts: list[str]) -> str:
    text = texts[rng.integers(len(texts))]
    if len(text) <= 5 and rng.random() < 0.5:
        other = texts[rng.integers(len(texts))]
        if len(other) <= 5:
            return f"{text} {other}"
    return text


def _lay_out(carrier: Carrier, text: str, style: _Style, rng: np.random.Generator) -> _Layout:
    points, outlines, strokes, contours, nearest, letters = [], [], [], [], [], []
    x, n_points, n_strokes, n_contours = 0.0, 0, 0, 0
    glyphs = carrier.glyphs(text)
    for place, glyph in enumerate(glyphs):
        size = (1.0 - style.shrink * place / len(glyphs)) * (1 + style.jitter * rng.normal())
        rise = style.jitter * rng.normal()
        if glyph.strokes:
            stretch = np.array([size * style.width, size])
            origin = np.array([x, rise])
            points.append(glyph.points * stretch + origin)
            strokes.append(glyph.stroke + n_strokes)
            n_strokes += len(glyph.strokes)
            if glyph.contours:
                outlines.append(glyph.outline * stretch + origin)
                contours.append(glyph.contour + n_contours)
                n_contours += len(glyph.contours)
                nearest.append(glyph.nearest + n_points)
            n_points += len(points[-1])
            letters.append(np.full(len(points[-1]), place))
        x += (glyph.advance + style.spacing) * size * style.width
    frame = _frame(style)
    empty = np.zeros(0, dtype=np.intp)
    return _Layout(
        points=np.concatenate(points) @ frame,
        stroke=np.concatenate(strokes),
        outline=np.concatenate(outlines) @ frame if outlines else np.zeros((0, 2)),
        contour=np.concatenate(contours) if contours else empty,
        nearest=np.concatenate(nearest) if nearest else empty,
        letter=np.concatenate(letters),
    )


def _frame(style: _Style) -> Array:
    """Matrix that slants, turns and scales row vectors from x-heights to millimetres."""
    slant = np.array([[1.0, 0.0], [np.tan(np.deg2rad(style.slant_deg)), 1.0]])
    a = np.deg2rad(style.turn_deg)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return np.asarray(style.x_height_mm * slant @ turn)


def _span(values: Array) -> float:
    """Largest less smallest value; `numpy.ptp` takes twice as long over so few."""
    return float(values.max() - values.min())


def _clipped(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))


def _path_length(points: Array, stroke: Index) -> float:
    step = np.diff(points, axis=0)
    return float(np.hypot(step[:, 0], step[:, 1])[stroke[1:] == stroke[:-1]].sum())


@dataclass(frozen=True)
class _Ink:
    """What will be drawn: millimetres, strokes or, if `filled`, contours by number."""

    points: Array
    part: Index
    pen_mm: float
    filled: bool


def _displaced(layout: _Layout, displacement: Array, pen_mm: float) -> _Ink:
    if len(layout.outline) == 0:
        return _Ink(layout.points + displacement, layout.stroke, pen_mm, filled=False)
    shift = _smooth_along(displacement[layout.nearest], layout.contour)
    return _Ink(layout.outline + shift, layout.contour, 0.5 * pen_mm, filled=True)


def _draw(ink: _Ink, corner: Array) -> NDArray[np.uint8]:
    """Draw with the lower left corner of the ink `corner` mm from the margins."""
    offset = _MARGIN_MM + 0.5 * ink.pen_mm + corner - ink.points.min(axis=0)
    pixels = (ink.points + offset) * render.PIXELS_PER_MM
    pen = ink.pen_mm * render.PIXELS_PER_MM
    if ink.filled:
        return render.draw_outline(pixels, ink.part, 0.5 * pen)
    return render.draw_strokes(pixels, ink.part, pen)


def _smooth_along(shift: Array, contour: Index) -> Array:
    """Average the displacement over five contour points, never across contours.

    Where strokes cross, neighbouring points of an outline belong to different times; without
    the average the outline would be torn there.
    """
    starts = np.flatnonzero(np.concatenate([[True], contour[1:] != contour[:-1]]))
    ends = np.concatenate([starts[1:], [len(contour)]]) - 1
    first, last = starts[contour], ends[contour]
    at = np.arange(len(contour))
    total = np.zeros_like(shift)
    for k in range(-2, 3):
        total += shift[np.clip(at + k, first, last)]
    return total / 5.0
