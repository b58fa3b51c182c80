"""The report of a study in a real browser: nothing of it lies beside the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rvsm.experiments.crossval import Settings, crossval
from rvsm.experiments.crossval.report import render
from test_crossval_folds import drawings
from test_serve_browser import CHROMIUM, FLAGS, playwright

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    # greenlet's switches keep the loop of playwright open until the process ends
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LONG = "l0, 50 % zeros, C 10, pooled 16 x 16, from runs/sparse-random, not augmented"


def widths(file: Path, screens: list[int]) -> list[int]:
    """How wide the page is on screens of some widths."""
    found = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for screen in screens:
            page = browser.new_page(viewport={"width": screen, "height": 900})
            page.goto(file.as_uri())
            found.append(page.evaluate("() => document.documentElement.scrollWidth"))
        browser.close()
    return found


def test_the_report_is_as_wide_as_the_screen(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"person": r"V\d+[HP]", "folds": 2, "inner": 2, "repeats": 1}
    folder = drawings(tmp_path / "drawings")
    crossval(folder, tmp_path / "out", Settings(**asked, arms=("majority", "hog")))
    results = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    network = results["rows"][-1] | {
        "arm": "sparse",
        "chosen": {f"{LONG} {n}": n for n in range(9)},
    }
    network |= {"starts": {"/a/folder/that/lies/deep/runs/sparse-random": 9}, "zeros": 0.924}
    network |= {"zeros_least": 0.923, "nonzeros": 53_853, "weights": 711_776}
    results["rows"].append(network)
    page = tmp_path / "page.html"
    page.write_text(render("study", results), "utf-8")
    screens = [360, 800, 1050, 1200]
    assert widths(page, screens) == screens
