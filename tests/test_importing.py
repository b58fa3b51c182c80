"""rvsm data import: from anybody's labelled scans to a network that answers about others."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import set_layouts
from commandline import run_here
from rvsm.errors import DataError
from rvsm.experiments.importing import import_set
from rvsm.handwriting.check import check
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.manifest import Row, read_manifest
from rvsm.handwriting.readers import read
from rvsm.handwriting.scans.reading import Reading
from rvsm.handwriting.scans.ready import ready, rows_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*"),
]


def words(root: Path, people: int = 6, classes: tuple[str, str] = ("healthy", "patients")) -> Path:
    """Class folders of ruled words, two by each person, who is in the file name."""
    for person in range(people):
        for word in range(2):
            file = root / classes[person % 2] / f"p{person:02d}_{word}.png"
            set_layouts.save(set_layouts.ruled_word(10 * person + word), file)
    return root


def listed(root: Path, people: int = 6) -> Path:
    """A CSV list of the same, in which the person and the label stand."""
    words(root, people)
    lines = ["file,label,person"]
    for file in sorted(root.rglob("*.png")):
        label = "healthy" if file.parent.name == "healthy" else "parkinson"
        lines.append(f"{file.relative_to(root).as_posix()},{label},{file.name[:3]}")
    (root / "list.csv").write_text("\n".join(lines))
    return root


def by_split(rows: list[Row]) -> dict[str, set[str]]:
    return {
        split: {r.carrier for r in rows if r.split == split} for split in {r.split for r in rows}
    }


def test_drawings_are_as_predict_reads_them_and_nobody_is_in_two_splits(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path / "set")
    out = tmp_path / "out"
    made = import_set(root, out, task="spiral", workers=1)
    rows = read_manifest(out)
    assert len(rows) == 18
    assert {row.task for row in rows} == {"spiral"}
    splits = by_split(rows)
    assert set(splits) == {"train", "val", "test-unseen"}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 6
    assert all(
        {r.label for r in rows if r.split == split} == {"regular", "shaky"} for split in splits
    )
    collection = read(root).chosen(lambda row: row.task == "spiral")
    how = Reading(True, size=(256, 256), drawing=True)
    assert whole_size(out) == (256, 256)
    for asked, row in zip(rows_of(collection), rows, strict=True):
        wanted = ready(asked, how).image
        assert wanted is not None
        np.testing.assert_array_equal(read_grey(out / row.file, whole_size(out)), wanted)
    assert made.description["counts"]["val"] == {"regular": 3, "shaky": 3}
    assert json.loads((out / "dataset.json").read_text("utf-8")) == made.description
    again = import_set(root, tmp_path / "again", task="spiral", workers=1)
    other = import_set(root, tmp_path / "other", task="spiral", seed=1, workers=1)
    assert again.description == made.description
    assert other.description["carriers"] != made.description["carriers"]


def test_words_come_at_the_size_of_letters(tmp_path: Path) -> None:
    """The two layouts of a user's own: a CSV list, and class folders with the person in names."""
    found = []
    for number, (root, person) in enumerate(
        ((listed(tmp_path / "list"), None), (words(tmp_path / "folders"), r"(p\d+)_"))
    ):
        out = tmp_path / f"out{number}"
        import_set(root, out, person=person, workers=1)
        rows = read_manifest(out)
        (first, *_) = rows_of(read(root, person=person))
        wanted = ready(first, Reading(True, letters=True)).image
        np.testing.assert_array_equal(read_grey(out / rows[0].file), wanted)
        found.append([(row.split, row.label, row.carrier) for row in rows])
    assert found[0] == found[1]
    told = json.loads((tmp_path / "out0" / "dataset.json").read_text("utf-8"))
    assert told["task"] == "words"
    # A set that knows no task is told it.
    import_set(tmp_path / "list", tmp_path / "drawn", task="spiral", workers=1)
    assert whole_size(tmp_path / "drawn") == (256, 256)


def test_black_forms_are_taken_away_where_asked(tmp_path: Path) -> None:
    root, ink = set_layouts.black_forms(tmp_path / "set"), []
    for how in ("auto", "registration"):
        out = tmp_path / how
        made = import_set(root, out, task="spiral", person=r"/(p\d)", isolate=how, workers=1)
        assert made.description["options"]["source"]["isolate"] == how
        images = [read_grey(out / row.file, whole_size(out)) for row in read_manifest(out)]
        ink.append(sum(int((image < 128).sum()) for image in images))
        assert (out / "template-spiral.png").is_file() == (how == "registration")
    assert ink[1] < 0.7 * ink[0]
    assert made.description["template"] == "template-spiral.png"
    assert f"template: {out / 'template-spiral.png'}, for" in "\n".join(made.summary())


def test_recordings_become_drawings(tmp_path: Path) -> None:
    root = set_layouts.uci_spirals(tmp_path / "set")
    import_set(root, tmp_path / "out", task="static-spiral", workers=1)
    assert whole_size(tmp_path / "out") == (256, 256)
    told = json.loads((tmp_path / "out" / "dataset.json").read_text("utf-8"))
    assert told["task"] == "drawing"


