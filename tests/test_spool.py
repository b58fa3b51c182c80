"""rvsm.handwriting.spool: a large making that was stopped goes on and ends the same."""

import json
from pathlib import Path

import pytest

from rvsm.handwriting import candidates, datasets, generator
from test_datasets import content, make


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> list[candidates.Job]:
    """Stop rendering after so many jobs; what is returned fills with those that were rendered."""
    done: list[candidates.Job] = []
    render = candidates.render

    def rendered(job: candidates.Job) -> list[candidates.Candidate]:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(job)
        return render(job)

    monkeypatch.setattr(candidates, "render", rendered)
    return done


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_LARGE", 10)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("pairs", [False, True])
def test_a_making_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: bool
) -> None:
    with monkeypatch.context() as patch:
        jobs = stopped(patch, 10_000)
        make(tmp_path / "whole", pairs=pairs)
        count = len(jobs)
    with monkeypatch.context() as patch:
        stopped(patch, count // 2)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "set", pairs=pairs)
    kept = sorted(tmp_path.glob(".set.candidates/*/*.npz"))
    assert len(kept) == count // 2
    assert not (tmp_path / "set").exists()
    kept[0].write_bytes(kept[0].read_bytes()[:200])
    kept[1].write_bytes(b"")
    with monkeypatch.context() as patch:
        jobs = stopped(patch, 10_000)
        make(tmp_path / "set", pairs=pairs)
        assert len(jobs) == count - len(kept) + 2
    assert content(tmp_path / "set") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]


@pytest.mark.usefixtures("large")
def test_candidates_of_another_set_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "set", seed=5)
    with monkeypatch.context() as patch:
        jobs = stopped(patch, 10_000)
        make(tmp_path / "set", seed=6)
        first = len(jobs)
        make(tmp_path / "again", seed=6)
        assert len(jobs) == 2 * first
    assert content(tmp_path / "set") == content(tmp_path / "again")


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("drew_alike", [True, False])
def test_candidates_of_a_generator_that_drew_alike_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drew_alike: bool
) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "set")
    told = tmp_path / ".set.candidates" / "dataset.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"generator": "0.0.1+earlier"}))
    if drew_alike:
        monkeypatch.setattr(generator, "_DREW_ALIKE", frozenset(["0.0.1+earlier"]))
    with monkeypatch.context() as patch:
        jobs = stopped(patch, 10_000)
        make(tmp_path / "whole")
        count = len(jobs)
        make(tmp_path / "set")
        assert len(jobs) == 2 * count - 3 * drew_alike


def test_small_sets_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
