"""Pages of known words for tests: the project's rendered words on paper of all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from rvsm.handwriting.images import GreyImage
from rvsm.handwriting.sources import Rendered
from rvsm.handwriting.texts import words

Box = tuple[int, int, int, int]
X_HEIGHT = 20


@dataclass(frozen=True)
class MadePage:
    """A page: its boxes are those of the level page, before it was turned about its middle."""

    picture: Image.Image
    boxes: list[Box]
    lines: list[int]
    skew_deg: float
    size: tuple[int, int]


@cache
def writers(task: str) -> tuple[str, ...]:
    return tuple(carrier.name for carrier in Rendered(task).carriers())


def word_images(rng: np.random.Generator, task: str, count: int) -> list[GreyImage]:
    """Words of one writer, cropped to the ink; some shaky."""
    texts = [text for text in words() if len(text) >= 6 and " " not in text]
    for name in rng.permutation(writers(task)).tolist():
        if Rendered(task).draws(name, texts):
            sampler = Rendered(task).sampler([name], texts)
            break
    out = []
    for _ in range(count):
        image = sampler.sample(rng, shaky=bool(rng.random() < 0.3), amplitude_mm=0.4).image
        rows, columns = np.nonzero(image < 128)
        out.append(image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return out


def make_page(
    rng: np.random.Generator,
    task: str = "pen",
    *,
    lines: int = 6,
    skew_deg: float = 0.0,
    tint: Sequence[int] = (255, 255, 255),
    shadow: float = 0.0,
    noise: float = 0.0,
    ruled: bool = False,
    light_on_dark: bool = False,
    given: Sequence[GreyImage] = (),
    pitch: int = 80,
) -> MadePage:
    """Lay words out in lines, 10 mm apart by default, then spoil the paper.

    The words are `given` ones, or else of one writer of a task.
    """
    height, width = 60 + pitch * lines, 1000
    waiting = list(given) or word_images(rng, task, 5 * lines)
    page = np.full((height, width), 255, dtype=np.uint8)
    boxes, owners = [], []
    for line in range(lines):
        x = 40 + int(rng.integers(0, 30))
        middle = 60 + line * pitch
        while waiting:
            word = waiting[-1]
            tall, wide = word.shape
            if x + wide > width - 30:
                if x > 100:
                    break
                waiting.pop()  # too long for any line
                continue
            waiting.pop()
            top = middle - tall // 2
            spot = page[top : top + tall, x : x + wide]
            np.minimum(spot, word, out=spot)
            boxes.append((x, top, x + wide, top + tall))
            owners.append(line)
            x += wide + int(X_HEIGHT * rng.uniform(1.3, 2.2))
        if ruled:
            page[middle + 26 : middle + 28, 20:-20] = np.minimum(
                page[middle + 26 : middle + 28, 20:-20], 120
            )
    if light_on_dark:
        page = 255 - np.asarray(page * 0.8, dtype=np.uint8)
    picture = Image.fromarray(page)
    if skew_deg:
        fill = 51 if light_on_dark else 255
        picture = picture.rotate(skew_deg, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    values = np.asarray(picture, dtype=np.float64)
    across = np.linspace(1.0, 1.0 - shadow, values.shape[1])
    coloured = values[..., None] * across[None, :, None] * (np.array(tint) / 255.0)
    coloured += rng.normal(0.0, noise, coloured.shape) if noise else 0.0
    final = Image.fromarray(np.clip(coloured, 0, 255).astype(np.uint8))
    return MadePage(final, boxes, owners, skew_deg, (width, height))


def any_page(seed: int, lines: tuple[int, int]) -> MadePage:
    """A page of some lines, from the first number to below the second, on any kind of paper."""
    rng = np.random.default_rng(seed)
    return make_page(
        rng,
        ("pen", "fonts")[seed % 2],
        lines=int(rng.integers(*lines)),
        skew_deg=float(rng.uniform(-6, 6)),
        tint=rng.integers(170, 256, 3).tolist(),
        shadow=float(rng.uniform(0, 0.4)),
        noise=float(rng.uniform(0, 8)),
        ruled=bool(rng.random() < 0.5),
        light_on_dark=bool(rng.random() < 0.2),
    )


def matched(found: Sequence[Box], true: Sequence[Box], least: float = 0.5) -> int:
    """How many true boxes have a found one of their own that overlaps by half (IoU)."""
    free = list(found)
    count = 0
    for box in true:
        best = max(free, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= least:
            free.remove(best)
            count += 1
    return count


def overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (area - both)
