"""A small chart: axes, lines, bands and points as inline SVG that takes its colours from CSS.

Colours come from classes so that one picture serves light and dark pages, and text stays text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 12.0, 44.0
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Axis:
    """A scale from data to the plot's edge, with its ticks (position, words) and its title."""

    low: float
    high: float
    label: str
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of value between 0 (low) and 1 (high); low may be the greater one."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(max(value, 1e-300)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(values: Iterable[float], label: str, *, percent: bool = False) -> Axis:
    """A linear axis that covers the finite values, ticks at 1, 2, 2.5 or 5 times a power of ten."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(high)):
        half = 0.02 if percent else max(abs(high) * 0.1, 0.5)
        low, high = low - half, high + half
    if percent:
        low, high = max(low, 0.0), min(high, 1.0)
    step = _nice_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    unit = step * (100 if percent else 1)
    places = next(n for n in range(12) if n == 11 or abs(round(unit, n) - unit) < 1e-6 * unit)
    ticks = tuple(
        (k * step, f"{k * step * 100:.{places}f} %" if percent else f"{k * step:.{places}f}")
        for k in range(first, last + 1)
    )
    return Axis(first * step, last * step, label, ticks)


def log_axis(values: Iterable[float], label: str) -> Axis:
    """A logarithmic axis over the positive values, ticks at 1, 2, 5 or at powers of ten."""
    finite = [v for v in values if math.isfinite(v) and v > 0] or [0.1, 1.0]
    low, high = min(finite), max(finite)
    if high / low < 1.5:
        low, high = low / 1.5, high * 1.5
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    stride = max(1, math.ceil(decades / 5))
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = tuple(
        (step * 10.0**e, f"{step * 10.0**e:g}") for e in exponents[::stride] for step in steps
    )
    inside = tuple(tick for tick in ticks if low <= tick[0] * 1.0001 <= high * 1.001)
    return Axis(low, high, label, inside, log=True)


def _nice_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)


class Chart:
    """Collects marks and writes them as one `<svg>` element."""

    def __init__(self, x: Axis, y: Axis, summary: str, width: int = 480, height: int = 300) -> None:
        self.x, self.y, self.summary = x, y, summary
        self.width, self.height = width, height
        self._marks: list[Markup] = []

    def px(self, value: float) -> float:
        return LEFT + self.x(value) * (self.width - LEFT - RIGHT)

    def py(self, value: float) -> float:
        return self.height - BOTTOM - self.y(value) * (self.height - TOP - BOTTOM)

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, style: str = "") -> None:
        """A polyline, broken where a value is not finite (or, on a log axis, not positive)."""
        pieces: list[str] = []
        pen_down = False
        for x, y in zip(xs, ys, strict=True):
            drawable = math.isfinite(x) and math.isfinite(y) and not (self.y.log and y <= 0)
            if drawable:
                pieces.append(f"{'L' if pen_down else 'M'}{self.px(x):.1f} {self.py(y):.1f}")
            pen_down = drawable
        if pieces:
            self._add('<path class="line {} {}" d="{}"/>', colour, style, Markup("".join(pieces)))

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> None:
        """A filled area between two curves."""
        upper = [f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in zip(xs, high, strict=True)]
        lower = [f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in zip(xs, low, strict=True)]
        if upper:
            path = "M" + "L".join(upper + lower[::-1]) + "Z"
            self._add('<path class="band {}" d="{}"/>', colour, Markup(path))

    def point(
        self,
        x: float,
        y: float,
        colour: str,
        marker: str = "circle",
        title: str = "",
        size: float = 4,
        aside: float = 0,
    ) -> None:
        """One marker, moved `aside` by pixels, with a text shown when the pointer rests on it."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        self._add(
            '<path class="dot {}" d="{}"><title>{}</title></path>',
            colour,
            Markup(marker_path(marker, self.px(x) + aside, self.py(y), size)),
            title,
        )

    def level(self, y: float, colour: str, style: str = "dashed") -> None:
        """A horizontal line across the plot."""
        self.line([self.x.low, self.x.high], [y, y], colour, style)

    def _add(self, template: str, *parts: object) -> None:
        self._marks.append(Markup(template).format(*parts))

    def svg(self) -> Markup:
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        frame: list[Markup] = []
        for value, words in self.y.ticks:
            at = f"{self.py(value):.1f}"
            frame.append(Markup(f'<path class="grid" d="M{LEFT} {at}H{right}"/>'))
            frame.append(
                Markup(
                    '<text class="tick" x="{}" y="{}" dy="4" text-anchor="end">{}</text>'
                ).format(LEFT - 7, at, words)
            )
        for value, words in self.x.ticks:
            at = f"{self.px(value):.1f}"
            frame.append(Markup(f'<path class="axis" d="M{at} {bottom}v4"/>'))
            frame.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    at, bottom + 17, words
                )
            )
        frame.append(Markup(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>'))
        frame.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                (LEFT + right) / 2, self.height - 8, self.x.label
            )
        )
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, self.summary, Markup("").join([*frame, *self._marks])
        )


def marker_path(marker: str, x: float, y: float, size: float = 4) -> str:
    """The outline of a marker centred at (x, y); shapes tell methods apart without colour."""
    s = size
    if marker == "square":
        return f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}Z"
    if marker == "triangle":
        return f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:.1f} {2.1 * s:.1f}h{-2.4 * s:.1f}Z"
    if marker == "diamond":
        d = 1.35 * s
        return f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}Z"
    return f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0Z"


def legend_mark(colour: str, marker: str) -> Markup:
    """A small line with its marker, for the legend above a figure."""
    path = marker_path(marker, 12, 7, 3.6)
    return Markup(
        '<svg class="key {}" viewBox="0 0 24 14" aria-hidden="true">'
        '<path class="line" d="M1 7H23"/><path class="dot" d="{}"/></svg>'
    ).format(escape(colour), Markup(path))
