"""What a report tells of its images: what is known of them, and those that were read."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from report_fixture import Page, make_reproduction
from rvsm.experiments.report import write_report
from rvsm.experiments.report.amplitude import Detection, Rate
from rvsm.experiments.report.gallery import amplitude_strip
from rvsm.experiments.report.plots import detection_chart
from rvsm.experiments.report.source import read_study


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "reproduce"
    make_reproduction(folder, views=[("pen", "headline")], seeds=[0], methods=["dense", "l0"])
    return folder


def lone(reproduction: Path, tmp_path: Path, described: dict[str, object] | None) -> Path:
    """Copy a run and its images, which say of themselves what is given, or nothing."""
    shutil.copytree(reproduction / "data" / "pen-headline", tmp_path / "images")
    if described is None:
        (tmp_path / "images" / "dataset.json").unlink()
    else:
        (tmp_path / "images" / "dataset.json").write_text(json.dumps(described))
    shutil.copytree(reproduction / "pen-headline-l0-s0", tmp_path / "run")
    config = (tmp_path / "run" / "config.toml").read_text()
    named = re.sub(r"(?m)^data = .*", f'data = "{tmp_path / "images"}"', config)
    (tmp_path / "run" / "config.toml").write_text(named)
    return tmp_path / "run"


OF_TEXTS = ("x-height is about 2.5 mm", "the same fonts, texts", "fonts shared with training")
OF_TEXTS += ("up to 0.8 mm", "Fonts, writers and texts are split", "image sizes, fonts, strengths")
SIMULATED = "Nothing here was measured on patients"
MODELLED = "The tremor follows published measurements"


def test_tells_of_texts_of_our_making_how_they_were_made(reproduction: Path) -> None:
    words = Page(write_report(reproduction).read_text(encoding="utf-8")).words
    for part in (*OF_TEXTS, SIMULATED, MODELLED, "data seed 0"):
        assert part in words
    assert "The test set chose nothing" not in words
    assert "Not all of these runs noted" in words


@pytest.mark.parametrize(
    ("task", "source", "there", "gone"),
    [
        (None, {}, ["nothing tells that they are", "right for"], [SIMULATED, MODELLED, *OF_TEXTS]),
        ("", {"set": "ours"}, ["Images of the set ours, imported"], [SIMULATED, MODELLED]),
        ("spiral", {}, ["made-up hands", "hands it never saw", SIMULATED, MODELLED], OF_TEXTS),
        ("words", {}, ["words that people wrote", "writers shared", MODELLED], OF_TEXTS[:3]),
        ("words", {"tremor": {}}, ["The tremor was recorded from people"], [SIMULATED, MODELLED]),
        ("pen", {"tremor_hz": [3, 8]}, ["of 3 to 8 Hz", SIMULATED, *OF_TEXTS], [MODELLED]),
    ],
)
def test_tells_no_more_of_images_than_is_known(
    reproduction: Path,
    tmp_path: Path,
    task: str | None,
    source: dict[str, object],
    there: list[str],
    gone: list[str],
) -> None:
    described: dict[str, object] = {"seed": 3, "options": {"source": {"task": task, **source}}}
    if task:
        described |= {"generator": "0.1.0+000000000000"}
    folder = lone(reproduction, tmp_path, None if task is None else described)
    words = Page(write_report(folder).read_text(encoding="utf-8")).words
    for part in there:
        assert part in words
    for part in gone:
        assert part not in words
    assert "one millimetre at a time" not in words
    assert "It is the epoch with the best validation accuracy" in words


def test_the_model_may_be_that_of_the_last_epoch(reproduction: Path, tmp_path: Path) -> None:
    folder = lone(reproduction, tmp_path, None)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('select = "val-accuracy"', 'select = "last"'))
    words = Page(write_report(folder).read_text(encoding="utf-8")).words
    assert "The model is the last epoch." in words
    assert "best validation accuracy" not in words


def test_shows_no_image_for_two_amplitudes(reproduction: Path, tmp_path: Path) -> None:
    view = read_study(lone(reproduction, tmp_path, None)).views[0]
    run = view.runs[0]
    assert run.predictions is not None
    alike = np.full(len(run.predictions), 0.31)  # near to two that are asked for
    run.predictions = replace(run.predictions, amplitude_mm=alike)
    assert len(amplitude_strip(view, run, {})) == 1


def test_counts_the_images_that_were_read(reproduction: Path, tmp_path: Path) -> None:
    folder = lone(reproduction, tmp_path, None)
    write_report(folder)
    assert "left out" not in Page((folder / "report.html").read_text(encoding="utf-8")).words
    bad = ("train/regular/000000.png", "train/regular/000002.png", "curve/shaky/000001.png")
    lines = [f"{file.partition('/')[0]},{file},it is damaged" for file in bad]
    (folder / "skipped.csv").write_text("\n".join(["split,file,error", *lines]) + "\n")
    words = Page(write_report(folder).read_text(encoding="utf-8")).words
    assert "Regular Shaky Not readable, left out" in words
    assert "train 2 4 2 " in words
    assert "val 2 2 0 " in words
    assert "curve 30 29 1 " in words


def test_a_curve_of_one_bin_is_drawn() -> None:
    rate = Rate(*(np.array([value]) for value in (0.5, 0.9, 0.7, 1.0)))
    chart = detection_chart({"l0": Detection(rate, rate, 0.1, 9, 9)})
    assert "at 0.50 mm" in chart
