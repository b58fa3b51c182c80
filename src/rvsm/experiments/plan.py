"""What a reproduction consists of: data sets, checks and runs, and which of them are left to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rvsm.errors import ConfigError, RunError
from rvsm.experiments import recipes
from rvsm.experiments.config import (
    CONFIG_FILE,
    METHODS,
    Accelerator,
    Method,
    TrainConfig,
    load_config,
)
from rvsm.experiments.jobs import Job
from rvsm.experiments.origin import counted, difference, read_origin
from rvsm.experiments.runs import check_same, read_result
from rvsm.handwriting.description import read_description

CHECK_FILE = "check.json"
"""In a data folder of the study: what `rvsm.handwriting.check` found."""

CHECKED_IMAGES = 4000
"""So many images of a split are enough to see a short cut; all of training would take minutes."""

_Kind = Literal["", "maps"]
_PLACE = r"(?P<task>[a-z]+)-(?P<set>[a-z]+)"
_METHOD = "|".join(METHODS)
_RUN = re.compile(rf"{_PLACE}-(?P<method>{_METHOD})-s(?P<seed>\d+)")
_POINT = re.compile(rf"{_PLACE}-(?P<point>(?:{_METHOD})-fc.+)")


class Plan:
    """The jobs of a reproduction and the runs they lead to.

    Parameters
    ----------
    out
        Folder of the study.
    full
        Which recipes.
    counts
        Images of each split, in place of those of the recipes.
    accelerator
        What trains.

    Attributes
    ----------
    untold
        Finished runs, of an earlier version, that do not say what images they learned from.
    """

    def __init__(
        self,
        out: Path,
        full: bool,
        counts: dict[str, int] | None = None,
        accelerator: Accelerator = "cpu",
    ) -> None:
        self.out = out
        self.full = full
        self.counts = counts or recipes.counts(full=full)
        self.accelerator = accelerator
        self.runs: list[str] = []
        self.grid: dict[str, TrainConfig] = {}
        self.pairs: list[tuple[str, str]] = []
        self.untold: list[str] = []
        self._asked: dict[str, dict[str, Any]] = {}
        self._jobs: list[Job] = []
        self._configs: dict[str, TrainConfig] = {}

    def data(self, task: str, set_name: str) -> Path:
        """Return the folder of a data set."""
        return self.out / "data" / f"{task}-{set_name}"

    def add_data(self, task: str, set_name: str, options: dict[str, Any]) -> None:
        """Plan a data set and its check."""
        from rvsm.handwriting import datasets

        self._know(task, set_name)
        place, name = self.data(task, set_name), f"data/{task}-{set_name}"
        options = {**options, "task": task, "set": set_name, "counts": self.counts}
        self._asked[place.name] = datasets.origin(**options)
        if (made := read_description(place)) is not None:
            self._refuse(place, difference(made, self._asked[place.name]))
        path = str(place)
        self._jobs.append(Job(name, {"kind": "data", "path": path, "options": options}, last=True))
        order = {"kind": "check", "path": path, "most": CHECKED_IMAGES}
        self._jobs.append(Job(f"check/{place.name}", order, (name,)))

    @staticmethod
    def _refuse(path: Path, other: str) -> None:
        """Raise RunError where a data folder or a run is of other images than are asked for.

        Finished runs ask for no data: they would answer for a seed that they never saw.
        """
        if other:
            raise RunError(
                f"{path} was made with {other}; ask for what it was made with, or name another "
                "folder with --out."
            )

    def _check_origin(self, name: str, config: TrainConfig) -> None:
        """Raise RunError where a run, finished or not, is of other images than are asked for."""
        path, data = self.out / name, Path(config.data).name
        if not self._asked:
            return
        asked = self._asked.get(data)
        if asked is None:  # another task or set: any fonts or strokes, the rest alike
            first = next(iter(self._asked.values()))
            asked = {**first, "options": {"images": first["options"]["images"]}}
        if (found := read_origin(path)) is not None:
            self._refuse(path, difference(found, asked))
            self._asked.setdefault(data, found)
        elif (result := read_result(path)) is not None:
            self.untold.append(name)
            images = dict(asked["options"]["images"])
            if config.images:
                images["train"] = min(images.get("train", 0), config.images)
            skipped = result.get("skipped_images", {})
            there = {name: n + skipped.get(name, 0) for name, n in result["split_sizes"].items()}
            self._refuse(path, counted(there, images))

    def add_runs(self, task: str, set_name: str, seed: int, methods: Sequence[Method]) -> None:
        """Plan the networks of one seed; without the dense one the others have no start."""
        place = (task, set_name, seed)
        self.runs.append(self._add(*place, "dense"))
        sparse = [method for method in methods if method != "dense"]
        if self.full and sparse:
            self._add(*place, recipes.MAPS_METHOD, "maps")
        self.runs += [self._add(*place, method) for method in sparse]

    def add_grid(self, task: str, set_name: str, seeds: Sequence[int]) -> None:
        """Plan the grid, from the dense network of seed 0 where there is or will be one."""
        first = self._name(task, set_name, 0, "dense")
        has_first = 0 in seeds or (self.out / first / "result.json").exists()
        dense = first if has_first else self._name(task, set_name, seeds[0], "dense")
        points = recipes.grid(str(self.data(task, set_name)), str(self.out / dense), full=self.full)
        for point, recipe in points.items():
            name, config = f"grid/{task}-{set_name}-{point}", self._here(recipe)
            self._job(name, config, (dense,))
            self.grid[name] = config

    def adopt(self) -> list[str]:
        """Take in the finished runs that earlier calls left: a study can be done in stretches.

        Returns
        -------
        list of str
            Runs that do not belong to this study: their configuration is another.

        Raises
        ------
        RunError
            A run of the study's configuration is of other images.
        """
        strangers = []
        for path in sorted(self.out.glob("*/result.json")):
            name = path.parent.name
            found = _RUN.fullmatch(name)
            if found is None or name in self._configs:
                continue
            task, set_name, seed = found["task"], found["set"], int(found["seed"])
            method = next(method for method in METHODS if method == found["method"])
            config = self._recipe(task, set_name, seed, method)
            try:
                check_same(config, path.parent, moved=True)
            except RunError:
                strangers.append(name)
                continue
            self._check_origin(name, config)
            self._know(task, set_name)
            self.runs.append(name)
        return strangers + self._adopt_grid()

    def _adopt_grid(self) -> list[str]:
        strangers = []
        for path in sorted(self.out.glob("grid/*/result.json")):
            name = f"grid/{path.parent.name}"
            found = _POINT.fullmatch(path.parent.name)
            if found is None or name in self._configs:
                continue
            data = str(self.data(found["task"], found["set"]))
            try:
                config = load_config(path.parent / CONFIG_FILE)
                points = recipes.grid(data, config.start, full=self.full)
                check_same(self._here(points[found["point"]]), path.parent, moved=True)
            except (ConfigError, RunError, KeyError):
                strangers.append(name)
                continue
            self._check_origin(name, config)
            self._know(found["task"], found["set"])
            self.grid[name] = config
        return strangers

    def open_jobs(self) -> list[Job]:
        """Return what is left to do; a run with another configuration or data is an error."""
        runs = [
            job for job in self._jobs if job.order["kind"] == "train" and not self._finished(job)
        ]
        needed = {need for job in runs for need in job.needs}
        made = {job.name for job in self._jobs if job.order["kind"] == "data"} & needed
        left = [
            job
            for job in self._jobs
            if job in runs or job.name in made or self._can_check(job, made)
        ]
        names = {job.name for job in left}
        return [
            replace(job, needs=tuple(need for need in job.needs if need in names)) for job in left
        ]

    def _finished(self, job: Job) -> bool:
        self._check_origin(job.name, self._configs[job.name])
        if not (self.out / job.name / "result.json").exists():
            return False
        check_same(self._configs[job.name], self.out / job.name, moved=True)
        return True

    @staticmethod
    def _can_check(job: Job, made: set[str]) -> bool:
        if job.order["kind"] != "check":
            return False
        path = Path(job.order["path"])
        has_data = path.is_dir() or not made.isdisjoint(job.needs)
        return has_data and not (path / CHECK_FILE).exists()

    def _know(self, task: str, set_name: str) -> None:
        if (task, set_name) not in self.pairs:
            self.pairs.append((task, set_name))

    @staticmethod
    def _name(task: str, set_name: str, seed: int, method: Method, kind: _Kind = "") -> str:
        return "-".join(part for part in (task, set_name, method, kind, f"s{seed}") if part)

    def _start(self, task: str, set_name: str, seed: int, method: Method, kind: _Kind) -> str:
        """Return the name of the run that a run starts from; empty for a dense one."""
        if method == "dense":
            return ""
        if self.full and not kind:
            return self._name(task, set_name, seed, recipes.MAPS_METHOD, "maps")
        return self._name(task, set_name, seed, "dense")

    def _recipe(
        self, task: str, set_name: str, seed: int, method: Method, kind: _Kind = ""
    ) -> TrainConfig:
        before = self._start(task, set_name, seed, method, kind)
        data, start = str(self.data(task, set_name)), str(self.out / before) if before else ""
        if kind:
            return self._here(recipes.maps_recipe(data=data, seed=seed, start=start))
        found = recipes.recipe(method, full=self.full, data=data, seed=seed, start=start)
        return self._here(found)

    def _here(self, config: TrainConfig) -> TrainConfig:
        return config.model_copy(update={"accelerator": self.accelerator})

    def _add(self, task: str, set_name: str, seed: int, method: Method, kind: _Kind = "") -> str:
        name = self._name(task, set_name, seed, method, kind)
        before = self._start(task, set_name, seed, method, kind)
        needs = (before,) if before else ()
        self._job(name, self._recipe(task, set_name, seed, method, kind), needs)
        return name

    def _job(self, name: str, config: TrainConfig, needs: tuple[str, ...]) -> None:
        self._configs[name] = config
        data = f"data/{Path(config.data).name}"
        order = {
            "kind": "train",
            "config": config.model_dump(mode="json", exclude_none=True),
            "run_dir": str(self.out / name),
        }
        self._jobs.append(Job(name, order, (data, *needs)))
