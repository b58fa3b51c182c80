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
from rvsm.experiments.crossval.candidates import NO_START, Candidate
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
        shared = len({c.look for c in tried}) if arm == "sparse" else 1
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


def choose(
    tried: Sequence[str],
    scores: Sequence[Reals],
    labels: Ints,
    scaling: Callable[[Reals, Ints], Platt] = fit_platt,
    among: Sequence[int] | None = None,
) -> tuple[int, Platt, Any]:
    """The choice with the least log loss, once scaled, over all inner folds together.

    Of logistic regressions, whose scores are log-odds already, the scaling is `fit_shrunk`. Only
    the choices at the places `among` can win, by default all.

    Returns
    -------
    which : int
    calibration : Platt
        Fitted to its inner answers.
    losses : dict of str to float
    """
    scales = [scaling(found, labels) for found in scores]
    losses = [log_loss(scale(found), labels) for scale, found in zip(scales, scores, strict=True)]
    which = min(range(len(tried)) if among is None else among, key=losses.__getitem__)
    return which, scales[which], dict(zip(tried, losses, strict=True))


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
    which, platt, losses = choose(tried, [np.concatenate(s) for s in found], truth, fit_shrunk)
    line = fit_line(features[part.train], material.labels[part.train], STRENGTHS[which])
    tell()
    return {
        "log_odds": platt(line(features[part.test])).tolist(),
        "chosen": tried[which],
        "tried": losses,
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
        names, among = [c.name for c in tried], self._with_zeros(shares)
        which, platt, losses = choose(names, scores, truth, scaling, among)
        last = len(self.part.inner)
        test, state, zeros = self._fit(
            tried[which], f"{which}-all", last, self.part.train, self.part.test
        )
        tell()
        answer = {
            "log_odds": platt(test).tolist(),
            "chosen": tried[which].name,
            "start": tried[which].start,
            "tried": losses,
            "platt": [platt.slope, platt.offset],
            **zeros,
            "seconds": time.perf_counter() - begun,
        }
        return answer, [*states[which], state]

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
