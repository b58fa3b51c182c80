"""What a report is made from: the rows and run folders below one folder, read with forbearance.

Nothing here raises for a part that is absent. What is missing is said in `missing`, and the
section it belongs to prints that sentence in its place.
"""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rvsm.errors import RunError, RvsmError
from rvsm.experiments.config import CONFIG_FILE, METHODS
from rvsm.experiments.origin import noted, read_origin
from rvsm.experiments.places import ENVIRONMENT_FILE, MODEL_FILE, found_data
from rvsm.experiments.records import (
    RESULTS_FILE,
    STUDY_FILE,
    ResultFile,
    ResultsFile,
    StudyFile,
)
from rvsm.jsonfiles import read_list, read_object

if TYPE_CHECKING:
    from torch import Tensor

    from rvsm.handwriting.network import TremorNet

# The run shown in detail is picked by this order, never by its test accuracy.
FEATURED = ("l0", "transformed-l1", "l1", "dense")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One measured result: a network under one protocol on one set."""

    task: str
    protocol: str
    set: str
    method: str
    seed: int
    accuracy: float
    auc: float
    fc_zeros: float
    zeros: float
    nonzeros: float
    accuracy_one_view: float = math.nan
    start: str = ""
    run: str = ""
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Row:
        """Read a row of results.json; a number that is absent or null becomes NaN."""

        def number(key: str) -> float:
            return math.nan if raw.get(key) is None else float(raw[key])

        def word(key: str) -> str:
            return str(raw.get(key) or "")

        return cls(
            task=word("task"),
            protocol=word("protocol"),
            set=word("set"),
            method=word("method"),
            seed=int(raw.get("seed") or 0),
            accuracy=number("accuracy"),
            auc=number("auc"),
            fc_zeros=number("fc_zeros"),
            zeros=number("zeros"),
            nonzeros=number("nonzeros"),
            accuracy_one_view=number("accuracy_one_view"),
            start=word("start"),
            run=word("run"),
            split_sizes=raw.get("split_sizes", {}),
            data=raw.get("data") or {},
        )


@dataclass(frozen=True)
class Predictions:
    """The columns of test_predictions.csv.

    Amplitudes are in millimetres; `matched_mm` is, for regular writing too, the amplitude the
    image was matched at (NaN where the data do not say).
    """

    split: npt.NDArray[np.str_]
    file: npt.NDArray[np.str_]
    shaky: Bools
    probability: Floats
    amplitude_mm: Floats
    matched_mm: Floats

    @property
    def called_shaky(self) -> Bools:
        return self.probability > 0.5

    def where(self, mask: Bools) -> Predictions:
        return Predictions(
            self.split[mask],
            self.file[mask],
            self.shaky[mask],
            self.probability[mask],
            self.amplitude_mm[mask],
            self.matched_mm[mask],
        )

    def __len__(self) -> int:
        return len(self.file)


@dataclass
class Run:
    """One run folder. Every part is read when first asked for; an absent part is None."""

    path: Path
    task: str
    set: str
    method: str
    seed: int
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def _lacks(self, file: str, why: str) -> None:
        self.missing.append(f"{self.name}/{file} {why}")

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            return tomllib.loads((self.path / CONFIG_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._lacks(CONFIG_FILE, "is missing")
        except (OSError, ValueError) as error:
            self._lacks(CONFIG_FILE, f"cannot be read ({error})")
        return {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        found = read_json(self.path / ENVIRONMENT_FILE)
        return found if isinstance(found, dict) else {}

    @cached_property
    def metrics(self) -> dict[str, Floats] | None:
        """Columns of metrics.csv, one value per epoch."""
        import pandas as pd

        path = self.path / "metrics.csv"
        if not path.is_file():
            self._lacks("metrics.csv", "is missing")
            return None
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            self._lacks("metrics.csv", f"cannot be read ({error})")
            return None
        return {str(name): _numbers(table[name]) for name in table.columns}

    @cached_property
    def predictions(self) -> Predictions | None:
        import pandas as pd

        path = self.path / "test_predictions.csv"
        if not path.is_file():
            self._lacks("test_predictions.csv", "is missing")
            return None
        try:
            table = pd.read_csv(path, dtype={"split": str, "file": str, "label": str})
            return Predictions(
                table["split"].to_numpy(dtype=np.str_),
                table["file"].to_numpy(dtype=np.str_),
                (table["label"] == "shaky").to_numpy(dtype=np.bool_),
                table["probability"].to_numpy(dtype=np.float64),
                _numbers(table["tremor_amplitude_mm"]),
                _numbers(table.get("virtual_amplitude_mm", table["tremor_amplitude_mm"])),
            )
        except (OSError, ValueError, KeyError) as error:
            self._lacks("test_predictions.csv", f"cannot be read ({error})")
            return None

    @cached_property
    def network(self) -> TremorNet | None:
        """The final network (u, with its exact zeros)."""
        from rvsm.experiments.runs import load_run

        try:
            return load_run(self.path)[1]
        except (OSError, RvsmError) as error:
            self._lacks(MODEL_FILE, f"cannot be shown ({error})")
            return None

    @cached_property
    def skipped(self) -> dict[str, str]:
        """The split of every file that could not be read when the network was trained."""
        try:
            with (self.path / "skipped.csv").open(encoding="utf-8", newline="") as stream:
                return {row["file"]: row["split"] for row in csv.DictReader(stream)}
        except (OSError, ValueError, KeyError, csv.Error):
            return {}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name; none where there is no network."""
        return dict(self.network.state_dict()) if self.network else {}


