"""rvsm.experiments.crossval: the study as a whole, stopped and gone on with, and its report."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.people.drawings import STUDIES, table, trimmed, wrong

from commandline import run_here
from drawings import draw
from published import DATA
from rvsm.errors import ConfigError, DataError, RunError
from rvsm.experiments.crossval import Settings, crossval
from rvsm.experiments.crossval.amplitude import amplitudes
from rvsm.experiments.crossval.baselines import DRAWING, WRITING, fit_line, hog_features
from rvsm.experiments.crossval.candidates import Candidate
from rvsm.experiments.crossval.cases import load_ink, read_cases
from rvsm.experiments.crossval.folds import repeated
from rvsm.experiments.crossval.networks import fit, take_over
from rvsm.experiments.crossval.report import render
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH
from rvsm.experiments.crossval.summary import _networks
from rvsm.experiments.runs import make_network
from rvsm.handwriting.recorded.measure import measure_tremor
from rvsm.handwriting.timed import TimedStrokes
from tablets import spiral, stand_in, write
from test_crossval_folds import drawings

ZHAM = DATA / "parkinsons-drawings"
PEOPLE = r"V\d+[HP]"
TINY: dict[str, Any] = {
    "person": PEOPLE,
    "folds": 2,
    "inner": 2,
    "repeats": 1,
    "size": (16, 64),
    "methods": ("l0",),
    "epochs": (6,),
    "sparsities": (0.8,),
    "network": {"network.channels": [4, 6, 6], "lr": 0.01},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    crossval(folder, out, Settings(**TINY))
    return out


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text("utf-8")))


def timeless(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results(out)["rows"]]


def test_what_a_study_leaves(finished: Path) -> None:
    found = results(finished)
    assert [row["arm"] for row in found["rows"]] == ["majority", "hog", "dense", "sparse"]
    assert found["data"]["people"] == [4, 4]
    assert found["note"][0] == "Research use, not a diagnosis."
    by_arm = {row["arm"]: row for row in found["rows"]}
    assert by_arm["majority"]["person"]["accuracy"]["value"] == 0.5
    assert by_arm["majority"]["image"]["auc"]["value"] == 0.5
    # Smooth lines and jagged ones: anyone can tell.
    assert by_arm["dense"]["person"]["balanced_accuracy"]["value"] > 0.7
    assert by_arm["sparse"]["zeros"] > 0.7
    assert by_arm["dense"]["zeros"] == 0
    for row in found["rows"]:
        for level in ("image", "person"):
            for figure in row[level].values():
                low, high = figure["interval"]
                assert low - 1e-9 <= figure["value"] <= high + 1e-9
    assert not (finished / "steps").exists() or not any((finished / "steps").iterdir())


def test_predictions_hold_every_image_once_an_arm(finished: Path, folder: Path) -> None:
    with (finished / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    dense = [row for row in rows if row["arm"] == "dense"]
    assert len(rows) == 4 * 24
    assert sorted(row["file"] for row in dense) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    )
    right = np.mean([row["label"] == row["answer"] for row in dense])
    told = next(row for row in results(finished)["rows"] if row["arm"] == "dense")
    assert told["image"]["accuracy"]["value"] == pytest.approx(right)


def test_all_figures_follow_from_the_predictions(finished: Path) -> None:
    """By scikit-learn: log-odds over the cut, of a person their mean."""
    from sklearn.metrics import roc_auc_score

    with (finished / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = results(finished)
    positive = found["data"]["classes"][1]
    for told in found["rows"]:
        mine = [row for row in rows if row["arm"] == told["arm"]]
        over = np.array([float(row["log_odds"]) - float(row["cut"]) for row in mine])
        truth = np.array([row["label"] == positive for row in mine])
        names = np.array([row["person"] for row in mine])
        assert [row["answer"] == positive for row in mine] == list(over > 0)
        assert roc_auc_score(truth, over) == pytest.approx(told["image"]["auc"]["value"])
        people = np.unique(names)
        mean = [over[names == name].mean() for name in people]
        ill = [truth[names == name].any() for name in people]
        assert roc_auc_score(ill, mean) == pytest.approx(told["person"]["auc"]["value"])


def test_people_who_are_wrong(finished: Path) -> None:
    """By the answers in predictions.csv: the mean of log-odds over the cut, here one repetition."""
    row = next(row for row in results(finished)["rows"] if row["arm"] == "hog")
    shares = [told["wrong"] for told in row["people"]]
    assert set(shares) <= {0.0, 1.0}
    assert 1 - np.mean(shares) == pytest.approx(row["person"]["accuracy"]["value"])
    kept = trimmed(results(finished))["rows"][1]
    assert kept["people"] == [told["person"] for told in row["people"] if told["wrong"]]
    assert kept["calibration"] == {n: row["calibration"][n] for n in ("error", "brier")}
    studies = {name: {"rows": [kept]} for name in STUDIES}
    assert f"| {100 * row['calibration']['error']:.1f} | {row['calibration']['brier']:.3f} | " in (
        table(studies)
    )
    assert wrong(studies).count("HOG: " + (", ".join(kept["people"]) or "nobody")) == 3


def test_nobody_is_tested_by_who_knew_them(finished: Path, folder: Path) -> None:
    cases = read_cases(folder, pattern=PEOPLE)
    for file in (finished / "folds").glob("*.json"):
        fold = json.loads(file.read_text("utf-8"))
        assert {cases.cases[i].person for i in fold["test"]} == set(fold["people"])
    folds = [json.loads(f.read_text("utf-8"))["people"] for f in (finished / "folds").iterdir()]
    assert sorted(p for people in folds for p in people) == cases.names


def test_the_report(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    assert "Research use, not a diagnosis." in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for words in ("Sensitivity", "HOG + logistic regression", "l0, 80 % zeros, 6 epochs", "<svg"):
        assert words in page
    assert "roc auc" not in page
    assert "are averaged" not in page
    hostile = results(finished)
    hostile["data"]["classes"] = ["<script>", "&"]
    hostile["data"]["skipped"] = {"<b>.png": "x"}
    hostile["data"]["skipped"] |= {f"{i}.png": "a copy" for i in range(5)}
    told = "6 files were left out: &lt;b&gt;.png: x; 5 (0.png, 1.png, 2.png and 2 more): a copy"
    assert told in render("x", hostile)
    assert "copies of other" not in page
    hostile["data"]["copies"] = [["a<b.png", "c.png"]]
    assert "1 images are copies of other people’s, a&lt;b.png = c.png" in render("x", hostile)
    hostile["settings"]["average"] = True
    assert "Last layers are averaged" in render("x", hostile)
    assert "<script>" not in render("<i>", hostile)
    assert "<i>" not in render("<i>", hostile).replace('<i style="left', "")


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 8])
def test_a_stopped_study_goes_on_to_the_same_end(
    finished: Path, folder: Path, tmp_path: Path, after: int
) -> None:
    seen: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "fitting":
            seen.append(done)
            if done == after:
                raise Stop

    with pytest.raises(Stop):
        crossval(folder, tmp_path, Settings(**TINY), progress=stop)
    # Half a file is no file.
    for left in list((tmp_path / "steps").rglob("*.json"))[:1]:
        left.write_text("{")
    crossval(folder, tmp_path, Settings(**TINY))
    assert (tmp_path / "predictions.csv").read_bytes() == (
        finished / "predictions.csv"
    ).read_bytes()
    assert timeless(tmp_path) == timeless(finished)


def test_a_finished_study_is_not_computed_again(finished: Path, folder: Path) -> None:
    fitted: list[int] = []
    crossval(
        folder,
        finished,
        Settings(**TINY),
        progress=lambda what, done, total: fitted.append(done) if what == "fitting" else None,
    )
    assert not fitted


def test_another_study_in_the_folder(finished: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="another folds, seed"):
        crossval(folder, finished, Settings(**{**TINY, "folds": 3, "seed": 4}))
    other = drawings(tmp_path / "other")
    draw(np.random.default_rng(9), 3.0).save(next(other.rglob("*.png")))
    with pytest.raises(RunError, match="another images"):
        crossval(other, finished, Settings(**TINY))
    out = tmp_path / "damaged"
    quick = Settings(**{**TINY, "arms": ("hog",)})
    crossval(folder, out, quick)
    (out / "folds" / "r0-f1.json").write_text("[]")
    with pytest.raises(RunError, match=r"r0-f1.json is damaged"):
        crossval(folder, out, quick)


def test_ablation_and_a_start(folder: Path, tmp_path: Path) -> None:
    """A run of another image size lends its convolutions; what it bought stands beside."""
    from rvsm import save
    from rvsm.experiments.config import dump_config, make_config

    shape = {"channels": [4, 6, 6], "size": [32, 128]}
    config = make_config({"data": "x", "method": "dense", "network": shape})
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(dump_config(config))
    save(make_network(config), run / "training.safetensors")
    settings = Settings(
        **{**TINY, "arms": ("dense",), "epochs": (1,), "start": (str(run),), "ablate": True}
    )
    found = crossval(folder, tmp_path / "out", settings)
    assert [row["arm"] for row in found["rows"]] == ["dense", SCRATCH, PLAIN]
    against = {(d["of"], d["against"]) for d in found["differences"]}
    assert against == {("dense", SCRATCH), ("dense", PLAIN)}
    with pytest.raises(RunError, match="holds no finished run"):
        crossval(folder, tmp_path / "b", Settings(**{**TINY, "start": (str(tmp_path),)}))
    with pytest.raises(ConfigError, match="--start is of no use"):
        crossval(
            folder, tmp_path / "c", Settings(**{**TINY, "arms": ("hog",), "start": (str(run),)})
        )
    other = make_network(make_config({"data": "x", "network": {**shape, "channels": [5, 6, 6]}}))
    with pytest.raises(RunError, match="has another shape"):
        take_over(other, make_network(config).state_dict())


def test_a_fit_is_a_function_of_its_arguments(folder: Path) -> None:
    cases, ink = load_ink(read_cases(folder, pattern=PEOPLE), (16, 64))
    base = Settings(**TINY).base_config(cases, (16, 64))
    config = Candidate("l0", 2, sparsity=0.9).config(base, augment=True, seed=3)
    first, second = (fit(config, ink, cases.labels).scores(ink) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = Candidate("l0", 2, sparsity=0.9).config(base, augment=False, seed=3)
    assert (fit(other, ink, cases.labels).scores(ink) != first).any()


def test_settings_that_do_not_do() -> None:
    for changes, told in (
        ({"folds": 1}, "folds is 1"),
        ({"size": (7, 64)}, "does not read 7x64 pixels: give a --size from 8 to 1024"),
        ({"size": (96, 20000)}, "does not read 96x20000 pixels"),
        ({"arms": ("svm",)}, "nothing called 'svm'"),
        ({"arms": ()}, "Nothing is compared"),
        ({"sparsities": (), "lams": ()}, "no sparse network"),
        ({"methods": ("l9",)}, "no penalty 'l9'"),
        ({"epochs": ()}, "at least 1 epoch"),
    ):
        with pytest.raises(ConfigError, match=told):
            Settings(**{**TINY, **changes})


def test_keys_of_the_configuration(folder: Path) -> None:
    cases = read_cases(folder, pattern=PEOPLE)
    for network, told in (
        ({"method.x": 1}, "method is no section"),
        ({"network.chanels": [1, 2, 3]}, "did you mean"),
    ):
        with pytest.raises(ConfigError, match=told):
            Settings(**{**TINY, "network": network}).base_config(cases, (16, 64))
    drawing = Settings(**TINY).base_config(cases, (96, 96))
    writing = Settings(**TINY).base_config(cases, (32, 128))
    assert not drawing.augmentation.flip_vertical
    assert drawing.augmentation.shift_columns == 4
    assert not writing.augmentation.flip_horizontal
    assert drawing.network.channels == (4, 6, 6)


def test_the_grid_holds_every_choice() -> None:
    settings = Settings(**{**TINY, "methods": ("l0", "l1"), "epochs": (1, 2), "lams": (1e-4,)})
    names = [candidate.name for candidate in settings.tried("sparse")]
    assert len(set(names)) == 8
    assert "l1, lambda 0.0001, 2 epochs" in names
    assert [c.name for c in settings.tried("dense")] == ["dense, 1 epochs", "dense, 2 epochs"]


def test_inner_folds_have_a_choice_by_default() -> None:
    """Of everything that the help says they choose."""
    tried = Settings().tried("sparse")
    assert {c.epochs for c in Settings().tried("dense")} == {20, 40}
    for values in (
        {c.epochs for c in tried},
        {c.method for c in tried},
        {c.sparsity for c in tried},
    ):
        assert len(values) == 2
    assert len(tried) == 8


def test_lambda_is_chosen_among_networks_with_zeros_enough(folder: Path, tmp_path: Path) -> None:
    told = {**TINY, "sparsities": (), "lams": (1e-9, 3e-3), "arms": ("dense", "sparse")}
    crossval(folder, tmp_path, Settings(**told, least_zeros=0.5))
    for file in (tmp_path / "folds").iterdir():
        answer = json.loads(file.read_text("utf-8"))["answers"]["sparse"]
        assert len(answer["tried"]) == 2
        assert "lambda 0.003" in answer["chosen"]


def test_networks_start_from_what_the_inner_folds_choose(folder: Path, tmp_path: Path) -> None:
    """Runs of two widths: sparse networks go on with that of the dense one chosen."""
    from rvsm import save
    from rvsm.experiments.config import dump_config, make_config

    runs = []
    for width in (4, 6):
        shape = {"channels": [width, 6, 6], "size": [16, 64]}
        config = make_config({"data": "x", "method": "dense", "network": shape})
        runs.append(tmp_path / f"run{width}")
        runs[-1].mkdir()
        (runs[-1] / "config.toml").write_text(dump_config(config))
        save(make_network(config), runs[-1] / "training.safetensors")
    given = {"network": {"lr": 0.01}, "epochs": (2,), "arms": ("dense", "sparse")}
    settings = Settings(**{**TINY, **given, "start": tuple(str(run) for run in runs)})
    found = crossval(folder, tmp_path / "out", settings)
    dense, sparse = found["rows"]
    assert sum(dense["starts"].values()) == 2
    assert set(dense["starts"]) <= {str(run) for run in runs}
    assert "starts" not in sparse
    for file in (tmp_path / "out" / "folds").iterdir():
        answers = json.loads(file.read_text("utf-8"))["answers"]
        assert len(answers["dense"]["tried"]) == 2
        assert answers["sparse"]["weights"] == answers["dense"]["weights"]


def test_networks_of_several_sizes_are_counted_alike() -> None:
    sizes = ((10, 40), (30, 60))
    folds = [
        {"answers": {"dense": {"zeros": 1 - n / all_, "nonzeros": n, "weights": all_}}}
        for n, all_ in sizes
    ]
    told = _networks(folds, "dense")
    assert (told["nonzeros"], told["weights"]) == (20, 50)


def test_amplitude_alone(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of recordings the size of the tremor tells; of pictures there is none."""
    tablets = stand_in(tmp_path / "tablets", controls=4, patients=4)
    asked = ("--arm", "majority", "--arm", "amplitude", "--folds", 2, "--inner", 2, "--repeats", 1)
    out = tmp_path / "out"
    done = run_here(capfd, "crossval", tablets, *asked, "--out", out)
    assert done.code == 0, done
    row = next(row for row in results(out)["rows"] if row["arm"] == "amplitude")
    assert row["person"]["auc"]["value"] == 1.0
    assert "tremor amplitude alone" in (out / "report.html").read_text("utf-8")
    none = run_here(capfd, "crossval", folder, "--person", PEOPLE, *asked, "--out", out / "b")
    assert "is a picture, of which no tremor can be measured: leave out --arm" in none.sentence()
    features = amplitudes(read_cases(tablets))
    tremor = [measure_tremor(strokes) for strokes in recorded(tablets)]
    np.testing.assert_allclose(features[:, 0], np.log([t.rms_mm for t in tremor if t]))
    assert not features[:, 1].any()


