"""Rows summed up: means over seeds, Markdown tables, and where another method is ahead of ours."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.frontier import ablation, plan
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.store import Row


@dataclass(frozen=True)
class Cell:
    """A contender at one share of zeros, over its seeds.

    Parameters
    ----------
    network, data, method : str
        Of its runs.
    sparsity : float
        Share of zeros asked for.
    options : str
        What it has beyond the options that all share, as JSON.
    setting : float or None
        The strength that tuning chose.
    errors : tuple of float
        Test errors, a seed each.
    nonzeros, with_biases, seconds : float
        Means.
    machines : tuple of str
        Where its runs were done.
    """

    network: str
    data: str
    method: str
    sparsity: float
    options: str
    setting: float | None
    errors: tuple[float, ...]
    nonzeros: float
    with_biases: float
    seconds: float
    machines: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean test error."""
        return statistics.mean(self.errors)

    @property
    def sd(self) -> float:
        """Standard deviation of the test error; nan for one seed."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else math.nan

    @property
    def se(self) -> float:
        """Standard error of the mean; nan for one seed."""
        return self.sd / math.sqrt(len(self.errors))

    @property
    def extra(self) -> str:
        """Its options beyond those that all share, in words."""
        for contender in (plan.OURS, plan.TAUGHT):
            if self._is(contender) and contender.name:
                return contender.name
        return ", ".join(f"{k}={v}" for k, v in json.loads(self.options).items())

    @property
    def name(self) -> str:
        """The contender in words."""
        return METHODS[self.method].name + (f" ({self.extra})" if self.extra else "")

    @property
    def is_ours(self) -> bool:
        """Whether this is the contender that stands for us."""
        return self._is(plan.OURS)

    @property
    def rank(self) -> tuple[int, str]:
        """Where it stands in a table."""
        return list(METHODS).index(self.method), self.extra

    def _is(self, contender: plan.Contender) -> bool:
        options = json.dumps(contender.on(self.network, self.sparsity), sort_keys=True)
        return (self.method, self.options) == (contender.method, options)


def _extra(run: Run) -> str:
    """Return the options of a run beyond those that all share, as JSON."""
    base = NETWORKS[run.network].base_options(run.data)
    changed = {
        name: value for name, value in vars(run.options).items() if value != getattr(base, name)
    }
    return json.dumps(changed, sort_keys=True)


def cells_of(rows: Iterable[Row]) -> list[Cell]:
    """Return the contenders' final runs, summed up over seeds.

    Where there are runs of several settings, as a new choice leaves them, the largest number of
    seeds counts.
    """
    found: dict[tuple[Any, ...], dict[float | None, list[Row]]] = {}
    for row in rows:
        if row["purpose"] != "final" or row.get("test_error") is None:
            continue
        run = Run.of(row)
        if run.epochs != NETWORKS[run.network].epochs:
            continue
        key = (run.network, run.data, run.method, run.sparsity, _extra(run))
        found.setdefault(key, {}).setdefault(run.setting, []).append(row)
    cells = []
    for key, by_setting in found.items():
        setting, own = max(by_setting.items(), key=lambda pair: len(pair[1]))
        errors = tuple(r["test_error"] for r in sorted(own, key=lambda r: int(r["seed"])))
        means = (
            statistics.mean(r[name] for r in own)
            for name in ("nonzeros", "nonzeros_with_biases", "seconds_per_epoch")
        )
        machines = tuple(sorted({r["machine"] for r in own if "machine" in r}))
        cells.append(Cell(*key, setting, errors, *means, machines))
    return sorted(cells, key=lambda c: (c.network, c.data, c.sparsity, c.rank))


@dataclass(frozen=True)
class Ahead:
    """A method of others that has fewer errors than ours at a share of zeros.

    Parameters
    ----------
    ours, other : Cell
        Both.
    standard_error : float
        Of the difference of their means; nan where one has a single seed.
    """

    ours: Cell
    other: Cell
    standard_error: float

    @property
    def clearly(self) -> bool:
        """Whether by more than one standard error, as far as the seeds can tell."""
        return not self.ours.mean - self.other.mean <= self.standard_error


def ahead_of_ours(cells: Sequence[Cell]) -> list[Ahead]:
    """Return where another method's mean error is below ours, clearly or not.

    Others are our relatives and the peers, not RVSM's variants. They never have more weights: all
    are cut to the share of zeros.
    """
    found = []
    for ours in cells:
        if not ours.is_ours:
            continue
        place = (ours.network, ours.data, ours.sparsity)
        for other in cells:
            same = (other.network, other.data, other.sparsity) == place
            if not same or METHODS[other.method].party not in ("relative", "peer"):
                continue
            if other.mean < ours.mean:
                found.append(Ahead(ours, other, math.hypot(ours.se, other.se)))
    return found


def verdict(cells: Sequence[Cell]) -> str:
    """Return in one line per network and set where others are ahead of ours."""
    lines = []
    for place in places(cells):
        own = [c for c in cells if (c.network, c.data) == place]
        ours = [c for c in own if c.is_ours]
        if not ours:
            continue
        shares = {c.sparsity for c in ours}
        ahead = [a for a in ahead_of_ours(own) if a.clearly]
        where = ", ".join(
            f"{a.other.name} at {100 * a.ours.sparsity:g} % zeros by "
            f"{100 * (a.ours.mean - a.other.mean):.2f} points ({_text(a.standard_error)})"
            for a in ahead
        )
        told = where or "nobody"
        lines.append(
            f"- {place[0]} on {place[1]}, {len(shares)} shares of zeros: ahead of ours by more "
            f"than one standard error of the difference: {told}."
        )
    return "\n".join(lines)


def _text(standard_error: float) -> str:
    if math.isnan(standard_error):
        return "standard error unknown"
    return f"standard error {100 * standard_error:.2f}"


def places(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return the networks and sets there are, in the order of `NETWORKS`."""
    order = list(NETWORKS)
    return sorted({(c.network, c.data) for c in cells}, key=lambda p: (order.index(p[0]), p[1]))


