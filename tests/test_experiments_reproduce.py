"""The whole experiment in worker processes, on drawings in place of rendered writing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commandline import run_here
from drawings import make_folder
from rvsm.errors import ConfigError, RunError
from rvsm.experiments import jobs as jobs_module
from rvsm.experiments import recipes
from rvsm.experiments import reproduce as reproduce_module
from rvsm.experiments.config import Method
from rvsm.experiments.jobs import Job, raise_failures, run_jobs
from rvsm.experiments.plan import CHECK_FILE, Plan
from rvsm.experiments.reproduce import protocol_note, reproduce, results_table
from rvsm.handwriting import datasets
from test_words import folder

COMMITTED = Path(__file__).parents[1] / "benchmarks" / "reproduce" / "full"
TINY: dict[str, Any] = {"epochs": 2, "batch_size": 16, "network": {"channels": [2, 3, 4]}}


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=120)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Short recipes, and drawings where the data would be made."""
    for method, values in recipes.QUICK.items():
        monkeypatch.setitem(recipes.QUICK, method, {**values, **TINY})
    for task in ("fonts", "pen"):
        make_folder(tmp_path / "out" / "data" / f"{task}-headline", seed=len(task))
    without_data = run_jobs

    def skip_data(jobs: list[Job], **options: Any) -> list[str]:
        names = {job.name for job in jobs if job.order["kind"] != "data"}
        return without_data(
            [
                Job(job.name, job.order, tuple(need for need in job.needs if need in names))
                for job in jobs
                if job.name in names
            ],
            **options,
        )

    monkeypatch.setattr(reproduce_module, "run_jobs", skip_data)
    monkeypatch.setattr("rvsm.experiments.plan.difference", lambda *_: "")
    monkeypatch.setattr("rvsm.experiments.report.write_report", lambda out: out / "report.html")
    return tmp_path / "out"


def written(out: Path) -> dict[str, Any]:
    """Return what `reproduce` returned, from the files it left."""
    rows = json.loads((out / "results.json").read_text())
    assert isinstance(rows, list)
    return {"rows": rows, **json.loads((out / "study.json").read_text())}


