"""Accelerate: u, the best file and exact resumption through a prepared optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rvsm
from rvsm.errors import RunError
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L1

pytest.importorskip("accelerate")
from accelerate import Accelerator

from rvsm.integrations.accelerate import KeepBest, finalize, sparse_weights, unwrap, zero_shares


def parts(folder, options, **accelerator_options):
    accelerator = Accelerator(cpu=True, project_dir=str(folder), **accelerator_options)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    rule = Rule("*.weight", L1(), sparsity=0.5, schedule=Cubic(0, 6))
    optimizer = RVSM(torch.optim.AdamW(model.named_parameters(), lr=0.01), [rule], **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(x, (x[:, :1] * x[:, 1:2] > 0).float()), batch_size=8)
    best = KeepBest(folder / "best.safetensors")
    accelerator.register_for_checkpointing(best)
    return accelerator, *accelerator.prepare(model, optimizer, data, scheduler), best


def loss_of(model, batch):
    return nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def epoch(accelerator, model, optimizer, data, scheduler, best):
    """Train an epoch, validate at u; return the score and the zeros seen in validation."""
    for batch in data:
        with accelerator.accumulate(model):
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, batch))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    with sparse_weights(optimizer), torch.no_grad():
        zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.dim() == 2)
        score = float(torch.stack([loss_of(model, batch) for batch in data]).mean())
    best.offer(score, accelerator.unwrap_model(model), optimizer)
    return score, zeros


@pytest.mark.parametrize("options", [{}, {"grad_at": "u"}, {"heal_from": 10}], ids=str)
def test_it_validates_keeps_and_resumes(tmp_path, options):
    run = parts(tmp_path, options)
    accelerator, model, optimizer = run[:3]
    assert not hasattr(optimizer, "sparse_weights")
    found = [epoch(*run) for _ in range(2)]
    accelerator.save_state(tmp_path / "state")
    found += [epoch(*run) for _ in range(2)]
    assert [zeros for _, zeros in found] == [round(28 * Cubic(0, 6)(4)), 28, 28, 28]
    best = run[-1]
    assert best.score == min(score for score, _ in found[1:])
    kept = rvsm.load(tmp_path / "best.safetensors", nn.Sequential(*map(type_of, model)))
    assert sum(int((p == 0).sum()) for p in kept.parameters()) == 28
    score = torch.stack([loss_of(kept, batch) for batch in run[3]]).mean()
    assert float(score.detach()) == pytest.approx(best.score, rel=1e-6)
    assert zero_shares(optimizer)["zeros/all"] == 0.5
    assert unwrap(optimizer).steps == 16

    again = parts(tmp_path, options)
    with torch.no_grad():
        for p in again[1].parameters():
            p.add_(1)
    again[0].load_state(tmp_path / "state")
    assert again[-1].score == found[1][0]
    assert [epoch(*again) for _ in range(2)] == found[2:]
    for ours, theirs in zip(again[1].parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    finalize(optimizer)
    assert sum(int((p == 0).sum()) for p in model.parameters()) == 28


def type_of(layer):
    return nn.Linear(layer.in_features, layer.out_features) if hasattr(layer, "weight") else layer


def test_accumulated_batches_make_one_step(tmp_path):
    run = parts(tmp_path, {}, gradient_accumulation_steps=2)
    epoch(*run)
    assert unwrap(run[2]).steps == 2


def test_an_optimizer_without_rules_is_refused(tmp_path):
    model = nn.Linear(2, 1)
    prepared = Accelerator(cpu=True).prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RunError, match=r"AcceleratedOptimizer holds no rvsm\.RVSM"):
        sparse_weights(prepared)
