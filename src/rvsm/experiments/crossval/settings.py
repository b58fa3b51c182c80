"""What a study is asked for, and the configuration its networks begin with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rvsm.atomic import atomic_text
from rvsm.errors import ConfigError, RunError
from rvsm.experiments.config import CONFIG_FILE, METHODS, Method, TrainConfig, make_config
from rvsm.experiments.crossval.candidates import (
    NO_START,
    Candidate,
    grid,
    last_layers,
    spread,
)
from rvsm.experiments.crossval.cases import Cases
from rvsm.experiments.runs import start_file
from rvsm.handwriting.scans.sets import How

LINES = ("hog", "amplitude")
"""Baselines that are lines through features."""

ARMS = ("majority", *LINES, "dense", "sparse")
"""What is compared, in the order it is computed: sparse networks start from dense ones."""

DEFAULT_ARMS = ("majority", "hog", "dense", "sparse")
"""Those that every set allows: an amplitude is known of recorded strokes alone."""

RIDGES = (1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the l2 penalty of last layers, of which the inner folds choose one."""

SCRATCH, PLAIN = "dense, from scratch", "dense, not augmented"
"""Arms that show what pretraining and augmentation bought."""

MOST_SIDE = 1024
"""Pixels: thousands of such images still fit into memory."""

FILE = "crossval.json"
# of studies that do not say
_BEFORE = {
    "layout": "",
    "task": "",
    "isolate": "auto",
    "reading": "stored",
    "mirrored": "drawings",
    "sparse_start": [],
    "last_layer": False,
    "views": 8,
    "pools": [],
    "choose_augment": False,
    "average": False,
    "least_zeros": 0.0,
    "strength of the sparse layer": "the dense layer's",
}


