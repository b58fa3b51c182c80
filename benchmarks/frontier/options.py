"""What a run is: every number that it depends on, and the names it goes by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rvsm.errors import ConfigError
from rvsm.optim import Budget, Cosine, Cubic, Linear, Schedule

SCHEDULES: dict[str, type[Cubic] | type[Linear] | type[Cosine] | None] = {
    "cubic": Cubic,
    "linear": Linear,
    "cosine": Cosine,
    "none": None,
}


@dataclass(frozen=True)
class Options:
    """How a network is trained; rows hold what differs from these defaults.

    Parameters
    ----------
    base : {"sgd", "adam"}
        SGD with momentum 0.9, or Adam.
    lr : float
        Its largest rate.
    batch : int
        Images a step.
    weight_decay : float
        Of the base.
    rate : {"cosine", "flat"}
        The rate falls along half a cosine from the first step, or from where the support is fixed.
    warm : float
        Share of the steps in which the rate rises to `lr` in a straight line.
    rewind : float
        Where the support is fixed the rate begins anew, at this share of `lr`; 0 for one fall.
    shift, flip, elastic, knot
        Augmentation, as for `augment.augmented`.
    schedule : {"cubic", "linear", "cosine", "none"}
        How the strength rises.
    start, end : float
        Between which shares of the steps it rises.
    heal : float
        Share of the steps after which the support is fixed and the survivors train alone; 1 for
        never.
    beta : float
        Coupling strength of splitting; of ADMM its rho.
    beta_limit : float, optional
        Let beta grow to this until the support is fixed.
    a : float
        Shape of transformed l1, l1 for large and l0 for small ones.
    a_end : float, optional
        Let `a` move to this until the support is fixed.
    budget : {"global", "uniform", "erk", "max", "mean"}
        How a target is shared over the layers: one threshold for all, the same share, by
        Erdos-Renyi-Kernel, or one threshold for weights over the layer's largest or mean.
    floor : float
        Least share that a layer keeps; by default one weight.
    average : float
        Average the weights while healing: decay of a moving average, or 1 for the plain mean.
    distill : float
        Share of the loss that is the distance to the dense network of the same seed.
    temperature : float
        Of the distillation.
    answers : {"seen", "plain"}
        Whether the dense network is asked about every image as the sparse one sees it, moved and
        bent, or once about the image itself, which takes no time to speak of.
    from_dense : bool
        Begin with the weights of that dense network.
    units : str
        Whole filters and rows that go before single weights do, when the network is cut down to
        what is left: "" for none; the share of all weights, as "0.9"; or of the units of layers,
        as "conv1.weight=0.5 fc1.weight=0.9".
    units_until : float
        Share of the steps after which they are gone.
    units_scale : {"none", "rms", "max", "mean"}
        What their norms are divided by before the layers compete for one share.
    units_penalty : {"tl1", "l0"}
        Of the units.
    """

    base: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.05
    batch: int = 100
    weight_decay: float = 0.0
    rate: Literal["cosine", "flat"] = "cosine"
    warm: float = 0.025
    rewind: float = 0.0
    shift: int = 0
    flip: bool = False
    elastic: float = 0.0
    knot: int = 8
    schedule: str = "cubic"
    start: float = 0.0
    end: float = 0.5
    heal: float = 0.75
    beta: float = 0.1
    beta_limit: float | None = None
    a: float = 1.0
    a_end: float | None = None
    budget: Literal["global", "uniform", "erk", "max", "mean"] = "global"
    floor: float = 0.0
    average: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    answers: Literal["seen", "plain"] = "seen"
    from_dense: bool = False
    units: str = ""
    units_until: float = 0.25
    units_scale: Literal["none", "rms", "max", "mean"] = "rms"
    units_penalty: Literal["tl1", "l0"] = "tl1"

    def shares_of_units(self) -> float | dict[str, float]:
        """Return what `units` says.

        Raises
        ------
        ConfigError
            If it is of another form.
        """
        try:
            pairs = [word.split("=") for word in self.units.split()]
            if [len(pair) for pair in pairs] == [1]:
                return float(self.units)
            return {name: float(share) for name, share in pairs}
        except ValueError:
            raise ConfigError(
                f'units is "{self.units}"; write a share, or LAYER=SHARE for each layer.'
            ) from None

    def changed(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}

    @staticmethod
    def of(values: Mapping[str, Any]) -> Options:
        """Return the options with these values.

        Raises
        ------
        ConfigError
            If a name is unknown.
        """
        known = {f.name for f in fields(Options)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"There is no option {', '.join(unknown)}; the options are "
                f"{', '.join(sorted(known))}."
            )
        return Options(**values)

    def with_(self, **values: Any) -> Options:
        """Return the options with some changed."""
        return Options.of({**asdict(self), **values})

    def for_dense(self) -> Options:
        """Return what of the options a dense network is trained with."""
        kept = ("base", "lr", "batch", "weight_decay", "warm", "shift", "flip", "elastic", "knot")
        return Options.of({name: getattr(self, name) for name in kept})

    def rise(self, steps: int, *, end: float | None = None, begun: int = 0) -> Schedule | None:
        """Return the schedule of the strength over `steps` steps, ending at `end` if given.

        Of an optimizer that is built when `begun` steps are over.
        """
        made = SCHEDULES[self.schedule]
        last = int((self.end if end is None else end) * steps) - begun
        first = max(int(self.start * steps) - begun, 0)
        return None if made is None else made(first, max(last, first + 1))

    def budget_of_targets(self) -> Budget:
        """Return how a target is shared over the layers."""
        floor = self.floor or None
        if self.budget in ("uniform", "erk"):
            return Budget("global", layout=self.budget, floor=floor)
        scale = "none" if self.budget == "global" else self.budget
        return Budget("global", scale=scale, floor=floor)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Run:
    """One training run: what its row is found by.

    Parameters
    ----------
    purpose : {"tune", "final", "ablation"}
        A tuning or ablation run never reads the test set.
    setting : float, optional
        The method's own strength, among those that tuning tries.
    sparsity : float
        Share of zeros asked for; 0 for dense.
    held_out : int
        Training images that are kept for validation.
    """

    purpose: Literal["tune", "final", "ablation"]
    network: str
    data: str
    method: str
    sparsity: float
    setting: float | None
    seed: int
    epochs: int
    held_out: int
    options: Options = field(default_factory=Options)

    def to_dict(self) -> dict[str, Any]:
        """Return what a row says about the run, in its order."""
        return {**asdict(self), "options": self.options.changed()}

    @staticmethod
    def of(row: Mapping[str, Any]) -> Run:
        """Return the run that a row is of."""
        own = {f.name: row[f.name] for f in fields(Run) if f.name != "options"}
        return Run(**own, options=Options.of(row["options"]))

    @property
    def key(self) -> str:
        """The run as text: the same for the same run alone."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @property
    def digest(self) -> str:
        """A file name for the run."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """The file its row is in."""
        tail = "-ablation" if self.purpose == "ablation" else ""
        return f"{self.network}-{self.data}{tail}"

    @property
    def label(self) -> str:
        """The run in words, for a line of progress and for ``--only``."""
        options = " ".join(f"{k}={v}" for k, v in self.options.changed().items())
        setting = "" if self.setting is None else f" {self.setting:g}"
        return (
            f"{self.purpose} {self.network} {self.data} {self.method} "
            f"{100 * self.sparsity:g}%{setting} seed {self.seed} {options}".rstrip()
        )

    def dense(self) -> Run:
        """Return the dense run of the same seed, data and base: the teacher."""
        return Run(
            self.purpose, self.network, self.data, "dense", 0.0, None, self.seed, self.epochs,
            self.held_out, self.options.for_dense(),
        )  # fmt: skip
