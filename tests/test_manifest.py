"""rvsm.handwriting.manifest: the CSV round trip and folders without one."""

from pathlib import Path

import numpy as np
import pytest

from rvsm.errors import DataError
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import (
    Row,
    list_images,
    note_errors,
    read_manifest,
    unlisted,
    write_manifest,
)

WHITE = encode_png(np.full((64, 256), 255, dtype=np.uint8))


def put(root: Path, *names: str, content: bytes = WHITE) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        Row(
            "train/regular/000000.png",
            "train",
            "regular",
            'a, "quoted" ä',
            "Lora",
            "outline",
            0.0,
            0.0,
            0.75,
            2.5,
            0.3,
            14.25,
            -3.5,
        ),
        Row("train/shaky/000000.png", "train", "shaky", error="cut short"),
        Row("val/shaky/000001.png", "val", "shaky", tremor_amplitude_mm=1.2),
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path) == rows


def test_folders_without_a_manifest(tmp_path: Path) -> None:
    put(
        tmp_path,
        "training/Regular/a.png",
        "train/shaky/sub/b.JPG",
        "testing/shaky/c.tif",
        "train/shaky/notes.txt",
        "train/shaky/.DS_Store",
        "elsewhere/d.png",
    )
    rows = read_manifest(tmp_path)
    assert [(r.file, r.split, r.label, bool(r.error)) for r in rows] == [
        ("testing/shaky/c.tif", "test", "shaky", False),
        ("train/shaky/notes.txt", "train", "shaky", True),
        ("train/shaky/sub/b.JPG", "train", "shaky", False),
        ("training/Regular/a.png", "train", "regular", False),
    ]


def test_folders_without_splits(tmp_path: Path) -> None:
    put(tmp_path, "regular/a.png", "shaky/a.png")
    assert {(r.split, r.label) for r in read_manifest(tmp_path)} == {
        ("all", "regular"),
        ("all", "shaky"),
    }


def test_errors_are_noted_and_all_else_is_kept(tmp_path: Path) -> None:
    text = (
        'file,age,split,label,place\na.png,33,train,regular,"Ulm, ""Alb"""\n\nb.png,x,val,shaky\n'
    )
    (tmp_path / "manifest.csv").write_text(text)
    assert not note_errors(tmp_path, {})
    assert (tmp_path / "manifest.csv").read_text() == text
    assert note_errors(tmp_path, {"b.png": "cut, short"})
    assert (tmp_path / "manifest.csv").read_text() == (
        'file,age,split,label,place,error\na.png,33,train,regular,"Ulm, ""Alb""",\n\n'
        'b.png,x,val,shaky,,"cut, short"\n'
    )
    assert [row.error for row in list_images(tmp_path)] == ["", "cut, short"]
    assert not note_errors(tmp_path, {"b.png": "cut, short"})
    assert note_errors(tmp_path, {})
    assert [row.error for row in list_images(tmp_path)] == ["", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_a_mark_of_the_byte_order_is_kept(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbffile,split,label\na.png,train,shaky\n")
    assert note_errors(tmp_path, {"a.png": "gone"})
    assert (
        (tmp_path / "manifest.csv").read_bytes().startswith(b"\xef\xbb\xbffile,split,label,error")
    )


def test_spreadsheets_with_semicolons(tmp_path: Path) -> None:
    """Read, and written again the same way."""
    text = "file;split;label;text\na.png;train;regular;one, two\nb.png;train;shaky;three\n"
    (tmp_path / "manifest.csv").write_text(text)
    first, second = read_manifest(tmp_path)
    assert (first.file, first.label, first.text) == ("a.png", "regular", "one, two")
    assert second.label == "shaky"
    assert note_errors(tmp_path, {"b.png": "gone"})
    told = (tmp_path / "manifest.csv").read_text().splitlines()
    assert told[0] == "file;split;label;text;error"
    assert told[2] == "b.png;train;shaky;three;gone"


def test_errors_of_a_folder_without_a_manifest(tmp_path: Path) -> None:
    put(tmp_path, "regular/a.png", "shaky/a.png", "shaky/b.png")
    assert not note_errors(tmp_path, {})
    assert not (tmp_path / "manifest.csv").exists()
    assert note_errors(tmp_path, {"shaky/b.png": "cut short"})
    assert [(r.file, r.error) for r in read_manifest(tmp_path)] == [
        ("regular/a.png", ""),
        ("shaky/a.png", ""),
        ("shaky/b.png", "cut short"),
    ]
    assert unlisted(tmp_path) == []
    put(tmp_path, "shaky/c.png")
    assert unlisted(tmp_path) == ["shaky/c.png"]


def test_a_manifest_without_splits(tmp_path: Path) -> None:
    text = "file,label,person\na.png,shaky,anna\nb.png,regular,bert\n"
    (tmp_path / "manifest.csv").write_text(text)
    assert [(r.split, r.carrier) for r in read_manifest(tmp_path)] == [
        ("all", "anna"),
        ("all", "bert"),
    ]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data folder"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no images: put them into"):
        read_manifest(tmp_path)
    put(tmp_path, "train/regular/a.png")
    with pytest.raises(DataError, match="only images labelled 'regular': add 'shaky'"):
        read_manifest(tmp_path)
    write_manifest(tmp_path / "manifest.csv", [Row("a.png", "train", "regular", error="cut")])
    with pytest.raises(DataError, match=r"None of the 1 images .* a\.png first \(cut\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,split\na.png,train\n", "lacks the column label"),
        ("file,split,label\na.png,train,wobbly\n", "line 2: the label is 'wobbly'"),
        ("file,split,label\n../a.png,train,shaky\n", "inside the folder"),
        ("file,split,label\n/a.png,train,shaky\n", "inside the folder"),
        ("file,split,label,pen_mm\na.png,train,shaky,thin\n", "pen_mm is 'thin', not a number"),
        ("", "lacks the column"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"file,split,label\n\xff\xfe,train,shaky\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_manifest(tmp_path)
