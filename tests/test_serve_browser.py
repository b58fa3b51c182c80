"""The page in a real browser: draw, draw shaky, choose a scan, choose a text that is called .png.

RVSM_ARTEFACTS names a folder for the screenshots, RVSM_SERVE_RUN another run than the small one
that is trained here: docs/pictures/serve.png is `drawn.png` of a run of the study.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rvsm.experiments.serve.example import example
from test_serve_server import served
from word_run import make_word_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    # greenlet's switches keep the loop of playwright open until the process ends
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("RVSM_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    named = os.environ.get("RVSM_SERVE_RUN")
    run = Path(named) if named else make_word_run(tmp_path_factory.mktemp("browser"))
    with served(run, "--no-compile") as (found, process):
        yield found
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Page:
    """The page with what it logged and asked for."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda told: self.errors.append(f"{told.type}: {told.text}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def draw(
        self,
        strokes: list[list[list[float]]],
        px_per_mm: float = 96 / 25.4,
        line: float = 20.0,
        speed: float = 1.0,
        on_time: bool = False,
    ) -> float:
        """Move the mouse along strokes in mm, at their times divided by `speed` or later.

        What is `line` mm from their top comes to lie on the line of the sheet. `on_time` keeps to
        the times on a busy machine too, at the cost of points. Returns how many times as long as
        meant it took.
        """
        box, mouse = self.page.locator("#sheet").bounding_box(), self.page.mouse
        left, top = box["x"] + 60, box["y"] + 0.66 * box["height"] - line * px_per_mm
        begun = time.monotonic()
        for stroke in strokes:
            for number, (ms, x, y) in enumerate(stroke):
                due = ms / 1000 / speed
                if (wait := due - (time.monotonic() - begun)) > 0:
                    time.sleep(wait)
                elif on_time and number and number < len(stroke) - 1 and wait < -0.008:
                    continue  # too late for this one: the next is nearer to its time
                mouse.move(left + x * px_per_mm, top + y * px_per_mm)
                if not number:
                    mouse.down()
            mouse.up()
        return (time.monotonic() - begun) / max(strokes[-1][-1][0] / 1000 / speed, 1e-3)

    def answered(self, drawing: bool) -> str:
        """Wait for the evidence; returns the answer."""
        self.page.wait_for_selector("#words .overlay", timeout=WAIT_MS)
        self.page.wait_for_selector("#answer:not(.busy)", timeout=WAIT_MS)
        assert self.page.is_visible("#tremor") == drawing
        assert "Probability of shaky" in self.text("#status")
        assert "calibrated" in self.text("#status")
        assert "not a diagnosis" in self.text("#reminder")
        return str(self.page.inner_text("#status .said")).lower()

    def percent(self) -> float:
        """The calibrated probability of shaky that is told, in per cent."""
        found = re.search(r"([\d.]+) % calibrated", self.text("#status"))
        assert found, self.text("#status")
        return float(found[1])

    def close(self, url: str) -> None:
        self.context.close()
        assert self.errors == []
        assert all(asked.startswith((url, "data:")) for asked in self.asked)


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    opened = Page(browser, url, viewport={"width": 1200, "height": 900})
    yield opened
    opened.close(url)


def wave(hz: float, amplitude_mm: float) -> list[list[list[float]]]:
    """A slow line of 5 s with a wobble up and down, RMS `amplitude_mm`, as one stroke in mm."""
    times = np.arange(0, 5, 1 / 60)
    return [
        [
            [
                1000 * t,
                18 * t,
                15 + math.sqrt(2) * amplitude_mm * math.sin(2 * math.pi * hz * t),
            ]
            for t in times.tolist()
        ]
    ]


def test_draw_a_word(page: Page, artefacts: Path) -> None:
    strokes, line = example("steady", np.random.default_rng(0))
    page.draw(strokes, line=line, speed=1.5)
    assert page.answered(drawing=True) == "regular"
    assert page.percent() < 35
    assert page.text("#tremor").count("mm") == 1
    assert "96 pixels an inch, assumed" in page.text("#tremor-note")
    page.page.screenshot(path=artefacts / "word.png", full_page=True)
    page.page.click("#undo")
    page.page.click("#clear")
    assert "Nothing to look at yet" in page.text("#status")
    assert page.page.is_hidden("#answer")


def test_draw_it_shaky(page: Page, artefacts: Path) -> None:
    strokes, line = example("shaky", np.random.default_rng(1))
    took = page.draw(strokes, 4.5, line)
    assert page.answered(drawing=True) == "shaky"
    assert page.percent() > 65
    page.page.screenshot(path=artefacts / "drawn.png", full_page=True)
    if took < 1.05:  # a busy machine draws the same in more time, so at fewer Hz
        frequency, amplitude = tremor_of(page)
        assert frequency == pytest.approx(6, abs=0.7)
        assert amplitude == pytest.approx(0.9 * 4.5 / 3.78, rel=0.3)


