"""Which runs there are: what each tier compares, and how strengths are chosen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.frontier.methods import CANDIDATES, METHODS, Method
from benchmarks.frontier.networks import NETWORKS, UNITS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.store import Row
from rvsm.errors import ConfigError

FACTOR, NEAR = 5.0, 3.0
"""How far a search for a strength jumps while it has seen one side only: at first, and where it
begins with what the next lower share of zeros needed."""


@dataclass(frozen=True)
class Contender:
    """A method with the options it takes part with, beyond those that all share.

    Parameters
    ----------
    method : str
        In `METHODS`.
    options : mapping
        Of `Options`; what is no part of the method itself belongs to all and in `NETWORKS`.
    of_network : mapping of str to mapping
        Further options on some networks, from a share of zeros on.
    name : str
        What tables call its options; by default they list them.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of_network: Mapping[str, Mapping[float, Mapping[str, Any]]] = field(default_factory=dict)
    name: str = ""

    def on(self, network: str, sparsity: float) -> dict[str, Any]:
        """Return its options on a network at a share of zeros."""
        steps = self.of_network.get(network, {})
        begun = max((share for share in steps if share <= sparsity), default=None)
        return {**self.options, **({} if begun is None else steps[begun])}


OURS = Contender(
    "rvsm-l0-u",
    {"distill": 0.5},
    {network: {0.0: {"units": units, "budget": "max"}} for network, units in UNITS.items()},
    "our recipe",
)
"""Our best so far, by the ablation's validation errors."""
TAUGHT = Contender("magnitude", OURS.options, OURS.of_network, "the rest of our recipe")
"""The strongest relative with what we take part with: what is due to the method alone."""
ALL = (
    Contender("dense"),
    *(Contender(name) for name, m in METHODS.items() if m.party != "dense" and name != "prox-l1"),
    *([OURS, TAUGHT] if OURS.options else []),
)
THREE = (Contender("dense"), OURS, Contender("magnitude"), TAUGHT, Contender("pat-target"))
STRONGEST = 4


@dataclass(frozen=True)
class Place:
    """A comparison: methods side by side on one network, one set and some shares of zeros.

    Parameters
    ----------
    network, data : str
        In `NETWORKS`, in `data.READERS`.
    sparsities : sequence of float
        Shares of zeros.
    contenders : sequence of Contender
        Who takes part.
    seeds : int
        Runs of each.
    more : mapping of float to int
        Our seeds in the headline rows, by share of zeros.
    strongest_of : (str, str), optional
        Take only the `STRONGEST` of the contenders, by their validation errors on another network
        and set.
    """

    network: str
    data: str
    sparsities: Sequence[float]
    contenders: Sequence[Contender]
    seeds: int = 3
    more: Mapping[float, int] = field(default_factory=dict)
    strongest_of: tuple[str, str] | None = None

    def options(self, contender: Contender, sparsity: float) -> Options:
        """Return the options that a contender trains with here."""
        own = contender.on(self.network, sparsity)
        return NETWORKS[self.network].base_options(self.data).with_(**own)

    def who(self, rows: Mapping[str, Row]) -> Sequence[Contender] | None:
        """Return who takes part; None while what decides it is not known."""
        if self.strongest_of is None:
            return self.contenders
        return strongest(self, rows)

    def finals(self, contender: Contender, sparsity: float, setting: float | None) -> list[Run]:
        """Return the final runs of a contender, one for each seed."""
        network, options = NETWORKS[self.network], self.options(contender, sparsity)
        more = self.more.get(sparsity, 0) if contender == OURS else 0
        return [
            Run("final", self.network, self.data, contender.method, sparsity, setting, seed,
                network.epochs, 0, options)
            for seed in range(max(self.seeds, more))
        ]  # fmt: skip

    def tuning(self, contender: Contender, sparsity: float, setting: float) -> Run:
        """Return the short run that tries a setting."""
        network, options = NETWORKS[self.network], self.options(contender, sparsity)
        return Run("tune", self.network, self.data, contender.method, sparsity, setting, 0,
                   network.tune_epochs, network.held_out, options)  # fmt: skip


LENET_300, LENET_5 = (0.9, 0.95, 0.98, 0.987, 0.99), (0.99, 0.9967)
TIERS: dict[str, list[Place]] = {
    "quick": [Place("small", "digits", (0.95,), ALL, seeds=1)],
    "core": [
        Place("lenet-300-100", "mnist", LENET_300, ALL, more={0.987: 5, 0.99: 5}),
        Place("lenet-5", "mnist", LENET_5, THREE, more={0.9967: 5}),
        Place("lenet-300-100", "fashion-mnist", (0.95, 0.98, 0.99), ALL, 5,
              strongest_of=("lenet-300-100", "mnist")),
        Place("tremor", "fonts", (0.95, 0.98), THREE),
        Place("tremor", "pen", (0.95, 0.98), THREE),
    ],
    "full": [
        *(Place("lenet-300-100", data, LENET_300, ALL, 5) for data in ("mnist", "fashion-mnist")),
        *(Place("lenet-5", data, (0.95, 0.98, *LENET_5, 0.9977), ALL, 5)
          for data in ("mnist", "fashion-mnist")),
        *(Place("tremor", data, (0.9, 0.95, 0.98), ALL, 5) for data in ("fonts", "pen")),
        *(Place(network, "cifar-10", (0.9, 0.95, 0.98), THREE) for network in
          ("vgg-16", "resnet-18")),
    ],
}  # fmt: skip
"""What is compared, tier by tier."""


