"""Minibatches: in order for evaluation; shuffled, augmented and without what is known to train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rvsm.experiments.config import AugmentationConfig
from rvsm.experiments.data import Split, augment, to_float


class Batch(NamedTuple):
    """What one training step sees.

    Parameters
    ----------
    images
        float ``(B, 1, H, W)``, augmented.
    labels
        int64 ``(B,)``.
    chosen
        int64 ``(B,)``: their places in the split.
    weights
        float ``(B,)``: how many images each stands for.
    """

    images: Tensor
    labels: Tensor
    chosen: Tensor
    weights: Tensor


class Batches:
    """The images of a split in order and unchanged, for evaluation.

    Parameters
    ----------
    split
        The images.
    batch_size
        Images per batch; the last batch may hold fewer.
    device
        Where they are kept.
    """

    def __init__(self, split: Split, batch_size: int, device: str = "cpu") -> None:
        self.split = split
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.split), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield to_float(self.images[part]), self.labels[part]


class TrainingBatches:
    """Minibatches to train on, the same for the same (seed, epoch, losses) whatever came before:
    that is what lets a killed run continue to the identical bits.

    Parameters
    ----------
    split
        The images.
    batch_size
        Images per batch; the last batch of an epoch may hold fewer.
    seed
        Seeds the order of every epoch and the changes to every batch.
    augmentation
        What is changed.
    device
        Where the images are kept.
    skip_easy
        Probability with which a pass leaves out an image whose loss, when it was last seen, was
        below the mean: it has little to teach. One that is shown stands for those left out, so
        that the expected gradient stays what it was. An epoch keeps its length: it holds several
        such passes.
    whole_from
        The epoch from which nothing is left out.

    Attributes
    ----------
    losses : Tensor
        float32 ``(N,)``: the loss of each image when it was last seen, infinite before.

    References
    ----------
    Qin et al. 2024, InfoBatch, arXiv 2303.04947.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        augmentation: AugmentationConfig,
        device: str = "cpu",
        skip_easy: float = 0.0,
        whole_from: int = 0,
    ) -> None:
        self.split = split
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.skip_easy = skip_easy
        self.whole_from = whole_from
        self.epoch = 0
        self.losses = torch.full((len(split),), torch.inf)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and changes of the epoch whose first batch is fetched next."""
        self.epoch = epoch

    def record(self, chosen: Tensor, losses: Tensor) -> None:
        """Take down the losses of the images of a batch."""
        if self.skip_easy > 0:
            self.losses[chosen.cpu()] = losses.detach().float().cpu()

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for number, (chosen, weights) in zip(range(len(self)), self._parts(), strict=False):
            generator = seeded(self.seed, self.epoch, number)
            picked = chosen.to(self.images.device)
            images = augment(self.images[picked], self.augmentation, generator)
            yield Batch(images, self.labels[picked], picked, weights.to(self.images.device))

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the places of the images of each batch, and their weights, pass after pass."""
        generator = seeded(self.seed, self.epoch)
        while True:
            order = torch.randperm(len(self.split), generator=generator)
            weights = torch.ones(len(order))
            if self.skip_easy > 0 and self.epoch < self.whole_from:
                losses = self.losses[order]
                seen = losses.isfinite()
                easy = seen & (losses < losses[seen].mean())
                kept = ~easy | (torch.rand(len(order), generator=generator) >= self.skip_easy)
                weights = torch.where(easy, 1 / (1 - self.skip_easy), 1.0)[kept]
                order = order[kept]
            whole = max(len(order) // self.batch_size * self.batch_size, self.batch_size)
            if len(order) < len(self.split):
                order, weights = order[:whole], weights[:whole]
            size = self.batch_size
            yield from zip(torch.split(order, size), torch.split(weights, size), strict=True)

    def sample(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """Yield batches of `count` images (all, if fewer), unchanged; always the same ones."""
        order = torch.randperm(len(self.split), generator=seeded(self.seed))[:count]
        for chosen in torch.tensor_split(order, -(-len(order) // batch_size)):
            yield to_float(self.images[chosen.to(self.images.device)])


def seed_of(*numbers: int) -> int:
    """Mix whole numbers (seed, epoch, batch) into one 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator that depends on these numbers and on nothing else."""
    return torch.Generator().manual_seed(seed_of(*numbers))