def test_a_wobble_of_6_hz_is_measured_in_mm(page: Page, artefacts: Path) -> None:
    page.draw(wave(6, 0.8), on_time=True)
    page.answered(drawing=True)
    frequency, amplitude = tremor_of(page)
    assert frequency == pytest.approx(6, abs=0.3)
    assert amplitude == pytest.approx(0.8, rel=0.2)
    # A ruler says that a mm has twice as many pixels: half the amplitude.
    page.page.click("#scale summary")
    page.page.evaluate(
        "() => { const slider = document.getElementById('scale-slider'); slider.value = 378;"
        "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change')); }"
    )
    page.page.wait_for_function(
        "() => document.getElementById('tremor-note').textContent.includes('set by you')",
        timeout=WAIT_MS,
    )
    assert tremor_of(page)[1] == pytest.approx(amplitude / 2, rel=0.05)
    page.page.screenshot(path=artefacts / "scale.png", full_page=True)


def tremor_of(page: Page) -> tuple[float, float]:
    hz, mm = page.page.locator("#tremor dd").all_inner_texts()
    assert hz.endswith(" Hz"), (hz, page.text("#tremor-note"))
    assert mm.endswith(" mm"), mm
    return float(hz.split()[0]), float(mm.split()[0])


def test_a_dot_is_no_writing(page: Page, artefacts: Path) -> None:
    page.draw([[[0, 30, 20]]])
    page.page.wait_for_selector("#status .said", timeout=WAIT_MS)
    assert page.text("#status .said") == "No writing here"
    assert page.page.is_hidden("#answer")
    page.page.screenshot(path=artefacts / "dot.png")


def test_choose_a_scan(page: Page, artefacts: Path, tmp_path: Path) -> None:
    sheet = Image.new("L", (600, 240), 235)
    pen = ImageDraw.Draw(sheet)
    for line in (60, 150):
        for left in (40, 220, 400):
            pen.line([(left + 12 * i, line + 24 * (i % 2)) for i in range(11)], 40, 4)
    sheet.save(tmp_path / "page.png")
    page.page.set_input_files("#file", tmp_path / "page.png")
    page.answered(drawing=False)
    assert page.page.locator("#words figure").count() == 6
    assert page.text("#file-name") == "page.png"
    page.page.screenshot(path=artefacts / "scan.png", full_page=True)
    page.page.click("text=It is one word or drawing")
    page.page.wait_for_function(
        "() => document.querySelectorAll('#words figure').length === 1", timeout=WAIT_MS
    )
    page.page.uncheck("#tint")
    assert page.page.is_hidden("#words .overlay")


def test_a_text_that_is_called_png(page: Page, artefacts: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear Sir, this is no picture.\n" * 20, "utf-8")
    page.page.set_input_files("#file", tmp_path / "letter.png")
    page.page.wait_for_selector("#status .problem", timeout=WAIT_MS)
    assert "not an image that can be read" in page.text("#status")
    assert page.page.is_hidden("#answer")
    page.page.screenshot(path=artefacts / "refused.png")
    # A browser logs every answer of 422 by itself.
    page.errors = [error for error in page.errors if "422" not in error]


def test_a_dropped_scan_is_taken(page: Page, url: str) -> None:
    page.page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(300, 120), pen = canvas.getContext('2d');
          pen.fillStyle = 'white'; pen.fillRect(0, 0, 300, 120); pen.lineWidth = 4;
          pen.beginPath(); pen.moveTo(20, 60);
          for (let i = 1; i < 20; i += 1) pen.lineTo(20 + 13 * i, 60 + 20 * (i % 2));
          pen.stroke();
          const data = new DataTransfer();
          data.items.add(new File([await canvas.convertToBlob()], 'dropped.png'));
          for (const type of ['dragenter', 'drop'])
            window.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true }));
        }"""
    )
    page.answered(drawing=False)
    assert page.text("#file-name") == "dropped.png"
    assert page.page.is_hidden("#veil")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_by_keyboard_at_the_width_of_a_phone(
    browser: Any, url: str, artefacts: Path, scheme: str
) -> None:
    opened = Page(
        browser,
        url,
        viewport={"width": 360, "height": 740},
        color_scheme=scheme,
        device_scale_factor=2,
        has_touch=True,
    )
    page = opened.page
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.dataset.example") == "shaky":
            break
    page.keyboard.press("Enter")
    assert opened.answered(drawing=True) == "shaky"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert not page.locator("#hint").is_visible()
    page.screenshot(path=artefacts / f"phone-{scheme}.png", full_page=True)
    opened.close(url)
