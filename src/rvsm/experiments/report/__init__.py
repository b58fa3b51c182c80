"""The HTML report of a run or of a whole reproduction: one file, no network, light and dark."""

from __future__ import annotations

from pathlib import Path

from rvsm.atomic import atomic_text

FILE_NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder or a folder of ``rvsm reproduce``.

    What the folder lacks (a model, predictions, images) is named in the report.

    Parameters
    ----------
    folder
        Holds ``results.json`` and ``study.json`` (run folders below it), or is one run.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    RunError
        If the folder is neither.
    RvsmError
        If the file cannot be written.
    """
    from rvsm.experiments.report.page import render
    from rvsm.experiments.report.source import read_study

    html = render(read_study(Path(folder)))
    target = Path(folder) / FILE_NAME
    atomic_text(target, html)
    return target
