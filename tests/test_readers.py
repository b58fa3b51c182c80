"""rvsm.handwriting.readers on stand-ins of every layout, and on the real sets where they are."""

import gzip
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

import set_layouts
from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting.images import read_picture
from rvsm.handwriting.manifest import Row, list_images, write_manifest
from rvsm.handwriting.readers import LAYOUTS, Collection, is_own, layout_of, read
from rvsm.handwriting.readers.uci import stretch
from rvsm.handwriting.scans.normalise import normalise
from rvsm.handwriting.timed import cut
from set_layouts import drawing, save

STAND_INS: dict[str, Callable[[Path], Path]] = {
    "parkinsons-drawings": set_layouts.parkinsons_drawings,
    "uci-spirals": set_layouts.uci_spirals,
    "newhandpd": set_layouts.newhandpd,
    "handpd": set_layouts.handpd,
    "dhsd": set_layouts.dhsd,
    "omniglot": set_layouts.omniglot,
    "idx": set_layouts.idx,
}


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"the set {name} is not at {path} (set RVSM_DATA to the folder above)")
    return path


def by_file(collection: Collection) -> dict[str, Row]:
    return {row.file: row for row in collection.rows}


@pytest.mark.parametrize("name", STAND_INS)
def test_layouts_are_recognised(name: str, tmp_path: Path) -> None:
    root = STAND_INS[name](tmp_path / "set")
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    assert layout_of(root) == name
    assert not is_own(root)
    collection = read(root)
    assert collection.layout == name
    assert [row.file for row in read(root, layout=name).rows] == [r.file for r in collection.rows]
    for row in collection.rows[:3]:
        assert min(collection.picture(row).size) > 5
    assert before == sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    assert f"in the layout {name}" in collection.summary()[0]


def test_parkinsons_drawings(tmp_path: Path) -> None:
    collection = read(set_layouts.parkinsons_drawings(tmp_path))
    assert collection.classes == ("healthy", "parkinson")
    assert len(collection.rows) == 36
    row = by_file(collection)["wave/training/parkinson/V09PO03.png"]
    assert (row.carrier, row.label, row.split) == ("P09", "shaky", "train")
    assert (row.task, row.repetition) == ("wave", "3")
    # V01HE and V01HO are one person, V01PE another.
    assert sorted(collection.persons()) == ["H01", "H02", "H09", "P01", "P02", "P09"]
    assert {r.split for r in collection.rows if r.repetition == "1"} == {"test"}
    spirals = read(tmp_path / "spiral")
    assert len(spirals.rows) == 18
    assert {row.task for row in spirals.rows} == {"spiral"}


def test_uci(tmp_path: Path) -> None:
    collection = read(set_layouts.uci_spirals(tmp_path))
    assert Counter(row.task for row in collection.rows) == {"static-spiral": 7, "dynamic-spiral": 3}
    assert {file.rpartition("#")[2] for file in collection.left_out} == {"1", "2"}
    told = collection.left_out["hw_dataset/parkinson/H_P000-0025.txt#1"]
    assert "H_P000-0024.txt#1: nobody knows whose it is" in told
    row = by_file(collection)["hw_dataset/control/C_0001.txt#0"]
    assert (row.carrier, row.label, row.split) == ("C_0001", "regular", "all")
    strokes = collection.strokes(row)
    assert strokes is not None
    assert strokes.in_mm
    # The clock stands still for half a second in the middle.
    assert [len(path) for path in strokes.paths] == [400]
    assert [len(t) for t, _ in cut(strokes)] == [201, 199]
    every = np.concatenate(strokes.paths)
    assert every[0, 0] == 0
    assert every[1, 0] == pytest.approx(0.007)
    assert np.ptp(every[:, 1]) == pytest.approx(0.204 * 1.06 * 325, rel=0.05)
    assert (every[:, 2] < 0).all()  # screens count downwards


