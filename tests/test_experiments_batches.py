"""Minibatches: what an epoch holds, what it depends on, and what it leaves out."""

from __future__ import annotations

import pytest
import torch

from rvsm.experiments.batches import Batches, TrainingBatches
from rvsm.experiments.config import AugmentationConfig
from rvsm.experiments.data import Split, to_float

STILL = AugmentationConfig(
    flip_horizontal=False, flip_vertical=False, shift_rows=0, shift_columns=0
)


def split_of(count: int) -> Split:
    images = torch.arange(1, count + 1, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 8, 16)
    return Split(images.contiguous(), torch.arange(count) % 2, (None,) * count, ())


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    def epoch(number: int, seed: int = 0) -> list[torch.Tensor]:
        batches = TrainingBatches(split_of(12), 5, seed, AugmentationConfig())
        batches.set_epoch(number)
        return [batch.images for batch in batches]

    assert [len(images) for images in epoch(0)] == [5, 5, 2]
    for first, second in zip(epoch(3), epoch(3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(epoch(0)[0], epoch(1)[0])
    assert not torch.equal(epoch(0)[0], epoch(0, seed=1)[0])


def test_an_epoch_holds_every_image_once() -> None:
    split = split_of(12)
    batches = list(TrainingBatches(split, 5, 0, STILL))
    chosen = torch.cat([batch.chosen for batch in batches])
    assert sorted(chosen.tolist()) == list(range(12))
    assert torch.equal(torch.cat([b.images for b in batches]), to_float(split.images[chosen]))
    assert torch.equal(torch.cat([b.labels for b in batches]), split.labels[chosen])
    assert all((batch.weights == 1).all() for batch in batches)
    plain = torch.cat([images for images, _ in Batches(split, 5)])
    assert torch.equal(plain, to_float(split.images))
    assert len(Batches(split, 5)) == len(batches) == 3


def test_easy_images_are_shown_less_often_and_count_for_more() -> None:
    count, epochs, skip = 200, 300, 0.75
    batches = TrainingBatches(split_of(count), 8, 0, STILL, skip_easy=skip, whole_from=epochs)
    hard = torch.arange(count) < 40
    batches.record(torch.arange(count), torch.where(hard, 5.0, 0.1))
    shown, weight = torch.zeros(count), torch.zeros(count)
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) == 25
        assert {len(batch.chosen) for batch in found} == {8}
        for batch in found:
            shown.index_add_(0, batch.chosen, torch.ones(8))
            weight.index_add_(0, batch.chosen, batch.weights)
    # Of 200 images a pass shows 40 and a quarter of 160: an epoch is two and a half passes.
    assert float(shown[hard].mean()) == pytest.approx(2.5 * epochs, rel=0.02)
    assert float(shown[~hard].mean()) == pytest.approx(0.25 * 2.5 * epochs, rel=0.02)
    assert float(weight[~hard].mean() / weight[hard].mean()) == pytest.approx(1, rel=0.03)


def test_nothing_is_left_out_at_first_at_the_end_or_unasked() -> None:
    batches = TrainingBatches(split_of(30), 10, 0, STILL, skip_easy=0.9, whole_from=2)
    assert sorted(torch.cat([b.chosen for b in batches]).tolist()) == list(range(30)), "none seen"
    batches.record(torch.arange(30), torch.arange(30.0))
    batches.set_epoch(2)
    assert sorted(torch.cat([b.chosen for b in batches]).tolist()) == list(range(30))
    plain = TrainingBatches(split_of(30), 10, 0, STILL, whole_from=2)
    plain.record(torch.arange(30), torch.arange(30.0))
    assert sorted(torch.cat([b.chosen for b in plain]).tolist()) == list(range(30))


def test_a_pass_that_leaves_out_nearly_all_still_has_batches() -> None:
    batches = TrainingBatches(split_of(30), 10, 0, STILL, skip_easy=0.999, whole_from=1)
    batches.record(torch.arange(30), torch.where(torch.arange(30) == 7, 9.0, 0.1))
    found = list(batches)
    assert len(found) == 3
    assert all(7 in batch.chosen for batch in found)
