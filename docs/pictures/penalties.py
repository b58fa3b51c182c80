"""Draw the two pictures of docs/penalties.md from the penalties themselves.

python docs/pictures/penalties.py [FOLDER]

Writes penalties.svg (the cost of one weight) and thresholds.svg (what the proximal map makes of
it) into FOLDER, by default the one this script lies in.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt

from rvsm.penalties import (
    L0,
    L1,
    MCP,
    SCAD,
    CappedL1,
    Elastic,
    L1MinusL2,
    LHalf,
    LogSum,
    Lp,
    LTwoThirds,
    Penalty,
    TransformedL1,
)

PENALTIES = [
    L0(), L1(), TransformedL1(a=0.5), LHalf(), LTwoThirds(), Lp(p=0.2), MCP(gamma=1.5),
    SCAD(a=3.0, knee=0.6), LogSum(eps=0.3), CappedL1(theta=1.0), L1MinusL2(alpha=0.5),
    Elastic(L1(), ridge=0.5),
]  # fmt: skip
SMALL, LARGE = 0.3, 1.0
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"


def panels() -> tuple[plt.Figure, list[plt.Axes]]:
    """One small panel for each penalty, four a row, the same scale in all."""
    figure, axes = plt.subplots(3, 4, figsize=(10, 7.2), sharex=True, sharey=True)
    for axis, penalty in zip(axes.flat, PENALTIES, strict=True):
        axis.set_title(name(penalty), fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def name(penalty: Penalty) -> str:
    """Return the penalty as one writes it, without what it need not say."""
    if isinstance(penalty, Elastic):
        return f"Elastic({name(penalty.penalty)}, ridge={penalty.ridge})"
    return repr(penalty)


def costs(target: Path) -> None:
    """P of one weight between -2 and 2, over that of l1."""
    figure, axes = panels()
    x = torch.linspace(-2, 2, 801, dtype=torch.float64)
    for axis, penalty in zip(axes, PENALTIES, strict=True):
        axis.plot(x, x.abs(), color=GREY, lw=1, ls="--")
        axis.plot(x, [penalty.value(x_i.view(1)) for x_i in x], color=BLUE, lw=2)
        axis.plot(0, 0, "o", color=BLUE, ms=4, clip_on=False)  # where l0 is 0
        axis.set_ylim(0, 2.05)
    finish(figure, axes, "weight x", "P(x)", target)


def thresholds(target: Path) -> None:
    """u = prox(x, mu) for two strengths."""
    figure, axes = panels()
    x = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    for axis, penalty in zip(axes, PENALTIES, strict=True):
        axis.plot(x, x, color=GREY, lw=1, ls="--")
        for mu, colour in ((SMALL, BLUE), (LARGE, ORANGE)):
            u = torch.stack([penalty.prox(x_i.view(1), mu)[0] for x_i in x])
            u[1:][u.diff() > 0.05] = torch.nan  # a jump is no line
            axis.plot(x, u, color=colour, lw=2, label=f"mu = {mu}")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    finish(figure, axes, "weight x", "u = prox(x, mu)", target)


def finish(figure: plt.Figure, axes: list[plt.Axes], x: str, y: str, target: Path) -> None:
    for axis in axes[8:]:
        axis.set_xlabel(x)
    for axis in axes[::4]:
        axis.set_ylabel(y)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main(folder: Path = Path(__file__).parent) -> None:
    with plt.rc_context({"svg.hashsalt": "rvsm", "svg.fonttype": "none"}):
        costs(folder / "penalties.svg")
        thresholds(folder / "thresholds.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