@pytest.mark.parametrize(("person", "seed"), [("H_P000-0011", 9), ("P_26060001", 10)])
def test_uci_screens_that_were_too_wide(tmp_path: Path, person: str, seed: int) -> None:
    lines = set_layouts.uci_lines(0, seed)
    true_x, true_y = np.array([line.split(";")[:2] for line in lines], dtype=float).T
    collection = read(set_layouts.uci_spirals(tmp_path))
    row = next(row for row in collection.rows if row.carrier == person)
    strokes = collection.strokes(row)
    assert strokes is not None
    x, y = np.concatenate(strokes.paths)[:, 1:].T
    assert np.ptp(x) / np.ptp(y) == pytest.approx(np.ptp(true_x) / np.ptp(true_y), rel=0.01)


def test_uci_clock_that_runs_backwards(tmp_path: Path) -> None:
    path = set_layouts.uci_spirals(tmp_path) / "hw_dataset/control/C_0001.txt"
    lines = path.read_bytes().split(b"\r\n")
    lines[10], lines[11] = lines[11], lines[10]
    lines[20] = lines[21]
    path.write_bytes(b"\r\n".join(lines))
    collection = read(tmp_path)
    strokes = collection.strokes(by_file(collection)["hw_dataset/control/C_0001.txt#0"])
    assert strokes is not None
    # As stamped; where it matters they are cut, and samples of one stamp become one.
    assert (np.diff(strokes.paths[0][:, 0]) < 0).sum() == 1
    assert [len(t) for t, _ in cut(strokes)] == [11, 189, 199]
    assert all((np.diff(t) > 0).all() for t, _ in cut(strokes))


def test_newhandpd(tmp_path: Path) -> None:
    collection = read(set_layouts.newhandpd(tmp_path))
    row = by_file(collection)["PatientSpiral/sp4-P3.jpg"]
    assert (row.carrier, row.label, row.task, row.repetition) == ("P03", "shaky", "spiral", "4")
    assert sorted(collection.persons()) == ["H01", "H28", "P01", "P03"]
    assert Counter(row.task for row in collection.rows) == {"spiral": 16, "meander": 4, "circle": 4}


def test_handpd(tmp_path: Path) -> None:
    with_table = read(set_layouts.handpd(tmp_path / "a"))
    # The table says that exams 1 and 2 of the controls are one person.
    assert sorted(with_table.persons()) == ["H007", "P001", "P101"]
    without = read(set_layouts.handpd(tmp_path / "b", table=False))
    assert sorted(without.persons()) == ["H001", "H002", "P001", "P101"]
    row = by_file(without)["Spiral_HandPD/SpiralPatients/0101-2.jpg"]
    assert (row.label, row.task, row.repetition) == ("shaky", "spiral", "2")


def test_dhsd(tmp_path: Path) -> None:
    collection = read(set_layouts.dhsd(tmp_path))
    row = by_file(collection)["german_hw_data/writer2/2_0.png"]
    assert (row.carrier, row.text, row.split, row.label) == ("writer2", "Ort 0", "test", "")
    assert Counter(row.split for row in collection.rows) == {"train": 6, "test": 2}


def test_dhsd_with_a_missing_image(tmp_path: Path) -> None:
    root = set_layouts.dhsd(tmp_path)
    (root / "german_hw_data/writer2/2_0.png").unlink()
    collection = read(root)
    assert collection.left_out == {"german_hw_data/writer2/2_0.png": "there is no such file"}
    assert len(collection.rows) == 7


def test_omniglot(tmp_path: Path) -> None:
    collection = read(set_layouts.omniglot(tmp_path))
    assert sorted(collection.persons()) == [
        f"{alphabet}-{p:02d}" for alphabet in ("Greek", "Latin", "Tagalog") for p in (1, 2)
    ]
    assert len(collection.left_out) == 2
    texts = {row.carrier: row.text for row in collection.rows}
    assert texts["Latin-01"] == "c"
    assert texts["Greek-01"] == "Greek 03"
    strokes = collection.strokes(collection.rows[0])
    assert strokes is not None
    assert not strokes.in_mm
    np.testing.assert_allclose(strokes.paths[0][1], [0.016, 12.5, -22.0])
    np.testing.assert_allclose(strokes.paths[1][0], [0.4, 1.0, -2.0])
    alone = read(tmp_path / "strokes_background_small1.zip")
    assert len(alone.rows) == 4


