"""Networks of a study: what is tried, and one fit of it to images in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rvsm.errors import RunError
from rvsm.experiments.config import Method, RuleConfig, TrainConfig
from rvsm.experiments.crossval.metrics import Reals
from rvsm.experiments.data import Batches, Split, seed_of, to_float
from rvsm.experiments.module import STATISTICS_BATCH, STATISTICS_IMAGES, SparseTraining
from rvsm.experiments.runs import make_network
from rvsm.experiments.train import plain_interrupt, quiet_lightning
from rvsm.handwriting.manifest import LABELS, Row
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.views import view_logits

_BATCH = 500
_NO_CHANGE = {
    "flip_horizontal": False,
    "flip_vertical": False,
    "shift_rows": 0,
    "shift_columns": 0,
}
State = dict[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """One choice that the inner folds have.

    Attributes
    ----------
    method : str
        ``dense`` or the name of a penalty.
    epochs : int
    sparsity, lam : float or None
        Share of zeros asked of every layer but the first, or a penalty strength; both None for
        ``dense``.
    """

    method: Method
    epochs: int
    sparsity: float | None = None
    lam: float | None = None

    @property
    def name(self) -> str:
        strength = ""
        if self.sparsity is not None:
            strength = f", {100 * self.sparsity:g} % zeros"
        elif self.lam is not None:
            strength = f", lambda {self.lam:g}"
        return f"{self.method}{strength}, {self.epochs} epochs"

    def config(self, base: TrainConfig, *, augment: bool, seed: int) -> TrainConfig:
        """The training of this candidate."""
        rules = base.rules
        if self.method != "dense":
            kind = "sparsity" if self.lam is None else "lam"
            value = self.sparsity if self.lam is None else self.lam
            rules = tuple(
                RuleConfig.model_validate({"pattern": pattern, kind: value})
                for pattern in ("fc.weight", "conv[23].weight")
            )
        changes: dict[str, Any] = {
            "method": self.method,
            "epochs": self.epochs,
            "seed": seed,
            "rules": rules,
            "select": "last",
        }
        if not augment:
            changes["augmentation"] = base.augmentation.model_copy(
                update={**_NO_CHANGE, "contrast": 0.0, "elastic": 0.0}
            )
        return base.model_copy(update=changes)


def grid(
    methods: Sequence[Method],
    epochs: Sequence[int],
    sparsities: Sequence[float],
    lams: Sequence[float],
) -> list[Candidate]:
    """Every candidate of some methods: dense ones have no strength."""
    found = []
    for method in methods:
        for count in epochs:
            if method == "dense":
                found.append(Candidate(method, count))
                continue
            found += [Candidate(method, count, sparsity=share) for share in sparsities]
            found += [Candidate(method, count, lam=lam) for lam in lams]
    return found


@dataclass(frozen=True)
class Fitted:
    """A network as it came out of training: its weights with exact zeros, not yet folded."""

    net: TremorNet

    def scores(self, ink: npt.NDArray[np.uint8]) -> Reals:
        """Difference of the two logits, mean over five views: above 0 for class 1."""
        self.net.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(ink), _BATCH):
                images = to_float(torch.from_numpy(ink[start : start + _BATCH]))
                logits = view_logits(self.net, images).double().mean(0)
                found.append(logits[:, 1] - logits[:, 0])
        return np.asarray(torch.cat(found).numpy())

    def state(self) -> State:
        """Its weights and statistics, to start another training from."""
        return {k: v.detach().clone().contiguous() for k, v in self.net.state_dict().items()}


def fit(
    config: TrainConfig,
    ink: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    start: State | None = None,
    *,
    simplify: bool = False,
) -> Fitted:
    """Train one network on images in memory; a function of its arguments alone.

    Parameters
    ----------
    config : TrainConfig
        Its `data` is not read. There is no validation: the last epoch counts.
    ink : ndarray of uint8, shape (n, rows, columns)
    labels : ndarray of int, shape (n,)
    start : dict of Tensor, optional
        Weights to start from. The last layer starts anew where it has another size.
    simplify : bool
        Write the start with the zeros it has for nothing, as sparse training wants it (see
        `TremorNet.simplify`).

    Raises
    ------
    RunError
        The loss is no number, or the start has other convolutions.
    """
    from lightning.pytorch import Trainer

    rows = tuple(Row("", "train", LABELS[label]) for label in labels)
    split = Split(torch.from_numpy(np.ascontiguousarray(ink)), torch.from_numpy(labels), rows, ())
    batches = Batches(split, config.batch_size, config.seed, config.augmentation)
    net = make_network(config)
    if start is not None:
        take_over(net, start)
        if simplify:
            net.simplify()
    module = SparseTraining(net, config, len(batches))
    with (
        quiet_lightning(),
        plain_interrupt(),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        torch.manual_seed(seed_of(config.seed, 1))
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision="32",
            max_epochs=config.epochs,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches)
    net.load_state_dict(module.state_at_u())
    net.measure_statistics(batches.sample(STATISTICS_IMAGES, STATISTICS_BATCH))
    return Fitted(net.eval())


def take_over(net: TremorNet, start: State) -> None:
    """Load weights of another network into this one, the last layer only if it has their size.

    Raises
    ------
    RunError
        The convolutions are others.
    """
    own = net.state_dict()
    fits = {k: v for k, v in start.items() if k in own and own[k].shape == v.shape}
    missing = [name for name in own if name not in fits and not name.startswith("fc.")]
    if missing:
        raise RunError(
            f"The network to start from does not fit: {missing[0]} is missing or has another "
            "shape; give both the same network.channels, kernel and norm."
        )
    net.load_state_dict({**own, **fits})
