"""Types of the JSON files that runs and studies leave, to be checked when they are read again.

Any entry may lack, as in files of earlier versions; one of another type is damage.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, RootModel

RESULTS_FILE, STUDY_FILE = "results.json", "study.json"
"""What a study leaves: the rows of its table, and all else."""

_Number = float | None


class _Band(BaseModel):
    low_mm: float
    high_mm: float
    images: int
    accuracy: float
    shaky_found: _Number = None
    regular_found: _Number = None


class _Score(BaseModel):
    images: int = 0
    accuracy: _Number = None
    accuracy_one_view: _Number = None
    auc: _Number = None
    bands: list[_Band] = []


class _Network(BaseModel):
    task: str | None = None
    set: str | None = None
    method: str | None = None
    seed: int | None = None
    start: str | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: _Number = None
    val_accuracy: _Number = None
    zeros: _Number = None
    fc_zeros: _Number = None
    nonzeros: int | None = None
    weights: int | None = None
    split_sizes: dict[str, int] = {}


class ResultFile(_Network):
    """A run's ``result.json``."""

    scores: dict[str, _Score] = {}
    skipped_images: dict[str, int] = {}
    skipped_files: dict[str, dict[str, str]] = {}
    note: str = ""


class _Options(BaseModel):
    images: dict[str, int] = {}
    source: dict[str, Any] = {}


class _Origin(BaseModel):
    seed: int | None = None
    generator: str | None = None
    options: _Options = _Options()


class EnvironmentFile(BaseModel):
    """A run's ``environment.json``."""

    data: _Origin | None = None


class _Row(_Network):
    protocol: str | None = None
    run: str | None = None
    accuracy: _Number = None
    accuracy_one_view: _Number = None
    auc: _Number = None
    data: _Origin | None = None


class _Finding(BaseModel):
    name: str
    level: str
    text: str


class _Small(BaseModel):
    split: str
    band_mm: tuple[float, float] | None
    shaky: int


class _Linear(_Small):
    accuracy: float
    low: float
    high: float
    verdict: str
    decided: bool = True


class CheckFile(BaseModel):
    """``check.json`` of a study's data folder."""

    task: str | None = None
    set: str | None = None
    most_per_split: int = 0
    findings: list[_Finding] = []
    linear: list[_Linear] = []
    small: list[_Small] = []


class ResultsFile(RootModel[list[_Row]]):
    """A study's ``results.json``."""


class StudyFile(BaseModel):
    """A study's ``study.json``."""

    protocol_note: str | None = None
    sweep: list[_Row] | None = None
    checks: list[CheckFile] | None = None