@dataclass(frozen=True)
class Item:
    """What a contender has to do at one share of zeros.

    Parameters
    ----------
    place : Place
        Where.
    contender : Contender
        Who.
    sparsity : float
        How many zeros.
    """

    place: Place
    contender: Contender
    sparsity: float

    @property
    def method(self) -> Method:
        """The contender's method."""
        return METHODS[self.contender.method]

    def tried(self, rows: Mapping[str, Row]) -> list[Row]:
        """Return the rows of the tuning runs there are, in the order of the search."""
        found: list[Row] = []
        while (setting := self._next(rows, found)) is not None:
            row = rows.get(self.place.tuning(self.contender, self.sparsity, setting).key)
            if row is None:
                break
            found.append(row)
        return found

    def next_tuning(self, rows: Mapping[str, Row]) -> Run | None:
        """Return the tuning run to do next; None where all are done or it is not known yet."""
        setting = self._next(rows, self.tried(rows))
        if setting is None:
            return None
        return self.place.tuning(self.contender, self.sparsity, setting)

    def _next(self, rows: Mapping[str, Row], tried: Sequence[Row]) -> float | None:
        """Return the setting after those tried."""
        settings = self.method.settings
        if not settings or len(tried) == CANDIDATES:
            return None
        if self.method.kind == "exact":
            return settings[len(tried)]
        before = [s for s in self.place.sparsities if s < self.sparsity]
        if not before:
            return next_strength(settings[0], tried, self.sparsity)
        lower = replace(self, sparsity=max(before)).tried(rows)
        if len(lower) < CANDIDATES:
            return None
        start = min(lower, key=lambda row: abs(row.get("own_zeros", 1.0) - self.sparsity))
        return next_strength(float(start["setting"]), tried, self.sparsity, NEAR)

    def setting(self, rows: Mapping[str, Row]) -> float | None:
        """Return the setting of the final runs: the one with the fewest validation errors.

        Raises
        ------
        LookupError
            If tuning is not done.
        """
        if not self.method.settings:
            return None
        tried = self.tried(rows)
        if len(tried) < CANDIDATES:
            raise LookupError
        return float(_best(tried)["setting"])

    def finals(self, rows: Mapping[str, Row]) -> list[Run] | None:
        """Return the final runs; None until the setting is chosen."""
        try:
            setting = self.setting(rows)
        except LookupError:
            return None
        return self.place.finals(self.contender, self.sparsity, setting)

    def counts(self, rows: Mapping[str, Row]) -> tuple[int, int, int, int]:
        """Return tuning runs done and in all, final runs done and in all."""
        tuning = CANDIDATES if self.method.settings else 0
        finals = self.finals(rows)
        done = sum(run.key in rows for run in finals or ())
        return (
            len(self.tried(rows)) if tuning else 0, tuning,
            done, len(self.place.finals(self.contender, self.sparsity, None)),
        )  # fmt: skip


def _best(tried: Sequence[Row]) -> Row:
    """Return the row with the fewest validation errors; one that diverged has the most."""
    return min(tried, key=_validation)


def _validation(row: Row) -> float:
    error = row.get("validation_error")
    return 1.0 if error is None else float(error)


def next_strength(
    start: float, tried: Sequence[Row], target: float, factor: float = FACTOR
) -> float:  # fmt: skip
    """Return the strength to try next so that a method makes about `target` zeros by itself.

    From `start` up or down by `factor` until both sides are seen, then the geometric mean of the
    nearest ones.
    """
    weak = [float(r["setting"]) for r in tried if r.get("own_zeros", 1.0) < target]
    strong = [float(r["setting"]) for r in tried if r.get("own_zeros", 1.0) >= target]
    if not tried:
        found = start
    elif not strong:
        found = max(weak) * factor
    elif not weak:
        found = min(strong) / factor
    elif max(weak) < min(strong):
        found = math.sqrt(max(weak) * min(strong))
    else:  # zeros may fall as a strength grows: look beyond the strongest
        found = max(weak) * factor
    return float(f"{found:.3g}")


def strongest(place: Place, rows: Mapping[str, Row]) -> list[Contender] | None:
    """Return the dense network and the methods with the fewest validation errors elsewhere.

    Summed over all shares of zeros that were tuned there; None while one is not. Methods that
    cannot take part here are left out.
    """
    network, data = place.strongest_of or ("", "")
    elsewhere = next(
        p for places in TIERS.values() for p in places
        if (p.network, p.data, p.strongest_of) == (network, data, None)
    )  # fmt: skip
    errors: list[tuple[float, int]] = []
    for i, contender in enumerate(place.contenders):
        items = [Item(elsewhere, contender, s) for s in elsewhere.sparsities]
        if not items[0].method.settings or items[0].method.missing():
            continue
        tried = [item.tried(rows) for item in items]
        if any(len(own) < CANDIDATES for own in tried):
            return None
        errors.append((statistics.mean(_validation(_best(own)) for own in tried), i))
    first = [i for _, i in sorted(errors)[:STRONGEST]]
    return [c for i, c in enumerate(place.contenders) if c.method == "dense" or i in first]


def items_of(places: Iterable[Place], rows: Mapping[str, Row]) -> list[Item]:
    """Return what there is to do at some places; less while it is not known who takes part."""
    found = []
    for place in places:
        for sparsity in place.sparsities:
            for contender in place.who(rows) or ():
                dense = contender.method == "dense"
                if not dense:
                    found.append(Item(place, contender, sparsity))
                elif sparsity == place.sparsities[0]:
                    found.append(Item(place, contender, 0.0))
    return found


def places_of(tier: str) -> list[Place]:
    """Return the places of a tier.

    Raises
    ------
    ConfigError
        If there is no such tier.
    """
    if tier not in TIERS:
        raise ConfigError(f"There is no tier {tier}; the tiers are {', '.join(TIERS)}, ablation.")
    return TIERS[tier]
