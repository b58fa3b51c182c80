"""rvsm.handwriting.leaks: the traps of the public sets are found, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import set_layouts
from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting.check import CheckReport, check
from rvsm.handwriting.duplicates import coarse, near_identical, thumbnail
from rvsm.handwriting.findings import Finding, persons_apart
from rvsm.handwriting.leaks import check_collection
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.readers import read
from set_layouts import drawing, save


def finding(report: CheckReport, name: str) -> Finding:
    return next(found for found in report.findings if found.name == name)


def test_parkinsons_drawings(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    root = set_layouts.parkinsons_drawings(tmp_path)
    report = check_collection(read(root), progress=lambda *step: seen.append(step))
    assert seen[-1] == (36, 36)
    assert not report.ok
    assert report.images["train"] == {"regular": 12, "shaky": 12}
    apart = finding(report, "persons apart")
    assert apart.level == "fault"
    assert "6 of 6 of test are in train" in apart.text
    assert "all 6 RGBA pictures are regular" in finding(report, "colour mode").text
    for name in ("equal pictures", "near copies", "image size", "class balance", "left out"):
        assert finding(report, name).level == "fine", finding(report, name)


def test_people_who_stay_apart(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    collection = read(root).chosen(lambda row: (row.split == "test") == row.carrier.endswith("09"))
    report = check_collection(collection)
    assert finding(report, "persons apart").text == "no person is in two splits"


def test_unknown_people(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "healthy/a.png")
    save(drawing(2), tmp_path / "parkinson/b.png")
    report = check_collection(read(tmp_path))
    assert "give --person" in finding(report, "persons apart").text
    assert finding(report, "persons known").level == "warning"
    assert report.ok


def test_splits_of_every_order() -> None:
    def row(split: str, person: str) -> Row:
        return Row(f"{split}{person}.png", split, "", carrier=person, carrier_kind="person")

    rows = [row("test", "a"), row("train", "a"), row("val", "b"), row("train", "b")]
    told = persons_apart(rows)
    assert told.level == "fault"
    assert "1 of 1 of test are in train" in told.text
    assert "1 of 1 of val are in train" in told.text


def test_uci(tmp_path: Path) -> None:
    report = check_collection(read(set_layouts.uci_spirals(tmp_path)))
    told = finding(report, "left out")
    assert told.level == "warning"
    assert "H_P000-0025.txt#1: the same recording as" in told.text
    assert "stability" in told.text
    assert "no published split: split by person" in finding(report, "persons apart").text
    assert {found.name for found in report.findings}.isdisjoint({"colour mode", "image size"})


def test_dhsd(tmp_path: Path) -> None:
    report = check_collection(read(set_layouts.dhsd(tmp_path)))
    assert "2 of 2 of test are in train" in finding(report, "persons apart").text
    assert finding(report, "class balance").text == "no picture has a label"


def test_copies(tmp_path: Path) -> None:
    """A picture saved again in another file format, size and tint is a copy; others are not."""
    size = (300, 250)
    for i in range(12):
        save(drawing(i, size=size), tmp_path / ("healthy" if i % 2 else "parkinson") / f"{i}.png")
    save(drawing(1, size=size), tmp_path / "healthy" / "again.png")
    scaled = drawing(2, size=size).resize((225, 188), Image.Resampling.BICUBIC)
    save(Image.fromarray((np.asarray(scaled) * 0.8).astype(np.uint8)), tmp_path / "healthy/2.jpg")
    report = check_collection(read(tmp_path))
    equal, near = finding(report, "equal pictures"), finding(report, "near copies")
    assert (equal.level, near.level) == ("warning", "fault")
    assert "healthy/1.png = healthy/again.png" in equal.text
    assert near.text.startswith("1 pair in different splits, classes or people")
    assert "healthy/2.jpg = parkinson/2.png" in near.text
    # Where some cross, those that do not are told all the same.
    save(drawing(4, size=size).resize((225, 188)), tmp_path / "parkinson" / "4.jpg")
    near = finding(check_collection(read(tmp_path)), "near copies")
    assert near.level == "fault"
    assert near.text.endswith(
        "1 pair of one person in one split: parkinson/4.jpg = parkinson/4.png"
    )


def test_own_folder_with_a_near_copy(tmp_path: Path) -> None:
    for label in ("regular", "shaky"):
        for i in range(4):
            picture = drawing(i + 10 * (label == "shaky"), size=(300, 250))
            save(picture, tmp_path / label / f"{i}.png")
    assert finding(check(tmp_path), "near copies").level == "fine"
    save(drawing(0, size=(300, 250)).resize((450, 375)), tmp_path / "shaky" / "copy.png")
    near = finding(check(tmp_path), "near copies")
    assert near.level == "fault"
    assert "regular/0.png = shaky/copy.png" in near.text


@pytest.mark.parametrize("column", ["person", "writer_id"])
def test_own_manifest_that_names_people(column: str, tmp_path: Path) -> None:
    lines = [f"file,split,label,{column}"]
    for i in range(16):
        save(drawing(i), tmp_path / f"{i}.png")
        split, label = ("train", "test")[i % 4 == 3], ("regular", "shaky")[i // 8]
        lines.append(f"{i}.png,{split},{label},p{i // 4}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    report = check(tmp_path)
    apart = finding(report, "persons apart")
    assert apart.level == "fault"
    assert apart.text.startswith("4 of 4 of test are in train")
    assert not report.ok
    assert finding(report, "persons known").text.startswith("4 people with 4 to 4 pictures each")
    assert not [f for f in report.findings if f.name == "fonts or writers apart"]
    (tmp_path / "7.png").write_bytes((tmp_path / "3.png").read_bytes())
    equal = finding(check(tmp_path), "equal files")
    assert (equal.level, equal.text.split(":")[0]) == (
        "fault",
        "1 files occur more than once in different splits, classes or people",
    )


def test_drawings_over_one_printed_template_are_no_fault(tmp_path: Path) -> None:
    """The template fills most of the ink: pictures of two people are alike and no copies."""
    for group, label in (("H", "Healthy"), ("P", "Patient")):
        for person in (1, 2):
            picture = drawing(0, size=(300, 250)).convert("RGB")
            ImageDraw.Draw(picture).line([(20, 20 * person), (60, 30)], (30, 60, 200), 2)
            save(picture, tmp_path / f"{label}Spiral" / f"sp1-{group}{person}.png")
    near = finding(check_collection(read(tmp_path)), "near copies")
    assert near.level == "warning"
    assert "printed template" in near.text


def test_size_that_tells_the_class(tmp_path: Path) -> None:
    for i in range(20):
        save(drawing(i, size=(120 + i, 100)), tmp_path / "healthy" / f"{i}.png")
        save(drawing(50 + i, size=(150 + i, 100)), tmp_path / "parkinson" / f"{i}.png")
    told = finding(check_collection(read(tmp_path)), "image size")
    assert told.level == "warning"
    assert "width alone has an AUC of 1.00" in told.text or "AUC of 0.99" in told.text


def test_unreadable_pictures(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    files = [row.file for row in read(root).rows]
    (root / files[0]).write_text("eggs")
    report = check_collection(read(root))
    assert list(report.unreadable) == [files[0]]
    assert finding(report, "readable files").level == "warning"
    for file in files:
        (root / file).write_text("eggs")
    with pytest.raises(DataError, match=r"None of the 36 pictures .* can be read"):
        check_collection(read(root))


def test_a_sample(tmp_path: Path) -> None:
    collection = read(set_layouts.parkinsons_drawings(tmp_path))
    report = check_collection(collection, most=10)
    assert sum(sum(by.values()) for by in report.images.values()) == 10
    assert report == check_collection(collection, most=10)


def test_rows_with_errors_are_not_opened(tmp_path: Path) -> None:
    collection = read(set_layouts.parkinsons_drawings(tmp_path))
    first = replace(collection.rows[0], error="It was lost.")
    report = check_collection(replace(collection, rows=(first, *collection.rows[1:])))
    assert report.unreadable == {first.file: "It was lost."}


def test_near_identical_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, 64, 64)).astype(np.uint8)
    base = np.concatenate([base, base[::7] // 2 + 20])
    vectors = [thumbnail(coarse(image)) for image in base]
    brute = [
        (a, b)
        for a in range(len(vectors))
        for b in range(a + 1, len(vectors))
        if float(np.corrcoef(vectors[a], vectors[b])[0, 1]) > 0.95
    ]
    assert near_identical(vectors) == brute
    assert len(brute) == 6
    assert near_identical([]) == []
    assert not thumbnail(coarse(np.full((50, 50), 9, dtype=np.uint8))).any()


@pytest.mark.parametrize("name", ["parkinsons-drawings", "uci-pd-spirals", "dhsd"])
def test_traps_of_the_real_sets(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the set {name} is not at {DATA / name} (set RVSM_DATA to the folder above)")
    report = check_collection(read(DATA / name), most=1500)
    text = {found.name: f"{found.level}: {found.text}" for found in report.findings}
    wanted = {
        "parkinsons-drawings": {
            "persons apart": "fault: 24 of 24 of test are in train",
            "colour mode": "all 6 RGBA pictures are regular",
        },
        "uci-pd-spirals": {
            "left out": "H_P000-0025.txt#1: the same recording as",
            "class balance": "warning: all: 79% of 113",
        },
        "dhsd": {"persons apart": "fault: 30 of 30 of test are in train"},
    }[name]
    for finding_name, part in wanted.items():
        assert part in text[finding_name]
    for finding_name in ("equal pictures", "near copies", "readable files"):
        assert text[finding_name].startswith("fine"), text[finding_name]
