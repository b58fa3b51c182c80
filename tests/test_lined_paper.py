"""Writing on paper with coloured rules, margins and squares, and on grey squares."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rvsm.handwriting.images import read_picture
from rvsm.handwriting.scans.normalise import Normalised, normalise
from rvsm.handwriting.scans.pages import read_pages
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.segment import segment
from rvsm.handwriting.scans.words import words_of
from scan_pages import make_page, matched

BLUE, RED, GREY = (110, 150, 215), (220, 70, 80), (130, 130, 130)
PAPERS = {
    "ruled": {"rows": BLUE},
    "ruled, with a margin": {"rows": BLUE, "margin": RED},
    "with a margin": {"margin": RED},
    "squared": {"rows": BLUE, "columns": BLUE},
    "pale": {"rows": (170, 200, 235)},
}
Colour = tuple[int, int, int]


def on_paper(
    written: Image.Image,
    *,
    rows: Colour | None = None,
    columns: Colour | None = None,
    margin: Colour | None = None,
    pen: Colour = (20, 20, 30),
) -> Image.Image:
    """Grey writing in a pen's colour over lines that its paper was printed with."""
    paper = Image.new("RGB", written.size, (246, 244, 238))
    draw, (width, height) = ImageDraw.Draw(paper), written.size
    if rows is not None:
        for y in range(30, height, 40):
            draw.line([(10, y), (width - 10, y)], rows, 3)
    if columns is not None:
        for x in range(30, width, 40):
            draw.line([(x, 10), (x, height - 10)], columns, 3)
    if margin is not None:
        draw.line([(24, 0), (24, height)], margin, 4)
    ink = 1 - np.asarray(written.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = np.asarray(paper) * (1 - ink) + np.array(pen) * ink
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def read(picture: Image.Image, path: Path) -> Normalised:
    """Normalised as a page, by way of a lossy file."""
    picture.save(path, quality=88)
    return normalise(read_picture(path), deskew=True, rules=True, crop=False, turn=None)


@pytest.mark.parametrize("skew", [0.0, 3.0])
@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_written_in_black_is_kept(paper: str, skew: float, tmp_path: Path) -> None:
    page = make_page(np.random.default_rng(3), lines=5)
    found = []
    for lines in ({}, PAPERS[paper]):
        picture = on_paper(page.picture, **lines)
        picture = picture.rotate(skew, Image.Resampling.BICUBIC, fillcolor=(246, 244, 238))
        found.append(read(picture, tmp_path / "page.jpg"))
    plain, ruled = found
    assert len(segment(ruled.ink).words) == len(segment(plain.ink).words)
    assert ruled.ink.sum() == pytest.approx(plain.ink.sum(), rel=0.1)
    if plain.ink.shape == ruled.ink.shape and plain.turned_deg == ruled.turned_deg:
        assert (plain.ink & ruled.ink).sum() > 0.9 * (plain.ink | ruled.ink).sum()


@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_squares_of_the_pen_s_own_colour_are_taken_away(skew: float, tmp_path: Path) -> None:
    page = make_page(np.random.default_rng(3), lines=8)
    found = []
    for lines in ({}, {"rows": (175, 175, 175), "columns": (175, 175, 175)}):
        picture = on_paper(page.picture, **lines).convert("L")
        picture.rotate(skew, Image.Resampling.BICUBIC, fillcolor=244).save(tmp_path / "page.png")
        (read_page,) = read_pages(tmp_path / "page.png")
        found.append([word for word in words_of(read_page, Reading()) if word.image is not None])
    plain, squared = found
    assert len(squared) == pytest.approx(len(plain), rel=0.2)
    assert matched([w.box for w in squared], [w.box for w in plain]) > 0.75 * len(plain)


def test_a_tall_letter_is_no_line_of_squared_paper() -> None:
    strip = Image.new("L", (1200, 160), 240)
    pen = ImageDraw.Draw(strip)
    for x in range(100, 1100, 60):
        pen.line([(x, 20), (x, 140)], 30, 4)
        pen.line([(x, 138), (x + 20, 120)], 30, 4)
    plain, squares = (normalise(strip, crop=False, squares=way).ink for way in (False, True))
    assert (plain == squares).all()


def test_a_blue_pen_on_grey_rules_is_the_pen(tmp_path: Path) -> None:
    page = make_page(np.random.default_rng(3), lines=5)
    both = on_paper(page.picture, rows=GREY, pen=(40, 60, 180))
    alone = read(on_paper(page.picture, pen=(40, 60, 180)), tmp_path / "alone.jpg")
    found = read(both, tmp_path / "both.jpg")
    assert found.isolated
    assert found.ink.sum() == pytest.approx(alone.ink.sum(), rel=0.1)


def test_a_blue_pen_along_straight_print_is_the_pen() -> None:
    """A meander: what is printed is as straight as what is drawn."""
    points, step = [(350, 325)], 50
    for turn in range(11):
        (x, y), length = points[-1], step * (turn // 2 + 1)
        across, down = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn % 4]
        points.append((x + across * length, y + down * length))
    both = Image.new("RGB", (700, 650), (246, 243, 238))
    drawn = [(x + 9, y + 9) for x, y in points]
    ImageDraw.Draw(both).line(points, (25, 25, 25), 4)
    alone = both.copy()
    ImageDraw.Draw(both).line(drawn, (40, 60, 170), 3)
    ImageDraw.Draw(alone).rectangle((0, 0, 700, 650), (246, 243, 238))
    ImageDraw.Draw(alone).line(drawn, (40, 60, 170), 3)
    found, wanted = (normalise(picture, crop=False).ink for picture in (both, alone))
    assert (found & wanted).sum() > 0.9 * (found | wanted).sum()
