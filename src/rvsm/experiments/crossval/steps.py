"""One training part at a time: choose on inner folds, fit on all of it, answer for the others.

Every fit leaves a file, so that a study that was killed goes on after its last one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rvsm.atomic import atomic_text, atomic_write, make_folder
from rvsm.errors import RunError
from rvsm.experiments.calibration import Platt, fit_platt, fit_shrunk, log_loss
from rvsm.experiments.config import TrainConfig
from rvsm.experiments.crossval.baselines import STRENGTHS, fit_lines
from rvsm.experiments.crossval.candidates import Candidate
from rvsm.experiments.crossval.folds import Index, check_apart, people_folds
from rvsm.experiments.crossval.metrics import Ints, Reals
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH, Settings
from rvsm.experiments.data import seed_of
from rvsm.experiments.evaluate import count_zeros

if TYPE_CHECKING:
    from rvsm.experiments.crossval.lastlayer import Looks, Seen
    from rvsm.experiments.crossval.networks import Fitted, State

Tell = Callable[[], None]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What every fold reads: ink for networks, features for the line, truth, people, a start.

    `looks` and `sparse_start` are for last layers trained alone.
    """

    ink: npt.NDArray[np.uint8]
    features: Reals
    labels: Ints
    people: Ints
    base: TrainConfig
    start: State | None
    sparse_start: State | None = None
    looks: Looks | None = None


@dataclass(frozen=True)
class Part:
    """One outer split and its inner ones, as positions of images."""

    number: int
    train: Index
    test: Index
    inner: tuple[tuple[Index, Index], ...]


def part_of(material: Material, settings: Settings, number: int, train: Index, test: Index) -> Part:
    """Cut a training part into inner folds of its own; nobody of the test is in any of them."""
    check_apart(material.people, train, test)
    labels, people = material.labels[train], material.people[train]
    inner = people_folds(labels, people, settings.inner, seed_of(settings.seed, number, 7) % 2**31)
    found = tuple((train[fitted], train[held]) for fitted, held in inner)
    for fitted, held in found:
        check_apart(material.people, fitted, held)
        check_apart(material.people, np.concatenate([fitted, held]), test)
    return Part(number, train, test, found)


def fits_of(settings: Settings) -> int:
    """How many models one outer fold fits, for the progress."""
    count = (settings.inner + 1) * ("hog" in settings.arms)
    for arm in settings.network_arms():
        tried = len(settings.sparse() if arm == "sparse" else settings.dense())
        if arm == "sparse" and settings.last_layer:
            tried //= len(settings.dense())
        count += tried * settings.inner + 1
    return count


def answers_of(
    material: Material, settings: Settings, part: Part, folder: Path, tell: Tell
) -> dict[str, Answer]:
    """What every arm says of the test people of one outer fold."""
    answers: dict[str, Answer] = {}
    prior = _log_odds(float(material.labels[part.train].mean()))
    if "majority" in settings.arms:
        # Of all images, not of the training part: that share falls where the test's rises, and
        # an AUC over all folds would fall below one half.
        share = _log_odds(float(material.labels.mean()))
        answers["majority"] = {"log_odds": [share] * len(part.test), "cut": 0.0}
    if "hog" in settings.arms:
        answers["hog"] = {**_line(material, part, tell), "cut": prior}
    states: dict[str, list[State]] = {}
    for arm in settings.network_arms():
        tried = settings.sparse() if arm == "sparse" else settings.dense()
        starts: Sequence[State | None] = [None if arm == SCRATCH else material.start]
        augment = arm != PLAIN and settings.augment
        seen = None
        if material.looks is not None:
            sparse = arm == "sparse" and material.sparse_start is not None
            start = material.sparse_start if sparse else starts[0]
            seen = {c.pool: material.looks.of(start, augment, c.pool) for c in tried}
            if arm == "sparse":
                # The strength of the l2 penalty and the pool are those chosen for the dense layer.
                dense = {c.name: c for c in settings.dense()}[answers["dense"]["chosen"]]
                wanted = (dense.ridge, dense.pool)
                tried = [c for c in tried if (c.ridge, c.pool) == wanted]
        elif arm == "sparse":
            starts = states["dense"]
        job = _Networks(material, part, arm, augment, starts, folder, seen)
        answer, states[arm] = job.answer(tried, settings.seed, tell)
        answers[arm] = {**answer, "cut": prior}
    return answers


def choose(
    tried: Sequence[str],
    scores: Sequence[Reals],
    labels: Ints,
    scaling: Callable[[Reals, Ints], Platt] = fit_platt,
) -> tuple[int, Platt, Any]:
    """The choice with the least log loss, once scaled, over all inner folds together.

    Of logistic regressions, whose scores are log-odds already, the scaling is `fit_shrunk`.

    Returns
    -------
    which : int
    calibration : Platt
        Fitted to its inner answers.
    losses : dict of str to float
    """
    scales = [scaling(found, labels) for found in scores]
    losses = [log_loss(scale(found), labels) for scale, found in zip(scales, scores, strict=True)]
    which = int(np.argmin(losses))
    return which, scales[which], dict(zip(tried, losses, strict=True))


