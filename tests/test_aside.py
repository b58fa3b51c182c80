"""rvsm.experiments.aside: validation cut off, people together where there are enough."""

from pathlib import Path

from rvsm.experiments.aside import note_on, set_aside
from rvsm.handwriting.manifest import UNSPLIT, Row


def rows(people: int, images: int) -> list[Row]:
    return [
        Row(f"{label}/{person}-{number}.png", UNSPLIT, label, carrier=f"p{person}{label}")
        for label in ("regular", "shaky")
        for person in range(people)
        for number in range(images)
    ]


def test_people_stay_together_and_where_they_cannot_it_is_said() -> None:
    kept = set_aside(Path("x"), rows(12, 4))
    assert {row.split for row in kept} == {"train", "val", "test"}
    assert note_on(kept) == ""
    cut = set_aside(Path("x"), rows(2, 24))
    assert {row.split for row in cut} == {"train", "val", "test"}
    told = note_on(cut)
    assert told.startswith("4 fonts or writers are in both train and val (p0regular, p0shaky, ")
    assert "hands that were seen" in told
    nobodys = set_aside(Path("x"), [Row(r.file, r.split, r.label) for r in rows(2, 24)])
    assert note_on(nobodys) == ""
