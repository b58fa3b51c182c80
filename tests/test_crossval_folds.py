"""rvsm.experiments.crossval: nobody on both sides of any split; images and people are read."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import set_layouts
from drawings import draw
from rvsm.errors import DataError, RunError
from rvsm.experiments.crossval.baselines import Line, fit_line, hog_features
from rvsm.experiments.crossval.cases import SQUARE, WORD, fitting_size, load_ink, read_cases
from rvsm.experiments.crossval.folds import check_apart, check_inner, people_folds, repeated
from rvsm.handwriting.check import check


def crowd(seed: int, people: int, both: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and people of images, 1 to 12 each, the classes about 1 to 2."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), rng.integers(1, 13, people))
    labels = (who % 3 > 0).astype(np.int64)
    if both:
        labels[rng.random(len(who)) < 0.3] = 1
        labels[np.unique(who, return_index=True)[1]] = np.arange(people) % 2
    return labels, who.astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    people=st.integers(15, 60),
    folds=st.integers(2, 5),
    both=st.booleans(),
)
def test_everybody_is_tested_once_and_never_seen(
    seed: int, people: int, folds: int, both: bool
) -> None:
    labels, who = crowd(seed, people, both)
    tested = []
    for repeat, _, train, test in repeated(labels, who, folds, 2, seed):
        assert not set(who[train]) & set(who[test])
        assert len(train) + len(test) == len(who)
        assert len(set(labels[train])) == 2
        tested += [(repeat, image) for image in test]
    assert sorted(tested) == [(r, i) for r in range(2) for i in range(len(who))]


def test_folds_hold_both_classes_in_equal_shares() -> None:
    who = np.repeat(np.arange(40), 3)
    labels = (who % 2).astype(np.int64)
    for _, test in people_folds(labels, who, 4, 0):
        assert labels[test].mean() == pytest.approx(0.5, abs=0.1)
        assert len(test) == 30


def test_other_seeds_make_other_folds() -> None:
    labels, who = crowd(0, 30, False)
    cuts = {tuple(map(tuple, (t for _, t in people_folds(labels, who, 3, s)))) for s in range(6)}
    assert len(cuts) > 3
    one, two = (people_folds(labels, who, 3, 7) for _ in range(2))
    for (_, a), (_, b) in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fewer_people_than_folds() -> None:
    labels, who = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 4])
    with pytest.raises(DataError, match="2 people of one class cannot be cut into 3 folds"):
        people_folds(labels, who, 3, 0)


@pytest.mark.parametrize(
    ("folds", "inner", "remedy"), [(3, 3, "ask for --inner 2"), (2, 2, "ask for more --folds")]
)
def test_fewer_people_than_inner_folds(folds: int, inner: int, remedy: str) -> None:
    labels, who = np.repeat([0, 1], 3), np.arange(6)
    plan = list(repeated(labels, who, folds, 1, 0))
    with pytest.raises(DataError, match=rf"too few for {inner} inner folds: {remedy}"):
        check_inner(labels, who, plan, inner)
    check_inner(labels, who, list(repeated(labels, who, 3, 1, 0)), 2)


def test_the_guard_sees_a_leak() -> None:
    who = np.array([0, 0, 1, 1])
    check_apart(who, np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(RunError, match="1 people stand on both sides"):
        check_apart(who, np.array([0, 1, 2]), np.array([3]))


def drawings(root: Path, classes: tuple[str, str] = ("healthy", "parkinson")) -> Path:
    """Two splits of class folders, the person in the file name: V03HE2.png and V03PE2.png."""
    rng = np.random.default_rng(0)
    for number in range(4):
        for label, name in enumerate(classes):
            for take, split in enumerate(("training", "training", "testing")):
                file = root / split / name / f"V{number:02d}{'HP'[label]}E{take}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                draw(rng, 6.0 * label).save(file)
    return root


def test_class_folders_and_people_from_file_names(tmp_path: Path) -> None:
    found = read_cases(drawings(tmp_path), pattern=r"V\d+[HP]")
    assert found.classes == ("healthy", "parkinson")
    assert len(found.cases) == 24
    assert found.names == sorted([f"V0{n}{c}" for n in range(4) for c in "HP"])
    assert found.labels.sum() == 12
    assert not found.both_classes()
    grouped = read_cases(tmp_path, pattern=r"V(\d+)")
    assert grouped.names == ["00", "01", "02", "03"]
    assert grouped.both_classes() == grouped.names
    assert fitting_size(found) == WORD


def test_nobody_knows_the_person(tmp_path: Path) -> None:
    drawings(tmp_path)
    with pytest.raises(DataError, match="Nobody knows whose 24 of 24 images"):
        read_cases(tmp_path, layout="folders")
    # The layout of a published set tells them; a volunteer of one number is two people.
    assert len(read_cases(tmp_path).names) == 8
    with pytest.raises(DataError, match=r"found in 12 of 24 paths, not in .*V00PE"):
        read_cases(tmp_path, pattern=r"V\d+H")
    with pytest.raises(DataError, match="not a regular expression"):
        read_cases(tmp_path, pattern="V(")


def test_folders_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data folder"):
        read_cases(tmp_path / "no")
    with pytest.raises(DataError, match="looks like none of the known layouts"):
        read_cases(tmp_path)
    one = tmp_path / "one" / "healthy"
    one.mkdir(parents=True)
    draw(np.random.default_rng(0), 0).save(one / "a.png")
    with pytest.raises(DataError, match="only images of class healthy"):
        read_cases(tmp_path / "one", pattern="a")


def manifest(root: Path, header: str, lines: list[str]) -> Path:
    rng = np.random.default_rng(0)
    for line in lines:
        file = root / line.split(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(rng, 0).save(file)
    (root / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


def test_people_from_a_manifest(tmp_path: Path) -> None:
    lines = ["a.png,all,regular,anna,w1", "b.png,all,shaky,,w2"]
    root = manifest(tmp_path, "file,split,label,person,carrier", lines)
    found = read_cases(root)
    assert [c.person for c in found.cases] == ["anna", "w2"]
    assert [c.person for c in read_cases(root, by="carrier").cases] == ["w1", "w2"]
    with pytest.raises(DataError, match="no column hospital"):
        read_cases(root, by="hospital")
    manifest(tmp_path, "file,label,person", ["a.png,regular,x", "b.png,shaky,"])
    with pytest.raises(DataError, match=r"whose 1 of 2 .*b\.png"):
        read_cases(root)
    assert found.reading == "normalised"
    (root / "dataset.json").write_text("{}")
    assert read_cases(root, by="label").reading == "stored"
    with pytest.raises(DataError, match="holds no task spiral"):
        read_cases(root, task="spiral")


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    drawings(tmp_path)
    bad = tmp_path / "training" / "healthy" / "V09HE0.png"
    bad.write_text("nothing")
    cases, ink = load_ink(read_cases(tmp_path, pattern=r"V\d+[HP]"), (16, 64))
    assert ink.shape == (24, 16, 64)
    assert "V09H" not in cases.names
    assert "not an image" in cases.skipped["training/healthy/V09HE0.png"]
    for file in tmp_path.rglob("parkinson/*.png"):
        file.write_text("nothing")
    with pytest.raises(DataError, match="too few can be read"):
        load_ink(read_cases(tmp_path, pattern=r"V\d+[HP]"), SQUARE)


def test_the_line_is_scikit_learns() -> None:
    """In the span of the images or not: the same model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    for shape in ((30, 200), (60, 8)):
        x = rng.normal(size=shape) * rng.uniform(0.1, 5, shape[1]) + 3
        x[:, 3] = 7.0  # never varies
        y = (x[:, 0] + rng.normal(size=shape[0]) > 3).astype(np.int64)
        plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000, tol=1e-8))
        plain.fit(x, y)
        line = fit_line(x, y, 0.1)
        assert isinstance(line, Line)
        new = rng.normal(size=(20, shape[1])) + 3
        np.testing.assert_allclose(line(new), plain.decision_function(new), atol=2e-3)