def _line(material: Material, part: Part, tell: Tell) -> Answer:
    """The baseline, its strength chosen and its scores calibrated on the inner folds."""
    begun = time.perf_counter()
    found: list[list[Reals]] = [[] for _ in STRENGTHS]
    for fitted, held in part.inner:
        lines = fit_lines(material.features[fitted], material.labels[fitted], STRENGTHS)
        for place, line in enumerate(lines):
            found[place].append(line(material.features[held]))
        tell()
    truth = np.concatenate([material.labels[held] for _, held in part.inner])
    tried = [f"C {strength:g}" for strength in STRENGTHS]
    which, platt, losses = choose(tried, [np.concatenate(s) for s in found], truth, fit_shrunk)
    line = fit_lines(
        material.features[part.train], material.labels[part.train], (STRENGTHS[which],)
    )[0]
    tell()
    return {
        "log_odds": platt(line(material.features[part.test])).tolist(),
        "chosen": tried[which],
        "tried": losses,
        "platt": [platt.slope, platt.offset],
        "zeros": None,
        "seconds": time.perf_counter() - begun,
    }


@dataclass(frozen=True)
class _Networks:
    """The networks of one arm in one outer fold; `starts` holds one for all, or one a fit.

    With `seen` only their last layers are trained.
    """

    material: Material
    part: Part
    arm: str
    augment: bool
    starts: Sequence[State | None]
    folder: Path
    seen: Mapping[int | None, Seen] | None = None

    def answer(
        self, tried: Sequence[Candidate], seed: int, tell: Tell
    ) -> tuple[Answer, list[State]]:
        """The answers for the test people, and the states of the chosen candidate's fits."""
        begun = time.perf_counter()
        truth = np.concatenate([self.material.labels[held] for _, held in self.part.inner])
        scores, states = [], []
        for place, candidate in enumerate(tried):
            found, kept = [], []
            for number, (fitted, held) in enumerate(self.part.inner):
                result = self._fit(candidate, f"{place}-{number}", number, fitted, held, seed)
                found.append(result[0])
                kept.append(result[1])
                tell()
            scores.append(np.concatenate(found))
            states.append(kept)
        scaling = fit_platt if self.seen is None else fit_shrunk
        which, platt, losses = choose([c.name for c in tried], scores, truth, scaling)
        last = len(self.part.inner)
        test, state, zeros = self._fit(
            tried[which], f"{which}-all", last, self.part.train, self.part.test, seed
        )
        tell()
        answer = {
            "log_odds": platt(test).tolist(),
            "chosen": tried[which].name,
            "tried": losses,
            "platt": [platt.slope, platt.offset],
            **zeros,
            "seconds": time.perf_counter() - begun,
        }
        return answer, [*states[which], state]

    def _fit(
        self, candidate: Candidate, name: str, number: int, fitted: Index, held: Index, seed: int
    ) -> tuple[Reals, State, dict[str, Any]]:
        """Fit and ask, or read what an earlier process found."""
        stem = f"{self.arm.replace(', ', '-').replace(' ', '-')}-{name}"
        told, weights = self.folder / f"{stem}.json", self.folder / f"{stem}.safetensors"
        if (known := _known(told, weights, len(held))) is not None:
            return known
        check_apart(self.material.people, fitted, held)
        result = self._trained(candidate, number, fitted, seed)
        if self.seen is None:
            scores = result.scores(self.material.ink[held])
        else:
            scores = self.seen[candidate.pool].scores(result.net, held)
        counted = count_zeros(result.net)
        zeros = {key: counted[key] for key in ("zeros", "fc_zeros", "nonzeros", "weights")}
        state = result.state()
        make_folder(self.folder)
        from safetensors.torch import save

        with atomic_write(weights) as stream:
            stream.write(save(state))
        atomic_text(told, json.dumps({"scores": scores.tolist(), "zeros": zeros}))
        return scores, state, zeros

    def _trained(self, candidate: Candidate, number: int, fitted: Index, seed: int) -> Fitted:
        from rvsm.experiments.crossval.networks import Fitted, fit  # Lightning: seconds to import

        labels = self.material.labels[fitted]
        if self.seen is not None:
            from rvsm.experiments.crossval.lastlayer import fit_last

            return Fitted(fit_last(self.seen[candidate.pool], fitted, labels, candidate))
        config = candidate.config(
            self.material.base,
            augment=self.augment,
            seed=seed_of(seed, self.part.number, number) % 2**31,
        )
        start = self.starts[number] if len(self.starts) > 1 else self.starts[0]
        simplify = candidate.method != "dense" and start is not None
        return fit(config, self.material.ink[fitted], labels, start, simplify=simplify)


def _known(told: Path, weights: Path, count: int) -> tuple[Reals, State, dict[str, Any]] | None:
    if not told.is_file() or not weights.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = json.loads(told.read_text("utf-8"))
        scores = np.array(found["scores"], dtype=np.float64)
        state = load(weights.read_bytes())
        zeros = dict(found["zeros"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # it is computed again
    return (scores, state, zeros) if scores.shape == (count,) else None


def read_fold(path: Path, count: int) -> dict[str, Any] | None:
    """The answers of a finished fold, or None where there is none.

    Raises
    ------
    RunError
        The file is damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        if all(len(answer["log_odds"]) == count for answer in found["answers"].values()):
            return dict(found)
        cause = "it is of other images"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = str(error)
    raise RunError(
        f"{path} is damaged ({cause}): delete it and run the same command again, which computes "
        "this fold anew."
    )


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))
