"""Which images a run learned from: noted when it begins, compared when a study goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rvsm.errors import RunError
from rvsm.experiments.places import ENVIRONMENT_FILE
from rvsm.experiments.records import EnvironmentFile
from rvsm.handwriting.description import read_description
from rvsm.handwriting.generator import alike, differing
from rvsm.jsonfiles import read_object

_DECISIVE = ("seed", "options", "generator")


def noted(data: Path) -> dict[str, Any]:
    """Return what a run's ``environment.json`` tells of its images; nothing of undescribed ones.

    Parameters
    ----------
    data
        The data folder.

    Returns
    -------
    dict
        ``data``: of the folder's ``dataset.json`` what the images are a function of.
    """
    described = read_description(data) or {}
    kept = {name: described[name] for name in _DECISIVE if name in described}
    return {"data": kept} if kept else {}


def read_origin(run_dir: Path) -> dict[str, Any] | None:
    """Return what a run noted of its images, or None where nothing tells."""
    try:
        return read_object(run_dir / ENVIRONMENT_FILE, EnvironmentFile).get("data")
    except (OSError, ValueError):
        return None


def check_unchanged(run_dir: Path, data: Path) -> None:
    """Raise RunError where a run that goes on would learn from other images than it began with."""
    found, now = read_origin(run_dir), noted(data).get("data")
    if found is None or now is None:
        return
    if other := differing(found, now):
        raise RunError(
            f"{data} was made anew with another {', '.join(other)} since {run_dir} began to "
            "learn from it: make it again as it was, or train in a new folder."
        )


def difference(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say what some images were made with that others are not; empty where they are the same.

    Parameters
    ----------
    found, asked
        Of either; where `asked` names no source, any will do.
    """
    if found.get("seed") != asked["seed"]:
        return f"data seed {found.get('seed')}, not {asked['seed']}"
    options, wanted = dict(found.get("options", {})), dict(asked["options"])
    images = options.pop("images", {})
    if other := counted(images, wanted.pop("images")):
        return other
    if wanted and options != wanted:
        return "other fonts, strokes, words or tremor"
    generator = str(found.get("generator", "none"))
    if not alike(generator, asked["generator"]):
        return f"another generator of images ({generator}, not {asked['generator']})"
    return ""


def counted(images: Mapping[str, int], wanted: Mapping[str, int]) -> str:
    """Say of which split there are more or fewer images than wanted; empty where of none."""
    for split in dict.fromkeys((*wanted, *images)):
        there, count = images.get(split, 0), wanted.get(split, 0)
        if there != count:
            return f"{there} images of {split}, not {count}"
    return ""
