"""The HTML report: well formed, self-contained, true to results.json, patient with gaps."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from report_fixture import Page, make_reproduction
from rvsm.errors import RunError
from rvsm.experiments.report import write_report
from rvsm.experiments.report.amplitude import detection
from rvsm.experiments.report.evidence import choose, log_odds, occlusion
from rvsm.experiments.report.pictures import evidence, near_square, paper, weights
from rvsm.experiments.report.source import Predictions, read_study
from rvsm.experiments.report.svg import Axis, Chart, linear_axis, log_axis
from rvsm.experiments.report.tables import Figure, cell, headline, percent
from rvsm.handwriting.network import TremorNet

SECTIONS = (
    "results",
    "amplitude",
    "sparsity",
    "training",
    "weights",
    "examples",
    "data",
    "caveats",
)


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "reproduce"
    make_reproduction(folder)
    return folder


@pytest.fixture(scope="module")
def html(reproduction: Path) -> str:
    return write_report(reproduction).read_text(encoding="utf-8")


def test_is_well_formed_with_every_section(html: str) -> None:
    page = Page(html)
    assert set(SECTIONS) <= set(page.ids)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]
    assert len(html) < 1_000_000


def test_asks_the_network_for_nothing(html: str) -> None:
    assert "http:" not in html
    assert "https:" not in html
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in html
    assert "url(" not in html
    sources = [attrs["src"] or "" for tag, attrs in page.tags if "src" in attrs]
    assert len(sources) > 50
    for source in sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()


def test_tables_hold_the_means_of_results_json(reproduction: Path, html: str) -> None:
    rows = json.loads((reproduction / "results.json").read_text())
    page = Page(html)
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for row in rows:
        key = (row["task"], row["protocol"], row["method"])
        groups.setdefault(key, []).append(row)
    for column in ("accuracy", "auc", "fc_zeros", "zeros", "nonzeros"):
        expected = [np.mean([row[column] for row in group]) for group in groups.values()]
        assert sorted(page.values(column)) == pytest.approx(sorted(expected), rel=1e-12)
    dense = {
        (r["task"], r["protocol"], r["seed"]): r["accuracy"] for r in rows if r["method"] == "dense"
    }
    differences = [
        np.mean([r["accuracy"] - dense[r["task"], r["protocol"], r["seed"]] for r in group])
        for key, group in groups.items()
        if key[2] != "dense"
    ]
    assert sorted(page.values("difference")) == pytest.approx(sorted(differences), abs=1e-12)


def test_says_what_the_numbers_were_measured_on(html: str) -> None:
    words = Page(html).words
    for part in (
        "not a diagnosis",
        "full text could not be obtained",
        "started from the dense network trained first",
        "A note on the protocol.",
        "seeds 0, 1",
        "16 test-unseen",
        "95 % Wilson",
        "split curve",
        "split test-unseen",
    ):
        assert part in words


def test_shows_what_a_short_cut_can_tell(html: str) -> None:
    page = Page(html)
    for part in (
        "Can a short cut tell them apart?",
        "0.2–0.4 31 52.7 % 48.1 % – 57.3 % fine curve 0.4–0.6",
        "0.4–0.6 31 52.7 % 48.1 % – 57.3 % fine, too few images to decide",
        "0.6–0.8 9 too few images to decide",
        "at most 4,000 images of a split",
        "equal files: fine, no two are equal.",
    ):
        assert part in page.words
    assert html.count("<li>Another note.</li>") == 1


def test_every_figure_has_a_caption_and_every_picture_a_text(html: str) -> None:
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == tags.count("figcaption") >= 12
    assert all("alt" in attrs for tag, attrs in page.tags if tag == "img")


def test_reports_a_single_run(reproduction: Path) -> None:
    folder = reproduction / "fonts-headline-l0-s1"
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    scores = json.loads((folder / "result.json").read_text())["scores"]
    expected = [score["accuracy"] for score in scores.values()]
    assert sorted(page.values("accuracy")) == pytest.approx(sorted(expected))
    assert set(SECTIONS) <= set(page.ids)
    assert "fonts-headline-l0-s1" in page.words
    assert not any(tag == "label" and "for" in attrs for tag, attrs in page.tags)


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("model.safetensors", "model.safetensors"),
        ("metrics.csv", "metrics.csv is missing"),
        ("test_predictions.csv", "test_predictions.csv is missing"),
        ("result.json", "result.json is missing"),
        ("config.toml", "config.toml is missing"),
        ("environment.json", "Where it was measured"),
    ],
)
def test_names_a_missing_part(reproduction: Path, tmp_path: Path, gone: str, sentence: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reproduction / "pen-headline-l0-s0", folder)
    (folder / gone).unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert sentence in page.words
    assert set(SECTIONS) <= set(page.ids)


def test_lives_with_damaged_parts(reproduction: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reproduction / "pen-headline-l0-s0", folder)
    for name in ("model.safetensors", "metrics.csv", "test_predictions.csv", "result.json"):
        (folder / name).write_bytes(b"\x00\xffnonsense")
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "could not be shown" in page.words


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("results.json", {"rows": []}, "it is no JSON list"),
        ("results.json", [1], "0: .* object"),
        ("results.json", [{"accuracy": "high"}], "0.accuracy: .* number"),
        ("results.json", [{"split_sizes": [3]}], "0.split_sizes: .* object"),
        ("results.json", [{"data": {"seed": "7"}}], "0.data.seed: .* integer"),
        ("study.json", [1], "it is no JSON object"),
        ("study.json", {"sweep": 3}, "sweep: .* array"),
        ("study.json", {"checks": [{"findings": "none"}]}, "checks.0.findings: .* array"),
        ("study.json", {"protocol_note": ["a"]}, "protocol_note: .* string"),
    ],
)
def test_results_of_wrong_types_are_told(
    reproduction: Path, tmp_path: Path, file: str, content: object, said: str
) -> None:
    for name in ("results.json", "study.json"):
        shutil.copy(reproduction / name, tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    told = rf"{file} is damaged, of an earlier version or of another command \({said}.*\): run"
    with pytest.raises(RunError, match=told):
        write_report(tmp_path)


def test_lives_without_images_runs_or_rows(reproduction: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(reproduction / "results.json", folder)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "run folder fonts-headline-l0-s0 is missing" in page.words
    assert "study.json is missing" in page.words
    assert len(page.values("accuracy")) == 16
    (folder / "results.json").write_text("[]")
    assert "nothing to show yet" in Page(write_report(folder).read_text(encoding="utf-8")).words


def test_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"neither results\.json nor"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="not a folder"):
        write_report(tmp_path / "nowhere")


def test_escapes_words_from_files(reproduction: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "<script>x"
    shutil.copytree(reproduction / "pen-headline-l0-s0", folder)
    result = json.loads((folder / "result.json").read_text())
    result |= {"task": evil, "set": '"><img src=x>', "method": evil, "start": evil}
    result["scores"][evil] = {"accuracy": 0.5, "auc": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    table = (folder / "test_predictions.csv").read_text()
    (folder / "test_predictions.csv").write_text(table.replace("test-unseen", evil))
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(metrics.replace("zeros/fc", f"zeros/{evil}"))
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert evil not in html
    assert "<script" not in html
    assert all((attrs.get("src") or "").startswith("data:") for t, attrs in page.tags if t == "img")
    assert evil in page.words


def test_means_deviations_and_printing() -> None:
    figure = Figure.of([0.98, 0.99, math.nan])
    assert (figure.mean, figure.n) == (pytest.approx(0.985), 2)
    assert figure.sd == pytest.approx(0.01 / math.sqrt(2))
    assert cell("accuracy", figure).text == "98.50 %"
    assert cell("accuracy", figure).spread == "± 0.71"
    assert cell("auc", Figure.of([0.5])).spread == ""
    assert cell("auc", Figure.of([])).text == "–"
    assert cell("nonzeros", Figure.of([1234.0])).text == "1,234"
    assert percent(0.99999) == "99.99 %"
    assert percent(1.0) == "100.00 %"
    assert percent(1e-9) == "0.01 %"


def test_headline_orders_methods(reproduction: Path) -> None:
    lines = headline(read_study(reproduction).views[0].rows)
    assert [line.method for line in lines[:4]] == ["dense", "l1", "l0", "transformed-l1"]
    assert {line.n for line in lines} == {2}


def test_features_the_first_method_in_a_fixed_order(reproduction: Path) -> None:
    featured = read_study(reproduction).views[0].featured
    assert featured is not None
    assert featured.name == "fonts-headline-l0-s0"


def predictions(
    amplitudes: np.ndarray, probability: np.ndarray, split: str = "curve"
) -> Predictions:
    n = len(amplitudes)
    return Predictions(
        np.full(n, split),
        np.array([f"{i}.png" for i in range(n)]),
        amplitudes > 0,
        probability.astype(np.float64),
        amplitudes,
        np.where(amplitudes > 0, amplitudes, 0.3),
    )


def test_finds_the_amplitude_at_which_seeing_starts() -> None:
    amplitudes = np.concatenate([np.geomspace(0.05, 1.5, 4000), np.zeros(1000)])
    table = predictions(amplitudes, (amplitudes > 0.3) * 0.9)
    table.probability[-10:] = 0.8
    curve = detection([table, table])
    assert curve is not None
    assert curve.amplitude_at(0.9) == pytest.approx(0.3, rel=0.34)
    assert curve.false_alarm == pytest.approx(0.01)
    assert (curve.shaky_images, curve.regular_images) == (4000, 1000)
    assert np.all(curve.found.low <= curve.found.share)
    assert np.all(curve.found.share <= curve.found.high)
    assert math.isnan(detection([predictions(amplitudes, amplitudes * 0)]).amplitude_at(0.5))  # type: ignore[union-attr]
    assert detection([predictions(amplitudes, amplitudes * 0, split="test")]) is None


def test_accuracy_over_amplitude_counts_both_classes_alike() -> None:
    # Three shaky for each regular image, all found; a fifth of the regular ones called shaky.
    amplitudes = np.concatenate([np.geomspace(0.05, 1.5, 3000), np.zeros(1000)])
    table = predictions(amplitudes, (amplitudes > 0) * 0.9)
    table.matched_mm[3000:] = np.geomspace(0.05, 1.5, 1000)
    table.probability[3000:] = np.where(np.arange(1000) % 5 == 0, 0.9, 0.1)
    curve = detection([table])
    assert curve is not None
    assert curve.accuracy is not None
    np.testing.assert_allclose(curve.accuracy.share, 0.9, atol=0.01)
    assert np.all(curve.accuracy.low < curve.accuracy.share)
    assert np.all(curve.accuracy.share < curve.accuracy.high)


def test_chooses_examples_once_and_reproducibly() -> None:
    rng = np.random.default_rng(1)
    table = predictions(np.where(rng.random(200) < 0.5, 0.5, 0.0), rng.random(200), "test-unseen")
    chosen = choose(table)
    assert chosen == choose(table)
    assert len({c.index for c in chosen}) == len(chosen) == 18
    right = table.called_shaky == table.shaky
    assert all(right[c.index] == (c.kind == "right") for c in chosen if c.kind != "uncertain")


def test_occlusion_finds_the_ink_that_decides() -> None:
    net = TremorNet()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for layer in (net.conv1, net.conv2, net.conv3):
            layer.weight[0, 0, 1, 1] = 1.0
        net.fc.weight[1, :128] = 1.0  # the sum of the first channel speaks for shaky
    image = np.full((64, 256), 255, np.uint8)
    image[24:40, 200:216] = 0
    odds, found = occlusion(net.eval(), image)
    assert odds > 0
    assert found.shape == (8, 32)
    row, column = np.unravel_index(int(np.argmax(found)), found.shape)
    assert (row in (3, 4), column in (25, 26)) == (True, True)
    assert np.abs(found[:, :20]).max() == 0
    assert float(log_odds(net, torch.zeros(1, 1, 64, 256))) == 0


@pytest.mark.parametrize(
    ("shape", "cells"), [((64, 256), (8, 32)), ((256, 256), (16, 16)), ((128, 256), (11, 23))]
)
def test_the_eraser_moves_as_far_down_as_across(
    shape: tuple[int, int], cells: tuple[int, int]
) -> None:
    """Whatever the shape of the image, and of what the network makes of it."""
    network = TremorNet([2, 2, 2], size=(32, 128)).eval()
    _, found = occlusion(network, np.full(shape, 255, np.uint8))
    assert found.shape == cells
    assert shape[0] / cells[0] == pytest.approx(shape[1] / cells[1], rel=0.05)


def decode(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_pictures_keep_what_they_show() -> None:
    image = np.linspace(0, 255, 64 * 256).reshape(64, 256).astype(np.uint8)
    assert np.abs(decode(paper(image))[..., 0].astype(int) - image).max() <= 9
    planes = np.zeros((3, 2, 4), np.float32)
    planes[1, 0, 2], planes[2, 1, 1] = 2.0, -0.5
    uri, width, height = weights(planes, near_square(planes))
    sheet = decode(uri)
    assert sheet.shape[:2] == (height, width)
    strong = sheet[..., 3] > 60
    assert int(strong.sum()) == 2
    assert {tuple(c) for c in sheet[strong][:, :3].tolist()} == {(213, 94, 0), (88, 76, 190)}
    layer = decode(evidence(np.array([[1.0, -1.0, 0.0]]), 1.0))
    assert layer[0, :, 3].tolist() == [255, 255, 0]


def test_axes_cover_their_values_with_readable_ticks() -> None:
    axis = linear_axis([0.973, 0.998], "", percent=True)
    assert axis.low <= 0.973
    assert axis.high >= 0.998
    assert [words for _, words in axis.ticks] == ["97 %", "98 %", "99 %", "100 %"]
    assert linear_axis([0, 1], "", percent=True).ticks[1][1] == "25 %"
    assert linear_axis([0.99, 0.99], "", percent=True).high <= 1
    assert linear_axis([], "").low < linear_axis([], "").high
    assert [t for _, t in log_axis([0.05, 1.5], "").ticks] == ["0.05", "0.1", "0.2", "0.5", "1"]
    assert len(log_axis([1e-6, 1e4], "").ticks) <= 7


def test_chart_breaks_lines_at_gaps_and_escapes() -> None:
    axis = Axis(0, 1, "x <b>", ((0.0, "0"),))
    chart = Chart(axis, axis, 'a "chart" <i>')
    chart.line([0, 0.5, 1], [0, math.nan, 1], "m-l0")
    chart.point(math.nan, 0, "m-l0")
    svg = str(chart.svg())
    assert svg.count("M") - svg.count("M52") >= 1
    assert "nan" not in svg
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert re.search(r'<path class="line m-l0 " d="M[\d. ]+M[\d. ]+"/>', svg)
