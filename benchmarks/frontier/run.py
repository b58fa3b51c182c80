"""Measure which method has the fewest errors for a number of weights.

    python benchmarks/frontier/run.py --tier quick
    python benchmarks/frontier/run.py --tier core --data FOLDER [--workers 2] [--minutes 60]
    python benchmarks/frontier/run.py --tier ablation --data FOLDER
    python benchmarks/frontier/run.py --tier core --list     # the plan and what is done
    python benchmarks/frontier/run.py --table                # docs/frontier.md from the rows

FOLDER holds mnist, fashion-mnist, cifar-10, fonts and pen, or as many of them as there are; or
give each by --data NAME=FOLDER. Every run is a row in results/<network>-<data>.json: what is there
is not run again, and what was killed is. --only WORD ... does only runs whose line has all the
words. quick needs no data and keeps its rows in runs/frontier-quick.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.frontier import page  # noqa: E402
from benchmarks.frontier.data import Folders  # noqa: E402
from benchmarks.frontier.store import Store  # noqa: E402
from benchmarks.frontier.work import Worker, listing, pending_of  # noqa: E402
from rvsm.errors import ConfigError, RvsmError  # noqa: E402
from rvsm.experiments.denormals import no_denormals  # noqa: E402
from rvsm.experiments.pages import keep_pages  # noqa: E402

RESULTS = HERE / "results"
QUICK = ROOT / "runs" / "frontier-quick"
WORKER = "FRONTIER_WORKER"
"""Set in the environment of processes that others started."""


def options(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tier", default="quick", help="quick, core, full or ablation")
    parser.add_argument("--data", action="append", default=[], metavar="[NAME=]FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--results", type=Path, help="folder of the rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--list", action="store_true", help="tell the plan, run nothing")
    parser.add_argument("--table", action="store_true", help="write docs/frontier.md, run nothing")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Do what the command line says."""
    asked = options(words)
    if asked.workers < 1:
        raise ConfigError(f"--workers is {asked.workers}; give 1 or more.")
    store = Store(asked.results or (QUICK if asked.tier == "quick" else RESULTS))
    if asked.table:
        page.write(Store(asked.results or RESULTS), ROOT / "docs", HERE / "models")
        return
    lines = listing(asked.tier, store.by_key())
    if asked.list:
        print("\n".join(lines))
        return
    pending, folders = pending_of(asked.tier), Folders.parse(asked.data)
    if asked.workers > 1:
        print(lines[-1], flush=True)
        several(words, asked.workers)
    else:
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False  # float32 on every device
        torch.backends.cudnn.deterministic = True
        keep_pages()
        worker = Worker(
            store, folders, device=asked.device, only=asked.only, minutes=asked.minutes, tell=tell
        )
        if WORKER not in os.environ:
            tell(lines[-1])
        with no_denormals():  # momentum of zeros, whatever the method
            worker.work(pending)
    if asked.tier == "quick" and WORKER not in os.environ:
        print(page.text(store.rows()))


def tell(line: str) -> None:
    """Print a line at once: output may go to a file for hours."""
    print(line, flush=True)


def several(words: list[str] | None, workers: int) -> None:
    """Let processes do the work side by side; they share it out by their locks."""
    own = sys.argv[1:] if words is None else words
    command = [sys.executable, str(HERE / "run.py"), *own, "--workers", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", WORKER: "1"}
    running = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        raise
    if any(codes):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except RvsmError as error:
        sys.exit(f"error: {error}")
