"""Networks of a study: one fit to images in memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rvsm.errors import RunError
from rvsm.experiments.config import TrainConfig
from rvsm.experiments.crossval.metrics import Reals
from rvsm.experiments.data import Batches, Split, seed_of, to_float
from rvsm.experiments.module import STATISTICS_BATCH, STATISTICS_IMAGES, SparseTraining
from rvsm.experiments.runs import make_network
from rvsm.experiments.train import plain_interrupt, quiet_lightning
from rvsm.handwriting.manifest import LABELS, Row
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.views import view_logits

_BATCH = 500
State = dict[str, Tensor]


@dataclass(frozen=True)
class Begin:
    """What a training begins with: its configuration, and weights (None: drawn at random)."""

    config: TrainConfig
    state: State | None = None


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
