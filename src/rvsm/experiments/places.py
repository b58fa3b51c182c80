"""Where the folders are that a run names: written from the root, found again after a move."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rvsm.atomic import atomic_text
from rvsm.experiments.config import TrainConfig

PLACES = {"data": 2, "more": 2, "start": 1, "teacher": 1}
"""Options that name a folder or several, and how much of the end of a path names it in a study."""

ENVIRONMENT_FILE = "environment.json"

MODEL_FILE = "model.safetensors"
"""The network as it is asked, with a description of its layers for `rvsm.load_network`."""

_RUN_DIR = "run_dir"


def rooted(config: TrainConfig) -> TrainConfig:
    """Name the folders of a configuration from the root: the run is used from anywhere."""
    named = {name: getattr(config, name) for name in PLACES}
    whole = {name: _from_root(paths) for name, paths in named.items() if paths}
    return config.model_copy(update=whole)


def _from_root(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(paths, tuple):
        return tuple(str(Path(path).resolve()) for path in paths)
    return str(Path(paths).resolve())


def write_environment(run_dir: Path, environment: dict[str, Any]) -> None:
    """Write a run's ``environment.json``, and into it where the run is, to tell a move later."""
    noted = {**environment, _RUN_DIR: str(run_dir.resolve())}
    atomic_text(run_dir / ENVIRONMENT_FILE, json.dumps(noted, indent=2))


def found_data(named: str, run_dir: Path) -> Path:
    """Return the data folder of a run, as it is named where it is found nowhere.

    A run that was copied together with its data finds them where they lay as seen from it. The
    path of a run of an earlier version may be relative, to a folder that nobody noted: it is
    looked for from here, from the run, and from each folder that the run is in.

    Parameters
    ----------
    named
        ``data`` in the run's ``config.toml``.
    run_dir
        Of the run.
    """
    return next((place for place in _candidates(named, run_dir) if place.is_dir()), Path(named))


def _candidates(named: str, run_dir: Path) -> Iterator[Path]:
    yield Path(named)
    here = run_dir.resolve()
    if not Path(named).is_absolute():
        yield from (parent / named for parent in (here, *here.parents))
    elif before := _noted(run_dir):
        yield (here / os.path.relpath(named, before)).resolve()


def _noted(run_dir: Path) -> str:
    """Return where the run was trained; empty where nothing tells."""
    try:
        noted = json.loads((run_dir / ENVIRONMENT_FILE).read_text("utf-8"))
        return str(noted.get(_RUN_DIR, ""))
    except (OSError, ValueError, AttributeError):
        return ""