def test_recordings_too_short_for_an_amplitude(tmp_path: Path) -> None:
    tablets = stand_in(tmp_path / "some")
    (short,) = (tablets / "hw_dataset" / "control").glob("C_0001.txt")
    t, points = spiral(1.5)
    short.unlink()
    write(short, t, points)
    missing = amplitudes(read_cases(tablets))[:, 1]
    assert missing.sum() == 1
    with pytest.raises(DataError, match=r"No recording in .* is long enough"):
        amplitudes(read_cases(stand_in(tmp_path / "all", seconds=1.5)))


def recorded(folder: Path) -> list[TimedStrokes]:
    collection = read_cases(folder).collection
    found = [collection.strokes(row) for row in collection.rows]
    return [strokes for strokes in found if strokes is not None]


def test_the_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    quick = ("--arm", "majority", "--arm", "hog", "--folds", 2, "--inner", 2, "--repeats", 1)
    done = run_here(capfd, "crossval", folder, "--person", PEOPLE, "--out", out, *quick)
    assert done.code == 0, done
    assert "Research use, not a diagnosis" in done.out
    assert "4 healthy and 4 parkinson" in done.out
    assert "off by %" in done.out
    assert (out / "report.html").is_file()
    few = run_here(capfd, "crossval", folder, "--person", PEOPLE, "--out", tmp_path / "b")
    assert "4 people of one class cannot be cut into 5 folds" in few.sentence()
    inner = run_here(
        capfd, "crossval", folder, "--person", PEOPLE, "--out", tmp_path / "c",
        "--folds", 2, "--inner", 3, "--arm", "hog",
    )  # fmt: skip
    assert "too few for 3 inner folds: ask for --inner 2" in inner.sentence()
    unknown = run_here(capfd, "crossval", folder, "--layout", "folders")
    assert "Nobody knows whose" in unknown.sentence()
    assert run_here(capfd, "crossval", folder, "--size", "big").code == 2


