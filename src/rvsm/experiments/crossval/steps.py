"""One training part at a time: choose on inner folds, fit on all of it, answer for the others.

Every fit leaves a file, so that a study that was killed goes on after its last one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rvsm.atomic import atomic_text, atomic_write, make_folder
from rvsm.errors import RunError
from rvsm.experiments.calibration import Platt, fit_platt, fit_shrunk, log_loss
from rvsm.experiments.crossval.baselines import STRENGTHS, fit_line, fit_lines
from rvsm.experiments.crossval.candidates import NO_START, Candidate, weighed
from rvsm.experiments.crossval.folds import Index, check_apart, people_folds
from rvsm.experiments.crossval.metrics import Ints, Reals
from rvsm.experiments.crossval.settings import PLAIN, SCRATCH, Settings
from rvsm.experiments.data import seed_of
from rvsm.experiments.evaluate import count_zeros

if TYPE_CHECKING:
    from rvsm.experiments.crossval.lastlayer import Looks
    from rvsm.experiments.crossval.networks import Begin, Fitted, State

Tell = Callable[[], None]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What every fold reads: ink for networks, features for lines, truth, people, starts.

    `begins` holds what networks begin with by `Candidate.start`, and by `NO_START` weights drawn
    at random; `sparse_begins` and `looks` are for last layers trained alone.
    """

    ink: npt.NDArray[np.uint8]
    features: Mapping[str, Reals]
    labels: Ints
    people: Ints
    begins: Mapping[str, Begin] = field(default_factory=dict)
    sparse_begins: Mapping[str, Begin] = field(default_factory=dict)
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
    count = (settings.inner + 1) * len(settings.lines())
    for arm in settings.network_arms():
        tried = settings.tried(arm)
        chosen_once = arm == "sparse" and not settings.average
        shared = len({c.look for c in tried}) if chosen_once else 1
        count += len(tried) // shared * settings.inner + 1
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
    for arm in settings.lines():
        answers[arm] = {**_line(material, arm, part, tell), "cut": prior}
    states: dict[str, list[State]] = {}
    for arm in settings.network_arms():
        tried, begins, starts = settings.tried(arm), material.begins, None
        if arm == SCRATCH:
            begins = {"": begins[NO_START]}
        elif arm == "sparse":
            dense = {c.name: c for c in settings.tried("dense")}[answers["dense"]["chosen"]]
            if not settings.average:
                # A sparse fit costs ten times a dense last layer: what is looked at is chosen once.
                tried = [c for c in tried if c.look == dense.look]
            if settings.last_layer:
                begins = material.sparse_begins
            else:
                begins, starts = {"": begins[dense.start]}, states["dense"]
        job = _Networks(material, settings, part, arm, begins, starts, folder)
        answer, states[arm] = job.answer(tried, tell)
        answers[arm] = {**answer, "cut": prior}
    return answers


@dataclass(frozen=True)
class Choice:
    """What the inner folds say of all that was tried.

    Attributes
    ----------
    which : int
        Place of the choice with the least log loss, once scaled, over all inner folds together.
    scales : tuple of Platt
        Of each, fitted to its inner answers.
    losses : tuple of float
    """

    which: int
    scales: tuple[Platt, ...]
    losses: tuple[float, ...]

    @property
    def scale(self) -> Platt:
        """Of what is chosen."""
        return self.scales[self.which]


def choose(
    scores: Sequence[Reals],
    labels: Ints,
    scaling: Callable[[Reals, Ints], Platt] = fit_platt,
    among: Sequence[int] | None = None,
) -> Choice:
    """Choose by log loss.

    Of logistic regressions, whose scores are log-odds already, the scaling is `fit_shrunk`. Only
    the choices at the places `among` can win, by default all.
    """
    scales = tuple(scaling(found, labels) for found in scores)
    losses = tuple(
        log_loss(scale(found), labels) for scale, found in zip(scales, scores, strict=True)
    )
    which = min(range(len(scores)) if among is None else among, key=losses.__getitem__)
    return Choice(which, scales, losses)


def _line(material: Material, arm: str, part: Part, tell: Tell) -> Answer:
    """A baseline, its strength chosen and its scores calibrated on the inner folds."""
    begun = time.perf_counter()
    features = material.features[arm]
    found: list[list[Reals]] = [[] for _ in STRENGTHS]
    for fitted, held in part.inner:
        lines = fit_lines(features[fitted], material.labels[fitted], STRENGTHS)
        for place, line in enumerate(lines):
            found[place].append(line(features[held]))
        tell()
    truth = np.concatenate([material.labels[held] for _, held in part.inner])
    tried = [f"C {strength:g}" for strength in STRENGTHS]
    choice = choose([np.concatenate(s) for s in found], truth, fit_shrunk)
    which, platt = choice.which, choice.scale
    line = fit_line(features[part.train], material.labels[part.train], STRENGTHS[which])
    tell()
    return {
        "log_odds": platt(line(features[part.test])).tolist(),
        "chosen": tried[which],
        "tried": dict(zip(tried, choice.losses, strict=True)),
        "platt": [platt.slope, platt.offset],
        "zeros": None,
        "seconds": time.perf_counter() - begun,
    }