def test_every_method_on_every_task_and_again_at_once(
    tiny: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[Method] = ["dense", "l0"]
    results = reproduce(tiny, methods=methods, console=console)
    keys = {(r["task"], r["protocol"], r["set"], r["method"], r["seed"]) for r in results["rows"]}
    # The drawings' own description says pen for both.
    assert keys == {
        ("pen", protocol, "headline", method, 0)
        for protocol in ("paper", "unseen")
        for method in methods
    }
    assert len(results["rows"]) == 8
    needed = {"task", "protocol", "set", "method", "seed", "accuracy", "auc", "fc_zeros", "zeros"}
    needed |= {"nonzeros", "epochs", "seconds", "split_sizes", "start", "run"}
    for row in results["rows"]:
        assert needed <= set(row)
        assert set(row["split_sizes"]) == {"train", "val", "test"}
        assert (tiny / row["run"] / "model.safetensors").exists()
        assert row["start"] == ("scratch" if row["method"] == "dense" else "dense")
        assert row["data"] == {"seed": len(row["run"].partition("-")[0])}
    assert written(tiny) == results
    assert len(results["curves"]) == 4
    assert [(check["task"], check["set"]) for check in results["checks"]] == [
        ("fonts", "headline"),
        ("pen", "headline"),
    ]
    for check in results["checks"]:
        assert {finding["name"] for finding in check["findings"]} >= {"global features"}
        splits = {score["split"] for score in check["linear"]}
        assert splits == {"val", "test-paper", "test-unseen", "curve"}
    shown = console.export_text()
    assert "pen headline unseen" in shown
    assert "fonts-headline-l0-s0" in shown
    times = {p: p.stat().st_mtime_ns for p in sorted(tiny.glob("*-s0/model.safetensors"))}
    assert len(times) == 4
    again = reproduce(tiny, methods=methods, console=console)
    assert again["rows"] == results["rows"]
    # The next stretch of the study: another seed of one task.
    more = reproduce(tiny, tasks=["pen"], seeds=[4], methods=["dense"], console=console)
    assert {row["run"] for row in more["rows"]} == {
        *(row["run"] for row in results["rows"]),
        "pen-headline-dense-s4",
    }
    assert len(more["checks"]) == 2
    assert written(tiny) == more
    assert times == {p: p.stat().st_mtime_ns for p in sorted(tiny.glob("*-s0/model.safetensors"))}
    recipes.QUICK["dense"] = {**recipes.QUICK["dense"], "lr": 0.5}
    with pytest.raises(RunError, match=r"different: lr"):
        reproduce(tiny, methods=methods, console=console)
    monkeypatch.setattr(reproduce_module, "run_jobs", lambda *_, **__: [])
    other = reproduce(tiny, seeds=[9], methods=["dense"], console=console)
    assert {row["method"] for row in other["rows"]} == {"l0"}
    left_out = "fonts-headline-dense-s0, pen-headline-dense-s0, pen-headline-dense-s4"
    assert left_out in console.export_text().replace("\n", " ")


def test_words_whose_paths_tell_the_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words, asked = folder(tmp_path / "words"), list[Job]()
    (words / "data.csv").unlink()
    monkeypatch.setattr(reproduce_module, "run_jobs", lambda jobs, **_: asked.extend(jobs) or [])
    study = ("reproduce", "--out", tmp_path / "out", "--method", "dense")
    told = run_here(capfd, *study, "--words", words).sentence()
    assert "--person REGEX" in told
    done = run_here(capfd, *study, "--words", words, "--person", r"(writer\d+)/")
    assert done.code == 0, done
    (order,) = (job.order for job in asked if job.order["kind"] == "data")
    assert order["options"]["person"] == r"(writer\d+)/"
    told = run_here(capfd, *study, "--task", "pen", "--person", "(p)").sentence()
    assert "finds the writers of --words" in told


def test_full_goes_by_way_of_whole_maps(
    tiny: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {**TINY, "network": {"channels": [2, 3, 32], "pools": [[2, 2], [2, 2], [1, 2]]}}
    for method, values in recipes.FULL.items():
        monkeypatch.setitem(recipes.FULL, method, {**values, **few})
    monkeypatch.setattr(recipes, "_FULL_MAPS", {**recipes._FULL_MAPS, **few})
    monkeypatch.setattr(recipes, "_GRID_PACE", few)
    monkeypatch.setattr(recipes, "GRID_FC_SPARSITY", (0.5,))
    monkeypatch.setattr(recipes, "GRID_BETA", (0.1,))
    results = reproduce(
        tiny,
        full=True,
        seeds=[3],
        tasks=["pen"],
        sets=["headline"],
        methods=["dense", "l0"],
        console=console,
    )
    assert {row["run"] for row in results["rows"]} == {
        "pen-headline-dense-s3",
        "pen-headline-l0-s3",
    }
    maps = json.loads((tiny / "pen-headline-transformed-l1-maps-s3" / "result.json").read_text())
    assert maps["fc_zeros"] == 30 / 32
    assert {row["method"] for row in results["sweep"]} == {"l1", "l0", "transformed-l1"}
    final = next(row for row in results["rows"] if row["method"] == "l0")
    assert final["fc_zeros"] == pytest.approx(0.98, abs=1e-3)
    assert final["zeros"] > 0.9


def test_a_check_is_made_once_and_of_data_that_are_there(tmp_path: Path) -> None:
    plan = Plan(tmp_path, False, {})
    plan.add_data("pen", "headline", {})
    assert plan.open_jobs() == [], "no run needs the data"
    plan.data("pen", "headline").mkdir(parents=True)
    assert [job.name for job in plan.open_jobs()] == ["check/pen-headline"]
    (plan.data("pen", "headline") / CHECK_FILE).write_text("{}")
    assert plan.open_jobs() == []
    plan.add_runs("pen", "headline", 0, ["dense", "l0"])
    assert {job.name: job.needs for job in plan.open_jobs()} == {
        "data/pen-headline": (),
        "pen-headline-dense-s0": ("data/pen-headline",),
        "pen-headline-l0-s0": ("data/pen-headline", "pen-headline-dense-s0"),
    }


def test_workers_share_the_data_sets_and_every_run_is_told_what_trains(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Job] = []
    monkeypatch.setattr(reproduce_module, "run_jobs", lambda jobs, **_: told.extend(jobs) or [])
    reproduce(tmp_path, workers=9, accelerator="gpu", grid=True, console=console)
    orders = [job.order for job in told]
    made = [order["options"]["workers"] for order in orders if order["kind"] == "data"]
    assert made == [4, 4]
    trained = {o["config"]["accelerator"] for o in orders if o["kind"] == "train"}
    assert trained == {"gpu"}


@pytest.fixture
def stretch(tmp_path: Path) -> Path:
    """Two runs of the study that is committed, as if they did not say of what images they are."""
    for task in ("fonts", "pen"):
        run = tmp_path / f"{task}-headline-dense-s0"
        shutil.copytree(COMMITTED / run.name, run)
        told = json.loads((run / "environment.json").read_text())
        told.pop("data", None)
        (run / "environment.json").write_text(json.dumps(told))
    return tmp_path


def going_on(out: Path, *, counts: dict[str, int] | None = None, **options: Any) -> Plan:
    """Plan the next stretch, of pen."""
    plan = Plan(out, True, counts)
    plan.add_data("pen", "headline", {"seed": 7, **options})
    plan.add_runs("pen", "headline", 0, ["dense"])
    assert plan.adopt() == []
    assert plan.open_jobs() == []
    return plan


def note(run: Path, **changes: Any) -> None:
    """Write into a run's environment.json what images it learned from, as training does."""
    images = recipes.counts(full=True)
    told = datasets.origin(task=run.name.partition("-")[0], seed=7, counts=images) | changes
    file = run / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": told}))


@pytest.mark.parametrize("name", ["pen-headline-dense-s0", "fonts-headline-dense-s0"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_study_goes_on_beside_runs_of_the_same_images_only(
    stretch: Path, name: str, finished: bool
) -> None:
    note(stretch / name)
    assert name not in going_on(stretch).untold
    if not finished and name.startswith("pen"):
        (stretch / name / "result.json").unlink()
    with pytest.raises(RunError, match=rf"{name} was made with data seed 7, not 2; .*--out"):
        going_on(stretch, seed=2)
    few = recipes.counts(full=True) | {"val": 20}
    with pytest.raises(RunError, match="dense-s0 was made with 2000 images of val, not 20;"):
        going_on(stretch, counts=few)
    note(stretch / name, generator="0.0.1+unknown")
    with pytest.raises(RunError, match=r"another generator of images \(0.0.1\+unknown, not "):
        going_on(stretch)


def test_other_fonts_are_other_images(stretch: Path, tmp_path: Path) -> None:
    note(stretch / "pen-headline-dense-s0")
    note(stretch / "fonts-headline-dense-s0")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.ttf").write_bytes(b"any")
    with pytest.raises(RunError, match="pen-headline-dense-s0 was made with other fonts, strokes"):
        going_on(stretch, font_dirs=[str(tmp_path / "own")])
    # One set may have carriers of its own.
    source = {"task": "fonts", "files": ["elsewhere:0"]}
    options = {"images": recipes.counts(full=True), "source": source}
    note(stretch / "fonts-headline-dense-s0", options=options)
    going_on(stretch)


def test_data_left_by_another_command_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "pen-headline"
    folder.mkdir(parents=True)
    told = datasets.origin(task="pen", seed=7, counts=recipes.counts(full=True))
    (folder / "dataset.json").write_text(json.dumps(told))
    plan = Plan(tmp_path, True)
    plan.add_data("pen", "headline", {"seed": 7})
    with pytest.raises(RunError, match="pen-headline was made with data seed 7, not 2"):
        plan.add_data("pen", "headline", {"seed": 2})
    with pytest.raises(RunError, match="was made with other fonts"):
        plan.add_data("pen", "headline", {"seed": 7, "tremor_hz": (3.0, 8.0)})


def test_runs_that_do_not_say_what_they_learned_from(
    stretch: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="was made with 480000 images of train, not 64"):
        going_on(stretch, counts=recipes.counts(full=True) | {"train": 64})
    monkeypatch.setattr(reproduce_module, "run_jobs", lambda *_, **__: [])
    monkeypatch.setattr("rvsm.experiments.report.write_report", lambda out: out / "report.html")
    results = reproduce(
        stretch,
        full=True,
        seeds=[0],
        sets=["headline"],
        methods=["dense"],
        data_seed=7,
        grid=False,
        console=console,
    )
    told = "Taken to be of data seed 7, being of a version that did not note it: "
    names = "fonts-headline-dense-s0, pen-headline-dense-s0."
    assert told + names in console.export_text().replace("\n", " ")
    assert [row["data"] for row in results["rows"]] == [None] * 4


def test_a_failed_step_leaves_the_others_whole(tiny: Path, console: Console) -> None:
    shutil.rmtree(tiny / "data" / "pen-headline" / "val")
    with pytest.raises(RunError, match=r"first pen-headline-dense-s0.*same command"):
        reproduce(tiny, methods=["dense"], workers=1, console=console)
    rows = written(tiny)["rows"]
    assert {row["run"] for row in rows} == {"fonts-headline-dense-s0"}


def test_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no method "l7"'):
        reproduce(tmp_path, methods=["l7"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="no seeds"):
        reproduce(tmp_path, seeds=[])


def test_a_worker_that_dies_is_told_with_its_log(tmp_path: Path, console: Console) -> None:
    jobs = [
        Job(
            "bad", {"kind": "train", "config": {"data": "nowhere"}, "run_dir": str(tmp_path / "r")}
        ),
        Job("worse", {"kind": "train"}),
        Job("after", {"kind": "train"}, needs=("bad",)),
    ]
    failures = run_jobs(
        jobs, workers=1, logs=tmp_path / "logs", console=console, finished=lambda job: ""
    )
    assert [failure.partition(":")[0] for failure in failures] == ["bad", "worse", "after"]
    assert "nowhere" in failures[0]
    assert "worker-0.log" in failures[1]
    assert "KeyError" in (tmp_path / "logs" / "worker-0.log").read_text()
    assert "needs bad" in failures[2]
    with pytest.raises(RunError, match="3 steps did not finish"):
        raise_failures(failures)


def test_who_made_a_data_set_does_not_train(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, popen = [], subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(options["env"]["GLIBC_TUNABLES"])
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=9")
    counts = {"train": 4, "val": 0, "test-paper": 0, "test-unseen": 0, "curve": 0}
    made, again = (
        Job(
            f"data/{name}",
            {
                "kind": "data",
                "path": str(tmp_path / name),
                "options": {"counts": counts, "pairs": True, "workers": 1},
            },
            last=name == "one",
        )
        for name in ("one", "two")
    )
    jobs = [made, again, Job("bad", {"kind": "train"})]
    failures = run_jobs(
        jobs, workers=1, logs=tmp_path / "logs", console=console, finished=lambda job: ""
    )
    assert [failure.partition(":")[0] for failure in failures] == ["bad"]
    assert (tmp_path / "two" / "manifest.csv").exists()
    assert started == ["glibc.malloc.tcache_count=9:glibc.malloc.hugetlb=1"] * 2
    assert jobs_module._tunables("glibc.malloc.hugetlb=0") == "glibc.malloc.hugetlb=0"


def test_the_table_shows_mean_and_spread() -> None:
    row = {
        "task": "pen",
        "set": "headline",
        "protocol": "paper",
        "method": "l0",
        "auc": None,
        "fc_zeros": 0.9,
        "zeros": 0.7,
        "nonzeros": 100,
    }
    console = Console(record=True, width=120)
    console.print(results_table([{**row, "accuracy": 0.98}, {**row, "accuracy": 1.0}]))
    text = console.export_text()
    assert "99.00 ± 1.41" in text
    assert "–" in text


def test_the_table_is_whole_on_80_columns() -> None:
    rows = json.loads((COMMITTED / "results.json").read_text("utf-8"))
    for seeds in (rows, [*rows, *({**row, "accuracy": 0.98} for row in rows)]):
        console = Console(record=True, width=80)
        console.print(results_table(seeds))
        text = console.export_text()
        assert "weights" in text
        assert "…" not in text


def told_of(**check: Any) -> str:
    data = "data/pen-headline"
    return reproduce_module._told_check([{"data": data, **check}], f"somewhere/{data}")


def test_what_a_check_left_open_is_told() -> None:
    def finding(level: str, name: str) -> dict[str, str]:
        return {"level": level, "name": name, "text": f"of {name}"}

    fine, bad = finding("fine", "size"), finding("fault", "colour")
    doubts = [finding("warning", "words"), finding("warning", "fonts")]
    sure, unsure = {"decided": True}, {"decided": False}
    assert told_of(findings=[fine], linear=[sure]) == "no short cut, no leak found"
    assert told_of(findings=[fine, *doubts]) == "no fault; 2 warnings: words, fonts"
    assert told_of(findings=[fine], linear=[sure, unsure, unsure], small=[{}]) == (
        "no fault; too few images to decide in 3 of 4 bands of amplitude"
    )
    assert told_of(findings=[*doubts, bad], linear=[unsure]) == "fault: of colour"


def test_the_note_says_which_epoch_was_taken() -> None:
    quick, full = protocol_note(full=False), protocol_note(full=True)
    assert "The model of a run is the epoch with the best validation accuracy." in quick
    assert "The model of a run is the last epoch." in full
    assert "whole maps" in full
    assert "whole maps" not in quick
