"""One job in a process of its own: ``python -m rvsm.experiments.worker``.

The job is one line of JSON on standard input; progress, and the outcome as the last line, go to
standard output, a line of JSON each. When standard input closes, whoever asked is gone, and the
process ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from rvsm.errors import RvsmError


def main() -> int:
    """Do the job; return 0, or 1 after an error that was told in the last line."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _do(job)
    except RvsmError as error:
        _tell({"error": str(error)})
        return 1
    _tell({"finished": True})
    return 0


def _do(job: dict[str, Any]) -> None:
    if job["kind"] == "data":
        from rvsm.handwriting import datasets

        datasets.make(
            job["path"],
            **job["options"],
            workers=1,
            progress=lambda done, total: _progress("making images", done, total),
        )
        return
    from rvsm.experiments.config import make_config
    from rvsm.experiments.train import train

    train(make_config(job["config"]), Path(job["run_dir"]), progress=_progress)


def _progress(what: str, done: int, total: int) -> None:
    _tell({"what": what, "done": done, "total": total})


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    # os._exit: a thread blocked on standard input would make a normal exit wait for it.
    code = main()
    sys.stdout.flush()
    os._exit(code)
