"""rvsm.handwriting.features: against figures known by construction."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rvsm.handwriting.features import FEATURES, expand, global_features


def measured(image: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, global_features(image), strict=True))


def line(width: float, wave: float = 0.0) -> np.ndarray:
    """A horizontal pen line, drawn at eight times the size and averaged down."""
    big = Image.new("L", (256 * 8, 64 * 8), 255)
    x = np.arange(160, 256 * 8 - 160)
    y = 256 + 8 * wave * np.sin(2 * np.pi * x / (8 * 40))
    draw = ImageDraw.Draw(big)
    r = width * 8 / 2
    for a, b in zip(x, y, strict=True):
        draw.ellipse((a - r, b - r, a + r, b + r), fill=0)
    return np.asarray(big.resize((256, 64), Image.Resampling.BOX))


def test_a_rectangle() -> None:
    image = np.full((64, 256), 255, dtype=np.uint8)
    image[10:20, 30:130] = 0
    got = measured(image)
    assert got["ink_fraction"] == pytest.approx(1000 / 16384)
    assert [got[f"box_{n}"] for n in ("left", "top", "width", "height")] == [30, 10, 100, 10]
    assert got["components"] == 1
    assert got["stroke_width"] == pytest.approx(2 * 1000 / 220, rel=0.01)


@pytest.mark.parametrize("width", [2.0, 3.5, 6.0])
@pytest.mark.parametrize("wave", [0.0, 4.0, 8.0])
def test_stroke_width_does_not_depend_on_bending(width: float, wave: float) -> None:
    assert measured(line(width, wave))["stroke_width"] == pytest.approx(width, rel=0.15)


def test_pieces_join_over_diagonals_and_touch_the_edge() -> None:
    image = np.full((64, 256), 255, dtype=np.uint8)
    image[0, 0] = image[1, 1] = image[63, 255] = 0
    assert measured(image)["components"] == 2
    assert measured(image)["box_width"] == 256


def test_empty_columns_are_counted_within_the_writing() -> None:
    image = np.full((64, 256), 255, dtype=np.uint8)
    image[10:20, 100:110] = image[10:20, 130:140] = 0
    image[10:20, 115] = 200  # paler than ink
    assert measured(image)["empty_columns"] == pytest.approx(20 / 40)


def test_blank_paper_measures_zero() -> None:
    assert (global_features(np.full((64, 256), 255, dtype=np.uint8)) == 0).all()


def test_expand_whitens_and_survives_constant_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, 400)
    features = np.column_stack([x, x + rng.random(400), np.full(400, 0.1)])
    wide = expand(features)
    assert wide.shape == (400, 3 + 6 + 3)
    np.testing.assert_allclose(wide.mean(axis=0), 0, atol=1e-9)
    varying = wide.std(axis=0) > 0.5
    np.testing.assert_allclose(wide.std(axis=0), varying, atol=0.5)
    assert np.count_nonzero(varying) == 2 + 3 + 2
    first = wide[:, :3][:, varying[:3]]
    assert abs(np.corrcoef(first, rowvar=False)[0, 1]) < 1e-6