def test_one_class_only(tmp_path: Path) -> None:
    folder = drawings(tmp_path)
    for file in folder.rglob("parkinson/*.png"):
        file.unlink()
    with pytest.raises(DataError, match="only images of class healthy"):
        crossval(folder, tmp_path / "out", Settings(**TINY))


def test_copies_under_two_names_are_told(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "drawings"
    shutil.copytree(folder, copied)
    first, *_, last = sorted(copied.rglob("V*HE*.png"))
    last.write_bytes(first.read_bytes())
    given = [copied, "--person", PEOPLE, "--arm", "majority", "--folds", 2, "--inner", 2]
    done = run_here(capfd, "crossval", *given, "--repeats", 1, "--out", tmp_path / "out")
    assert done.code == 0, done
    assert f"1 images are copies of other people's, {first.relative_to(copied)} = " in done.out
    assert len(results(tmp_path / "out")["data"]["copies"]) == 1


def test_people_with_both_classes_are_kept_together(tmp_path: Path) -> None:
    folder = drawings(tmp_path / "data")
    settings = Settings(**{**TINY, "person": r"V(\d+)", "arms": ("majority", "hog")})
    found = crossval(folder, tmp_path / "out", settings)
    assert found["data"]["people_with_both"] == ["00", "01", "02", "03"]
    assert found["data"]["people"] == [4, 4]
    assert len(found["rows"][1]["people"]) == 8
    for file in (tmp_path / "out" / "folds").iterdir():
        assert len(json.loads(file.read_text("utf-8"))["people"]) == 2
    assert "have images of both classes" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not ZHAM.is_dir(), reason=f"the drawings of Zham et al. are not at {ZHAM}")
@pytest.mark.parametrize(
    ("kind", "official", "by_person"), [("spiral", 0.731, 0.766), ("wave", 0.808, 0.648)]
)
def test_the_baseline_on_the_published_split_and_by_person(
    kind: str, official: float, by_person: float
) -> None:
    """That of benchmarks/people, within 7 points, the copies of volunteer 55 left out."""
    size = DRAWING if kind == "spiral" else WRITING
    cases, ink = load_ink(read_cases(ZHAM / kind, pattern=PEOPLE), size)
    features, labels = hog_features(ink), cases.labels
    trained = np.array(["training/" in case.file for case in cases.cases])
    line = fit_line(features[trained], labels[trained], 1.0)
    published = np.mean((line(features[~trained]) > 0) == (labels[~trained] == 1))
    assert published == pytest.approx(official, abs=0.07)
    scores = np.zeros((3, len(labels)))
    for repeat, _, train, test in repeated(labels, cases.people, 5, 3, 0):
        scores[repeat, test] = fit_line(features[train], labels[train], 1.0)(features[test])
    honest = np.mean((scores > 0) == (labels == 1))
    assert honest == pytest.approx(by_person, abs=0.07)