def test_idx(tmp_path: Path) -> None:
    collection = read(set_layouts.idx(tmp_path))
    assert [(row.split, row.text) for row in collection.rows[:2]] == [("test", "0"), ("test", "1")]
    assert collection.picture(collection.rows[3]).size == (28, 28)
    assert np.asarray(collection.picture(collection.rows[3])).std() > 0


def test_folders_of_classes(tmp_path: Path) -> None:
    for name in ("training/Control/a.png", "training/Patients/b.png", "testing/Control/c.png"):
        save(drawing(1), tmp_path / name)
    save(drawing(2), tmp_path / ".thumbs/d.png")
    collection = read(tmp_path)
    assert collection.layout == "folders"
    assert collection.classes == ("Control", "Patients")
    assert [(row.split, row.label) for row in collection.rows] == [
        ("test", "regular"),
        ("train", "regular"),
        ("train", "shaky"),
    ]


def test_folder_without_classes(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "scans/p07_1.png")
    save(drawing(2), tmp_path / "scans/p08_1.png")
    collection = read(tmp_path, person=r"(p\d+)_")
    assert [(row.label, row.split, row.carrier) for row in collection.rows] == [
        ("", "all", "p07"),
        ("", "all", "p08"),
    ]
    save(drawing(3), tmp_path / "healthy/x.png")
    with pytest.raises(DataError, match=r"2 of 3 images .* lie in no class folder, scans/p07"):
        read(tmp_path)


def test_own_folder_is_read_by_its_manifest(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "train/regular/0.png")
    save(drawing(2), tmp_path / "train/shaky/0.png")
    assert is_own(tmp_path)
    rows = list_images(tmp_path)
    write_manifest(tmp_path / "manifest.csv", rows)
    assert is_own(tmp_path)
    assert layout_of(tmp_path) == "folders"
    assert list(read(tmp_path).rows) == rows
    assert "task" not in (tmp_path / "manifest.csv").read_text()


def test_csv(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "scans/a.png")
    save(drawing(2), tmp_path / "scans/b.png")
    table = tmp_path / "list.csv"
    table.write_text(
        "\ufefffilename,diagnosis,patient,set\nscans/a.png,PD,12,Training\n"
        "scans/b.png,control,13,test\nscans/c.png,,13,test\n",
        encoding="utf-8",
    )
    for root in (tmp_path, table):
        collection = read(root)
        assert collection.layout == "csv"
        assert [(r.label, r.carrier, r.split) for r in collection.rows] == [
            ("shaky", "12", "train"),
            ("regular", "13", "test"),
            ("", "13", "test"),
        ]
        assert "no image file scans/c.png" in collection.rows[2].error
        assert collection.classes == ("control", "PD")
        with pytest.raises(DataError, match="no image file"):
            collection.picture(collection.rows[2])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_of_a_spreadsheet(separator: str, tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "a.png")
    lines = ["File,Diagnosis,Person,Note", "a.png,PD,12,one; two"]
    text = "\r\n".join(line.replace(",", separator) for line in lines)
    (tmp_path / "list.csv").write_text(text.replace("one; two", '"one; two"'), encoding="utf-8")
    collection = read(tmp_path)
    assert collection.layout == "csv"
    assert [(r.file, r.label, r.carrier) for r in collection.rows] == [("a.png", "shaky", "12")]


def test_lists_and_pages_that_are_not_read_are_named(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "healthy/a.png")
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("file,label\nhealthy/a.png,PD\n")
    (tmp_path / "healthy/letter.PDF").write_bytes(b"%PDF-1.4")
    (tmp_path / "healthy/notes.txt").write_text("eggs")
    collection = read(tmp_path)
    assert collection.layout == "folders"
    assert sorted(collection.left_out) == ["healthy/letter.PDF", "one.csv", "two.csv"]
    assert "save each page as PNG" in collection.left_out["healthy/letter.PDF"]
    assert "a list needs a column file" in collection.left_out["one.csv"]


