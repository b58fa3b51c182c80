"""rvsm.handwriting.scans.sideways: pages that lie sideways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvsm.handwriting.scans.normalise import Normalised, normalise
from rvsm.handwriting.scans.pages import Page
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.sideways import sideways_deg
from rvsm.handwriting.scans.words import words_of
from scan_pages import any_page, make_page


def read(picture: Image.Image, counterclockwise: int) -> Normalised:
    lying = picture.rotate(counterclockwise, expand=True)
    return normalise(lying, deskew=True, rules=True, crop=False, turn=None)


def found_for(seeds: range, lines: tuple[int, int]) -> list[tuple[int, int]]:
    """By how much pages of all kinds of paper have to be turned, and by how much they are."""
    out = []
    for seed in seeds:
        page = any_page(seed, lines)
        out += [(turn, read(page.picture, turn).quarters_deg) for turn in (0, 90, 270)]
    return out


def test_pages_of_some_lines() -> None:
    pairs = found_for(range(8), (4, 7))
    assert sum(need == done for need, done in pairs) >= 23
    assert all(done == 0 for need, done in pairs if need == 0)


@pytest.mark.slow
def test_many_pages() -> None:
    pairs = found_for(range(1000, 1080), (3, 7))
    right = sum(need == done for need, done in pairs)
    print(f"{right} of {len(pairs)} pages upright")
    assert right >= 0.97 * len(pairs)
    assert all(done == 0 for need, done in pairs if need == 0)
    short = found_for(range(1080, 1120), (1, 3))
    assert all(done in (0, need) for need, done in short)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (30, 400), (600, 800)])
def test_no_writing_lies_upright(shape: tuple[int, int]) -> None:
    assert sideways_deg(np.zeros(shape, dtype=bool)) == 0
    assert sideways_deg(np.ones(shape, dtype=bool)) == 0


def test_rules_alone_turn_nothing() -> None:
    """A table, a margin, or a sheet of rules lying sideways with one word on it."""
    sheet = Image.new("L", (800, 1000), 255)
    page = np.asarray(sheet).copy()
    page[:, 100::80] = 60
    assert normalise(Image.fromarray(page), crop=False, turn=None).quarters_deg == 0
    word = make_page(np.random.default_rng(0), lines=1).picture.convert("L").crop((0, 0, 600, 120))
    page[300:420, 120:720] = np.minimum(page[300:420, 120:720], np.asarray(word))
    assert normalise(Image.fromarray(page), crop=False, turn=None).quarters_deg == 0


def test_turned_as_asked() -> None:
    picture = make_page(np.random.default_rng(2), lines=3).picture
    level = normalise(picture, crop=False)
    for turn in (90, 180, 270):
        found = normalise(picture, crop=False, turn=turn)
        assert found.quarters_deg == turn
        assert np.array_equal(np.rot90(found.grey, turn // 90), level.grey)


def test_page_without_writing_says_that_it_was_turned() -> None:
    page = Page(Path("blank.png"), 1, 1, Image.new("L", (600, 800), 255), None)
    [found] = words_of(page, Reading(), turn=90)
    assert found.image is None
    assert found.turned == 90
