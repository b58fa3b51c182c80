"""Draw the README's two pictures from a finished reproduction.

python benchmarks/reproduce/pictures.py [RUNS/REPRODUCE]

Writes docs/pictures/writing.png (unseen fonts, both classes, what the l0 network says of them) and
docs/pictures/amplitude.png (detection against tremor amplitude), and puts them into README.md.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from rvsm.experiments.report.amplitude import detection
from rvsm.experiments.report.source import Predictions, Run, read_study

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
START, END = "<!-- pictures -->\n", "<!-- end of pictures -->"
COLOURS = {"dense": "#555555", "l1": "#0072b2", "l0": "#d55e00", "transformed-l1": "#009e73"}
ROWS, COLUMNS = 6, 4


def writing(folder: Path, task: str, target: Path) -> None:
    """A contact sheet: left two columns regular, right two shaky, drawn at random (seed 0)."""
    predictions = _predictions(folder, task, "l0")[0]
    data = folder / "data" / f"{task}-headline"
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(10, 4.6), dpi=110)
    for side, shaky in enumerate((False, True)):
        pool = (predictions.split == "test-unseen") & (predictions.shaky == shaky)
        chosen = rng.choice(np.flatnonzero(pool), 2 * ROWS, replace=False)
        for place, index in enumerate(chosen):
            axis = axes[place // 2, 2 * side + place % 2]
            axis.imshow(Image.open(data / predictions.file[index]), cmap="gray", vmin=0, vmax=255)
            probability = predictions.probability[index]
            right = (probability > 0.5) == shaky
            axis.set_title(
                f"P(shaky) {probability:.2f}", fontsize=8, pad=2, color="k" if right else "#c00000"
            )
            axis.set_xticks([])
            axis.set_yticks([])
    figure.text(0.26, 0.965, "regular", ha="center", weight="bold")
    figure.text(0.75, 0.965, "shaky", ha="center", weight="bold")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.04, hspace=0.3)
    figure.savefig(target)


def amplitude(folder: Path, target: Path) -> None:
    """Detection rate of both tasks over amplitude, one line a method."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), dpi=110, sharey=True)
    for axis, task in zip(axes, ("fonts", "pen"), strict=True):
        for method, colour in COLOURS.items():
            curve = detection(_predictions(folder, task, method))
            if curve is None:
                continue
            axis.plot(curve.found.mm, 100 * curve.found.share, "o-", color=colour, label=method)
            axis.fill_between(
                curve.found.mm,
                100 * curve.found.low,
                100 * curve.found.high,
                color=colour,
                alpha=0.1,
            )
        axis.set_xscale("log")
        axis.set_xticks(
            [0.05, 0.1, 0.2, 0.4, 0.8, 1.5], ["0.05", "0.1", "0.2", "0.4", "0.8", "1.5"]
        )
        axis.minorticks_off()
        axis.set_title(f"{task}: unseen fonts or hands, unseen texts")
        axis.set_xlabel("RMS tremor amplitude, mm")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("shaky writing detected, %")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(target)


def _predictions(folder: Path, task: str, method: str) -> list[Predictions]:
    """What every run of a method on a headline set predicted, lowest seed first."""
    runs: list[Run] = [run for view in read_study(folder).views for run in view.runs]
    return [
        run.predictions
        for run in sorted(runs, key=lambda run: run.seed)
        if (run.task, run.set, run.method) == (task, "headline", method) and run.predictions
    ]


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "reproduce"
    PICTURES.mkdir(parents=True, exist_ok=True)
    writing(source, "fonts", PICTURES / "writing.png")
    amplitude(source, PICTURES / "amplitude.png")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    block = (
        "![Regular and shaky words in fonts never seen in training, with the l0 network's "
        "verdicts](docs/pictures/writing.png)\n\n"
        "![How much tremor the networks need before they see it](docs/pictures/amplitude.png)\n\n"
    )
    readme.write_text(f"{before}{START}{block}{END}{after}", "utf-8")
