"""Doing what is missing, run by run, beside other processes that do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch

import rvsm
from benchmarks.frontier import ablation, plan
from benchmarks.frontier.data import Folders
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Run
from benchmarks.frontier.store import Row, Store
from benchmarks.frontier.training import Result, needs_teacher, train
from rvsm.errors import DataError
from rvsm.experiments.runs import environment

Pending = Callable[[Mapping[str, Row]], Sequence[Run]]
"""Which runs can be done next, given the rows there are."""


def pending_of(tier: str) -> Pending:
    """Return what is to do for a tier, or for the ablation."""
    if tier == "ablation":
        return lambda rows: [run for run in ablation.runs() if run.key not in rows]
    places = plan.places_of(tier)

    def pending(rows: Mapping[str, Row]) -> list[Run]:
        found: list[Run] = []
        for item in plan.items_of(places, rows):
            tuning = item.next_tuning(rows)
            if tuning is not None:
                found.append(tuning)
            else:
                found += [run for run in item.finals(rows) or () if run.key not in rows]
        return found

    return pending


class Worker:
    """Does runs and puts their rows into a store.

    Parameters
    ----------
    store : Store
        Where rows are.
    folders : Folders
        Where images are.
    device : str
        To train on.
    only : sequence of str
        Words that a run's label must all have.
    minutes : float, optional
        After which no run is begun.
    tell : callable
        Takes a line of progress.
    """

    def __init__(
        self,
        store: Store,
        folders: Folders,
        *,
        device: str = "cpu",
        only: Sequence[str] = (),
        minutes: float | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.store, self.device, self.only, self.tell = store, device, only, tell
        self.until = None if minutes is None else time.monotonic() + 60 * minutes
        self.told: set[str] = set()
        # A set of images takes a fifth of a gigabyte: two at a time.
        self.data = lru_cache(maxsize=2)(lambda name: folders.read(name).to(device))
        self.missing_data: set[str] = set()
        self.environment = environment()

    def work(self, pending: Pending) -> int:
        """Do all runs that can be done here; return how many were done."""
        done = 0
        while True:
            took, busy = self._pass(pending)
            done += took
            if self.until is not None and time.monotonic() >= self.until:
                return done
            if not took and not busy:
                return done
            if not took:
                time.sleep(1)  # what another process does may open something to do

    def _pass(self, pending: Pending) -> tuple[int, bool]:
        """Do the first run that nobody else does; say whether somebody does one."""
        busy = False
        for run in pending(self.store.by_key()):
            if not self._possible(run):
                continue
            with self.store.claim(run) as mine:
                if mine and self.store.find(run) is None:
                    if self.do(run) is not None:
                        return 1, busy
                    busy = True  # its teacher is in another's hands
                busy = busy or not mine
        return 0, busy

    def _possible(self, run: Run) -> bool:
        if not all(word in run.label for word in self.only):
            return False
        reason = METHODS[run.method].missing()
        if reason is None and run.data in self.missing_data:
            return False
        if reason is None:
            try:
                self.data(run.data)
            except DataError as error:
                self.missing_data.add(run.data)
                reason = str(error)
        if reason is not None and reason not in self.told:
            self.told.add(reason)
            self.tell(f"left out: {reason}")
        return reason is None

    def do(self, run: Run) -> Result | None:
        """Do a run and keep its row; None where another process is at its teacher."""
        dense = None
        if needs_teacher(run):
            dense = self._dense(run.dense())
            if dense is None:
                return None
        result = train(run, self.data(run.data), dense)
        packages = self.environment["packages"]
        row = result.row | {
            "commit": self.environment["git_commit"],
            "torch": packages["torch"],
            "machine": self.environment.get("gpu", self.environment["cpu"]),
        }
        if "diverged" not in row and (run.purpose == "final" or run.method == "dense"):
            self._keep(run, result)
        self.store.add(row)
        self.tell(line_of(row))
        return result

    def _keep(self, run: Run, result: Result) -> None:
        rvsm.save(
            result.model, self.store.model_path(run), {"run": run.key}, negative_zeros=False
        )  # fmt: skip

    def _dense(self, run: Run) -> Result | None:
        """Return the dense network of a run, from its file or trained now."""
        path, row = self.store.model_path(run), self.store.find(run)
        if path.exists() and row is not None:
            torch.manual_seed(run.seed)
            model = NETWORKS[run.network].build()
            rvsm.load(path, model)
            return Result(model.to(self.device), row)
        with self.store.claim(run) as mine:
            return self.do(run) if mine else None


def line_of(row: Row) -> str:
    """Return a row as a line of progress."""
    label = Run.of(row).label
    if "diverged" in row:
        return f"{label}: diverged ({row['diverged']})"
    errors = [
        f"{name} {100 * row[key]:.2f} %"
        for name, key in (("validation", "validation_error"), ("test", "test_error"))
        if row.get(key) is not None
    ]
    return (
        f"{label}: {', '.join(errors)}, {row['nonzeros']:,} weights, "
        f"{row['seconds_per_epoch']:.1f} s an epoch"
    )


def seconds_of(rows: Mapping[str, Row], network: str, data: str, method: str) -> float:
    """Return what an epoch takes: measured, of the method or of others, or estimated."""
    own = [r for r in rows.values() if r["network"] == network and "seconds_per_epoch" in r]
    for chosen in (
        [r for r in own if r["method"] == method and r["data"] == data],
        [r for r in own if r["data"] == data],
        own,
    ):
        if chosen:
            return float(sum(r["seconds_per_epoch"] for r in chosen) / len(chosen))
    return NETWORKS[network].seconds


def listing(tier: str, rows: Mapping[str, Row]) -> list[str]:
    """Return the plan of a tier, what of it is done and the hours on one core that are left."""
    lines, left, total = [], 0.0, 0.0
    if tier == "ablation":
        for ground in ablation.GROUNDS:
            seconds = seconds_of(rows, ground.network, ground.data, ablation.METHOD)
            runs = ablation.runs([ground])
            open_runs = [run for run in runs if run.key not in rows]
            left += sum(run.epochs for run in open_runs) * seconds
            total += sum(run.epochs for run in runs) * seconds
            lines.append(
                f"{ground.network} {ground.data} {100 * ground.sparsity:g} %: "
                f"{len(runs) - len(open_runs)} of {len(runs)} runs done"
            )
    else:
        for place in plan.places_of(tier):
            network = NETWORKS[place.network]
            who = place.who(rows)
            if who is None:
                who = place.contenders[: plan.STRONGEST + 1]
                lines.append(f"{place.network} {place.data}: the strongest are not known yet")
            known = plan.Place(**{**vars(place), "contenders": who, "strongest_of": None})
            for item in plan.items_of([known], rows):
                seconds = seconds_of(rows, place.network, place.data, item.contender.method)
                tuned, tuning, done, finals = item.counts(rows)
                left += seconds * (tuning - tuned) * network.tune_epochs
                left += seconds * (finals - done) * network.epochs
                total += seconds * (tuning * network.tune_epochs + finals * network.epochs)
                lines.append(
                    f"{place.network} {place.data} {100 * item.sparsity:g} % "
                    f"{item.contender.method}: tuning {tuned}/{tuning}, final {done}/{finals}"
                )
    lines.append(f"{left / 3600:.1f} of {total / 3600:.1f} hours on one core are left.")
    return lines