@dataclass
class View:
    """Everything about one task on one set: what the reader's switch turns to."""

    task: str
    set: str
    rows: list[Row]
    runs: list[Run]
    sweep: list[Row]
    data: Path | None
    check: Mapping[str, Any] = field(default_factory=dict)
    of_study: bool = False

    @cached_property
    def origin(self) -> Mapping[str, Any]:
        """What the images were made with; empty where nothing tells."""
        for row in self.rows:
            if row.data:
                return row.data
        for run in self.runs:
            if found := read_origin(run.path):
                return found
        if self.data is None:
            return {}
        try:
            found = noted(self.data).get("data")
        except RvsmError:
            return {}
        return found or {}

    @property
    def title(self) -> str:
        """Short name: task and set."""
        return " · ".join(part for part in (self.task, self.set) if part) or "run"

    @property
    def featured(self) -> Run | None:
        """The run shown in detail: l0 before the others, lowest seed, with a model if any has."""
        return next(iter(self.one_run_per_method(FEATURED).values()), None)

    def one_run_per_method(self, order: Iterable[str] = METHODS) -> dict[str, Run]:
        """The lowest seed of every method, runs that hold a model first."""
        chosen: dict[str, Run] = {}
        for method in [*order, *(r.method for r in self.runs)]:
            runs = [run for run in self.runs if run.method == method]
            if runs and method not in chosen:
                chosen[method] = min(
                    runs,
                    key=lambda run: (not (run.path / MODEL_FILE).is_file(), run.seed),
                )
        return chosen


@dataclass
class Study:
    """All that one report shows."""

    folder: Path
    single: bool
    views: list[View]
    note: str
    missing: list[str]

    def all_missing(self) -> list[str]:
        found = [*self.missing, *(m for v in self.views for run in v.runs for m in run.missing)]
        return list(dict.fromkeys(found))


def _numbers(column: Any) -> Floats:
    """A column as floats; what is no number becomes NaN."""
    import pandas as pd

    values: Floats = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    return values


def read_json(path: Path) -> Any:
    """The parsed file, or None when it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_study(folder: Path) -> Study:
    """Read a reproduce folder (it has results.json) or a single run folder.

    Raises
    ------
    RunError
        If the folder is neither: it holds no results.json, result.json or config.toml.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder: name a run folder or a folder of rvsm reproduce")
    file = folder / RESULTS_FILE
    try:
        rows = read_list(file, ResultsFile)
    except FileNotFoundError:
        rows = None
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    if rows is not None:
        return _read_reproduction(folder, rows)
    if any((folder / name).is_file() for name in ("result.json", CONFIG_FILE, "metrics.csv")):
        return _read_single(folder)
    raise RunError(
        f"{folder} holds neither {RESULTS_FILE} nor a run's {CONFIG_FILE}: "
        "name a folder written by rvsm train or rvsm reproduce"
    )


