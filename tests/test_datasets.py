"""rvsm.handwriting.datasets: data are a function of the seed and appear whole or never."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rvsm.errors import DataError
from rvsm.handwriting import datasets, generator
from rvsm.handwriting.check import check
from rvsm.handwriting.images import read_grey
from rvsm.handwriting.made import Made
from rvsm.handwriting.manifest import read_manifest
from rvsm.handwriting.splits import CarrierInfo

COUNTS = {"train": 40, "val": 12, "test-paper": 12, "test-unseen": 12, "curve": 12}
FEW = dict.fromkeys(COUNTS, 0) | {"val": 4}


@dataclass(frozen=True)
class FakeSample:
    image: np.ndarray
    text: str
    carrier: str
    meta: dict[str, float]


class FakeSampler:
    """A bar whose place is random; the tremor frays its lower edge."""

    def __init__(self, carriers: Sequence[str], texts: Sequence[str]) -> None:
        self.carriers, self.texts = carriers, texts

    def sample(self, rng: np.random.Generator, *, shaky: bool, amplitude_mm: float) -> FakeSample:
        image = np.full((64, 256), 255, dtype=np.uint8)
        top, left = rng.integers(5, 20), rng.integers(5, 50)
        image[top : top + rng.integers(6, 20), left : left + rng.integers(60, 180)] = 0
        if shaky:
            image[top - 1, left : left + 60 : 2] = 0
        return FakeSample(
            image,
            self.texts[rng.integers(len(self.texts))],
            self.carriers[rng.integers(len(self.carriers))],
            {"tremor_frequency_hz": 5.0 if shaky else 0.0, "pen_mm": 0.3, "secret": 1.0},
        )


@dataclass(frozen=True)
class FakeSource:
    fails: bool = False
    idle: tuple[str, ...] = ()

    def carriers(self) -> list[CarrierInfo]:
        return [CarrierInfo(f"font{i}", f"family{i // 2}", "fake") for i in range(40)]

    def texts(self) -> list[str]:
        return [f"word{i}" for i in range(100)]

    def sampler(self, carriers: Sequence[str], texts: Sequence[str]) -> FakeSampler:
        if self.fails:
            raise DataError("no font draws any of the texts")
        return FakeSampler(carriers, texts)

    def draws(self, carrier: str, texts: Sequence[str]) -> bool:
        return carrier not in self.idle

    def skipped(self) -> dict[str, dict[str, str]]:
        names = dict.fromkeys(self.idle, "it is damaged")
        return {"fonts": names} if names else {}

    def identity(self) -> dict[str, object]:
        return {"task": "fake"}


def make(path: Path, **options: object) -> Made:
    settings: dict[str, object] = {
        "source": FakeSource(),
        "counts": COUNTS,
        "workers": 1,
        "seed": 3,
        **options,
    }
    return datasets.make(path, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data") / "set").path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_layout(made: Path) -> None:
    rows = read_manifest(made)
    assert Counter((r.split, r.label) for r in rows) == {
        (split, label): n // 2 for split, n in COUNTS.items() for label in ("regular", "shaky")
    }
    for row in rows:
        assert row.file.startswith(f"{row.split}/{row.label}/")
        assert read_grey(made / row.file).shape == (64, 256)
        assert row.carrier_kind == "fake"
        assert not row.error
        assert row.tremor_amplitude_mm == (row.virtual_amplitude_mm if row.label == "shaky" else 0)
    told = json.loads((made / "dataset.json").read_text())
    assert told["counts"]["train"] == {"regular": 20, "shaky": 20}
    assert (told["task"], told["set"], told["seed"]) == ("fake", "headline", 3)


def test_amplitudes_lie_in_the_range_of_the_set(made: Path) -> None:
    for row in read_manifest(made):
        low, high = (0.05, 1.5) if row.split == "curve" else (0.4, 1.2)
        assert row.virtual_amplitude_mm is not None
        assert low <= row.virtual_amplitude_mm <= high


def test_a_set_of_one_amplitude_has_the_carriers_and_texts_of_any_other(
    made: Path, tmp_path: Path
) -> None:
    """So tests at exact amplitudes go with what was learned from a range."""
    exact = make(tmp_path / "set", set="0.3-0.3", seed=3)
    rows = read_manifest(exact.path)
    assert [row.virtual_amplitude_mm for row in rows] == pytest.approx([0.3] * len(rows))
    assert {row.split for row in rows} == set(COUNTS)
    assert exact.description["set"] == "0.3-0.3"
    found = json.loads((made / "dataset.json").read_text())
    assert exact.description["carriers"] == found["carriers"]


def test_protocols_are_disjoint(made: Path) -> None:
    fonts: dict[str, set[str]] = {}
    texts: dict[str, set[str]] = {}
    for row in read_manifest(made):
        number = int(row.carrier.removeprefix("font"))
        fonts.setdefault(row.split, set()).add(f"family{number // 2}")
        texts.setdefault(row.split, set()).add(row.text)
    for split in ("val", "test-unseen", "curve"):
        assert not fonts["train"] & fonts[split]
    assert not fonts["val"] & fonts["test-unseen"]
    assert fonts["test-paper"] <= {f"family{i}" for i in range(20)} - fonts["test-unseen"]
    for split in ("val", "test-paper", "test-unseen", "curve"):
        assert not texts["train"] & texts[split]
    assert not texts["val"] & texts["test-unseen"]


def test_the_same_whatever_the_workers_and_another_with_another_seed(
    made: Path, tmp_path: Path
) -> None:
    assert content(make(tmp_path / "two", workers=2).path) == content(made)
    assert content(make(tmp_path / "other", seed=4).path) != content(made)


def test_the_same_data_are_not_made_twice(made: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    again = make(made)
    assert not again.fresh
    assert "already there" in again.summary()[0]
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    with pytest.raises(DataError, match="another seed: delete it or name another folder"):
        make(made, seed=9)
    with pytest.raises(DataError, match="another options"):
        make(made, counts=COUNTS | {"curve": 0})


def test_what_would_be_made_is_told_beforehand(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads((made / "dataset.json").read_text())
    asked = datasets.origin(source=FakeSource(), counts=COUNTS, seed=3, workers=5)
    assert asked == {name: told[name] for name in asked}
    assert {"task", "set", "seed", "options", "generator"} <= set(asked)
    now = told["generator"]
    assert generator.alike(now, now)
    monkeypatch.setattr(generator, "_DREW_ALIKE", frozenset(["0.0.1+earlier"]))
    assert generator.alike("0.0.1+earlier", now)
    assert not generator.alike("0.0.1+other", now)


def test_a_folder_with_other_files_is_refused_and_an_empty_one_used(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="already holds other files"):
        make(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(DataError, match="is a file"):
        make(tmp_path / "mine" / "thesis.txt")
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty", counts=FEW).fresh


def test_a_link_to_an_empty_folder_is_made_into(tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "empty")
    assert make(tmp_path / "link", counts=FEW).fresh
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "empty" / datasets.DATASET).is_file()
    assert not make(tmp_path / "link", counts=FEW).fresh
    (tmp_path / "dangling").symlink_to(tmp_path / "disk" / "new")
    assert make(tmp_path / "dangling", counts=FEW).path.is_symlink()
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["empty", "new"]


def test_a_mount_point_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only the superuser may mount, and not everywhere")
    done = []
    try:
        with pytest.raises(DataError, match="as a mount point is: name a folder inside it"):
            make(place, progress=lambda *told: done.append(told))
        assert make(place / "inside", counts=FEW).fresh
    finally:
        subprocess.run(["umount", place], check=True)
    assert not done
    assert [p.name for p in tmp_path.iterdir()] == ["mounted"]


def test_images_that_are_gone_are_noticed(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", counts=FEW).path
    next((folder / "val" / "shaky").iterdir()).unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 2 images of val/shaky, .* delete the folder"):
        make(folder, counts=FEW)
    shutil.rmtree(folder / "val" / "regular")
    (folder / "manifest.csv").unlink()
    with pytest.raises(DataError, match=r"lacks manifest.csv, 2 of 2 images of val/regular, 1 of"):
        make(folder, counts=FEW)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("counts", [1], "counts: input should be"),
        ("counts", {"val": {"regular": "two"}}, "counts.val.regular: .* valid integer"),
        ("carriers", None, "carriers: .* object"),
        ("matching", {"val": {"gap": "much", "acceptance": 1}}, "matching.val.gap: .* number"),
        ("options", [], "options: .* object"),
        ("task", ["pen"], "task: .* string"),
        ("skipped", 3, "skipped: .* object"),
    ],
)
def test_a_damaged_description(
    made: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    file = folder / datasets.DATASET
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(DataError, match=rf"{file} cannot be read \({said}.*\): make the data set"):
        make(folder)
    with pytest.raises(DataError, match=f"{file} cannot be read"):
        check(folder)


def test_a_description_without_what_every_set_has(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    file = folder / datasets.DATASET
    told = json.loads(file.read_text())
    del told["carriers"]
    file.write_text(json.dumps(told))
    with pytest.raises(DataError, match=rf"damaged \(carriers is gone\): delete {folder}"):
        make(folder)


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no font draws"):
        make(tmp_path / "set", source=FakeSource(fails=True))
    assert list(tmp_path.iterdir()) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "write_manifest", full)
    with pytest.raises(DataError, match=r"Cannot make the data in .*disk is full: free some"):
        make(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    pid = 2**22 - 1  # beyond the largest process number of the system, or very nearly so
    (tmp_path / f".set.partial-{pid}" / "train").mkdir(parents=True)
    (tmp_path / ".set.partial-mine").mkdir()
    make(tmp_path / "set", counts=FEW)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".set.partial-mine", "set"]


def test_two_do_not_make_one_set_at_once(tmp_path: Path) -> None:
    running = tmp_path / f".set.partial-{os.getppid()}"
    running.mkdir()
    done: list[tuple[int, int]] = []
    with pytest.raises(DataError, match=rf"Another process is making .*wait.*delete {running}"):
        make(tmp_path / "set", counts=FEW, progress=lambda *told: done.append(told))
    assert not done
    assert list(tmp_path.iterdir()) == [running]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Cannot make the data in"):
        make(tmp_path / "set")


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    with pytest.raises(DataError, match=r"Cannot make the data in .*x: .*: choose another path"):
        make(tmp_path / "plain" / "x")
    assert (tmp_path / "plain").read_text() == "text"


def test_carriers_that_draw_nothing_are_told(tmp_path: Path, made: Path) -> None:
    idle = json.loads((made / "dataset.json").read_text())["carriers"]["train"][:2]
    again = make(tmp_path / "set", source=FakeSource(idle=tuple(idle)))
    told = "\n".join(again.summary())
    assert f"warning: train is without {idle[0]}, {idle[1]}, which draw none" in told
    assert f"warning: 2 fonts skipped: {idle[0]}, {idle[1]} (the first: it is damaged)" in told
    listed = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert not set(idle) & set(listed["carriers"]["train"])
    assert listed["idle"]["train"] == idle
    assert not {row.carrier for row in read_manifest(again.path)} & set(idle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": "wild"}, "no set 'wild': choose headline, mild, wide, or give two amplitudes"),
        ({"set": "0.5-0.3"}, "the smaller first"),
        ({"set": "0-0.3"}, "no set '0-0.3'"),
        ({"set": "0.3-30"}, "none above 3"),
        ({"source": None, "task": "runes"}, "no task 'runes': choose fonts, pen, spiral or wave"),
        ({"counts": {"tset": 2}}, "no split 'tset': choose among train"),
        ({"counts": {"train": 3}}, "give an even number"),
        ({"counts": dict.fromkeys(COUNTS, 0)}, "Every split has 0 images"),
        ({"seed": -1}, "seed is -1"),
        ({"source": None, "font_dirs": ["/nowhere"]}, "no file or folder"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = make(tmp_path / "set", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == made.rendered
    assert all(done <= total for done, total in seen)
    assert "candidates in" in made.summary()[-1]
