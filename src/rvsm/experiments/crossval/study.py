"""The whole study: fold after fold, each one a file, then the figures and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvsm.atomic import atomic_text, make_folder
from rvsm.errors import ConfigError
from rvsm.experiments.crossval.amplitude import amplitudes
from rvsm.experiments.crossval.baselines import DRAWING, WRITING, hog_features
from rvsm.experiments.crossval.candidates import NO_START
from rvsm.experiments.crossval.cases import Cases, copies_across, fitting_size, load_ink, read_cases
from rvsm.experiments.crossval.folds import check_inner, repeated
from rvsm.experiments.crossval.settings import Settings, claim
from rvsm.experiments.crossval.steps import Material, answers_of, fits_of, part_of, read_fold
from rvsm.experiments.crossval.summary import summarise, write_predictions
from rvsm.experiments.runs import environment, locked, start_file
from rvsm.handwriting.scans.sets import How

if TYPE_CHECKING:
    from rvsm.experiments.crossval.networks import Begin

Progress = Callable[[str, int, int], None]


def crossval(
    data: Path, out: Path, settings: Settings | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Judge classifiers on people they have not seen, by nested cross-validation.

    Parameters
    ----------
    data : Path
        A set in any layout; see `cases.read_cases`.
    out : Path
        Receives ``crossval.json`` (what was asked), ``folds/`` (the answers of each fold),
        ``predictions.csv``, ``results.json`` and ``report.html``. A stopped study goes on there.
    settings : Settings, optional
    progress : callable, optional
        Told (what, done, in all).

    Returns
    -------
    dict
        The content of ``results.json``.

    Raises
    ------
    DataError
        The images cannot be used: one class only, too few people, nobody's.
    ConfigError
        The settings do not fit the images.
    RunError
        The folder holds another study, is in use, or a training diverged.
    """
    settings = settings or Settings()
    cases = read_cases(
        data, settings.by, settings.person or None, settings.layout or None, settings.task or None
    )
    size = settings.size or fitting_size(cases)
    cases, ink = load_ink(cases, size, _part(progress, "reading"), settings.isolate)
    plan = list(
        repeated(cases.labels, cases.people, settings.folds, settings.repeats, settings.seed)
    )
    check_inner(cases.labels, cases.people, plan, settings.inner)
    if settings.start and not settings.network_arms():
        raise ConfigError("--start is of no use without networks: compare dense or sparse ones.")
    begins, sparse_begins = _begins(settings, cases, size)
    features = {}
    if "amplitude" in settings.arms:
        features["amplitude"] = amplitudes(cases)
    make_folder(out / "folds")
    with locked(out):
        claim(out, settings, cases)
        files = [out / "folds" / f"r{repeat}-f{fold}.json" for repeat, fold, _, _ in plan]
        found = [
            read_fold(file, len(test)) for file, (_, _, _, test) in zip(files, plan, strict=True)
        ]
        if "hog" in settings.arms and not all(found):
            features["hog"] = hog_features(
                _edges(cases, size, settings.isolate), _part(progress, "counting edges")
            )
        looks = None
        if settings.last_layer and settings.network_arms():
            from rvsm.experiments.crossval.lastlayer import Looks

            looks = Looks(ink, settings.views)
        labels, people = cases.labels, cases.people
        material = Material(ink, features, labels, people, begins, sparse_begins, looks)
        each = fits_of(settings)
        done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress("fitting", done, each * len(plan))

        for number, (repeat, fold, train, test) in enumerate(plan):
            if found[number] is not None:
                done += each
                continue
            part = part_of(material, settings, number, train, test)
            steps = out / "steps" / f"r{repeat}-f{fold}"
            answers = answers_of(material, settings, part, steps, tell)
            found[number] = {
                "repeat": repeat,
                "fold": fold,
                "people": sorted({cases.cases[i].person for i in test}),
                "test": test.tolist(),
                "answers": answers,
            }
            atomic_text(files[number], json.dumps(found[number]))
            shutil.rmtree(steps, ignore_errors=True)
        results = summarise(cases, settings, [f for f in found if f is not None])
        results["data"]["copies"] = copies_across(cases, ink)
        results["network_size"] = list(size)
        results["environment"] = environment()
        write_predictions(out / "predictions.csv", cases, [f for f in found if f is not None])
        atomic_text(out / "results.json", json.dumps(results, indent=1))
        from rvsm.experiments.crossval.report import write_report

        write_report(out, results)
    return results


def _begins(
    settings: Settings, cases: Cases, size: tuple[int, int]
) -> tuple[dict[str, Begin], dict[str, Begin]]:
    """What dense and sparse networks begin with, by name; see `Material`."""
    own = settings.base_config(cases, size)
    if not settings.network_arms():
        return {}, {}
    from rvsm import load
    from rvsm.experiments.crossval.networks import Begin

    def of(runs: Sequence[str]) -> dict[str, Begin]:
        found = {NO_START: Begin(own)}
        for run in runs:
            if run != NO_START:
                config = settings.base_config(cases, size, run)
                found[run] = Begin(config, dict(load(start_file(run))))
        return {**found, "": found[runs[0] if runs else NO_START]}

    dense = of(settings.start)
    return dense, of(settings.sparse_start) if settings.sparse_start else dense


def _edges(cases: Cases, size: tuple[int, int], isolate: How) -> Any:
    """The images at the size at which edges are counted."""
    counted = WRITING if size[1] >= 1.6 * size[0] else DRAWING
    return load_ink(cases, counted, isolate=isolate)[1]


def _part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)
