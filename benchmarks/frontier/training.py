"""One training run: the same images, order, rates and augmentation for every method."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.frontier.augment import augmented
from benchmarks.frontier.counting import freeze, layer_nonzeros, size_of, wrong_share
from benchmarks.frontier.data import Data, Part
from benchmarks.frontier.gradient import Gradient
from benchmarks.frontier.methods import METHODS, Frame
from benchmarks.frontier.networks import NETWORKS
from benchmarks.frontier.options import Options, Run
from benchmarks.frontier.units import cut_down, whole_units
from rvsm import recipes
from rvsm.errors import RunError
from rvsm.experiments.data import seeded
from rvsm.handwriting.network import TremorNet
from rvsm.modes import evaluating
from rvsm.optim import recalibrate
from rvsm.penalties import TransformedL1

_AHEAD = 50
"""Batches that are moved, bent and shown to the teacher together on a GPU, which small ones leave
idle."""
_WARM_AGAIN = 0.02
"""Share of the steps in which the rate rises where it begins anew."""


@dataclass(frozen=True)
class Rate:
    """The learning rate at every step, as a share of the largest.

    Parameters
    ----------
    options : Options
        Their `rate`, `warm`, `rewind` and `heal`.
    steps : int
        Of the run.
    """

    options: Options
    steps: int

    def __call__(self, step: int) -> float:
        """Return the share at the step that is the `step`-th from 0."""
        o, heal = self.options, int(self.options.heal * self.steps)
        warm = min(1.0, (step + 1) / max(o.warm * self.steps, 1))
        if o.rewind and step >= heal:
            again = min(1.0, (step - heal + 1) / max(_WARM_AGAIN * self.steps, 1))
            return o.rewind * again * _fall(step - heal, self.steps - heal)
        if o.rate == "flat":
            return warm * (1.0 if step < heal else _fall(step - heal, self.steps - heal))
        return warm * _fall(step, heal if o.rewind else self.steps)

    def total(self, until: int) -> float:
        """Return the sum of the rates, not the shares, of the first `until` steps."""
        return self.options.lr * sum(map(self, range(until)))


def _fall(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


class Batches:
    """Minibatches of images that stay on their device; a seed and an epoch fix them.

    Parameters
    ----------
    part : Part
        Images between 0 and 1, and labels.
    statistics : (Tensor, Tensor)
        Mean and deviation to normalise by.
    options : Options
        Batch and augmentation.
    seed : int
        Of order and augmentation.
    """

    def __init__(
        self, part: Part, statistics: tuple[Tensor, Tensor], options: Options, seed: int
    ) -> None:
        self.statistics, self.options, self.seed = statistics, options, seed
        self.changes = bool(options.shift or options.flip or options.elastic)
        self.x, self.y = part if self.changes else (normalised(part[0], statistics), part[1])
        self.ahead = _AHEAD if self.y.device.type == "cuda" else 1

    def __len__(self) -> int:
        return -(-len(self.y) // self.options.batch)

    def plain(self, size: int) -> Iterator[Tensor]:
        """Yield all images in their order, unchanged but normalised."""
        for x in self.x.split(size):
            yield normalised(x, self.statistics) if self.changes else x

    def epoch(
        self, number: int, teacher: Teacher | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield images, labels and what the teacher, if any, says of them."""
        size = self.options.batch
        for x, y, places in self.chunks(number):
            taught = None if teacher is None else teacher(x, places)
            answers = repeat(None) if taught is None else taught.split(size)
            yield from zip(x.split(size), y.split(size), answers)  # noqa: B905

    def chunks(self, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield images, labels and places in the training set of `ahead` batches at once."""
        o, device = self.options, self.y.device
        order = torch.randperm(len(self.y), generator=seeded(self.seed, number)).to(device)
        draws = seeded(self.seed, number, 1)
        for chosen in order.split(o.batch * self.ahead):
            x = self.x[chosen]
            if self.changes:
                x = augmented(
                    x, shift=o.shift, flip=o.flip, elastic=o.elastic, knot=o.knot, generator=draws
                )
                x = normalised(x, self.statistics)
            yield x, self.y[chosen], chosen


def normalised(x: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """Return images of mean 0 and deviation 1 in each channel of the training set."""
    mean, deviation = statistics
    return (x - mean) / deviation


class Teacher:
    """The dense network whose answers a sparse one is drawn to.

    Parameters
    ----------
    model : nn.Module
        Trained.
    batches : Batches
        What the student sees.
    plain : bool
        Ask about images as they are, which can be done once, even where the student sees them
        changed.
    """

    def __init__(self, model: nn.Module, batches: Batches, plain: bool = False) -> None:
        self.model = model.eval()
        self.answers: Tensor | None = None
        if plain or not batches.changes:
            with torch.no_grad():
                self.answers = torch.cat([model(x) for x in batches.plain(1000)])

    @torch.no_grad()
    def __call__(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the logits of a batch."""
        answers: Tensor = self.model(x) if self.answers is None else self.answers[places]
        return answers


def loss_of(
    options: Options, logits: Tensor, labels: Tensor, taught: Tensor | None
) -> Tensor:  # fmt: skip
    """Return cross entropy or, with a teacher's logits, a mixture of it and their distance."""
    if taught is None:
        return F.cross_entropy(logits, labels)
    return recipes.distilled(
        logits, labels, taught, share=options.distill, temperature=options.temperature
    )


class Average:
    """An average of weights over the steps of healing; zeros of all are zeros of it.

    Parameters
    ----------
    model : nn.Module
        Whose parameters it follows.
    decay : float
        Of a moving average, or 1 for the plain mean.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters: list[Tensor] = list(model.parameters())
        self.decay, self.count = decay, 0
        self.mean = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now in."""
        self.count += 1
        new = 1 / self.count if self.decay == 1 else 1 - self.decay
        # Early on a moving average would be mostly its first value.
        torch._foreach_lerp_(self.mean, self.parameters, max(new, 1 / self.count))

    @torch.no_grad()
    def apply(self) -> None:
        """Let the model hold the average."""
        torch._foreach_copy_(self.parameters, self.mean)


@dataclass(frozen=True)
class Result:
    """A trained network and what its row says of it."""

    model: nn.Module
    row: dict[str, Any]


def needs_teacher(run: Run) -> bool:
    """Say whether a run needs the dense network of the same seed."""
    return bool(run.options.distill or run.options.from_dense)


def error_of(model: nn.Module, part: Part, statistics: tuple[Tensor, Tensor]) -> float:
    """Return the share of wrong answers, computed in float64.

    So that no other machine, thread count or batch rounds an answer to another one.
    """
    wide = copy.deepcopy(model).double()
    mean, deviation = (s.double() for s in statistics)
    with evaluating(wide):
        wrong = 0.0
        for x, y in zip(part[0].split(1000), part[1].split(1000), strict=True):
            wrong += wrong_share(wide, normalised(x.double(), (mean, deviation)), y) * len(y)
    return round(wrong) / len(part[1])


@lru_cache(maxsize=2)
def _prepared(data: Data, held_out: int) -> tuple[Part, Part | None, tuple[Tensor, Tensor]]:
    train, validation = data.split(held_out)
    return train, validation, data.statistics()


def train(run: Run, data: Data, dense: Result | None = None) -> Result:
    """Do one run.

    Parameters
    ----------
    run : Run
        What to do.
    data : Data
        On the device to train on.
    dense : Result, optional
        Of `run.dense()`, where the run needs a teacher.

    Returns
    -------
    Result
        With the row, but for what the store adds. A run that diverged has no errors in it.
    """
    o, device = run.options, data.train[1].device
    part, validation, statistics = _prepared(data, run.held_out)
    batches = Batches(part, statistics, o, run.seed)
    torch.manual_seed(run.seed)
    model = NETWORKS[run.network].build().to(device)
    if dense is not None and o.from_dense:
        model.load_state_dict(dense.model.state_dict())
    teacher = None
    if dense is not None and o.distill:
        teacher = Teacher(dense.model, batches, o.answers == "plain")
    total = run.epochs * len(batches)
    rate = Rate(o, total)
    heal = int(o.heal * total)
    frame = Frame(model, total, run.sparsity, _tuned(run), rate.total(heal), run.seed, run.epochs)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    whole = counts(model)
    try:
        model, own = _loop(run, frame, batches, rate, teacher)
    except RunError as error:
        return Result(model, {**run.to_dict(), "diverged": str(error)})
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        return Result(model, {**run.to_dict(), "diverged": "A weight is not finite."})
    row = {
        **run.to_dict(),
        **counts(model, whole),
        "own_zeros": round(own, 6),
        "validation_error": validation and error_of(model, validation, statistics),
        "seconds_per_epoch": round(seconds / run.epochs, 3),
        "cpu_seconds_per_epoch": round(cpu / run.epochs, 3),
        "split": {
            "train": len(part[1]),
            "validation": len(validation[1]) if validation else 0,
            "test": len(data.test[1]),
        },
        "published_data": data.published,
        "device": str(device.type),
    }
    if dense is not None:
        row["teacher_seconds"] = round(dense.row["seconds_per_epoch"] * run.epochs, 1)
    if run.purpose == "final":
        row["test_error"] = error_of(model, data.test, statistics)
    return Result(model, row)


def counts(model: nn.Module, whole: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the weights of a model and those that are not zero, with and without biases.

    `whole` is the same of the network that the model was cut from: what is gone is zero.
    """
    layers = layer_nonzeros(model)
    ps = list(model.parameters())
    weights, kept = size_of(model), sum(layers.values())
    parameters = sum(p.numel() for p in ps)
    if whole is not None:
        weights, parameters = whole["weights"], whole["parameters"]
    return {
        "weights": weights,
        "parameters": parameters,
        "nonzeros": kept,
        "nonzeros_with_biases": sum(int(torch.count_nonzero(p)) for p in ps),
        "zeros": round(1 - kept / weights, 6),
        "layers": layers,
    }


def _tuned(run: Run) -> Options:
    """Return a run's options with the beta of its setting, where that is what is tuned."""
    exact = METHODS[run.method].setting in ("beta", "rho")
    if exact and run.setting is not None:
        return replace(run.options, beta=run.setting)
    return run.options


def _loop(
    run: Run, frame: Frame, batches: Batches, rate: Rate, teacher: Teacher | None
) -> tuple[nn.Module, float]:  # fmt: skip
    """Train; return the network with its support fixed and its zeros before they were made exact.

    Where whole units go first, another and smaller network than that of the frame.
    """
    o, heal = run.options, int(run.options.heal * rate.steps)
    first = int(o.units_until * rate.steps) if o.units else 0
    size = size_of(frame.model)
    optimizer: Any = whole_units(frame, first) if first else _built(run, frame)
    gradient, step, own = _gradient(run, frame), 0, 0.0
    average: Average | None = None
    for epoch in range(run.epochs):
        if o.a_end is not None and step < heal:
            _bend_penalty(optimizer, o.a * (o.a_end / o.a) ** (step / heal))
        for x, y, taught in batches.epoch(epoch, teacher):
            share = o.lr * rate(step)
            for group in optimizer.param_groups:
                group["lr"] = share
            gradient(x, y, taught)
            optimizer.step()
            step += 1
            if first and step == first:
                frame = cut_down(frame, optimizer, x[:1], step)
                optimizer, gradient = _built(run, frame), _gradient(run, frame)
            if step == heal and run.sparsity:
                own = freeze(optimizer, frame.model, frame.target)
                own = 1 - (1 - own) * size_of(frame.model) / size
            if o.average and step >= heal:
                average = average or Average(frame.model, o.average)
                average.update()
    if hasattr(optimizer, "close"):
        optimizer.close()
    if average is not None:
        average.apply()
        _measure_statistics(frame.model, batches)
    return frame.model, own


def _built(run: Run, frame: Frame) -> Any:
    return METHODS[run.method].build(frame, run.setting or 0.0)


def _gradient(run: Run, frame: Frame) -> Gradient:
    loss, record = partial(loss_of, run.options), METHODS[run.method].tensors_alone
    return Gradient(frame.model, loss, record=record)


def _bend_penalty(optimizer: Any, a: float) -> None:
    """Give transformed l1 another shape."""
    optimizer.rules = tuple(
        replace(rule, penalty=TransformedL1(a)) if isinstance(rule.penalty, TransformedL1) else rule
        for rule in optimizer.rules
    )


def _measure_statistics(model: nn.Module, batches: Batches) -> None:
    """Estimate batch norm anew at weights that no step has seen."""
    images = [x for (x, _, _), _ in zip(batches.epoch(0), range(50), strict=False)]
    if isinstance(model, TremorNet):
        model.measure_statistics(images)
    else:
        recalibrate(model, images)