def percent(cell: Cell) -> str:
    """Return mean and standard error in percent."""
    spread = "" if math.isnan(cell.se) else f" ± {100 * cell.se:.2f}"
    return f"{100 * cell.mean:.2f}{spread}"


def comparison(cells: Sequence[Cell]) -> str:
    """Return the table of one network and set: a line per contender, errors by share of zeros."""
    sparse = [c for c in cells if c.sparsity]
    shares = sorted({c.sparsity for c in sparse})
    kept = {s: max(c.nonzeros for c in sparse if c.sparsity == s) for s in shares}
    heads = " | ".join(f"{100 * s:g} % zeros, {kept[s]:,.0f} weights" for s in shares)
    seconds_on = ", ".join(["s an epoch", *sorted({m for c in cells for m in c.machines})])
    lines = [f"| test error, % | {heads} | {seconds_on} |", "|---" * (len(shares) + 2) + "|"]
    names = sorted({(c.rank, c.name) for c in sparse})
    for rank, name in names:
        own = {c.sparsity: c for c in sparse if c.rank == rank}
        errors = [_cell_text(own.get(s), kept[s]) for s in shares]
        seconds = statistics.mean(c.seconds for c in own.values())
        bold = "**" if any(c.is_ours for c in own.values()) else ""
        lines.append(f"| {bold}{name}{bold} | {' | '.join(errors)} | {seconds:.2f} |")
    for dense in (c for c in cells if not c.sparsity):
        lines.append(f"| {dense.name} | {' | '.join([percent(dense)] + [''] * (len(shares) - 1))} "
                     f"| {dense.seconds:.2f} |")  # fmt: skip
    return "\n".join(lines)


def _cell_text(cell: Cell | None, kept: float) -> str:
    if cell is None:
        return "-"
    fewer = f", {cell.nonzeros:,.0f} weights" if cell.nonzeros < 0.99 * kept else ""
    return f"{percent(cell)}{fewer}"


