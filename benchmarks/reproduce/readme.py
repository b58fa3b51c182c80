"""Rewrite the results in README.md from a folder of `rvsm reproduce`.

python benchmarks/reproduce/readme.py [FOLDER]

Reads its results.json and study.json; of benchmarks/reproduce/quick where no folder is named.
"""

import json
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rvsm.experiments.recipes import FULL_SEEDS
from rvsm.experiments.records import RESULTS_FILE, STUDY_FILE
from rvsm.experiments.reproduce import grouped, mean_and_sd

ROOT = Path(__file__).parents[2]
START, END = "<!-- table -->\n", "<!-- end of table -->"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: one line per task, set, protocol and method."""
    lines = [
        "| task | set | protocol | method | test accuracy, % | of one view, % | ROC AUC "
        "| zeros in fc, % | zeros in all, % | nonzeros | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in grouped(rows):
        cells = [
            *key,
            mean_and_sd([row["accuracy"] for row in group], 100, 2),
            mean_and_sd([row["accuracy_one_view"] for row in group], 100, 2),
            mean_and_sd([row["auc"] for row in group], 1, 4),
            mean_and_sd([row["fc_zeros"] for row in group], 100, 1),
            mean_and_sd([row["zeros"] for row in group], 100, 1),
            mean_and_sd([row["nonzeros"] for row in group], 1, 0),
            str(len(group)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def full_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/reproduce.md: a line for each method, means over seeds of both tasks."""
    groups = dict(grouped(rows))
    weights = max(row["nonzeros"] for row in rows)
    lines = [
        f"| method | weights left of {weights:,} | zeros, fully connected / all "
        "| `fonts` | n | `pen` | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        first = groups["fonts", "headline", "paper", method][0]
        zeros = " / ".join(f"{100 * first[key]:.1f}" for key in ("fc_zeros", "zeros"))
        cells = [method, f"{first['nonzeros']:,}", f"{zeros} %"]
        for task in ("fonts", "pen"):
            both = [groups[task, "headline", protocol, method] for protocol in ("paper", "unseen")]
            means = (statistics.mean(row["accuracy"] for row in group) for group in both)
            cells += [" / ".join(f"{100 * mean:.2f}" for mean in means), str(len(both[0]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def paragraph(rows: Sequence[Mapping[str, Any]], mode: str) -> str:
    """What was run: how many seeds and images, and where the sparse networks started."""
    command = {"quick": "make demo", "full": "rvsm reproduce --full"}[mode]
    seeds = len({row["seed"] for row in rows})
    images = sorted({row["split_sizes"]["train"] for row in rows})
    counts = " or ".join(f"{n:,}" for n in images)
    text = f"What `{command}` wrote: {seeds} seed{'s' * (seeds > 1)}, {counts} training images"
    if all(row["start"] != "scratch" for row in rows if row["method"] != "dense"):
        text += ", the sparse networks started from the dense one"
    text += "."
    if mode == "quick":
        done = len({row["seed"] for row in _rows(Path(__file__).with_name("full"))})
        there = f"{done} of its {len(FULL_SEEDS)} seeds {'is' if done == 1 else 'are'}"
        text += (
            " The study of more seeds, and of networks with most of all their weights zero, is "
            f"`rvsm reproduce --full`; {there} in `benchmarks/reproduce/full`."
        )
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def rewrite(readme: str, folder: Path) -> str:
    """The README with the block between the marks replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    rows = _rows(folder)
    mode = json.loads((folder / STUDY_FILE).read_text("utf-8"))["mode"]
    here = folder.resolve()
    shown = here.relative_to(ROOT) if here.is_relative_to(ROOT) else folder
    note = f"Written by `benchmarks/reproduce/readme.py` from `{shown}`."
    note += " Mean ± standard deviation over seeds, at u, the weights with exact zeros."
    return f"{before}{START}{paragraph(rows, mode)}\n\n{table(rows)}\n\n{note}\n{END}{after}"


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / RESULTS_FILE).read_text("utf-8"))
    return rows


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("quick")
    target = ROOT / "README.md"
    target.write_text(rewrite(target.read_text("utf-8"), source), "utf-8")
