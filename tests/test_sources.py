"""rvsm.handwriting.sources: what of the user's own is used, and what is skipped with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest

from rvsm.errors import DataError
from rvsm.handwriting.sources import Rendered
from rvsm.handwriting.splits import cut
from test_fonts import write_font

LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäöüßÄÖÜ"


def stroke_file(path: Path, *texts: str) -> Path:
    line = [[[0, 0], [1, 2], [2, 0]]]
    entries = [{"text": text, "strokes": line, "writer": f"w{text}"} for text in texts]
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("task", ["fonts", "pen"])
def test_fonts_that_cannot_be_used_are_skipped_by_name(tmp_path: Path, task: str) -> None:
    write_font(tmp_path / "latin.ttf", LATIN)
    write_font(tmp_path / "symbols.ttf", "☺☹x")
    write_font(tmp_path / "no-x.ttf", LATIN, top=-50)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "deep").mkdir()
    write_font(tmp_path / "deep" / "latin.ttf", LATIN)
    source = Rendered(task, (tmp_path,))
    assert "latin" in [c.name for c in source.carriers()]
    skipped = source.skipped()["fonts"]
    assert {Path(name).relative_to(tmp_path).as_posix(): why for name, why in skipped.items()} == {
        "broken.ttf": "cannot be read (it is damaged, or no font at all)",
        "latin.ttf": "there is another of the same name",
        "no-x.ttf": "has no letter x to take its size from",
        "symbols.ttf": f"it draws only 0 of {len(source.texts()[::10])} words",
    }
    assert source.draws("latin", ["Wort"])
    assert not source.draws("latin", ["字"])


def test_a_folder_of_useless_fonts_is_refused(tmp_path: Path) -> None:
    write_font(tmp_path / "symbols.ttf", "☺☹x")
    with pytest.raises(DataError, match=r"None of the 1 fonts given .*symbols\.ttf: it draws only"):
        Rendered("fonts", (tmp_path,)).carriers()


def test_writers_who_draw_nothing(tmp_path: Path) -> None:
    alone = stroke_file(tmp_path / "alone.json", "a", "b")
    with pytest.raises(DataError, match=r"None of the 2 writers given .*record whole words"):
        Rendered("pen", (), (alone,)).carriers()
    some = stroke_file(tmp_path / "some.json", "a", "Wort")
    source = Rendered("pen", (), (some,))
    assert source.skipped() == {"writers": {"wa": "it has all letters of no word"}}
    assert "wWort" in [c.name for c in source.carriers()]


@pytest.mark.parametrize("task", ["fonts", "pen"])
def test_25_families_to_learn_from_and_8_unseen(task: str) -> None:
    source = Rendered(task)
    infos = source.carriers()
    family = {info.name: info.family for info in infos}
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text("utf-8")
    assert f"{len(infos)} cuts of {len(set(family.values()))} families" in page
    for seed in range(8):
        parts = cut(infos, source.texts(), np.random.default_rng([seed, 0x5917]))
        learned, chosen, unseen = (
            {family[n] for n in part} for part in (parts.train, parts.val, parts.unseen)
        )
        assert len(learned) >= 25
        assert len(unseen) >= 8
        assert not learned & unseen
        told = f"{len(learned)} families are for training, {len(chosen)} for validation and "
        assert f"{told}{len(unseen)} are never seen" in " ".join(page.split())
