"""rvsm.handwriting.turned: copies are found turned, mirrored and cut; other drawings are none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from published import DATA
from rvsm.handwriting import turned
from rvsm.handwriting.images import GreyImage, grey_of
from rvsm.handwriting.leaks import check_collection
from rvsm.handwriting.readers import read
from rvsm.handwriting.turned import Look, copies, look, rings
from set_layouts import drawing, save

PAPER = (235, 235, 235)
TURN = Image.Transpose
CHANGES = {
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "by 90": lambda p: p.transpose(TURN.ROTATE_90),
    "by 180": lambda p: p.transpose(TURN.ROTATE_180),
    "by 18": lambda p: p.rotate(18, Image.Resampling.BICUBIC, expand=True, fillcolor=PAPER),
    "by 7, mirrored": lambda p: ImageOps.mirror(p.rotate(7, fillcolor=PAPER)),
    "stretched": lambda p: p.resize((520, 300)),
    "margins cut": lambda p: p.crop((22, 14, 280, 240)),
    "margins added": lambda p: ImageOps.expand(p, (90, 10, 0, 40), PAPER),
}


def looks(pictures: list[Image.Image]) -> list[Look]:
    return [look(grey_of(picture)) for picture in pictures]


@pytest.fixture(scope="module")
def others() -> list[Look]:
    return looks([drawing(i, size=(300, 250)) for i in range(24)])


def test_other_drawings_are_no_copies(others: list[Look]) -> None:
    assert copies(others) == []
    assert copies([]) == []
    blank = np.full((40, 60), 230, dtype=np.uint8)
    assert copies([look(blank), look(blank)]) == []
    small = drawing(0, size=(28, 28))
    assert copies(looks([small, small.rotate(90)])) == []  # too few pixels to tell


@pytest.mark.parametrize("change", CHANGES)
def test_copies_that_were_changed(others: list[Look], change: str) -> None:
    changed = [CHANGES[change](drawing(i, size=(300, 250))) for i in range(6)]
    assert copies(others + looks(changed)) == [(i, 24 + i) for i in range(6)]


def test_bars_of_other_lengths_are_no_copies() -> None:
    """In the coordinates of their covariance all bars are one."""
    bars = []
    for long in (90, 105, 120, 140):
        bar = np.full((64, 256), 255, dtype=np.uint8)
        bar[20:32, 30 : 30 + long] = 0
        bars.append(look(bar))
    assert copies(bars) == []


def test_a_drawing_turned_within_its_picture_loses_its_corners() -> None:
    """The ends of the line are gone; the middle tells."""
    whole = [drawing(i, size=(300, 300)).crop((70, 70, 230, 230)) for i in range(12)]
    again = [picture.rotate(-20, Image.Resampling.BICUBIC, fillcolor=PAPER) for picture in whole]
    assert copies(looks(whole + again[:5])) == [(i, 12 + i) for i in range(5)]


def test_the_correlation_is_that_of_every_turn() -> None:
    rng = np.random.default_rng(0)
    pictures: list[GreyImage] = [rng.integers(0, 256, (40, 50)).astype(np.uint8) for _ in range(2)]
    first, second = (rings(picture / 255.0)[0][0].astype(np.complex128) for picture in pictures)
    best = -1.0
    for other in (second, second.conj()):
        for angle in np.arange(0, 2 * np.pi, np.pi / 128):
            turn = np.exp(1j * angle * np.arange(other.shape[1]))
            best = max(best, float((first * (other * turn).conj()).sum().real))
    found = turned._correlation(*(rings(picture / 255.0)[0][:1] for picture in pictures))
    assert found[0] == pytest.approx(best, abs=1e-5)
    # What the product of matrices rules out is ruled out rightly.
    assert best <= (abs(first) * abs(second)).sum() + 1e-9


def test_a_test_of_what_was_trained_on(tmp_path: Path) -> None:
    for i in range(8):
        label = ("healthy", "parkinson")[i % 2]
        picture = drawing(i, size=(300, 250))
        save(picture, tmp_path / "train" / label / f"{i}.png")
        if i < 2:
            save(ImageOps.mirror(picture), tmp_path / "test" / label / f"{i}.png")
    report = check_collection(read(tmp_path))
    near = next(found for found in report.findings if found.name == "near copies")
    assert near.level == "fault"
    assert near.text.startswith("2 pairs in different splits")


def test_a_volunteer_who_is_nobody() -> None:
    """Every drawing of healthy volunteer 55 is another's, read without the reader that knows."""
    root = DATA / "parkinsons-drawings"
    if not root.is_dir():
        pytest.skip(f"the drawings of Zham et al. are not at {root} (set RVSM_DATA)")
    rows = [row for row in read(root, "folders").rows if row.label == "regular"]
    collection = read(root, "folders")
    found = copies([look(grey_of(collection.picture(row))) for row in rows])
    names = [[Path(rows[i].file).name for i in pair] for pair in found]
    assert len(names) == 30
    assert all(sum(name.startswith("V55H") for name in pair) == 1 for pair in names)
