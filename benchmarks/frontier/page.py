"""docs/frontier.md: the region that is made from the rows, its pictures, and the winning models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.frontier import plots, tables
from benchmarks.frontier.options import Run
from benchmarks.frontier.store import Row, Store
from rvsm.atomic import atomic_text, atomic_write, make_folder
from rvsm.errors import DataError

START, END = "<!-- comparison -->\n", "<!-- end of comparison -->"


def text(rows: Sequence[Row], pictures: str = "") -> str:
    """Return the region of the page; with pictures of that folder if it is named."""
    cells = tables.cells_of(rows)
    parts = []
    if cells:
        parts += ["### What all methods share", tables.protocol(cells)]
    for network, data in tables.places(cells):
        own = [c for c in cells if (c.network, c.data) == (network, data)]
        parts += [f"### {network} on {data}", tables.comparison(own)]
        if pictures:
            name = picture_name(network, data)
            alternative = f"Test error over the number of weights, {network} on {data}"
            parts.append(f"![{alternative}]({pictures}/{name})")
    if cells:
        parts += ["### With all counts", tables.details(cells)]
        parts += ["### Where others are ahead", tables.verdict(cells)]
    if ablation := tables.ablation_table(rows):
        parts += ["### What moves it", ablation]
    return "\n\n".join(part for part in parts if part) or "No run has been made yet."


def picture_name(network: str, data: str) -> str:
    """Return the file name of a picture."""
    return f"frontier-{network}-{data}.png"


def write(store: Store, docs: Path, models: Path) -> None:
    """Write the region, the pictures and the models that the rows ask for.

    Raises
    ------
    DataError
        If the page has no region to write into.
    """
    path, rows = docs / "frontier.md", store.rows()
    before, start, rest = path.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise DataError(f"{path} lacks the lines {START.strip()} and {END}; restore it from git.")
    cells = tables.cells_of(rows)
    for network, data in tables.places(cells):
        own = [c for c in cells if (c.network, c.data) == (network, data)]
        plots.frontier(own, docs / "pictures" / picture_name(network, data))
    atomic_text(path, f"{before}{START}{text(rows, 'pictures')}\n{END}{after}")
    keep_winners(store, models)


def winners(rows: Sequence[Row]) -> list[Run]:
    """Return the run whose network is kept, for each network, set and share of zeros.

    Seed 0 of the contender with the least mean test error: the seed is not the best one.
    """
    cells = tables.cells_of(rows)
    found = []
    for place in sorted({(c.network, c.data, c.sparsity) for c in cells if c.sparsity}):
        here = [c for c in cells if (c.network, c.data, c.sparsity) == place]
        best = min(here, key=lambda c: c.mean)
        for row in rows:
            if row["purpose"] != "final" or row["seed"] or row.get("test_error") is None:
                continue
            one = tables.cells_of([row])
            if one and (one[0].rank, one[0].setting) == (best.rank, best.setting):
                run = Run.of(row)
                if (run.network, run.data, run.sparsity) == place:
                    found.append(run)
    return found


def model_name(run: Run) -> str:
    """Return the file name of a kept network."""
    return f"{run.network}-{run.data}-{100 * run.sparsity:g}-{run.method}.safetensors"


def keep_winners(store: Store, folder: Path) -> None:
    """Copy the winners' networks where they are committed; drop those that win no more.

    A winner whose network is on another machine keeps the file that is there.
    """
    wanted = {model_name(run): run for run in winners(store.rows())}
    for path in folder.glob("*.safetensors"):
        if path.name not in wanted:
            path.unlink()
    for name, run in wanted.items():
        if (source := store.model_path(run)).exists():
            with atomic_write(make_folder(folder) / name) as stream:
                stream.write(source.read_bytes())