def test_images_that_are_all_alike() -> None:
    x, y = np.full((9, 40), 3.0), np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(fit_line(x, y, 0.1)(np.ones((2, 40))), np.log(2))


def test_tinted_scans_in_folders_named_regular_and_shaky(tmp_path: Path) -> None:
    """The paper is no ink, whatever the folders are called."""
    drawings(tmp_path, ("regular", "shaky"))
    for file in tmp_path.rglob("*.png"):
        white = np.asarray(Image.open(file).convert("RGB").resize((300, 200)))
        Image.fromarray((white * [0.9, 0.8, 0.6]).astype(np.uint8)).save(file)
    cases, ink = load_ink(read_cases(tmp_path, pattern=r"V\d+[HP]"), SQUARE)
    assert cases.reading == "normalised"
    assert ((ink > 128).mean(axis=(1, 2)) < 0.3).all()
    assert np.ptp(hog_features(ink), axis=0).any()


def test_edges_of_a_blank_image() -> None:
    ink = np.zeros((2, 60, 60), dtype=np.uint8)
    ink[1, 20:40, 30] = 255
    features = hog_features(ink)
    assert features.shape == (2, 5 * 5 * 4 * 9)
    assert np.isfinite(features).all()
    assert not features[0].any()
    assert features[1].any()


@pytest.mark.parametrize("made", [True, False])
def test_a_repaired_image_is_used_whatever_the_manifest_says(made: bool, tmp_path: Path) -> None:
    own = drawings(tmp_path, ("regular", "shaky"))
    if made:
        (own / "dataset.json").write_text("{}")
    first, second = sorted((own / "training" / "shaky").iterdir())[:2]
    whole = first.read_bytes()
    for file in (first, second):
        file.write_bytes(whole[:50])
    check(own, note=True)
    assert len(load_ink(read_cases(own, pattern=r"V\d+[HP]"), SQUARE)[0].skipped) == 2
    first.write_bytes(whole)
    cases, _ = load_ink(read_cases(own, pattern=r"V\d+[HP]"), SQUARE)
    assert (cases.reading == "stored") is made
    assert first in {own / case.file for case in cases.cases}
    assert [own / file for file in cases.skipped] == [second]
    assert "cut short" in "".join(cases.skipped.values())


def test_print_is_taken_away_where_asked(tmp_path: Path) -> None:
    cases = read_cases(set_layouts.black_forms(tmp_path / "forms"), pattern=r"/(p\d)")
    plain, alone = (
        load_ink(cases, SQUARE, isolate=how)[1].sum() for how in ("auto", "registration")
    )
    assert alone < 0.7 * plain
    own = drawings(tmp_path / "own", ("regular", "shaky"))
    (own / "dataset.json").write_text("{}")
    stored = read_cases(own, pattern=r"V\d+[HP]")
    with pytest.raises(DataError, match="leave out --isolate"):
        load_ink(stored, SQUARE, isolate="registration")