def test_a_picture_is_no_set(tmp_path: Path) -> None:
    save(drawing(1), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png is no set that is one file .*rvsm predict"):
        read(tmp_path / "a.png")


BAD_TABLES = {
    "name,label\na.png,regular\n": "no column that names the image files: call it file",
    "file,label\na.png,maybe\n": "line 2: the label is 'maybe'",
    "file,label\n../a.png,regular\n": "must be a path inside the folder",
    "file,label\n": "lists no images",
    "file,label\nx.png,regular\n": "None of the 1 files that",
}


@pytest.mark.parametrize("text", BAD_TABLES, ids=list(BAD_TABLES.values()))
def test_bad_tables(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=BAD_TABLES[text]):
        read(tmp_path, layout="csv")
    (tmp_path / "list.csv").rename(tmp_path / "list.tsv")
    with pytest.raises(DataError, match=BAD_TABLES[text]):
        read(tmp_path / "list.tsv")  # a list that is named is one, whatever its columns


def test_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"file,label\n\xff\xfe\x00,regular\n")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read(tmp_path / "list.csv", layout="csv")


def test_table_without_its_columns(tmp_path: Path) -> None:
    root = set_layouts.handpd(tmp_path)
    (root / "Spiral_HandPD.csv").write_text("IMAGE_NAME,AGE\n0001-1.jpg,60\n")
    with pytest.raises(DataError, match="lacks the column CLASS_TYPE, ID_PATIENT"):
        read(root)


BAD_PATTERNS = {
    "(V)(\\d+)": "has 2 groups",
    "(V": "is not a regular expression",
    "(nobody)": "is found in none of 36 paths",
    "(V09H)": "is found in 6 of 36 paths, not in spiral",
}


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_bad_person_patterns(pattern: str, tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    with pytest.raises(DataError, match=BAD_PATTERNS[pattern]):
        read(root, person=pattern)


def test_person_pattern_overrules_the_reader(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path)
    assert sorted(read(root, person=r"/V(\d+)").persons()) == ["01", "02", "09"]
    # Without a group all that is found is the person.
    assert "V01H" in read(root, person=r"V\d+[HP]").persons()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file or folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="looks like none of the known layouts"):
        read(tmp_path)
    with pytest.raises(DataError, match="There is no layout 'zip'"):
        read(tmp_path, layout="zip")
    for name in LAYOUTS:
        with pytest.raises(DataError, match=str(tmp_path)):
            read(tmp_path, layout=name)


def test_damaged_files(tmp_path: Path) -> None:
    uci = set_layouts.uci_spirals(tmp_path / "uci")
    (uci / "hw_dataset/control/C_0001.txt").write_text("1;2;3\n4;5\n")
    assert "line 1 has 3" in read(uci).left_out["hw_dataset/control/C_0001.txt"]
    for file in uci.rglob("*_*.txt"):
        file.write_text("1;2;3\n4;5\n")
    with pytest.raises(DataError, match=r"None of the 7 .*C_0001.txt is no recording"):
        read(uci)
    idx = set_layouts.idx(tmp_path / "idx") / "train-images-idx3-ubyte.gz"
    whole = gzip.decompress(idx.read_bytes())
    idx.write_bytes(gzip.compress(whole[:-100]))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged or cut short"):
        read(tmp_path / "idx")
    archive = set_layouts.omniglot(tmp_path / "omni") / "strokes_background_small1.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match=r"small1.zip is not a sound zip file"):
        read(tmp_path / "omni")


def test_stretch_of_nothing() -> None:
    assert stretch(np.zeros((0, 7))) == 1.0


def test_a_volunteer_who_is_nobody_is_left_out(tmp_path: Path) -> None:
    """Healthy volunteer 55 of the published set; V55P, should there be one, is somebody."""
    root = set_layouts.parkinsons_drawings(tmp_path)
    for copy, name in (("V55HE01", "healthy"), ("V55HO02", "healthy"), ("V55PE01", "parkinson")):
        made = root / ("spiral" if copy[4] == "E" else "wave") / "training" / name / f"{copy}.png"
        save(drawing(1), made)
    collection = read(root)
    assert set(collection.left_out) == {
        "spiral/training/healthy/V55HE01.png",
        "wave/training/healthy/V55HO02.png",
    }
    assert "another healthy volunteer's" in next(iter(collection.left_out.values()))
    assert "P55" in collection.persons()
    assert "H55" not in collection.persons()


