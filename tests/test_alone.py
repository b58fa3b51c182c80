"""rvsm.handwriting.alone: what each feature tells by itself, shown and judged by nobody."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rvsm.handwriting.alone import auc, each_alone
from rvsm.handwriting.check import check
from rvsm.handwriting.features import FEATURES
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import Row


def strokes(gaps: int, rng: np.random.Generator) -> np.ndarray:
    """As many strokes of one length, with columns between them or side by side."""
    image = np.full((64, 256), 255, dtype=np.uint8)
    left = int(rng.integers(4, 40))
    for number in range(20):
        column = left + number * (2 + gaps)
        image[20 : 30 + int(rng.integers(12)), column : column + 2] = 0
    return image


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    area, least, most = auc(high, low)
    assert area == pytest.approx(np.mean(pairs))
    assert least < area < most
    assert auc(low, high)[0] == pytest.approx(1 - area)
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 1.0, 1.0)


def test_intervals_hold_the_true_area_in_95_of_100() -> None:
    rng = np.random.default_rng(1)
    held = [
        least <= 0.5 <= most
        for _ in range(400)
        for _, least, most in [auc(rng.normal(size=60), rng.normal(size=80))]
    ]
    assert 0.92 < np.mean(held) < 0.98


def test_a_feature_that_tells_the_class_is_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for split in ("train", "test"):
        for label, gaps in (("regular", 0), ("shaky", 3)):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(25):
                image = strokes(gaps, rng)
                (tmp_path / split / label / f"{number:06d}.png").write_bytes(encode_png(image))
    report = check(tmp_path)
    found = {(each.split, each.feature): each for each in report.alone}
    assert len(found) == 2 * len(FEATURES)
    assert found["test", "empty_columns"].low > 0.9
    assert found["test", "box_top"].auc == 0.5
    assert report.to_dict()["alone"][0] == asdict(report.alone[0])
    console = Console(file=io.StringIO(), width=80)
    console.print(report)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Each feature alone" in text
    assert "empty_columns" in text
    assert "1.00 (1.00 to 1.00)" in text


def test_too_few_images_are_not_scored() -> None:
    rows = [Row(f"{i}.png", "train", ("regular", "shaky")[i % 2]) for i in range(38)]
    assert each_alone(rows, np.zeros((38, len(FEATURES)))) == []
