"""Rows of the frontier: how strengths are chosen, tables made and models checked."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.frontier import ablation, check, page, plan, plots, tables
from benchmarks.frontier.data import Folders
from benchmarks.frontier.methods import CANDIDATES, METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.store import Store
from benchmarks.frontier.work import Worker
from hypothesis import given
from hypothesis import strategies as st

import rvsm
from frontier_sets import (
    TINY,
    make_tiny,
    run_of,
    tiny_place,
)
from published import DATA
from rvsm.errors import ConfigError, DataError, RvsmError

ROOT = Path(__file__).parent.parent
FRONTIER = ROOT / "benchmarks" / "frontier"


@pytest.fixture
def plain_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ours be RVSM without anything beside."""
    monkeypatch.setattr(plan, "OURS", plan.Contender("rvsm-l0-u"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> plan.Place:
    return make_tiny(monkeypatch)


# What is chosen


def test_all_methods_have_as_many_settings() -> None:
    for name, method in METHODS.items():
        if name != "dense":
            assert len(method.settings) == (CANDIDATES if method.kind == "exact" else 1), name


@given(st.floats(1e-6, 1.0), st.floats(0.3, 3.0), st.floats(0.5, 0.99))
def test_the_search_closes_in_on_the_zeros(start: float, power: float, target: float) -> None:
    """Of a method whose zeros rise with its strength."""

    def zeros(strength: float) -> float:
        return 1 - math.exp(-((strength / 1e-3) ** power))

    tried: list[dict[str, float]] = []
    for _ in range(14):
        setting = plan.next_strength(start, tried, target)
        tried.append({"setting": setting, "own_zeros": zeros(setting)})
    settings = [row["setting"] for row in tried]
    assert min(abs(math.log(zeros(s) / target)) for s in settings) < 0.05
    wanted = 1e-3 * (-math.log(1 - target)) ** (1 / power)
    assert min(abs(math.log(s / wanted)) for s in settings) < 0.1


def tuning_rows(place: plan.Place, errors: dict[str, float]) -> dict[str, dict]:
    """Return rows of all tuning, where a later setting is better."""
    rows: dict[str, dict] = {}
    for sparsity in place.sparsities:
        for contender in place.contenders:
            item = plan.Item(place, contender, sparsity)
            while (run := item.next_tuning(rows)) is not None:
                error = errors[contender.method] - 0.01 * len(item.tried(rows))
                own = 0.5 if len(item.tried(rows)) < 2 else 0.95
                rows[run.key] = run.to_dict() | {"validation_error": error, "own_zeros": own}
    return rows


def test_finals_wait_for_the_choice_of_a_setting() -> None:
    place = tiny_place()
    item = plan.Item(place, place.contenders[1], 0.9)
    assert item.finals({}) is None
    rows = tuning_rows(place, {"rvsm-l0-u": 0.2, "hard-concrete": 0.3})
    assert len(rows) == 2 * 2 * CANDIDATES
    finals = item.finals(rows)
    assert finals is not None
    assert [(r.setting, r.seed, r.purpose) for r in finals] == [
        (1.0, 0, "final"),
        (1.0, 1, "final"),
    ]
    higher = plan.Item(place, place.contenders[2], 0.9)
    lower = dataclasses.replace(higher, sparsity=0.8)
    assert [r["setting"] for r in lower.tried(rows)] == [1e-5, 5e-5, 2.5e-4, 1.12e-4]
    assert higher.tried(rows)[0]["setting"] == 2.5e-4  # begins where 0.8 came nearest to 0.9
    assert higher.next_tuning({}) is None  # not known before
    diverged = {k: {**r, "validation_error": None} if r["setting"] == 1.0 else r
                for k, r in rows.items()}  # fmt: skip
    assert item.setting(diverged) == 0.1


def test_the_strongest_are_chosen_by_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tiny_place()
    place = tiny_place(data="mnist", strongest_of=("small", "digits"))
    monkeypatch.setattr(plan, "TIERS", {"core": [elsewhere, place]})
    monkeypatch.setattr(plan, "STRONGEST", 1)
    assert place.who({}) is None
    assert plan.items_of([place], {}) == []
    for best in ("rvsm-l0-u", "hard-concrete"):
        rows = tuning_rows(elsewhere, {"rvsm-l0-u": 0.2, "hard-concrete": 0.2, best: 0.1})
        assert [c.method for c in place.who(rows) or ()] == ["dense", best]


def test_the_core_is_the_plan_that_was_agreed_upon() -> None:
    core = {(p.network, p.data): p for p in plan.TIERS["core"]}
    assert core["lenet-300-100", "mnist"].sparsities == (0.9, 0.95, 0.98, 0.987, 0.99)
    assert NETWORKS["lenet-300-100"].epochs == NETWORKS["lenet-5"].epochs == 40
    assert core["lenet-5", "mnist"].sparsities == (0.99, 0.9967)
    assert 430_500 - round(0.9967 * 430_500) <= 1_435
    assert 266_200 - round(0.987 * 266_200) <= 3_500
    for place in plan.TIERS["core"] + plan.TIERS["full"] + plan.TIERS["quick"]:
        assert place.seeds >= 3 or place.network == "small"
        for sparsity, seeds in place.more.items():
            runs = place.finals(plan.OURS, sparsity, 0.1)
            assert len(runs) == seeds == 5
            assert all(run.held_out == 0 for run in runs)
        assert all(place.tuning(plan.OURS, s, 0.1).purpose == "tune" for s in place.sparsities)
    with pytest.raises(ConfigError, match="There is no tier huge"):
        plan.places_of("huge")


def test_ablation_changes_one_thing_and_reads_no_test_set() -> None:
    runs = ablation.runs()
    assert len({run.key for run in runs}) == len(runs)
    assert {run.purpose for run in runs} == {"ablation"}
    assert all(run.held_out for run in runs)
    for ground in ablation.GROUNDS:
        names = [(c.factor, c.name) for c in ground.changes]
        assert len(set(names)) == len(names)
        start = ablation.run_of(ground, ground.changes[0], 0)
        for change in ground.changes[1:]:
            changed = ablation.run_of(ground, change, 0)
            assert changed.key != start.key, change
            differs = {
                name for name, value in vars(changed.options).items()
                if value != getattr(start.options, name)
            }  # fmt: skip
            told = {n for n, v in change.options.items() if v != getattr(start.options, n)}
            assert differs == told, change


# Rows


def test_options_and_runs_come_back_from_rows() -> None:
    run = run_of(average=0.9, floor=0.01, a_end=0.1)
    row = json.loads(json.dumps(run.to_dict()))
    assert Run.of(row) == run
    assert Run.of(row).key == run.key
    assert row["options"] == {"batch": 64, "average": 0.9, "floor": 0.01, "a_end": 0.1}
    with pytest.raises(ConfigError, match="no option bete"):
        Options.of({"bete": 1.0})


def test_rows_of_two_processes_are_all_kept(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.frontier.options import Run\n"
        "from benchmarks.frontier.store import Store\n"
        "store, first = Store(Path(sys.argv[1])), int(sys.argv[2])\n"
        "for seed in range(first, first + 25):\n"
        "    store.add(Run('tune', 'small', 'digits', 'dense', 0.0, None, seed, 1, 0).to_dict())\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), first], cwd=ROOT)
        for first in ("0", "25")
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert sorted(row["seed"] for row in Store(tmp_path).rows()) == list(range(50))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_row_replaces_that_of_the_same_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for error in (0.3, 0.2):
        store.add({**run_of().to_dict(), "test_error": error})
    store.add(run_of(seed=1).to_dict())
    assert len(store.rows("small-digits")) == 2
    found = store.find(run_of())
    assert found is not None
    assert found["test_error"] == 0.2
    assert store.find(run_of(seed=2)) is None
    lines = store.path("small-digits").read_text("utf-8").splitlines()
    assert [line for line in lines if line not in "[]"] == lines[1:-1]
    assert len(lines) == 4


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"seed": 1}]'])
def test_damaged_rows_are_told(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    store.path("small-digits").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"small-digits\.json .*; restore it from git"):
        store.rows()


def test_a_claim_holds_until_it_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(run_of()) as mine, store.claim(run_of()) as other:
        assert mine
        assert not other
        with store.claim(run_of(seed=1)) as another:
            assert another
    with store.claim(run_of()) as again:
        assert again


# Tables


def cell(method: str, errors: list[float], sparsity: float = 0.9, options: str = "{}", **more):
    values = {"nonzeros": 100.0, "with_biases": 110.0, "seconds": 1.0} | more
    return tables.Cell("small", "digits", method, sparsity, options, None, tuple(errors), **values)


def final_rows(errors: dict[str, list[float]], sparsity: float = 0.9) -> list[dict]:
    rows = []
    for method, own in errors.items():
        for seed, error in enumerate(own):
            run = Run("final", "small", "digits", method, sparsity, None, seed,
                      NETWORKS["small"].epochs, 0, TINY)  # fmt: skip
            rows.append({
                **run.to_dict(), "test_error": error, "nonzeros": 974,
                "nonzeros_with_biases": 1040, "seconds_per_epoch": 0.5,
            })  # fmt: skip
    return rows


@pytest.mark.usefixtures("plain_ours")
def test_cells_are_means_over_seeds() -> None:
    rows = final_rows({"rvsm-l0-u": [0.01, 0.02, 0.03], "magnitude": [0.05]})
    other_setting = {**rows[0], "setting": 7.0, "test_error": 0.9}
    tuning = {**rows[0], "purpose": "tune", "validation_error": 0.5}
    short = {**rows[0], "epochs": 1, "test_error": 0.9}
    found = tables.cells_of([*rows, other_setting, tuning, short, {**rows[1], "test_error": None}])
    ours, magnitude = found
    assert ours.errors == (0.01, 0.02, 0.03)
    assert ours.mean == pytest.approx(0.02)
    assert ours.sd == pytest.approx(0.01)
    assert ours.se == pytest.approx(0.01 / math.sqrt(3))
    assert (ours.nonzeros, ours.with_biases) == (974, 1040)
    assert math.isnan(magnitude.sd)
    assert ours.is_ours
    assert not magnitude.is_ours
    assert tables.percent(ours) == "2.00 ± 0.58"
    assert tables.percent(magnitude) == "5.00"


@pytest.mark.usefixtures("plain_ours")
@pytest.mark.parametrize(
    ("other", "ahead", "clearly"),
    [
        ([0.010, 0.012, 0.014], True, True),
        ([0.019, 0.0195, 0.0199], True, False),
        ([0.03, 0.031], False, None),
        ([0.0199], True, True),  # one seed says nothing of its error: that is not for us
    ],
)
def test_who_is_ahead_of_ours(other: list[float], ahead: bool, clearly: bool | None) -> None:
    cells = [cell("rvsm-l0-u", [0.019, 0.020, 0.021]), cell("magnitude", other)]
    cells += [cell("rvsm-l1-u", [0.0, 0.0]), cell("magnitude", [0.0, 0.0], sparsity=0.95)]
    found = tables.ahead_of_ours(cells)
    assert [a.other.errors for a in found] == ([tuple(other)] if ahead else [])
    if ahead:
        assert found[0].clearly is clearly
        assert ("magnitude" in tables.verdict(cells).lower()) is clearly
    else:
        assert "nobody" in tables.verdict(cells)


@pytest.mark.usefixtures("plain_ours")
def test_the_table_names_fewer_weights() -> None:
    cells = [
        cell("rvsm-l0-u", [0.02, 0.03]), cell("pat-lasso", [0.04, 0.04], nonzeros=50.0),
        cell("rvsm-l0-u", [0.05], sparsity=0.95, nonzeros=50.0), cell("dense", [0.01, 0.01], 0.0),
    ]  # fmt: skip
    text = tables.comparison(cells)
    assert "90 % zeros, 100 weights | 95 % zeros, 50 weights" in text
    assert "| torchao PAT, lasso | 4.00 ± 0.00, 50 weights | - |" in text
    assert "| **RVSM, l0, gradient at u** | 2.50 ± 0.50 | 5.00 |" in text
    assert "| dense | 1.00 ± 0.00 |  |" in text


def test_ablation_differences_are_paired() -> None:
    ground, changes = ablation.GROUNDS[0], ablation.CHANGES
    errors = {0: (0.03, 0.02), 1: (0.05, 0.041), 2: (0.04, None)}
    rows = []
    for seed, pair in errors.items():
        for change, error in zip(changes[:2], pair, strict=True):
            if error is not None:
                row = ablation.run_of(ground, change, seed).to_dict()
                rows.append(row | {"validation_error": error})
    text = tables.ablation_table(rows)
    assert "| none | the start | 4.00 ± 0.58 |  | 3 |" in text
    assert f"| gradient | at w | 3.05 ± {100 * 0.0105:.2f} | -0.95 ± 0.05 | 2 |" in text
    assert tables.ablation_table([]) == ""


def test_pictures_are_drawn(tmp_path: Path) -> None:
    names = [name for name in METHODS if name != "dense"]
    errors = {name: [0.02 + 0.001 * i, 0.025] for i, name in enumerate(names)}
    rows = final_rows(errors, 0.9) + final_rows({"dense": [0.01]}, 0.0)
    plots.frontier(tables.cells_of(rows), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_made_from_the_rows() -> None:
    rows = Store(FRONTIER / "results").rows()
    text = (ROOT / "docs" / "frontier.md").read_text("utf-8")
    assert f"{page.START}{page.text(rows, 'pictures')}\n{page.END}" in text
    for network, data in tables.places(tables.cells_of(rows)):
        assert (ROOT / "docs" / "pictures" / page.picture_name(network, data)).exists()
    wanted = {page.model_name(winner) for winner in page.winners(rows)}
    assert {p.name for p in (FRONTIER / "models").glob("*.safetensors")} == wanted


# The check


@pytest.fixture
def kept(tiny: plan.Place, tmp_path: Path) -> list[str]:
    """A model and its row; the words of the command that checks them."""
    store = Store(tmp_path / "results")
    Worker(store, Folders.parse([]), tell=lambda line: None).do(run_of())
    page.keep_winners(store, tmp_path / "models")
    return ["--results", str(tmp_path / "results"), "--models", str(tmp_path / "models")]


def test_the_check_finds_what_was_trained(
    kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check.main(kept)
    assert "974 weights" in capsys.readouterr().out


def test_the_check_finds_every_change(kept: list[str], tmp_path: Path) -> None:
    (path,) = (tmp_path / "models").glob("*.safetensors")
    whole = path.read_bytes()
    rows = tmp_path / "results" / "small-digits.json"
    before = rows.read_text("utf-8")

    def refused(told: str) -> None:
        with pytest.raises(RvsmError, match="not as the rows say"):
            check.main(kept)
        lines = _captured(check.main, kept)
        assert len(lines) == told.count("|") + 1
        for part, line in zip(told.split("|"), lines, strict=True):
            assert part in line

    path.write_bytes(whole[:-20])
    refused(str(path))
    path.write_bytes(b"")
    refused(str(path))
    path.unlink()
    refused("is missing")
    model = NETWORKS["small"].build()
    rvsm.save(model, path)
    refused("of another run")
    path.write_bytes(whole)
    shutil.copy(path, path.with_name("extra.safetensors"))
    refused("wins at no share")
    path.with_name("extra.safetensors").unlink()
    state = rvsm.load(path)
    name = next(n for n, t in state.items() if t.dim() > 1)
    place = state[name].flatten().nonzero()[0]
    state[name].view(-1)[place] = 0
    from rvsm.deploy.files import read_metadata

    rvsm.save(state, path, read_metadata(path))
    lines = _captured(check.main, kept)
    assert any("nonzeros is 973, and its row says 974" in line for line in lines)
    path.write_bytes(whole)
    check.main(kept)
    rows.write_text("[", "utf-8")
    with pytest.raises(DataError, match="is damaged"):
        check.main(kept)
    rows.write_text(before, "utf-8")


def _captured(call, words: list[str]) -> list[str]:
    import contextlib
    import io

    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), contextlib.suppress(RvsmError):
        call(words)
    return stream.getvalue().splitlines()


def test_nothing_to_check_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to check"):
        check.main(["--results", str(tmp_path), "--models", str(tmp_path)])


@pytest.mark.slow
def test_committed_models_are_as_their_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not on this machine")
    if not list((FRONTIER / "models").glob("*.safetensors")):
        pytest.skip("no model is committed")
    check.main(["--data", str(DATA)])