def details(cells: Sequence[Cell]) -> str:
    """Return the table of ours, the best of the others and the dense network, with all counts."""
    lines = [
        "| network, set | zeros, % | method | setting | nonzeros | with biases | "
        "test error, %: mean | sd | best | n |",
        "|---" * 10 + "|",
    ]
    for place in places(cells):
        own = [c for c in cells if (c.network, c.data) == place]
        for share in sorted({c.sparsity for c in own}):
            here = [c for c in own if c.sparsity == share]
            others = [c for c in here if METHODS[c.method].party in ("relative", "peer")]
            best = min(others, key=lambda c: c.mean, default=None)
            shown = [c for c in here if c.is_ours or c is best or not share]
            lines += [_detail(c) for c in sorted(shown, key=lambda c: c.rank)]
    return "\n".join(lines)


def _detail(c: Cell) -> str:
    setting = "" if c.setting is None else f"{METHODS[c.method].setting} {c.setting:.3g}"
    sd = "-" if math.isnan(c.sd) else f"{100 * c.sd:.2f}"
    return (
        f"| {c.network}, {c.data} | {100 * c.sparsity:g} | {c.name} | {setting} | "
        f"{c.nonzeros:,.0f} | {c.with_biases:,.0f} | {100 * c.mean:.2f} | {sd} | "
        f"{100 * min(c.errors):.2f} | {len(c.errors)} |"
    )


def protocol(cells: Sequence[Cell]) -> str:
    """Return what all methods share, a line per network."""
    lines = [
        "| network, set | weights | epochs | batch | rate | weight decay | augmentation | tuning |",
        "|---" * 8 + "|",
    ]
    for name, data in dict.fromkeys((c.network, c.data) for c in cells):
        network = NETWORKS[name]
        o = network.base_options(data)
        weights = sum(p.numel() for p in network.build().parameters() if p.dim() > 1)
        lines.append(
            f"| {name}, {data} | {weights:,} | {network.epochs} | {o.batch} | {o.lr:g} | "
            f"{o.weight_decay:g} | {_augmentation(o)} | {network.tune_epochs} epochs, "
            f"{network.held_out or 'its own'} images |"
        )
    return "\n".join(lines)


def _augmentation(o: Options) -> str:
    parts = [f"shifts of up to {o.shift} px"] if o.shift else []
    parts += ["mirrored"] if o.flip else []
    parts += [f"bent by up to {o.elastic:g} px"] if o.elastic else []
    return ", ".join(parts) or "none"


def ablation_table(rows: Iterable[Row]) -> str:
    """Return the ablation: a line per change, its difference to the start seed by seed."""
    errors = {
        Run.of(row).key: row["validation_error"]
        for row in rows
        if row["purpose"] == "ablation" and row.get("validation_error") is not None
    }
    tables = []
    for ground in ablation.GROUNDS:
        changes = ground.changes
        start = _by_seed(errors, ground, changes[0])
        if not any(_by_seed(errors, ground, change) for change in changes):
            continue
        lines = [
            f"{ground.network} on {ground.data}, {100 * ground.sparsity:g} % zeros:\n",
            "| factor | changed to | validation error, % | difference, points | n |",
            "|---" * 5 + "|",
        ]
        for change in changes:
            own = _by_seed(errors, ground, change)
            if not own:
                continue
            both = [own[seed] - start[seed] for seed in own if seed in start]
            same = change is changes[0]
            difference = "" if same or not both else _mean_se(both, sign="+")
            lines.append(
                f"| {change.factor} | {change.name} | {_mean_se(list(own.values()))} | "
                f"{difference} | {len(own)} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _by_seed(
    errors: dict[str, float], ground: ablation.Ground, change: ablation.Change
) -> dict[int, float]:
    keys = {seed: ablation.run_of(ground, change, seed).key for seed in range(ablation.SEEDS)}
    return {seed: errors[key] for seed, key in keys.items() if key in errors}


def _mean_se(values: list[float], sign: str = "") -> str:
    text = f"{100 * statistics.mean(values):{sign}.2f}"
    if len(values) == 1:
        return text
    return f"{text} ± {100 * statistics.stdev(values) / math.sqrt(len(values)):.2f}"