def test_what_was_left_out_of_other_tasks_is_not_told(tmp_path: Path) -> None:
    root = set_layouts.parkinsons_drawings(tmp_path / "set")
    for task, name in (("spiral", "V55HE01"), ("wave", "V55HO02")):
        set_layouts.save(set_layouts.drawing(1), root / task / f"training/healthy/{name}.png")
    (spiral := root / "spiral" / "training" / "healthy" / "V01HE02.png").write_bytes(b"no image")
    (root / "wave" / "training" / "healthy" / "V01HO02.png").write_bytes(b"no image")
    made = import_set(root, tmp_path / "spirals", task="spiral", workers=1)
    assert set(made.description["skipped"]["files"]) == {
        "spiral/training/healthy/V55HE01.png",
        spiral.relative_to(root).as_posix(),
    }
    recordings = set_layouts.uci_spirals(tmp_path / "recordings")
    made = import_set(recordings, tmp_path / "static", task="static-spiral", workers=1)
    assert made.description["skipped"] == {}


def test_what_is_skipped_is_told(tmp_path: Path) -> None:
    root = listed(tmp_path / "set")
    (root / "healthy" / "p00_0.png").write_bytes(b"no picture")
    with (root / "list.csv").open("a") as stream:
        stream.write("\nhealthy/gone.png,healthy,p08\nhealthy/p02_0.png,,p02")
    made = import_set(root, tmp_path / "out", shares={"test-unseen": 0}, workers=1)
    skipped = made.description["skipped"]["files"]
    assert set(skipped) == {"healthy/p00_0.png", "healthy/gone.png", "healthy/p02_0.png"}
    assert str(tmp_path) not in "".join(skipped.values())
    assert "3 files skipped" in "\n".join(made.summary())
    assert not made.doubt
    assert set(made.description["counts"]) == {"train", "val"}


def test_drawings_without_a_task_are_doubted(tmp_path: Path) -> None:
    root = set_layouts.black_forms(tmp_path / "set")
    made = import_set(root, tmp_path / "out", person=r"/(p\d)", workers=1)
    assert "of drawings, tell the --task" in "\n".join(made.summary())
    told = import_set(root, tmp_path / "told", person=r"/(p\d)", task="spiral", workers=1)
    assert not told.doubt


def test_one_sentence(tmp_path: Path) -> None:
    def sentence(root: Path, **options: object) -> str:
        with pytest.raises(DataError) as raised:
            import_set(root, tmp_path / "out", workers=1, **options)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
        return str(raised.value)

    both = set_layouts.parkinsons_drawings(tmp_path / "both")
    assert "holds spiral, wave: choose one by --task" in sentence(both)
    assert "holds no task circle" in sentence(both, task="circle")
    folders = words(tmp_path / "folders")
    assert "Nobody knows whose 12 of 12 images are" in sentence(folders)
    assert "holds only images of class healthy" in sentence(
        words(tmp_path / "one", classes=("healthy", "healthy")), person=r"(p\d+)_"
    )
    assert "are 1 of class healthy and 1 of class patients, too few" in sentence(
        words(tmp_path / "two", 2), person=r"(p\d+)_"
    )
    assert "are 1 of class healthy and 1 of class patients" in sentence(folders, person="(p)")
    assert "holds no images of two classes" in sentence(set_layouts.dhsd(tmp_path / "dhsd"))
    assert "There is no split 'test'" in sentence(folders, shares={"test": 0.2})
    assert "leave some for training" in sentence(folders, shares={"val": 0.9})
    import_set(folders, tmp_path / "made", person=r"(p\d+)_", workers=1)
    assert "is a data folder already" in sentence(tmp_path / "made")
    with pytest.raises(DataError, match="already holds other files"):
        import_set(folders, tmp_path / "made", person=r"(p\d+)_")


def test_people_asked_for_the_same_words_are_no_fault(tmp_path: Path) -> None:
    root = listed(tmp_path / "set")
    table = [line.split(",") for line in (root / "list.csv").read_text().splitlines()]
    with (root / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [*line, "text" if number == 0 else "milk"] for number, line in enumerate(table)
        )
    import_set(root, tmp_path / "out", workers=1)
    levels = {finding.name: finding.level for finding in check(tmp_path / "out").findings}
    assert levels["words apart"] == "warning"
    assert levels["persons apart"] == "fine"


def test_from_scans_to_an_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, out, run = words(tmp_path / "set"), tmp_path / "out", tmp_path / "run"
    wrong = run_here(capfd, "train", root, "--out", run).sentence()
    assert f"`rvsm data import {root} DIR`" in wrong
    made = run_here(
        capfd,
        "data",
        "import",
        root,
        out,
        "--person",
        r"(p\d+)_",
        "--share",
        "val=0.3",
        "--workers",
        1,
    )
    assert made.code == 0, made.err
    assert "train: " in made.out
    learned = run_here(capfd, "train", out, "--out", run, "--method", "dense", "--epochs", 1)
    assert learned.code == 0, learned.err
    wrong = run_here(capfd, "evaluate", run, root).sentence()
    assert "a set in the layout folders" in wrong
    answered = run_here(capfd, "predict", run, root / "patients", "--scan", "--json")
    assert answered.code == 0, answered.err
    assert len(json.loads(answered.out)["files"]) == 6
    usage = run_here(capfd, "data", "import", root, out, "--share", "val")
    assert "write it like --share val=0.15" in usage.err
