"""The paper's experiment from nothing: make the data, train every method, compare them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table

from rvsm.atomic import atomic_text, make_folder
from rvsm.errors import ConfigError, RunError
from rvsm.experiments import recipes
from rvsm.experiments.config import METHODS, Accelerator, Method
from rvsm.experiments.jobs import Job, raise_failures, run_jobs
from rvsm.experiments.origin import read_origin
from rvsm.experiments.plan import CHECK_FILE, Plan
from rvsm.experiments.records import RESULTS_FILE, STUDY_FILE, CheckFile
from rvsm.experiments.runs import CHOSEN_BY, environment, read_result, result_rows
from rvsm.handwriting.linear import UNDECIDED
from rvsm.jsonfiles import read_object
from rvsm.text import some


def protocol_note(*, full: bool) -> str:
    """Return what a reader of the numbers has to know; a line each."""
    model = CHOSEN_BY[recipes.recipe("dense", full=full, data="data", seed=0).select]
    by_way = " by way of one in which transformed l1 made whole maps zero" if full else ""
    return "\n".join(
        (
            "Our own protocol: the paper's image sizes, fonts and settings are not public.",
            f"The model of a run is {model}. Validation images are of fonts or writers and texts "
            "held out from training; the test splits are read after training.",
            "The generator was settled on data seeds 0 to 3 with test scores in sight, the "
            "recipes on validation. Seeds vary the training; the data set is one, by default of "
            f"data seed {recipes.DATA_SEED}.",
            "An image's answer is the mean of the network's logits over five views of it, shifted "
            "by up to 0.8 mm (rvsm.handwriting.views); the accuracy of one view stands beside.",
            "Accuracy is that of u, zeros are counted by (w == 0) over all weights, biases not "
            "among them.",
            f"The sparse networks start from the dense network of the same seed{by_way}; epochs "
            "and seconds are those of the last step.",
            "They take the gradient at u while w is updated, not at w as in the paper, and their "
            "strength is an exact share of zeros that grows along a schedule; lambda follows from "
            "it.",
        )
    )


def reproduce(
    out: Path,
    *,
    full: bool = False,
    seeds: Sequence[int] | None = None,
    tasks: Sequence[str] = recipes.TASKS,
    sets: Sequence[str] | None = None,
    methods: Sequence[Method] = METHODS,
    counts: Mapping[str, int] | None = None,
    data_seed: int | None = None,
    grid: bool | None = None,
    workers: int = 2,
    accelerator: Accelerator = "cpu",
    data_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Make the data, train the networks, and write the table and the report.

    Parameters
    ----------
    out
        Folder for everything, ``runs/reproduce`` by custom. Called again after a stop, finished
        steps are skipped and a half-finished run continues after its last epoch.
    full
        Five seeds, both sets and the hyperparameter grid (hours), rather than one seed on the
        headline sets (minutes).
    seeds, tasks, sets, methods, counts, grid
        Replace what ``full`` implies: seeds of the training, names of tasks, sets and methods,
        images per split, whether to run the grid.
    data_seed
        Of the data sets, :data:`rvsm.experiments.recipes.DATA_SEED` by default; the seeds of the
        training are another matter.
    workers
        Processes at a time, each of one thread; with more of them than data sets, several make
        one.
    accelerator
        What trains: ``cpu``, or ``gpu``, where a resumed run ends with nearly the same bits only.
    data_options
        Further arguments of :func:`rvsm.handwriting.datasets.make`, such as ``font_dirs``.
    console
        Where progress and the table are shown.

    Returns
    -------
    dict
        The contents of ``results.json`` under ``rows``, beside those of ``study.json``.

    Raises
    ------
    RunError
        If the folder holds data or runs of other data, or a step failed: then all that could be
        finished is, and is written.
    """
    console = console or Console()
    out = Path(out)
    make_folder(out)
    seeds = (recipes.FULL_SEEDS if full else (0,)) if seeds is None else tuple(seeds)
    data_seed = recipes.DATA_SEED if data_seed is None else data_seed
    sets = (recipes.SETS if full else recipes.SETS[:1]) if sets is None else tuple(sets)
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not seeds:
        raise ConfigError(
            f'There is no method "{unknown[0]}"; choose among {", ".join(METHODS)}.'
            if unknown
            else "There are no seeds; give at least one, such as 0."
        )
    plan = Plan(out, full, dict(counts) if counts else None, accelerator)
    share = max(1, workers // (len(sets) * len(tasks)))
    for name in sets:
        for task in tasks:
            options = {"seed": data_seed, "workers": share, **dict(data_options or {})}
            plan.add_data(task, name, options)
    for name in sets:
        for seed in seeds:
            for task in tasks:
                plan.add_runs(task, name, seed, methods)
    if full if grid is None else grid:
        for task in tasks:
            plan.add_grid(task, sets[0], seeds)
    if strangers := plan.adopt():
        console.print(
            f"Left out, being of another recipe or data: {', '.join(strangers)}.",
            highlight=False,
            markup=False,
        )

    def finished(job: Job) -> str:
        if job.order["kind"] == "data":
            return ""
        results = _write_results(plan)
        if job.order["kind"] == "check":
            return _told_check(results["checks"], job.order["path"])
        result = read_result(Path(job.order["run_dir"]))
        return f"validation accuracy {100 * result['val_accuracy']:.2f} %" if result else ""

    jobs = plan.open_jobs()
    if plan.untold:
        console.print(
            f"Taken to be of data seed {data_seed}, being of a version that did not note it: "
            f"{some(plan.untold)}.",
            highlight=False,
            markup=False,
        )
    failures = run_jobs(
        jobs,
        workers=workers,
        logs=out / "logs",
        console=console,
        finished=finished,
    )
    results = _write_results(plan)
    if results["rows"]:
        console.print(results_table(results["rows"]))
        from rvsm.experiments.report import write_report

        console.print(f"Report: {write_report(out)}", highlight=False, markup=False)
    raise_failures(failures)
    return results


# Room for 100.00, 0.9999 and 64000 where the terminal is narrow; headings wrap between words,
# figures do not.
_WIDTHS = {"n": 1, "acc. %": 6, "AUC": 6, "weights left": 7}


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of a reproduction: one line per task, set, protocol and method."""
    table = Table(
        title="Shaky or regular: test accuracy at u, mean ± sd over n seeds",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("task, set, protocol: method", no_wrap=True)
    headings = ("n", "acc. %", "one view %", "AUC", "fc zeros %", "all zeros %", "weights left")
    for heading in headings:
        table.add_column(heading, justify="right", min_width=_WIDTHS.get(heading, 5))
    before: list[str] = []
    for (*place, method), found in grouped(rows):
        if place != before:
            table.add_section()
            table.add_row(" ".join(place))
        before = place
        table.add_row(
            f"  {method}",
            str(len(found)),
            mean_and_sd([row["accuracy"] for row in found], 100, 2),
            mean_and_sd([row.get("accuracy_one_view") for row in found], 100, 2),
            mean_and_sd([row["auc"] for row in found], 1, 4),
            mean_and_sd([row["fc_zeros"] for row in found], 100, 1),
            mean_and_sd([row["zeros"] for row in found], 100, 1),
            mean_and_sd([row["nonzeros"] for row in found], 1, 0),
        )
    return table


def grouped(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[tuple[str, str, str, str], list[Mapping[str, Any]]]]:
    """Return the rows of each line of a table under (task, set, protocol, method), in order."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["task"], row["set"], row["protocol"], METHODS.index(row["method"]))
        groups.setdefault(key, []).append(row)
    return [((*key[:3], METHODS[key[3]]), groups[key]) for key in sorted(groups)]


def mean_and_sd(values: Sequence[float | None], factor: float, digits: int) -> str:
    """Print ``factor`` times the mean of the known values, with its sd from two values on."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def _write_results(plan: Plan) -> dict[str, Any]:
    """Rewrite ``results.json`` and ``study.json`` from the runs that are finished."""
    rows: list[dict[str, Any]] = []
    curves = []
    for name in plan.runs:
        if (result := read_result(plan.out / name)) is not None:
            rows += result_rows(result, name, read_origin(plan.out / name))
            if "curve" in result["scores"]:
                kept = {key: result[key] for key in ("task", "set", "method", "seed")}
                curves.append({**kept, "bands": result["scores"]["curve"]["bands"]})
    sweep = []
    for name, config in plan.grid.items():
        if (result := read_result(plan.out / name)) is not None:
            target = {rule.pattern: rule.sparsity for rule in config.rules}
            for row in result_rows(result, name, read_origin(plan.out / name)):
                sweep.append({**row, "targets": target, "beta": config.splitting.beta})
    study = {
        "protocol_note": protocol_note(full=plan.full),
        "mode": "full" if plan.full else "quick",
        "environment": environment(),
        "sweep": sweep,
        "curves": curves,
        "checks": [check for task, name in plan.pairs if (check := _check(plan, task, name))],
    }
    atomic_text(plan.out / RESULTS_FILE, json.dumps(rows, indent=1))
    atomic_text(plan.out / STUDY_FILE, json.dumps(study, indent=1))
    return {"rows": rows, **study}


def _check(plan: Plan, task: str, set_name: str) -> dict[str, Any] | None:
    """Return what the short-cut check found of a data set, or None where it has not been made."""
    data = plan.data(task, set_name)
    try:
        found = read_object(data / CHECK_FILE, CheckFile)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{data / CHECK_FILE} is damaged ({error}); delete that file and run the same command "
            "again: the data are checked anew."
        ) from error
    return {"task": task, "set": set_name, "data": f"data/{data.name}", **found}


def _told_check(checks: Sequence[Mapping[str, Any]], path: str) -> str:
    check = next(check for check in checks if path.endswith(check["data"]))
    findings = check.get("findings", ())
    if faults := [f["text"] for f in findings if f["level"] == "fault"]:
        return f"fault: {'; '.join(faults)}"
    warnings = [f["name"] for f in findings if f["level"] == "warning"]
    scores, small = check.get("linear", ()), check.get("small", ())
    undecided = len(small) + sum(not score.get("decided", True) for score in scores)
    if not warnings and not undecided:
        return "no short cut, no leak found"
    told = ["no fault"]
    if warnings:
        told.append(f"{len(warnings)} warning{'s' * (len(warnings) > 1)}: {', '.join(warnings)}")
    if undecided:
        told.append(f"{UNDECIDED} in {undecided} of {len(scores) + len(small)} bands of amplitude")
    return "; ".join(told)