@dataclass(frozen=True)
class Settings:
    """One study; a stopped one goes on under equal settings only.

    Attributes
    ----------
    by, person : str
        Column of the manifest, and regular expression (empty: none), that tell people apart.
    layout, task : str
        How the set is read (empty: the first layout that fits), and which drawings (empty: all).
    isolate : {"auto", "colour", "registration", "none"}
        How pens are told from print (see `scans.sets.isolations`).
    folds, inner, repeats, seed : int
        Folds, inner folds of each training part, and how often all is cut anew.
    size : (int, int) or None
        Rows and columns a network reads; None: by the shape of the images.
    methods, epochs, sparsities, lams : tuple
        What the inner folds choose from; `methods` without ``dense``.
    start : tuple of str
        Folders of finished runs whose weights to start from, or `NO_START`; of several the inner
        folds choose. None: from scratch.
    sparse_start : tuple of str
        The same for the sparse networks; none: those of `start` for last layers, else the dense
        networks of the same images.
    least_zeros : float
        Share of all weights that a sparse network must have as zeros, in every inner fold, to be
        chosen.
    last_layer : bool
        Train the last layer alone, by `views` changed copies of each image; inner folds choose
        the strength of its l2 penalty in place of `epochs`.
    views : int
    pools : tuple of int
        Rows and columns that its maps are pooled by, of which inner folds choose; none: as the
        network does.
    augment, ablate : bool
        Change training images anew each time; measure also without, and without `start`.
    choose_augment : bool
        Let the inner folds choose whether they are changed.
    average : bool
        Average last layers, the best from each start, pool and way of changing images, by what
        the inner folds say of them (see `candidates.weighed`), in place of choosing one.
    arms : tuple of str
        Of `ARMS`.
    network : dict
        Keys of the training configuration that replace ours.
    """

    by: str = "person"
    person: str = ""
    layout: str = ""
    task: str = ""
    isolate: How = "auto"
    folds: int = 5
    inner: int = 3
    repeats: int = 3
    seed: int = 0
    size: tuple[int, int] | None = None
    methods: tuple[Method, ...] = ("l0", "transformed-l1")
    epochs: tuple[int, ...] = (20, 40)
    sparsities: tuple[float, ...] = (0.92, 0.96)
    lams: tuple[float, ...] = ()
    start: tuple[str, ...] = ()
    sparse_start: tuple[str, ...] = ()
    least_zeros: float = 0.0
    last_layer: bool = False
    views: int = 8
    pools: tuple[int, ...] = ()
    augment: bool = True
    choose_augment: bool = False
    average: bool = False
    ablate: bool = False
    arms: tuple[str, ...] = DEFAULT_ARMS
    network: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("inner", 2), ("repeats", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: give {least} or more.")
        if self.size is not None and not 8 <= min(self.size) <= max(self.size) <= MOST_SIDE:
            rows, columns = self.size
            raise ConfigError(
                f"A network does not read {rows}x{columns} pixels: give a --size from 8 to "
                f"{MOST_SIDE} a side, such as 96x96."
            )
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise ConfigError(
                f"There is nothing called {unknown[0]!r} to compare: choose among "
                f"{', '.join(ARMS)}."
            )
        if not self.arms:
            raise ConfigError(f"Nothing is compared: choose among {', '.join(ARMS)}.")
        if not self.epochs or min(self.epochs) < 1:
            raise ConfigError("A network needs at least 1 epoch: give --epochs 1 or more.")
        for name, given in (("start", self.start), ("sparse-start", self.sparse_start)):
            if twice := [one for one in given if given.count(one) > 1]:
                raise ConfigError(f"--{name} names {twice[0]} twice: name each run once.")
        if not 0 <= self.least_zeros < 1:
            raise ConfigError(
                f"--least-zeros {self.least_zeros:g} is no share: give 0 or more, less than 1."
            )
        if self.choose_augment and not self.augment:
            raise ConfigError("--choose-augment and --no-augment exclude each other: give one.")
        if "sparse" in self.arms and not self.tried("sparse"):
            raise ConfigError(
                "There is no sparse network to try: give --method, and --sparsity or --lam."
            )
        if self.views < 1 or min(self.pools, default=1) < 1:
            raise ConfigError("A last layer needs 1 view and pools of 1 pixel: give 1 or more.")
        if self.sparse_start and not (self.last_layer and self.start):
            raise ConfigError(
                "--sparse-start is for --last-layer with --start: elsewhere sparse networks start "
                "from the dense ones."
            )
        if self.average and not self.last_layer:
            raise ConfigError("--average is of last layers: add --last-layer.")
        if self.last_layer and self.lams:
            raise ConfigError("--last-layer asks for shares of zeros: give --sparsity, not --lam.")
        if unknown := [name for name in self.methods if name not in METHODS or name == "dense"]:
            raise ConfigError(
                f"There is no penalty {unknown[0]!r}: choose among {', '.join(METHODS[1:])}."
            )

    def tried(self, arm: str) -> list[Candidate]:
        """What the inner folds choose from for an arm with networks."""
        sparse = arm == "sparse"
        methods: tuple[Method, ...] = self.methods if sparse else ("dense",)
        starts = self.start
        if self.last_layer:
            found = last_layers(methods, RIDGES, self.sparsities if sparse else (), self.pools)
            starts = (self.sparse_start or starts) if sparse else starts
        else:
            found = grid(methods, self.epochs, self.sparsities, self.lams)
            # Sparse networks go on from the dense one chosen, whatever that started from.
            starts = () if sparse else starts
        several = len(starts) > 1 and arm != SCRATCH
        changed = (True, False) if self.choose_augment and arm != PLAIN else (True,)
        return spread(found, starts if several else ("",), changed)

    def pretrained(self) -> bool:
        """Whether there is a run to start from."""
        return any(start != NO_START for start in self.start)

    def network_arms(self) -> list[str]:
        """The arms that train networks, dense first; sparse ones need dense ones to start from."""
        if not {"dense", "sparse"} & set(self.arms):
            return []
        arms = ["dense"]
        if self.ablate and self.pretrained():
            arms.append(SCRATCH)
        if self.ablate and self.augment:
            arms.append(PLAIN)
        return [*arms, "sparse"] if "sparse" in self.arms else arms

    def compared(self) -> list[str]:
        """All arms in the order of the table."""
        majority = ["majority"] if "majority" in self.arms else []
        return majority + self.lines() + self.network_arms()

    def lines(self) -> list[str]:
        """The baselines that are fitted."""
        return [arm for arm in LINES if arm in self.arms]

    def base_config(self, cases: Cases, size: tuple[int, int], start: str = "") -> TrainConfig:
        """The training that candidates vary: of the start's network, or of our own for few images.

        Without a run to start from it is that of the first run of the study. Nothing is mirrored:
        a spiral that is asked for has a way round, as writing has.
        """
        drawing = size[1] < 1.6 * size[0]
        values: dict[str, Any] = {
            "data": str(cases.folder),
            "method": "dense",
            "batch_size": 16,
            "network": {"channels": [8, 24, 32], "dropout": 0.3},
            "augmentation": {
                "flip_horizontal": False,
                "flip_vertical": False,
                **({"shift_rows": 4, "shift_columns": 4} if drawing else {}),
                "contrast": 0.2,
                "elastic": 1.0,
            },
            "splitting": {"beta": 0.01, "grad_at": "u", "start": 0.0, "end": 0.4, "heal": 0.6},
        }
        run = start
        if run in ("", NO_START):
            run = next((one for one in self.start if one != NO_START), "")
        if run:
            from rvsm.experiments.config import load_config

            path = Path(run) / CONFIG_FILE
            if not path.is_file():
                raise RunError(
                    f"{run} holds no finished run to start from ({CONFIG_FILE} is missing): "
                    "name the folder of a run, or leave out --start."
                )
            values["network"] = load_config(path).model_dump(mode="json")["network"]
        values["network"]["size"] = list(size)
        for key, value in self.network.items():
            *sections, name = key.split(".")
            place = values
            for section in sections:
                place = place.setdefault(section, {})
                if not isinstance(place, dict):
                    raise ConfigError(
                        f"{key}: {section} is no section of the configuration; give a key such "
                        "as network.channels."
                    )
            place[name] = value
        return make_config(values)


def claim(out: Path, settings: Settings, cases: Cases) -> None:
    """Note in the folder what is studied there, or see that it is the same.

    Raises
    ------
    RunError
        The folder holds another study, of other settings or images, or something else.
    """
    told = {
        **asdict(settings),
        "data": str(cases.folder),
        "images": cases.fingerprint(),
        "reading": cases.reading,
        "mirrored": "nothing",
    }
    if settings.network_arms():
        for name, runs in (("start", settings.start), ("sparse start", settings.sparse_start)):
            if runs:
                told[f"weights of the {name}"] = [_digest(run) for run in runs]
    if settings.last_layer and "sparse" in settings.arms:
        told["strength of the sparse layer"] = "its own"
    wanted = json.loads(json.dumps(told))
    path = out / FILE
    if not path.is_file():
        atomic_text(path, json.dumps(wanted, indent=1))
        return
    try:
        found = {**_BEFORE, **json.loads(path.read_text("utf-8"))}
        for key in ("start", "sparse_start", "weights of the start", "weights of the sparse start"):
            if isinstance(found.get(key), str):  # when there was one
                found[key] = [found[key]] if found[key] else []
        differing = [key for key in wanted if found.get(key) != wanted[key]]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): name a new folder for the study.") from None
    differing = [key for key in differing if key != "data"]
    if differing:
        raise RunError(
            f"{out} holds a study with another {', '.join(differing)}: name a new folder, or "
            "restore those options."
        )


def _digest(run: str) -> str:
    if run == NO_START:
        return NO_START
    return hashlib.sha256(start_file(run).read_bytes()).hexdigest()[:16]