def test_the_real_copies_are_copies() -> None:
    """Each wave of V55H is, mirrored, a wave of somebody else, and each spiral one turned by 18."""
    root = real("parkinsons-drawings")

    def small(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        found = normalise(picture.convert("RGB")).ink
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        box = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        grey = Image.fromarray((255 * box).astype(np.uint8)).resize(size, Image.Resampling.BOX)
        blurred = ndimage.gaussian_filter(np.asarray(grey, dtype=float), 1.0)
        centred = blurred - blurred.mean()
        return (centred / np.linalg.norm(centred)).ravel()

    def turned(picture: Image.Image, angle: float) -> Image.Image:
        return picture.convert("RGB").rotate(
            angle, Image.Resampling.BILINEAR, True, fillcolor=(255, 255, 255)
        )

    for task, size in (("wave", (128, 64)), ("spiral", (64, 64))):
        paths = sorted((root / task).rglob("healthy/*.png"))
        copies = [path for path in paths if path.stem.startswith("V55")]
        assert len(copies) == 15
        others = np.array([small(read_picture(p), size) for p in paths if p not in copies])
        best = []
        for path in copies:
            picture = read_picture(path)
            if task == "wave":
                looks = [ImageOps.mirror(picture)]
            else:
                looks = [turned(picture, angle) for angle in (-17.0, -18.0, -19.0)]
            best.append(max(float((others @ small(look, size)).max()) for look in looks))
        assert min(best) > 0.85, (task, best)


def test_real_parkinsons_drawings() -> None:
    collection = read(real("parkinsons-drawings"))
    assert collection.layout == "parkinsons-drawings"
    assert Counter(row.task for row in collection.rows) == {"spiral": 87, "wave": 87}
    people = collection.persons()
    assert Counter(person[0] for person in people) == {"H": 12, "P": 15}
    assert len(collection.left_out) == 30
    rgba = [row for row in collection.rows if collection.picture(row).mode == "RGBA"]
    assert len(rgba) == 6
    assert {row.label for row in rgba} == {"regular"}


def test_real_uci() -> None:
    collection = read(real("uci-pd-spirals"))
    assert collection.layout == "uci-spirals"
    assert Counter(person[0] == "C" for person in collection.persons()) == {True: 12, False: 47}
    assert {name for name, why in collection.left_out.items() if "same recording" in why} == {
        "hw_dataset/parkinson/H_P000-0024.txt#1",
        "hw_dataset/parkinson/H_P000-0025.txt#1",
    }
    widths = {}
    for row in collection.rows:
        strokes = collection.strokes(row)
        assert strokes is not None
        every = np.concatenate(strokes.paths)
        if row.task == "static-spiral":
            widths[row.carrier] = np.ptp(every[:, 1])
    # All followed one printed spiral, 75 mm wide.
    assert 65 < min(widths.values()) < max(widths.values()) < 90


def test_real_dhsd() -> None:
    collection = read(real("dhsd"))
    assert collection.layout == "dhsd"
    assert Counter(row.split for row in collection.rows) == {"train": 3895, "test": 978}
    assert len(collection.persons()) == 30


def test_real_omniglot() -> None:
    collection = read(real("omniglot-strokes"))
    assert collection.layout == "omniglot"
    latin = [row for row in collection.rows if row.carrier.startswith("Latin-")]
    assert len({row.carrier for row in latin}) == 20
    assert len({row.text for row in latin}) == 26
    strokes = collection.strokes(latin[0])
    assert strokes is not None
    assert 0.2 < strokes.paths[-1][-1, 0] < 60  # seconds


def test_real_mnist() -> None:
    collection = read(real("mnist"))
    assert collection.layout == "idx"
    assert Counter(row.split for row in collection.rows) == {"train": 60000, "test": 10000}


def test_stand_ins_can_be_read_from_a_copy(tmp_path: Path) -> None:
    """No reader keeps what it read of another folder of the same name."""
    root = set_layouts.uci_spirals(tmp_path / "set")
    assert len(read(root).rows) == 10
    shutil.rmtree(root / "hw_dataset/control")
    (root / "hw_dataset/control").mkdir()
    with pytest.raises(DataError, match="looks like none"):
        read(root)
