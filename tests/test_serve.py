"""What the page answers, what it refuses, and what it keeps."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from report_fixture import make_pen_run
from rvsm.experiments.calibration import Platt
from rvsm.experiments.gather import UNSURE, answer_of, mean_probability
from rvsm.experiments.predict import predict
from rvsm.experiments.probability import Calibration
from rvsm.experiments.report import pictures
from rvsm.experiments.report.evidence import occlusion
from rvsm.experiments.runs import load_run
from rvsm.experiments.serve.answers import MAX_SCAN_PIXELS, Oracle
from rvsm.experiments.serve.app import MAX_DRAWING_BYTES, MAX_SCAN_BYTES, make_app
from rvsm.experiments.serve.drawing import parse_drawing, render
from rvsm.experiments.serve.example import example
from rvsm.experiments.serve.store import Store
from rvsm.experiments.serve.worker import Worker
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.strokejson import read_strokes
from scan_pages import make_page

TestClient = pytest.importorskip("starlette.testclient", reason="needs rvsm[serve]").TestClient

BASE = "http://127.0.0.1:8765"
JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}
KEY = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pen_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@pytest.fixture
def client(run: Path, worker: Worker) -> Any:
    return TestClient(make_app(Oracle(run), worker, host="127.0.0.1"), base_url=BASE)


def word(kind: str = "shaky", seed: int = 0) -> bytes:
    strokes, _ = example(kind, np.random.default_rng(seed))
    scaled = [[[t, 3.78 * x, 3.78 * y] for t, x, y in stroke] for stroke in strokes]
    return json.dumps({"strokes": scaled, "px_per_mm": 3.78}).encode()


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def refused(response: Any, status: int, part: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    sentence: str = response.json()["error"]
    assert re.search(part, sentence), sentence
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    return sentence


def test_the_page_stands_alone(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "Research use, not a diagnosis" in page.text
    assert "Nothing you draw or drop is kept" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for name, kind in (("page.js", "text/javascript"), ("style.css", "text/css")):
        found = client.get(f"/static/{name}")
        assert found.headers["content-type"].startswith(kind)
        assert "://" not in found.text
        assert "innerHTML" not in found.text
    assert not re.search(r"(src|href)=\"(?!/static/|data:,)", page.text)
    assert " style=" not in page.text  # the content security policy would drop it
    for attributes in re.findall(r"<(?:input|output)([^>]*)>", page.text):
        name = re.search(r'\bid="([^"]+)"', attributes)
        inside = re.search(rf"<label[^>]*>[^\n]*<input{re.escape(attributes)}>", page.text)
        assert inside or (name and f'for="{name[1]}"' in page.text) or "for=" in attributes


def test_the_script_knows_only_what_the_page_has(client: Any) -> None:
    page, script = client.get("/").text, client.get("/static/page.js").text
    for name in set(re.findall(r'find\("([^"]+)"\)', script)):
        assert f'id="{name}"' in page, name


def test_every_file_of_the_page_is_served_or_a_template() -> None:
    names = {entry.name for entry in (files("rvsm.experiments.serve") / "page").iterdir()}
    assert names == {"page.js", "style.css", "page.html.j2"}


@pytest.mark.parametrize(
    "path", ["/nothing", "/static/page.html.j2", "/static/..%2fapp.py", "/example/wild", "/docs"]
)
def test_nothing_else_is_there(client: Any, path: str) -> None:
    refused(client.get(path), 404, "no")


def test_a_drawing_gets_the_answer_of_predict(client: Any, run: Path, tmp_path: Path) -> None:
    told = client.post("/drawing", content=word(), headers=JSON).json()
    image = render(parse_drawing(word())).image
    (tmp_path / "word.png").write_bytes(encode_png(image))
    (wanted,) = predict(run, [tmp_path / "word.png"])
    assert wanted.probability is not None
    assert told["probability"] == pytest.approx(wanted.probability, abs=1e-6)
    assert told["answer"] == told["words"][0]["answer"] == answer_of(wanted.calibrated)
    assert told["calibrated"] == pytest.approx(wanted.calibrated, abs=1e-6)
    assert told["calibrated"] != pytest.approx(told["probability"], abs=1e-3)
    (one,) = told["words"]
    assert one["picture"] == pictures.paper(image)
    _, found = occlusion(load_run(run)[1], image)
    assert one["evidence"] == pictures.evidence(found, max(float(np.abs(found).max()), 0.5))
    assert told["tremor"]["frequency_hz"] == pytest.approx(6.0, abs=0.6)
    assert told["tremor"]["rms_mm"] == pytest.approx(0.9, rel=0.2)
    assert "not a diagnosis" in told["notice"]
    assert told["unsure"] == list(UNSURE)
    assert told["stored"] is None


def test_the_calibrated_probability_decides(run: Path, worker: Worker) -> None:
    oracle = Oracle(run)
    client = TestClient(make_app(oracle, worker, host="127.0.0.1"), base_url=BASE)
    for offset, answer in ((-9.0, "regular"), (0.0, "unsure"), (9.0, "shaky")):
        oracle.calibration = Calibration(Platt(0.0, offset))
        told = client.post("/drawing?explain=no", content=word(), headers=JSON).json()
        assert told["answer"] == told["words"][0]["answer"] == answer
        assert told["words"][0]["calibrated"] == told["calibrated"]
    oracle.calibration = Calibration(None, "the data are gone")
    told = client.post("/drawing?explain=no", content=word(), headers=JSON).json()
    assert told["calibrated"] is None
    assert told["answer"] == answer_of(told["probability"])


def test_the_answer_may_come_before_the_evidence(client: Any) -> None:
    first = client.post("/drawing?explain=no", content=word(), headers=JSON).json()
    then = client.post("/drawing?explain=yes", content=word(), headers=JSON).json()
    assert first["words"][0]["evidence"] is None
    assert then["words"][0]["evidence"].startswith("data:image/png")
    assert first["probability"] == then["probability"]


def test_amplitude_follows_the_scale(client: Any) -> None:
    drawn = json.loads(word())
    half = json.dumps(drawn | {"px_per_mm": 7.56})
    one, other = (
        client.post("/drawing?explain=no", content=body, headers=JSON).json()
        for body in (word(), half)
    )
    assert other["tremor"]["rms_mm"] == pytest.approx(one["tremor"]["rms_mm"] / 2, rel=1e-3)
    assert other["probability"] == pytest.approx(one["probability"], abs=0.01)


def test_a_dot_is_no_writing(client: Any) -> None:
    body = json.dumps({"strokes": [[[0, 50, 50]]]})
    told = client.post("/drawing", content=body, headers=JSON).json()
    assert (told["answer"], told["probability"], told["words"]) == ("no writing here", None, [])
    assert "less than 2 mm" in told["reason"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"strokes": []}', "empty"),
        (b'{"strokes": [[[0, NaN, 0]]]}', "finite numbers"),
        (b"scribble", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_bad_drawings_are_refused(client: Any, body: bytes, part: str) -> None:
    refused(client.post("/drawing", content=body, headers=JSON), 422, part)


def test_ten_million_points_are_refused_unread(client: Any) -> None:
    body = b'{"strokes": [[' + b"[0,0,0]," * 10_000_000 + b"[0,0,0]]]}"
    refused(client.post("/drawing", content=body, headers=JSON), 413, "larger than 8 MB")


def test_a_body_without_a_length_is_read_no_further_than_allowed(client: Any) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < 3 * MAX_DRAWING_BYTES:
            sent += 1_000_000
            yield b"0" * 1_000_000

    refused(client.post("/drawing", content=body(), headers=JSON), 413, "larger than 8 MB")


@pytest.mark.parametrize("path", ["/drawing", "/scan"])
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_other_content_types_are_refused(client: Any, path: str, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    refused(client.post(path, content=word(), headers=headers), 415, "send it as application")


@pytest.mark.parametrize("path", ["/", "/drawing", "/scan", "/example/shaky"])
def test_wrong_methods_are_refused(client: Any, path: str) -> None:
    refused(client.delete(path), 405, "nothing at this address")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_hosts_are_refused(client: Any, method: str) -> None:
    headers = {**JSON, "host": "evil.example:8765"}
    path = "/" if method == "GET" else "/drawing"
    refused(client.request(method, path, content=word(), headers=headers), 403, "own address")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": BASE},
    ],
)
def test_other_sites_are_refused(client: Any, headers: dict[str, str]) -> None:
    response = client.post("/drawing", content=word(), headers={**JSON, **headers})
    refused(response, 403, "Another site")


def test_the_page_itself_may_ask(client: Any) -> None:
    headers = {**JSON, "origin": BASE, "sec-fetch-site": "same-origin"}
    assert client.post("/drawing?explain=no", content=word(), headers=headers).status_code == 200


def test_a_scan_gets_the_answer_of_predict(client: Any, run: Path, tmp_path: Path) -> None:
    """Whatever its size: letters give the scale of a training image too."""
    files = [
        next((run.parent / "data" / "test-unseen" / label).glob("*.png"))
        for label in ("regular", "shaky")
    ]
    with Image.open(files[0]) as picture:
        picture.crop((20, 0, 200, 64)).resize((720, 256)).save(tmp_path / "large.png")
    for file in (*files, tmp_path / "large.png"):
        told = client.post("/scan?as=drawing", content=file.read_bytes(), headers=BYTES).json()
        (wanted,) = predict(run, [file], scan=True)
        assert told["probability"] == pytest.approx(wanted.probability, abs=1e-6)
        assert told["words"][0]["evidence"].startswith("data:image/png")
        assert "tremor" not in told


def page_of_words(lines: int = 2) -> Image.Image:
    sheet = Image.new("L", (600, 240), 235)
    pen = ImageDraw.Draw(sheet)
    for line in (60, 150)[:lines]:
        for left in (40, 220, 400):
            points = [(left + 12 * i, line + 24 * (i % 2)) for i in range(11)]
            pen.line(points, 40, 4)
    return sheet


def test_a_page_is_cut_into_words(client: Any) -> None:
    told = client.post("/scan?as=page", content=png(page_of_words()), headers=BYTES).json()
    places = [(word["line"], word["place"]) for word in told["words"]]
    assert places == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert told["probability"] == mean_probability([w["probability"] for w in told["words"]])
    whole = client.post("/scan?as=drawing", content=png(page_of_words()), headers=BYTES).json()
    assert len(whole["words"]) == 1


def test_a_page_that_lies_sideways_is_turned_and_told(client: Any) -> None:
    page = make_page(np.random.default_rng(7), lines=5).picture
    upright = client.post("/scan", content=png(page), headers=BYTES).json()
    lying = page.transpose(Image.Transpose.ROTATE_90)
    told = client.post("/scan", content=png(lying), headers=BYTES).json()
    assert "Page 1 lay sideways: turned by 90°." in told["notes"]
    assert "sideways" not in " ".join(upright["notes"])
    assert told["probability"] == upright["probability"]


def test_pages_of_a_pdf_are_read_up_to_a_number(client: Any) -> None:
    stream = io.BytesIO()
    pages = [page_of_words(1) for _ in range(6)]
    pages[0].save(stream, "PDF", resolution=150, save_all=True, append_images=pages[1:])
    told = client.post("/scan", content=stream.getvalue(), headers=BYTES).json()
    assert {word["page"] for word in told["words"]} == {1, 2, 3, 4}
    assert "Only the first 4 of 6 pages were read." in told["notes"]
    explained = [word for word in told["words"] if word["evidence"]]
    assert (len(told["words"]), len(explained)) == (12, 8)


def test_a_blank_page_is_no_writing(client: Any) -> None:
    blank = Image.new("L", (300, 200), 230)
    told = client.post("/scan", content=png(blank), headers=BYTES).json()
    assert (told["answer"], told["probability"]) == ("no writing here", None)
    assert told["reason"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty file"),
        (b"Dear Sir, this is no picture.\n" * 20, "not an image"),
        (png(page_of_words())[:900], "damaged or cut short"),
        (b"%PDF-1.4\n%nothing else", "damaged PDF"),
        (png(Image.new("1", (40_000, 8))), "40000x8 pixels, beyond the limit"),
        (png(Image.new("1", (6_000, 6_000))), "6000x6000 pixels, beyond 30 million"),
    ],
)
def test_bad_scans_are_refused(
    client: Any, content: bytes, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sentence = refused(client.post("/scan", content=content, headers=BYTES), 422, part)
    assert str(tmp_path) not in sentence
    assert "take it out" not in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dpi", "part"), [("7", "not one"), ("much", "no number"), ("nan", "")])
def test_bad_resolutions_are_refused(client: Any, dpi: str, part: str) -> None:
    response = client.post(f"/scan?dpi={dpi}", content=png(page_of_words()), headers=BYTES)
    assert "--" not in refused(response, 422, part)


def test_a_scan_beyond_the_limit_is_refused(client: Any) -> None:
    assert MAX_SCAN_PIXELS < 36_000_000
    body = bytes(MAX_SCAN_BYTES + 1)
    refused(client.post("/scan", content=body, headers=BYTES), 413, "larger than 25 MB")


def test_nothing_is_kept_unless_asked(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert client.post(f"/drawing?key={KEY}", content=word(), headers=JSON).status_code == 200
    content = png(page_of_words())
    assert client.post("/scan", content=content, headers=BYTES).status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept(run: Path, worker: Worker, tmp_path: Path) -> None:
    store = Store(tmp_path / "kept")
    app = make_app(Oracle(run), worker, host="127.0.0.1", store=store)
    client = TestClient(app, base_url=BASE)
    assert str(tmp_path / "kept") in client.get("/").text
    post: Callable[..., Any] = client.post
    post(f"/drawing?explain=no&key={KEY}", content=word("steady"), headers=JSON)
    assert list(store.folder.iterdir()) == []  # the pen is still busy
    first = post(f"/drawing?key={KEY}", content=word("steady"), headers=JSON).json()["stored"]
    grown = post(f"/drawing?key={KEY}", content=word("shaky"), headers=JSON).json()
    assert grown["stored"] == first
    (file,) = store.folder.iterdir()
    kept = json.loads(file.read_text("utf-8"))
    for path, read in zip(
        parse_drawing(word("shaky")).paths, read_strokes(file).paths, strict=True
    ):
        assert read == pytest.approx(path, abs=1e-6)
    (asked,) = predict(run, [file])
    assert asked.probability is not None
    assert kept["answer"]["probability"] == grown["probability"]
    assert kept["answer"]["tremor"] == grown["tremor"]
    assert "picture" not in kept["answer"]["words"][0]
    other = post("/drawing?key=../../evil", content=word(), headers=JSON).json()["stored"]
    assert re.fullmatch(r"[\d-]+-[0-9a-f]{6}-drawing\.json", other)
    content = png(page_of_words())
    name = post("/scan?name=../evil.png", content=content, headers=BYTES).json()["stored"]
    assert (store.folder / name).read_bytes() == content
    assert name.endswith("-scan.png")
    beside = json.loads((store.folder / name).with_suffix(".json").read_text("utf-8"))
    assert beside["scan"] == name
    assert len(beside["answer"]["words"]) == 6
    assert len(list(store.folder.iterdir())) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
    refused(post("/scan", content=b"text", headers=BYTES), 422, "not an image")
    assert len(list(store.folder.iterdir())) == 4


def test_a_folder_that_cannot_be_written_is_one_sentence(
    run: Path, worker: Worker, tmp_path: Path
) -> None:
    store = Store(tmp_path / "kept")
    store.folder.rmdir()
    client = TestClient(make_app(Oracle(run), worker, host="127.0.0.1", store=store), base_url=BASE)
    refused(client.post("/drawing", content=word(), headers=JSON), 422, "Cannot write")


def test_a_job_that_hangs_is_given_up(run: Path) -> None:
    slow, go = Worker(waiting=1, timeout_s=0.2), threading.Event()
    oracle = Oracle(run)
    oracle.use(lambda images: go.wait(20) and images)  # type: ignore[arg-type, return-value]
    client = TestClient(make_app(oracle, slow, host="127.0.0.1"), base_url=BASE)
    refused(client.post("/drawing", content=word(), headers=JSON), 503, "No answer within")
    refused(client.post("/drawing", content=word(), headers=JSON), 503, "No answer within")
    refused(client.post("/drawing", content=word(), headers=JSON), 503, "busy")
    go.set()
    slow.close()


def test_a_fault_of_the_program_is_said_without_its_details(run: Path, worker: Worker) -> None:
    oracle = Oracle(run)

    def broken(images: Any) -> Any:
        raise ZeroDivisionError("secret")

    oracle.use(broken)
    app = make_app(oracle, worker, host="127.0.0.1")
    client = TestClient(app, base_url=BASE, raise_server_exceptions=False)
    sentence = refused(client.post("/drawing", content=word(), headers=JSON), 500, "terminal")
    assert "secret" not in sentence
