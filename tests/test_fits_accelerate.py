"""Accelerate: u, the best file and exact resumption through a prepared optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rvsm
from rvsm.errors import RunError
from rvsm.optim import RVSM, Continuation, Cubic, Rule, Steps
from rvsm.penalties import L1

pytest.importorskip("accelerate")
from accelerate import Accelerator

from rvsm.deploy.files import read_metadata
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
    with pytest.raises(RunError, match=r"AcceleratedOptimizer holds no rvsm\.RVSM"):
        finalize(prepared)


def normed(folder):
    accelerator = Accelerator(cpu=True, project_dir=str(folder))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("[03].weight", L1(), sparsity=0.8)], model=model)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)) + 1
    data = DataLoader(TensorDataset(x, (x[:, :1] > 1).float()), batch_size=8)
    return accelerator.prepare(model, optimizer, data)


def test_statistics_of_batch_norm_are_those_of_u(tmp_path):
    model, optimizer, data = normed(tmp_path)
    for batch in data:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    trained = model[1].running_mean.clone()
    with sparse_weights(optimizer, recalibrate=data):
        at_u = model[1].running_mean.clone()
    assert not torch.equal(at_u, trained)
    assert torch.equal(model[1].running_mean, trained)

    best = KeepBest(tmp_path / "best.safetensors", recalibrate=data)
    assert best.offer(1.0, model, optimizer)
    assert torch.equal(rvsm.load(tmp_path / "best.safetensors")["1.running_mean"], at_u)
    assert torch.equal(model[1].running_mean, trained)
    # Inside a context that has estimated them there is nothing left to do.
    within = KeepBest(tmp_path / "within.safetensors")
    with sparse_weights(optimizer, recalibrate=data):
        within.offer(1.0, model, optimizer)
    assert torch.equal(rvsm.load(tmp_path / "within.safetensors")["1.running_mean"], at_u)

    finalize(optimizer, recalibrate=data)
    assert torch.equal(model[1].running_mean, at_u)


def offers(path, rule, scores, **options):
    """Offer a score after each step; return the file's step after each, None before there is."""
    model = nn.Linear(4, 1)
    optimizer = RVSM(torch.optim.SGD(model.named_parameters(), lr=0.1), [rule], **options)
    best, kept = KeepBest(path), []
    for score in scores:
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        best.offer(score, model, optimizer)
        kept.append(int(read_metadata(path)["step"]) if path.exists() else None)
    return kept


SHARES = [0.0, 0.5, 1.0, 1.0, 0.5]
SLOW = Continuation(1.0, 1.1, 1, 9.0)


@pytest.mark.parametrize(
    ("strengths", "options", "kept"),
    [
        ({"sparsity": 0.5, "schedule": Cubic(0, 3)}, {}, [None, None, 3, 4]),
        ({"sparsity": 0.5, "schedule": Steps((1, 3))}, {}, [None, None, 3, 4]),
        # Steps may end low: the last share is the one that counts.
        ({"sparsity": 0.5, "schedule": Steps((1, 3), (1, 0.5))}, {}, [None, None, 3, 4]),
        # Any function: a larger share beats a better score, a smaller share is never the best.
        ({"sparsity": 0.5, "schedule": lambda step: SHARES[step]}, {}, [1, 2, 2, 2]),
        ({"sparsity": 0.5, "schedule": lambda step: step / 9}, {}, [1, 2, 3, 4]),
        ({"lam": 0.1, "beta": Continuation(1.0, 2.0, 1, 4.0)}, {}, [None, 2, 2, 4]),
        ({"lam": 0.1, "beta": Continuation(1.0, 1.0, 1, 4.0)}, {}, [1, 1, 1, 4]),
        ({"lam": 0.1, "beta": SLOW}, {}, [None] * 4),
        # Once the support is frozen nothing is to come.
        ({"lam": 0.1, "beta": SLOW}, {"heal_from": 3}, [None, None, 3, 4]),
        ({"sparsity": 0.5, "schedule": Cubic(0, 9)}, {"heal_from": 3}, [None, None, 3, 4]),
        ({"sparsity": 0.5}, {"warmup": 3}, [None, None, 3, 4]),
    ],
    ids=lambda given: str(given).partition(" at 0x")[0],
)  # fmt: skip
def test_only_scores_of_equal_strength_are_compared(tmp_path, strengths, options, kept):
    rule = Rule("weight", L1(), **strengths)
    assert offers(tmp_path / "best", rule, [2.0, 3.0, 4.0, 1.0], **options) == kept


def test_the_share_of_a_healed_support_is_that_of_the_freeze(tmp_path):
    rule = Rule("weight", L1(), sparsity=0.5, schedule=lambda step: step / 9)
    assert offers(tmp_path / "best", rule, [4.0, 2.0, 3.0, 1.0], heal_from=2) == [1, 2, 2, 4]


def test_a_run_that_goes_on_knows_the_strength_of_its_best(tmp_path):
    rule = Rule("weight", L1(), sparsity=0.5, schedule=lambda step: SHARES[step])
    path = tmp_path / "best"
    offers(path, rule, [5.0, 5.0])
    from_file, from_state = KeepBest(path), KeepBest(path)
    from_file.continue_from_file()
    from_state.load_state_dict(from_file.state_dict())
    for best in (from_file, from_state):
        assert (best.score, best.strength) == (5.0, 1.0)
