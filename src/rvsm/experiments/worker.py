"""Jobs in a process of their own: ``python -m rvsm.experiments.worker``.

A job is one line of JSON on standard input; its progress, and its outcome as the last line, go to
standard output, a line of JSON each. When standard input closes, whoever asked is gone or has no
more jobs, and the process ends, in the middle of a job if need be.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from rvsm.atomic import atomic_text
from rvsm.errors import RvsmError
from rvsm.experiments.pages import keep_pages


def main() -> None:
    """Do the jobs as they come; an error a user can cause is told and ends only its job."""
    keep_pages()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        job = json.loads(lines.get())
        try:
            _do(job)
        except RvsmError as error:
            _tell({"error": str(error)})
        else:
            _tell({"finished": True})


def _do(job: dict[str, Any]) -> None:
    if job["kind"] == "data":
        from rvsm.handwriting import datasets

        datasets.make(
            job["path"],
            **job["options"],
            progress=lambda done, total: _progress("making images", done, total),
        )
        return
    if job["kind"] == "check":
        from rvsm.experiments.plan import CHECK_FILE
        from rvsm.handwriting.check import check

        found = check(
            job["path"],
            most=job["most"],
            progress=lambda done, total: _progress("looking for short cuts", done, total),
        )
        told = {key: value for key, value in found.to_dict().items() if key != "path"}
        text = json.dumps({"most_per_split": job["most"], **told}, indent=1)
        atomic_text(Path(job["path"]) / CHECK_FILE, text)
        return
    from rvsm.experiments.config import make_config
    from rvsm.experiments.train import train

    train(make_config(job["config"]), Path(job["run_dir"]), progress=_progress)


def _progress(what: str, done: int, total: int) -> None:
    _tell({"what": what, "done": done, "total": total})


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # A normal exit would wait for the thread that reads standard input.
        os._exit(1)
