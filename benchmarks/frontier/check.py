"""Reload every winning model; recount its weights and test errors; compare with the rows.

    python benchmarks/frontier/check.py --data FOLDER

Nothing is taken from a row but what it claims: the network is built anew, read from its sparse
file, counted by ``(w == 0)`` and evaluated on the whole test set. Ends with 1 where anything
differs.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402

import rvsm  # noqa: E402
from benchmarks.frontier import page  # noqa: E402
from benchmarks.frontier.data import Data, Folders  # noqa: E402
from benchmarks.frontier.networks import NETWORKS  # noqa: E402
from benchmarks.frontier.options import Run  # noqa: E402
from benchmarks.frontier.store import Row, Store  # noqa: E402
from benchmarks.frontier.training import counts, error_of  # noqa: E402
from rvsm.deploy.files import read_metadata  # noqa: E402
from rvsm.errors import DataError, RvsmError  # noqa: E402


def main(words: list[str] | None = None) -> None:
    """Check all models; raise RvsmError where a file or a number is not as the rows say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", action="append", default=[], metavar="[NAME=]FOLDER")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the rows")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="folder of the models")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = Store(asked.results).by_key()
    folders = Folders.parse(asked.data)
    wanted = {page.model_name(run): run for run in page.winners(list(rows.values()))}
    found = {path.name for path in asked.models.glob("*.safetensors")}
    if not wanted | dict.fromkeys(found):
        raise DataError(
            f"{asked.results} has no rows of final runs and {asked.models} no models: there is "
            "nothing to check; run the suite first."
        )
    read = lru_cache(maxsize=1)(lambda name: _with_statistics(folders.read(name)))
    wrong = []
    for name in sorted(found | set(wanted), key=lambda n: wanted[n].data if n in wanted else n):
        path = asked.models / name
        if name not in found:
            wrong.append(f"{path} is missing: restore it from git, or run --table where it is.")
        elif name not in wanted:
            wrong.append(f"{path} wins at no share of zeros: run --table, which drops it.")
        else:
            wrong += compared(path, rows, wanted[name], *read(wanted[name].data))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        raise DataError(f"{len(wrong)} of the things checked are not as the rows say.")
    print(f"{len(found)} models have the weights and errors of their rows.")


def _with_statistics(data: Data) -> tuple[Data, tuple[torch.Tensor, torch.Tensor]]:
    return data, data.statistics()


def compared(
    path: Path,
    rows: dict[str, Row],
    run: Run,
    data: Data,
    statistics: tuple[torch.Tensor, torch.Tensor],
) -> list[str]:
    """Return what of a model is not as its row says, a sentence each; print what was found.

    Parameters
    ----------
    path : Path
        The sparse file.
    rows : dict
        All rows by key.
    run : Run
        The one that wins at this place.
    data, statistics
        Its test set, and what its images are normalised by.
    """
    try:
        if read_metadata(path).get("run") != run.key:
            return [f"{path} is of another run than the one that wins: write it by --table."]
        whole = NETWORKS[run.network].build()
        if run.options.units:
            model: torch.nn.Module = rvsm.load_network(path)
        else:
            model = whole
            rvsm.load(path, model)
    except RvsmError as error:
        return [str(error)]
    row = rows[run.key]
    now = counts(model, counts(whole)) | {"test_error": error_of(model, data.test, statistics)}
    print(
        f"{path.name}: {now['nonzeros']:,} weights, {now['nonzeros_with_biases']:,} with biases, "
        f"test error {100 * now['test_error']:.2f} %, {path.stat().st_size:,} bytes"
    )
    return [
        f"{path}: {name} is {value}, and its row says {row.get(name)}: run that row again."
        for name, value in now.items()
        if row.get(name) != value
    ]


if __name__ == "__main__":
    try:
        main()
    except RvsmError as error:
        sys.exit(f"error: {error}")