@dataclass(frozen=True)
class _Networks:
    """The networks of one arm in one outer fold.

    They begin as `begins` has it by `Candidate.start`, but for the weights where `starts` holds
    those of each fit.
    """

    material: Material
    settings: Settings
    part: Part
    arm: str
    begins: Mapping[str, Begin]
    starts: Sequence[State] | None
    folder: Path

    def answer(self, tried: Sequence[Candidate], tell: Tell) -> tuple[Answer, list[State]]:
        """The answers for the test people, and the states of the chosen candidate's fits."""
        begun = time.perf_counter()
        truth = np.concatenate([self.material.labels[held] for _, held in self.part.inner])
        scores, states, shares = [], [], []
        for place, candidate in enumerate(tried):
            found, kept, least = [], [], 1.0
            for number, (fitted, held) in enumerate(self.part.inner):
                result = self._fit(candidate, f"{place}-{number}", number, fitted, held)
                found.append(result[0])
                kept.append(result[1])
                least = min(least, result[2]["zeros"])
                tell()
            scores.append(np.concatenate(found))
            states.append(kept)
            shares.append(least)
        scaling = fit_platt if self.material.looks is None else fit_shrunk
        among = self._with_zeros(shares)
        choice = choose(scores, truth, scaling, among)
        which, platt = choice.which, choice.scale
        weights = {which: 1.0}
        if self.settings.average:
            people = len(np.unique(self.material.people[self.part.train]))
            weights = weighed(tried, choice.losses, among, people)
        last = len(self.part.inner)
        fits = {
            place: self._fit(tried[place], f"{place}-all", last, self.part.train, self.part.test)
            for place in weights
        }
        tell()
        said = [w * choice.scales[place](fits[place][0]) for place, w in weights.items()]
        answer = {
            "log_odds": np.sum(said, axis=0).tolist(),
            "chosen": tried[which].name,
            "start": tried[which].start,
            "tried": {c.name: loss for c, loss in zip(tried, choice.losses, strict=True)},
            "platt": [platt.slope, platt.offset],
            **_together([fit[2] for fit in fits.values()]),
            "seconds": time.perf_counter() - begun,
        }
        if self.settings.average:
            answer["averaged"] = {tried[place].name: weight for place, weight in weights.items()}
        return answer, [*states[which], fits[which][1]]

    def _with_zeros(self, shares: Sequence[float]) -> list[int]:
        """Places of the candidates with zeros enough, by the fewest of their inner fits."""
        if self.arm != "sparse":
            return list(range(len(shares)))
        asked = self.settings.least_zeros
        if not (among := [place for place, share in enumerate(shares) if share >= asked]):
            raise RunError(
                f"No sparse network has {100 * asked:g} % zeros in every inner fold, the most is "
                f"{100 * max(shares):.1f} %: name a new folder, and give a higher --sparsity or "
                "--lam, a start with more zeros, or a lower --least-zeros."
            )
        return among

    def _fit(
        self, candidate: Candidate, name: str, number: int, fitted: Index, held: Index
    ) -> tuple[Reals, State, dict[str, Any]]:
        """Fit and ask, or read what an earlier process found."""
        stem = f"{self.arm.replace(', ', '-').replace(' ', '-')}-{name}"
        told, weights = self.folder / f"{stem}.json", self.folder / f"{stem}.safetensors"
        if (known := _known(told, weights, len(held))) is not None:
            return known
        check_apart(self.material.people, fitted, held)
        result, scores = self._trained(candidate, number, fitted, held)
        counted = count_zeros(result.net)
        zeros = {key: counted[key] for key in ("zeros", "fc_zeros", "nonzeros", "weights")}
        state = result.state()
        make_folder(self.folder)
        from safetensors.torch import save

        with atomic_write(weights) as stream:
            stream.write(save(state))
        atomic_text(told, json.dumps({"scores": scores.tolist(), "zeros": zeros}))
        return scores, state, zeros

    def _trained(
        self, candidate: Candidate, number: int, fitted: Index, held: Index
    ) -> tuple[Fitted, Reals]:
        from rvsm.experiments.crossval.networks import Fitted, fit  # Lightning: seconds to import

        material, settings = self.material, self.settings
        labels, begin = material.labels[fitted], self.begins[candidate.start]
        augment = settings.augment and self.arm != PLAIN and candidate.changed
        if material.looks is not None:
            from rvsm.experiments.crossval.lastlayer import fit_last

            seen = material.looks.of(begin, augment, candidate.pool)
            net = fit_last(seen, fitted, labels, candidate)
            return Fitted(net), seen.scores(net, held)
        seed = seed_of(settings.seed, self.part.number, number) % 2**31
        config = candidate.config(begin.config, augment=augment, seed=seed)
        start = begin.state if self.starts is None else self.starts[number]
        simplify = candidate.method != "dense" and start is not None
        result = fit(config, material.ink[fitted], labels, start, simplify=simplify)
        return result, result.scores(material.ink[held])


def _together(counted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Weights of all networks that are averaged, and how many of them are zero."""
    weights = sum(one["weights"] for one in counted)
    nonzeros = sum(one["nonzeros"] for one in counted)
    return {
        "zeros": 1 - nonzeros / weights,
        "fc_zeros": float(np.mean([one["fc_zeros"] for one in counted])),
        "nonzeros": nonzeros,
        "weights": weights,
    }


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
