"""What moves the frontier: one option of a base recipe changed at a time.

Errors are those on held-out training images, since they are to choose by; no row has a test error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.frontier.networks import FEWER_UNITS, NETWORKS, UNITS
from benchmarks.frontier.options import Run

BASE: dict[str, Any] = {"beta": 0.1}
"""The options of the start, beyond those of its network; its method is `METHOD`."""
METHOD = "rvsm-l0-u"
SEEDS = 3
OR_NOT = "units or not"
"""The factor that asks, at several shares of zeros, whether units should go first."""
WINNERS: dict[str, Any] = {"shift": 1, "elastic": 1.0, "distill": 0.5}
"""What won by itself."""


@dataclass(frozen=True)
class Change:
    """One factor changed.

    Parameters
    ----------
    factor, name : str
        What is changed, and to what.
    options : mapping
        Of `Options`, beyond `BASE`.
    method : str
        In place of `METHOD`.
    setting : float, optional
        The method's own, where it is not beta.
    network : str
        Where it is measured alone; by default wherever its factor is.
    """

    factor: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str = METHOD
    setting: float | None = None
    network: str = ""


def _units(name: str, method: str = METHOD, **options: Any) -> list[Change]:
    """Return a change of the winners with whole units first, for each network; None drops one."""
    setting = 0.5 if method == "magnitude" else None
    changed = {key: value for key, value in {**WINNERS, **options}.items() if value is not None}
    return [
        Change("whole units first", name, {**changed, "units": units}, method, setting, network)
        for network, units in UNITS.items()
    ]  # fmt: skip


def _or_not() -> list[Change]:
    """Return the winners with more, fewer and no units first."""
    found = []
    for extra in ({}, {"beta": 0.01}, {"budget": "max"}, {"budget": "max", "beta": 0.01}):
        told = "".join(f", {key}={value}" for key, value in extra.items())
        found.append(Change(OR_NOT, f"weights alone{told}", {**WINNERS, **extra}))
        for first, of_network in (("units first", UNITS), ("fewer units first", FEWER_UNITS)):
            found += [
                Change(OR_NOT, first + told, {**WINNERS, **extra, "units": units}, network=network)
                for network, units in of_network.items()
            ]
    return found


def _of(factor: str, **named: Any) -> list[Change]:
    """Return a change for each value of one option."""
    (option, values), = named.items()  # fmt: skip
    return [Change(factor, f"{option}={value!r}", {option: value}) for value in values]


CHANGES: list[Change] = [
    Change("none", "the start"),
    Change("gradient", "at w", method="rvsm-l0-w"),
    Change("gradient", "at w, beta=1", {"beta": 1.0}, method="rvsm-l0-w"),
    Change("penalty", "l1", method="rvsm-l1-u"),
    Change("penalty", "transformed l1, a=1", method="rvsm-tl1-u"),
    Change("penalty", "transformed l1, a=0.1", {"a": 0.1}, method="rvsm-tl1-u"),
    Change("penalty", "transformed l1, a from 10 to 0.01", {"a": 10.0, "a_end": 0.01},
           method="rvsm-tl1-u"),
    Change("penalty", "transformed l1, a from 1 to 0.01", {"a_end": 0.01}, method="rvsm-tl1-u"),
    *_of("beta", beta=(0.001, 0.01, 1.0)),
    Change("beta", "from 0.01 to 1", {"beta": 0.01, "beta_limit": 1.0}),
    Change("beta", "from 0.1 to 2", {"beta_limit": 2.0}),
    *_of("budget", budget=("uniform", "erk", "max", "mean")),
    *_of("budget", floor=(0.005, 0.02)),
    *_of("schedule", schedule=("linear", "cosine", "none")),
    *_of("length of the schedule", end=(0.2, 0.35, 0.7)),
    Change("length of the schedule", "from 0.2 to 0.7", {"start": 0.2, "end": 0.7}),
    *_of("healing", heal=(0.5, 0.6, 0.9, 1.0)),
    Change("regrowth", "long: end=0.3, heal=0.75", {"end": 0.3}),
    Change("regrowth", "short: end=0.5, heal=0.55", {"heal": 0.55}),
    Change("regrowth", "none: cubic magnitude", method="magnitude", setting=0.5),
    *_of("rate", lr=(0.02, 0.1, 0.2)),
    *_of("rate", rate=("flat",)),
    Change("rate", "one cycle: warm=0.3", {"warm": 0.3}),
    *_of("rewinding", rewind=(0.3, 1.0)),
    Change("rewinding", "rewind=1.0, heal=0.5", {"rewind": 1.0, "heal": 0.5}),
    *_of("averaging", average=(0.995, 0.999, 1.0)),
    Change("averaging", "average=0.999, rate='flat'", {"average": 0.999, "rate": "flat"}),
    *_of("distillation", distill=(0.5, 0.9)),
    Change("distillation", "with augmentation, of images as they are",
           {**WINNERS, "answers": "plain"}),
    *_of("start", from_dense=(True,)),
    *_of("augmentation", shift=(1, 2)),
    Change("augmentation", "shift=1, elastic=1.0", {"shift": 1, "elastic": 1.0}),
    *_of("augmentation", elastic=(0.5, 1.0)),
    *_of("decay of weights", weight_decay=(1e-5, 1e-4)),
    Change("base", "Adam, 0.002", {"base": "adam", "lr": 0.002}),
    Change("together", "augmentation, distillation", WINNERS),
    Change("together", "augmentation, distillation, flat rate", {**WINNERS, "rate": "flat"}),
    Change("together", "augmentation, distillation, flat rate, average",
           {**WINNERS, "rate": "flat", "average": 0.999}),
    Change("together", "cubic magnitude, the same", WINNERS, method="magnitude", setting=0.5),
    Change("together", "gradient at w, the same", WINNERS, method="rvsm-l0-w"),
    Change("together", "gradient at w, the same, beta=1", {**WINNERS, "beta": 1.0},
           method="rvsm-l0-w"),
    *(Change("together", f"gradient at w, the same, beta={beta:g}", {**WINNERS, "beta": beta},
             method="rvsm-l0-w") for beta in (0.01, 0.3)),
    *(Change("together", f"augmentation, distillation, beta={beta:g}", {**WINNERS, "beta": beta})
      for beta in (0.01, 0.3, 1.0)),
    Change("together", "augmentation, distillation, from the dense network",
           {**WINNERS, "from_dense": True}),
    *_units("with augmentation, distillation"),
    *_units("and layers compared by their largest", budget="max"),
    *_units("units by l0", units_penalty="l0"),
    *_units("no distillation", distill=None),
    *_units("cubic magnitude after the same units", "magnitude"),
    Change("whole units first", "where layers compete", {**WINNERS, "units": "0.9"},
           network="lenet-5"),
    *_or_not(),
]  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """Where changes are measured.

    Parameters
    ----------
    network, data : str
        In `NETWORKS`, in `data.READERS`.
    sparsity : float
        Share of zeros.
    factors : tuple of str
        Which changes; by default all.
    """

    network: str
    data: str
    sparsity: float
    factors: tuple[str, ...] = ()

    @property
    def changes(self) -> list[Change]:
        """The changes measured here, the start first."""
        return [
            c for c in CHANGES
            if c.network in ("", self.network)
            and (not self.factors or c.factor in self.factors)
        ]  # fmt: skip


GROUNDS = (
    Ground("lenet-300-100", "mnist", 0.987),
    Ground("lenet-5", "mnist", 0.9967, ("none", "together", "whole units first", OR_NOT)),
    *(Ground("lenet-300-100", "mnist", share, (OR_NOT,)) for share in (0.9, 0.95, 0.98, 0.99)),
    Ground("lenet-5", "mnist", 0.99, (OR_NOT,)),
)


def run_of(ground: Ground, change: Change, seed: int) -> Run:
    """Return the run of a change."""
    network = NETWORKS[ground.network]
    options = network.base_options().with_(**{**BASE, **change.options})
    return Run("ablation", ground.network, ground.data, change.method, ground.sparsity,
               options.beta if change.setting is None else change.setting, seed, network.epochs,
               network.held_out, options)  # fmt: skip


def runs(grounds: Sequence[Ground] = GROUNDS) -> list[Run]:
    """Return every run, seed by seed; changes that come to the same are run once."""
    found = {
        run.key: run
        for seed in range(SEEDS)
        for ground in grounds
        for change in ground.changes
        for run in [run_of(ground, change, seed)]
    }
    return list(found.values())
