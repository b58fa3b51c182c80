"""rvsm.handwriting.strokefiles: tables and JSON of pen strokes become letters of the right size."""

import json
from pathlib import Path

import numpy as np
import pytest

from rvsm.errors import DataError
from rvsm.handwriting.sources import Rendered
from rvsm.handwriting.strokefiles import normalised, read_strokes

TABLE = """writer,text,stroke,x,y,t
ann,l,0,5,0,0
ann,l,0,5,35,10
ann,o,0,0,0,0
ann,o,0,10,0,10
ann,o,0,10,10,20
ann,o,0,0,10,30
ann,t,0,0,0,0
ann,t,0,0,29,10
ann,t,1,-5,20,60
ann,t,1,5,20,70
bob,lot,0,0,0,0
bob,lot,0,30,70,10
"""


def test_table(tmp_path: Path) -> None:
    (tmp_path / "pen.csv").write_text(TABLE)
    ann, bob = read_strokes(tmp_path / "pen.csv")
    assert (ann.name, bob.name) == ("ann", "bob")
    assert ann.draws("lot")
    assert bob.draws("lot")
    assert not bob.draws("o")
    assert [len(ann.letters[c].strokes) for c in "lot"] == [1, 1, 2]
    heights = [np.ptp(np.concatenate(ann.letters[c].strokes)[:, 1]) for c in "lot"]
    np.testing.assert_allclose(heights, [1.75, 1.0, 1.45], atol=0.05)


def test_the_same_from_tsv_with_a_pen_state_and_y_down(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    lines, last = ["writer\ttext\tpen\tx\ty_down\tt"], None
    for row in TABLE.splitlines()[1:]:
        writer, text, stroke, x, y, t = row.split(",")
        if last not in {None, (writer, text, stroke)}:
            lines.append(f"{writer}\t{text}\t0\t{x}\t{-float(y)}\t{t}")
        last = (writer, text, stroke)
        lines.append(f"{writer}\t{text}\t1\t{x}\t{-float(y)}\t{t}")
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    same = zip(read_strokes(tmp_path / "a.csv"), read_strokes(tmp_path / "a.tsv"), strict=True)
    for a, b in same:
        assert a.letters.keys() == b.letters.keys()
        for text in a.letters:
            for s, r in zip(a.letters[text].strokes, b.letters[text].strokes, strict=True):
                np.testing.assert_allclose(s, r)


def test_json(tmp_path: Path) -> None:
    entries = [
        {"text": "p", "strokes": [[[0, 0, 0], [0, 17, 5]]], "y_down": True},
        {"text": "-", "strokes": [[[0, 0], [8, 0]]], "writer": "eve"},
    ]
    (tmp_path / "ink.json").write_text(json.dumps(entries))
    first, eve = read_strokes(tmp_path / "ink.json")
    assert (first.name, eve.name) == ("ink", "eve")
    np.testing.assert_allclose(first.letters["p"].strokes[0][[0, -1], 1], [1.0, -0.7], atol=1e-9)
    np.testing.assert_allclose(eve.letters["-"].strokes[0][:, 1], 0.5)


def test_a_text_takes_its_height_from_its_letters() -> None:
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]])
    for text, bottom, top in [("now", 0, 1), ("hold", 0, 1.75), ("gap", -0.7, 1), ("Go 7", 0, 1.5)]:
        points = np.concatenate(normalised(text, [square]).strokes)
        assert points[:, 1].min() == pytest.approx(bottom, abs=0.05)
        assert points[:, 1].max() == pytest.approx(top, abs=0.05)


def test_recorded_texts_join_the_words(tmp_path: Path) -> None:
    (tmp_path / "pen.csv").write_text(TABLE.replace("lot", "Xylo"))
    source = Rendered("pen", stroke_files=(tmp_path / "pen.csv",))
    assert "Xylo" in source.texts()
    assert {"ann", "bob"} <= {c.name for c in source.carriers()}
    assert source.identity() != Rendered("pen").identity()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", "<ink/>", "not a stroke file"),
        ("a.csv", "x,y\n1,2\n", "lacks the column pen, text"),
        ("a.csv", "x,y,text,stroke\n1,two,a,0\n", r"line 2: y is 'two', not a number"),
        ("a.csv", "x,y,text,stroke\n1,nan,a,0\n", "not a number"),
        ("a.csv", "x,y,text,stroke\n1,2\n", "stroke is None, not a number"),
        ("a.csv", "x,y,text,stroke\n1,2,a,0\n", "no strokes of two points"),
        ("a.csv", "x,y,text,stroke,t\n1,2,a,0,5\n2,3,a,0,4\n", "run backwards"),
        ("a.json", "{", "cannot be read as json"),
        ("a.json", "{}", "not a JSON list"),
        ("a.json", "[3]", "entry 1 has no 'text'"),
        ("a.json", '[{"text": "a"}]', "no list 'strokes'"),
        ("a.json", '[{"text": "a", "strokes": [[[1, 2], [3]]]}]', r"not a list of \[x, y\]"),
        ("a.json", '[{"text": "a", "strokes": [7]}]', r"not a list of \[x, y\]"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_strokes(tmp_path / name)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no stroke file"):
        read_strokes(tmp_path / "absent.csv")
