"""rvsm.handwriting.scans.pages and segment: pages of files, lines and words of pages."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import read_picture
from rvsm.handwriting.scans.normalise import normalise
from rvsm.handwriting.scans.pages import read_pages
from rvsm.handwriting.scans.segment import Segments, segment, word_gap
from scan_pages import MadePage, any_page, make_page, matched


def sheets(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [make_page(rng, lines=2).picture for _ in range(count)]


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    first, *rest = sheets(3)
    file = tmp_path / "letter.pdf"
    first.save(file, save_all=True, append_images=rest, resolution=150)
    file = file.rename(tmp_path / "letter.scan")  # its first bytes tell, not its name
    pages = list(read_pages(file, dpi=300))
    assert [(page.number, page.of) for page in pages] == [(1, 3), (2, 3), (3, 3)]
    assert pages[1].name.endswith("letter.scan page 2")
    assert pages[0].pixels_per_mm == pytest.approx(300 / 25.4)
    # Drawn at twice its resolution, it has twice its pixels.
    assert pages[0].picture.size == pytest.approx([2 * side for side in first.size], abs=2)
    default = next(read_pages(file))
    assert default.pixels_per_mm == pytest.approx(200 / 25.4)
    height, width = np.asarray(first.convert("L")).shape
    at_150 = np.asarray(next(read_pages(file, dpi=150)).picture.convert("L"), dtype=float)
    at_150 = at_150[:height, :width]  # a side may be drawn a pixel longer
    assert np.abs(at_150 - np.asarray(first.convert("L"))).mean() < 3


def test_a_pdf_of_a_picture_without_scale(tmp_path: Path) -> None:
    """What programs that know no resolution make of a photograph: a sheet longer than a metre."""
    photo = sheets(1)[0].resize((3000, 4000))
    file = tmp_path / "photo.pdf"
    photo.save(file)
    (page,) = read_pages(file)
    assert page.pixels_per_mm is None
    assert max(page.picture.size) == pytest.approx(3500, abs=1)
    (page,) = read_pages(file, dpi=72)
    assert page.pixels_per_mm == pytest.approx(72 / 25.4)
    file.write_bytes(minimal_pdf(CATALOG, PAGES, LARGE))
    with pytest.raises(DataError, match="40000x40000 pixels at 200 dots per inch"):
        next(read_pages(file, dpi=200))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="is a pipe or a device"):
        next(read_pages(tmp_path / "a.png"))


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "group4"])
def test_pages_of_a_tiff(tmp_path: Path, compression: str) -> None:
    pictures = [p.convert("1" if compression == "group4" else "L") for p in sheets(2)]
    file = tmp_path / "fax.tif"
    pictures[0].save(
        file, save_all=True, append_images=pictures[1:], compression=compression, dpi=(204, 204)
    )
    pages = list(read_pages(file))
    assert len(pages) == 2
    for page, picture in zip(pages, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(page.picture), np.asarray(picture))
        assert page.pixels_per_mm == pytest.approx(204 / 25.4)
    assert next(read_pages(file, dpi=600)).pixels_per_mm == pytest.approx(600 / 25.4)


def test_a_picture_is_one_page(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    sheets(1)[0].save(file)
    (page,) = read_pages(file)
    assert (page.of, page.name, page.pixels_per_mm) == (1, str(file), None)
    frames = [Image.new("L", (60, 60), level) for level in (255, 100)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert len(list(read_pages(tmp_path / "a.gif"))) == 1


def minimal_pdf(*objects: str, trailer: str = "") -> bytes:
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    size = len(objects) + 1
    out += f"trailer\n<</Size {size}/Root 1 0 R{trailer}>>\nstartxref\n{start}\n%%EOF\n".encode()
    return out


CATALOG = "<</Type/Catalog/Pages 2 0 R>>"
PAGES = "<</Type/Pages/Kids[3 0 R]/Count 1>>"
NO_PAGES = "<</Type/Pages/Kids[]/Count 0>>"
LARGE = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 14400 14400]>>"
LOCK = "<</Filter/Standard/V 1/R 2/P -44/O<" + "41" * 32 + ">/U<" + "42" * 32 + ">>>"
IDS = "/Encrypt 4 0 R/ID[<" + "43" * 16 + "><" + "43" * 16 + ">]"


def bad_files(folder: Path) -> dict[str, bytes]:
    picture = sheets(1)[0]
    picture.save(folder / "whole.png")
    picture.save(folder / "whole.tif")
    Image.new("1", (40_000, 30), 1).save(folder / "wide.png")
    return {
        "is encrypted: save it without a password": minimal_pdf(
            CATALOG, PAGES, LARGE, LOCK, trailer=IDS
        ),
        "is a damaged PDF, or one without pages": b"%PDF-1.4\nand then nothing",
        "or one without pages .* export it again": minimal_pdf(
            CATALOG, "<</Type/Pages/Kids[]/Count 0>>"
        ),
        "is damaged or cut short": (folder / "whole.png").read_bytes()[:2000],
        "is not an image that can be read": b"Dear Sir,\n",
        "is an empty file of 0 bytes": b"",
        "is 40000x30 pixels, beyond the limit": (folder / "wide.png").read_bytes(),
    }


@pytest.mark.parametrize("number", range(7))
def test_bad_files_get_one_sentence(number: int, tmp_path: Path) -> None:
    sentence, content = list(bad_files(tmp_path).items())[number]
    file = tmp_path / "scan.png"
    file.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as raised:
        list(read_pages(file))
    text = str(raised.value)
    assert "scan.png" in text
    assert text.count(". ") == 0
    assert text.endswith(".")


def test_more_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no image file"):
        list(read_pages(tmp_path / "absent.pdf"))
    with pytest.raises(DataError, match="is a folder"):
        list(read_pages(tmp_path))
    with pytest.raises(DataError, match="give --dpi from 20 to 4800"):
        list(read_pages(tmp_path / "absent.pdf", dpi=5))
    file = tmp_path / "cut.tif"
    pictures = sheets(2)
    pictures[0].save(file, save_all=True, append_images=pictures[1:], compression="tiff_deflate")
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"cut.tif is damaged or cut short"):
        list(read_pages(file))


def found_on(page: MadePage) -> tuple[Segments, list[tuple[int, int, int, int]]]:
    """What is found on a page, its boxes brought back to the page before it was turned."""
    level = normalise(page.picture, deskew=True, rules=True, crop=False)
    found = segment(level.ink)
    right = (level.ink.shape[1] - page.size[0]) / 2
    down = (level.ink.shape[0] - page.size[1]) / 2
    boxes = [
        (round(a - right), round(b - down), round(c - right), round(d - down))
        for a, b, c, d in (word.box for word in found.words)
    ]
    return found, boxes


def scores(seeds: range) -> tuple[float, float, float]:
    """Recall and precision of words (half overlap), and share of pages with all lines found."""
    true = found = right = lines = 0
    for seed in seeds:
        page = any_page(seed, (2, 7))
        segments, boxes = found_on(page)
        true, found = true + len(page.boxes), found + len(boxes)
        right += matched(boxes, page.boxes)
        lines += segments.lines == len(set(page.lines))
    return right / true, right / found, lines / len(seeds)


def test_words_of_four_pages() -> None:
    recall, precision, lines = scores(range(4))
    assert recall > 0.9
    assert precision > 0.9
    assert lines == 1.0


@pytest.mark.slow
def test_words_of_twenty_pages() -> None:
    recall, precision, lines = scores(range(100, 120))
    print(
        f"words: recall {recall:.3f}, precision {precision:.3f}; pages with all lines {lines:.2f}"
    )
    assert recall > 0.97
    assert precision > 0.97
    assert lines >= 0.95


def test_reading_order() -> None:
    page = make_page(np.random.default_rng(5), lines=3)
    found, boxes = found_on(page)
    assert found.lines == 3
    assert [word.line for word in found.words] == sorted(word.line for word in found.words)
    for line in range(3):
        lefts = [word.box[0] for word in found.words if word.line == line]
        assert lefts == sorted(lefts)
        assert [w.place for w in found.words if w.line == line] == list(range(len(lefts)))
    assert matched(boxes, page.boxes) == len(page.boxes)
    assert 12 < found.x_height < 35


def test_empty_pages() -> None:
    for ink in (np.zeros((50, 50), dtype=np.bool_), np.eye(4, dtype=np.bool_)):
        assert segment(ink).words == ()


def test_gap_between_words_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        gaps = np.concatenate([rng.uniform(1, 8, 30), rng.uniform(16, 30, 8)])

        def spread(limit: float, gaps: np.ndarray = gaps) -> float:
            parts = (gaps[gaps < limit], gaps[gaps >= limit])
            return sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))

        best = min(np.sort(gaps)[1:], key=spread)
        limit = word_gap(gaps, x_height=20.0)
        assert gaps[gaps < best].max() < limit <= best


def test_dpi_of_a_picture(tmp_path: Path) -> None:
    sheets(1)[0].save(tmp_path / "a.png", dpi=(300, 300))
    assert normalise(read_picture(tmp_path / "a.png")).pixels_per_mm == pytest.approx(11.81, 1e-3)