def _unreadable(file: Path, error: Exception) -> RunError:
    return RunError(
        f"{file} is damaged, of an earlier version or of another command ({error}): run the same "
        "rvsm reproduce again to write it."
    )


def _read_reproduction(folder: Path, listed: Sequence[Mapping[str, Any]]) -> Study:
    missing: list[str] = []
    views = []
    study: dict[str, Any] = {}
    try:
        study = read_object(folder / STUDY_FILE, StudyFile)
    except FileNotFoundError:
        missing.append(f"{STUDY_FILE} is missing")
    except (OSError, ValueError) as error:
        raise _unreadable(folder / STUDY_FILE, error) from error
    rows, sweep = _rows(listed), _rows(study.get("sweep") or ())
    for task, kind in dict.fromkeys((row.task, row.set) for row in rows):
        mine = [row for row in rows if (row.task, row.set) == (task, kind)]
        runs: dict[Path, Run] = {}
        for row in mine:
            path = (
                folder / row.run
                if row.run
                else folder / (f"{task}-{kind}-{row.method}-s{row.seed}")
            )
            if path in runs:
                continue
            if path.is_dir():
                runs[path] = Run(path, task, kind, row.method, row.seed)
            else:
                missing.append(f"run folder {path.name} is missing")
        data = _first_folder(
            folder / "data" / f"{task}-{kind}", *(_configured_data(run) for run in runs.values())
        )
        if data is None:
            missing.append(f"the images of {task} · {kind} are missing (data/{task}-{kind})")
        views.append(
            View(
                task,
                kind,
                mine,
                list(runs.values()),
                [row for row in sweep if (row.task, row.set) == (task, kind)],
                data,
                _check_of(study, task, kind),
                of_study=True,
            )
        )
    if not rows:
        missing.append(f"{RESULTS_FILE} has no rows yet")
    return Study(folder, False, views, str(study.get("protocol_note") or ""), missing)


def _check_of(study: Mapping[str, Any], task: str, kind: str) -> Mapping[str, Any]:
    """What the short-cut check found of a data set; empty where it has not been made."""
    checks = study.get("checks") or []
    mine = (check for check in checks if (check.get("task"), check.get("set")) == (task, kind))
    return next(mine, {})


def _rows(listed: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row.from_mapping(raw) for raw in listed]


def _read_single(folder: Path) -> Study:
    result: dict[str, Any] = {}
    missing = []
    try:
        result = read_object(folder / "result.json", ResultFile)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        missing.append(f"{folder.name}/result.json is damaged ({error})")
    rows = [
        Row.from_mapping({**result, **score, "protocol": split.removeprefix("test-")})
        for split, score in result.get("scores", {}).items()
        if split != "curve"
    ]
    if not rows and not missing:
        missing.append(f"{folder.name}/result.json is missing or holds no scores")
    run = Run(folder, str(result.get("task", "")), str(result.get("set", "")), "", 0)
    run.method = str(result.get("method") or run.config.get("method", ""))
    run.seed = int(result.get("seed") or run.config.get("seed", 0))
    data = _configured_data(run)
    if data is None:
        missing.append("the folder of images named in config.toml is missing")
    note = str(result.get("note") or "")
    return Study(folder, True, [View(run.task, run.set, rows, [run], [], data)], note, missing)


def _configured_data(run: Run) -> Path | None:
    """The image folder a run's config names."""
    named = run.config.get("data")
    if not isinstance(named, str) or not named:
        return None
    return _first_folder(found_data(named, run.path))


def _first_folder(*candidates: Path | None) -> Path | None:
    return next((path for path in candidates if path is not None and path.is_dir()), None)
