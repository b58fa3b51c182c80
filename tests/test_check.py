"""rvsm.handwriting.check: it finds the short cuts and leaks planted here, and nothing else."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rvsm.errors import DataError, RvsmError
from rvsm.handwriting import check as check_module
from rvsm.handwriting.check import CheckReport, check
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.linear import linear_scores, score
from rvsm.handwriting.manifest import Row, list_images, read_manifest, write_manifest


def bar(rng: np.random.Generator, thick: int = 0) -> np.ndarray:
    image = np.full((64, 256), 255, dtype=np.uint8)
    top, left = rng.integers(4, 20), rng.integers(4, 60)
    image[top : top + 3 + thick + rng.integers(12), left : left + 40 + rng.integers(120)] = 0
    # A few grey specks, so that no two files are equal by chance.
    image[60, rng.integers(0, 256, 6)] = rng.integers(0, 100, 6)
    return image


def folder(root: Path, *, thick: int = 0, shared: bool = False, n: int = 100) -> Path:
    """A data folder of bars; `thick` gives the shaky ones away, `shared` mixes the fonts."""
    rng = np.random.default_rng(1)
    rows = []
    for split in ("train", "test-paper", "test-unseen"):
        for label in ("regular", "shaky"):
            (root / split / label).mkdir(parents=True)
            for i in range(n):
                file = f"{split}/{label}/{i:06d}.png"
                image = bar(rng, thick if label == "shaky" else 0)
                (root / file).write_bytes(encode_png(image))
                font = "new" if split == "test-unseen" and not shared else "old"
                rows.append(
                    Row(
                        file,
                        split,
                        label,
                        f"{split[-3:]}{i}",
                        f"{font}{i % 5}",
                        tremor_amplitude_mm=0.5 if label == "shaky" else 0.0,
                    )
                )
    write_manifest(root / "manifest.csv", rows)
    return root


def level(report: CheckReport, name: str) -> str:
    return next(f.level for f in report.findings if f.name == name)


def test_a_sample_of_each_split(tmp_path: Path) -> None:
    """Bounded in every split, the same each time, and enough to find what is planted."""
    root = folder(tmp_path, thick=20)
    report = check(root, most=60)
    assert [sum(by_label.values()) for by_label in report.images.values()] == [60, 60, 60]
    assert level(report, "global features") == "fault"
    assert check(root, most=60) == report
    assert check(root, most=1000).images["train"] == {"regular": 100, "shaky": 100}


def test_a_sound_folder(tmp_path: Path) -> None:
    report = check(folder(tmp_path))
    assert report.ok, [f for f in report.findings if f.level == "fault"]
    assert report.images["train"] == {"regular": 100, "shaky": 100}
    assert [(s.split, s.band_mm) for s in report.linear] == [
        ("test-paper", None),
        ("test-paper", (0.4, 0.6)),
        ("test-unseen", None),
        ("test-unseen", (0.4, 0.6)),
    ]
    for found in report.linear:
        assert found.low < found.accuracy < found.high
    assert {f.level for f in report.findings if f.name != "global features"} == {"fine"}


def test_thicker_strokes_are_found(tmp_path: Path) -> None:
    report = check(folder(tmp_path, thick=8))
    assert not report.ok
    assert level(report, "global features") == "fault"
    assert min(s.accuracy for s in report.linear) > 0.7
    assert {s.verdict for s in report.linear} == {"fault"}


def test_fonts_shared_against_the_protocol(tmp_path: Path) -> None:
    report = check(folder(tmp_path, shared=True, n=30))
    assert level(report, "fonts or writers apart") == "fault"
    text = next(f.text for f in report.findings if f.name == "fonts or writers apart")
    assert "test-unseen shares 5 of 5 fonts or writers with train" in text
    assert "test-paper shares" not in text


def test_texts_with_a_word_in_common_are_told_and_shared_texts_a_fault(tmp_path: Path) -> None:
    rows = read_manifest(folder(tmp_path, n=10))
    for whole, expected in ((False, "warning"), (True, "fault")):
        streets = [
            replace(row, text="Straße" if whole else f"Straße {row.text}")
            if row.file.endswith("3.png")
            else row
            for row in rows
        ]
        write_manifest(tmp_path / "manifest.csv", streets)
        report = check(tmp_path)
        assert level(report, "words apart") == expected
        told = next(f.text for f in report.findings if f.name == "words apart")
        assert "test-unseen shares 1 of 1" in told
        assert ("no whole text" in told) != whole


def test_a_font_that_goes_with_a_class(tmp_path: Path) -> None:
    rows = read_manifest(folder(tmp_path))
    assert level(check(tmp_path), "fonts and classes") == "fine"
    telling = [
        replace(row, carrier=row.carrier[:-1] + ("8" if row.label == "shaky" else "9"))
        if row.file.endswith(("0.png", "1.png"))
        else row
        for row in rows
    ]
    write_manifest(tmp_path / "manifest.csv", telling)
    assert level(check(tmp_path), "fonts and classes") == "fault"


def test_letters_that_go_with_a_class(tmp_path: Path) -> None:
    rows = read_manifest(folder(tmp_path))
    words = {"regular": ("lamp", "clamp", "palm"), "shaky": ("river", "diver", "drive")}
    for telling, expected in ((0, "fine"), (2, "warning"), (9, "fault")):  # of 9
        texts = [
            replace(
                row,
                text=words[row.label if i % 9 < telling else ("regular", "shaky")[i % 2]][i % 3],
            )
            for i, row in enumerate(rows)
        ]
        write_manifest(tmp_path / "manifest.csv", texts)
        assert level(check(tmp_path), "texts and classes") == expected
    told = next(f.text for f in check(tmp_path).findings if f.name == "texts and classes")
    assert "100.0% balanced accuracy" in told
    write_manifest(tmp_path / "manifest.csv", [replace(row, text="") for row in rows])
    assert level(check(tmp_path), "texts and classes") == "fine"


def test_equal_files_across_splits(tmp_path: Path) -> None:
    folder(tmp_path, n=30)
    copy = (tmp_path / "train/shaky/000000.png").read_bytes()
    (tmp_path / "test-paper/shaky/000003.png").write_bytes(copy)
    assert level(check(tmp_path), "equal files") == "fault"
    (tmp_path / "test-paper/shaky/000003.png").write_bytes(
        (tmp_path / "test-paper/shaky/000004.png").read_bytes()
    )
    assert level(check(tmp_path), "equal files") == "warning"


def test_a_folder_of_the_users_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for label in ("regular", "shaky"):
        (tmp_path / label).mkdir()
        for i in range(40):
            image = Image.fromarray(bar(rng))
            if label == "regular" and i < 12:
                image = image.convert("RGBA")
            if label == "shaky":
                image = image.resize((300 + 4 * (i % 2), 75))
            image.save(tmp_path / label / f"{i}.png")
    (tmp_path / "shaky" / "cut.png").write_bytes(encode_png(bar(rng))[:70])
    (tmp_path / "shaky" / "list.txt").write_text("eggs")
    seen: list[tuple[int, int]] = []
    report = check(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (82, 82)
    assert sorted(report.unreadable) == ["shaky/cut.png", "shaky/list.txt"]
    assert level(report, "readable files") == "warning"
    assert level(report, "colour mode") == "warning"
    assert level(report, "image size") == "warning"
    assert level(report, "words apart") == "warning"
    assert report.linear[0].split == "all, cross-validated"


def test_imbalance_and_too_few(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for label, n in (("regular", 12), ("shaky", 3)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(n):
            (tmp_path / "train" / label / f"{i}.png").write_bytes(encode_png(bar(rng)))
    report = check(tmp_path)
    assert level(report, "class balance") == "warning"
    assert level(report, "global features") == "warning"
    assert report.linear == []
    assert report.ok
    for file in (tmp_path / "train" / "shaky").iterdir():
        file.write_bytes(b"gone")
    with pytest.raises(DataError, match=r"labelled 'regular' \(3 files cannot be read\)"):
        check(tmp_path)


def test_it_prints_and_serialises(tmp_path: Path) -> None:
    report = check(folder(tmp_path / "[red]", thick=8, n=30))
    out = io.StringIO()
    Console(file=out, width=200).print(report)
    assert "[red]" in "".join(out.getvalue().split())  # a long path is wrapped
    assert "95 % interval" in out.getvalue()
    told = json.loads(json.dumps(report.to_dict()))
    assert told["ok"] is False
    assert told["linear"][0]["split"] == "test-paper"


def test_a_model_that_is_mostly_wrong_is_no_short_cut() -> None:
    wrong, right = np.zeros(200, np.bool_), np.ones(200, np.bool_)
    assert score("val", None, wrong, wrong).verdict == "warning"
    assert score("val", None, right, right).verdict == "fault"
    assert score("val", None, right, wrong).verdict == "fine"


def test_unreadable_files_are_noted_and_named(tmp_path: Path) -> None:
    folder(tmp_path, n=30)
    whole = (tmp_path / "manifest.csv").read_bytes()
    bad = [f"train/shaky/{i:06d}.png" for i in range(25)]
    for number, file in enumerate(bad):
        kept = (tmp_path / file).read_bytes()[: 70 * (number % 2)]
        (tmp_path / file).write_bytes(kept)
    (tmp_path / bad[3]).unlink()
    assert check(tmp_path).noted == ""
    assert (tmp_path / "manifest.csv").read_bytes() == whole
    report = check(tmp_path, note=True)
    assert "now lists 25 unreadable files" in report.noted
    noted = {row.file: row.error for row in list_images(tmp_path) if row.error}
    assert noted == report.unreadable
    assert sorted(noted) == bad
    assert noted[bad[3]] == f"There is no image file {bad[3]}: check the name."
    out = io.StringIO()
    Console(file=out, width=200).print(report)
    assert all(file in out.getvalue() for file in bad[:20])
    assert "25 files cannot be read" in out.getvalue()
    assert "and 5 more" in out.getvalue()


def test_a_repaired_file_is_cleared(tmp_path: Path) -> None:
    folder(tmp_path, n=30)
    sound = (tmp_path / "train/shaky/000003.png").read_bytes()
    for number in range(30):
        file = tmp_path / f"train/shaky/{number:06d}.png"
        file.rename(file.with_suffix(".bak"))
        file.write_bytes(b"junk")
    for split in ("test-paper", "test-unseen"):
        for file in (tmp_path / split / "shaky").iterdir():
            file.write_bytes(b"junk")
    with pytest.raises(DataError, match="only images labelled 'regular'"):
        check(tmp_path, note=True)
    with pytest.raises(DataError, match="only images labelled 'regular'"):
        read_manifest(tmp_path)
    for file in (tmp_path / "train" / "shaky").glob("*.bak"):
        file.rename(file.with_suffix(".png"))
    assert "60 unreadable" in check(tmp_path, note=True).noted
    assert {row.file for row in read_manifest(tmp_path) if row.error} == {
        f"{split}/shaky/{i:06d}.png" for split in ("test-paper", "test-unseen") for i in range(30)
    }
    assert (tmp_path / "train/shaky/000003.png").read_bytes() == sound


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, n=30)
    (tmp_path / "train/shaky/000000.png").write_bytes(b"junk")

    def read_only(*_: object) -> bool:
        raise RvsmError("Cannot write manifest.csv: the disk is read-only: choose another folder.")

    monkeypatch.setattr(check_module, "note_errors", read_only)
    assert "were not noted" in check(tmp_path, note=True).noted


def test_images_the_manifest_does_not_list(tmp_path: Path) -> None:
    folder(tmp_path, n=30)
    (tmp_path / "train/shaky/new.png").write_bytes(encode_png(bar(np.random.default_rng(9))))
    report = check(tmp_path)
    assert level(report, "listed files") == "warning"
    assert "train/shaky/new.png" in next(
        f.text for f in report.findings if f.name == "listed files"
    )


def test_a_linear_model_sees_no_writer_twice() -> None:
    """Ink that tells twelve writers apart, each of one class, tells nothing of a thirteenth."""
    rng = np.random.default_rng(0)
    rows, features = [], []
    for writer in range(24):
        label = ("regular", "shaky")[writer % 2]
        own = rng.standard_normal(30)
        for number in range(25):
            name = f"{writer}-{number}.png"
            rows.append(Row(name, "all", label, carrier=f"w{writer}", carrier_kind="person"))
            features.append(own + 0.1 * rng.standard_normal(30))
    (found, *_), _ = linear_scores(rows, np.array(features))
    assert found.accuracy < 0.75
    nobodys = [replace(row, carrier="") for row in rows]
    (seen, *_), _ = linear_scores(nobodys, np.array(features))
    assert seen.accuracy > 0.95


def test_one_of_many_bands_may_be_high_by_chance() -> None:
    few, many = np.arange(90) < 50, np.arange(600) < 333
    high = score("val", (1.0, 1.2), many, few)
    assert high.accuracy > 0.55
    assert high.low > 0.5
    assert high.verdict == "warning"
    enough = np.arange(2000) < 1120
    assert score("val", (1.0, 1.2), enough, enough).verdict == "fault"


def test_too_few_images_are_told_from_enough(tmp_path: Path) -> None:
    some = np.arange(100) < 56
    assert score("val", None, some, some).verdict == "warning"
    assert not score("val", None, some, some).decided
    many = np.arange(4000) < 2050
    assert score("val", None, many, many).decided
    assert score("val", (0.4, 0.6), many, many).place == "val at 0.4-0.6 mm"
    rng = np.random.default_rng(0)
    rows = [
        Row(f"{i}", "train" if i < 200 else "val", ("regular", "shaky")[i % 2]) for i in range(400)
    ]
    rows = [
        replace(row, tremor_amplitude_mm=(0.5 if i < 360 else 0.7) if i % 2 else 0.0)
        for i, row in enumerate(rows)
    ]
    scores, small = linear_scores(rows, rng.standard_normal((400, 3)))
    assert [s.band_mm for s in scores] == [None, (0.4, 0.6)]
    assert [(b.band_mm, b.shaky) for b in small] == [((0.6, 0.8), 20)]
    out = io.StringIO()
    report = CheckReport(tmp_path, {}, {}, [], scores, small)
    Console(file=out, width=200).print(report)
    assert "too few images to decide" in out.getvalue().splitlines()[-2]
    assert json.loads(json.dumps(report.to_dict()))["small"][0]["shaky"] == 20
