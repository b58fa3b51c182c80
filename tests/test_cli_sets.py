"""rvsm data list, sheet and check on sets of others."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import set_layouts
from rvsm.cli import app
from rvsm.handwriting.readers import LAYOUTS


def rvsm(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_list(tmp_path: Path) -> None:
    layouts = rvsm("list").stdout
    assert [line.split()[0] for line in layouts.splitlines()] == list(LAYOUTS)
    root = set_layouts.parkinsons_drawings(tmp_path)
    told = rvsm("list", root).stdout
    assert "36 rows in the layout parkinsons-drawings" in told
    assert "6 healthy    spiral, split train" in told
    assert "6 people: H01, H02, H09, P01, P02, ..." in told
    table = list(csv.DictReader(io.StringIO(rvsm("list", root, "--csv").stdout)))
    assert len(table) == 36
    assert {row["task"] for row in table} == {"spiral", "wave"}
    assert {row["carrier_kind"] for row in table} == {"person"}


def test_check_of_anothers_set(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    before = sorted(root.rglob("*"))
    result = rvsm("check", root, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    levels = {found["name"]: found["level"] for found in told["findings"]}
    assert levels["persons apart"] == "fault"
    assert levels["colour mode"] == "warning"
    assert sorted(root.rglob("*")) == before  # nothing is noted there
    by_number = rvsm("check", root, "--person", r"/V(\d+)", "--json")
    assert "3 of 3 of test are in train" in by_number.stdout


def test_sheet(tmp_path: Path) -> None:
    root = set_layouts.dhsd(tmp_path / "set")
    out = tmp_path / "sheet.png"
    result = rvsm("sheet", root, "--out", out, "--count", 6)
    assert result.exit_code == 0, result.output
    with Image.open(out) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width > 3 * 480


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--person", "(V)(09)"], "has 2 groups"),
        (["--person", "(x"], "is not a regular expression"),
        (["--person", "(nobody)"], "is found in none of 36 paths"),
        (["--layout", "zip"], "There is no layout 'zip': choose one of dhsd"),
        (["--layout", "idx"], "holds none of the files of this layout"),
    ],
)
def test_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    for command in ("list", "check", "sheet"):
        result = rvsm(command, root, *words)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1


def test_nothing_there(tmp_path: Path) -> None:
    for command in ("list", "sheet"):
        result = rvsm(command, tmp_path / "absent")
        assert "There is no file or folder" in result.stderr
    assert "There is no data folder" in rvsm("check", tmp_path / "absent").stderr
