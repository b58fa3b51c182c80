"""Batch norm at u: statistics estimated anew, and nothing else touched."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import each_mode, sgd
from problems import weights
from rvsm.errors import RuleError
from rvsm.optim import RVSM, Rule, recalibrate
from rvsm.penalties import L0


class Network(nn.Module):
    """Batch norm behind a linear layer, dropout, and a norm without statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.drop, self.second = nn.Dropout(0.5), nn.Linear(8, 3)
        self.plain = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x, scale=1.0):
        return self.plain(self.second(self.drop(self.norm(self.first(x * scale)).relu())))


def build(model=True, **options):
    torch.manual_seed(0)
    network = Network()
    rule = Rule("first.weight", L0(), sparsity=0.75)
    optimizer = RVSM(sgd(network), [rule], model=network if model else None, **options)
    x = torch.randn(64, 6) * 3 + 1
    for _ in range(5):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    return network, optimizer, x


def statistics(network):
    norm = network.norm
    return [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def expected(network, batches):
    """The slow twin: the mean over batches of each one's mean and unbiased variance."""
    with torch.no_grad():
        hidden = [network.first(x) for x in batches]
    means, variances = zip(*((h.mean(0), h.var(0)) for h in hidden), strict=True)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


LOADERS = {
    "tensors": lambda batches: batches,
    "tuples": lambda batches: [(x, torch.zeros(len(x))) for x in batches],
    "lists": lambda batches: [[x] for x in batches],
    "dicts": lambda batches: [{"x": x, "scale": 1.0} for x in batches],
    "generator": iter,
}


@pytest.mark.parametrize("wrap", LOADERS.values(), ids=LOADERS)
@each_mode
def test_statistics_are_those_of_u_inside_and_the_old_ones_after(wrap, mode):
    network, optimizer, x = build(**mode)
    before, batches = statistics(network), list(x.split(16))
    with optimizer.sparse_weights(recalibrate=wrap(batches)):
        assert (network.first.weight == 0).sum() == 36
        mean, variance = expected(network, batches)
        torch.testing.assert_close(network.norm.running_mean, mean)
        torch.testing.assert_close(network.norm.running_var, variance)
        assert network.norm.num_batches_tracked == 4
    assert same(statistics(network), before)
    with pytest.raises(KeyError), optimizer.sparse_weights(recalibrate=wrap(batches)):
        raise KeyError
    assert same(statistics(network), before)
    with optimizer.sparse_weights(), optimizer.sparse_weights(recalibrate=batches):
        torch.testing.assert_close(network.norm.running_mean, mean)
    assert same(statistics(network), before)


@each_mode
def test_finalize_keeps_the_statistics_of_u(mode):
    network, optimizer, x = build(**mode)
    optimizer.finalize(recalibrate=x.split(16))
    mean, variance = expected(network, x.split(16))
    torch.testing.assert_close(network.norm.running_mean, mean)
    torch.testing.assert_close(network.norm.running_var, variance)
    assert (network.first.weight == 0).sum() == 36
    assert optimizer.frozen
    with optimizer.sparse_weights(recalibrate=[x]):
        assert not torch.equal(network.norm.running_var, variance)
    torch.testing.assert_close(network.norm.running_var, variance)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training):
    network, optimizer, x = build()
    network.train(training)
    network.drop.train(not training)
    w = weights(network)
    network(x).sum().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    data = torch.utils.data.TensorDataset(x)
    own = torch.Generator().manual_seed(3)
    loaders = [
        torch.utils.data.DataLoader(data, batch_size=16, shuffle=True),
        torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, generator=own),
        (x[: 16 + random.randrange(16)] + np.random.rand() for _ in range(3)),  # noqa: NPY002
    ]

    def states():
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), random.getstate(), own.get_state().tolist(), numpy

    before = states()
    for loader in loaders:
        with optimizer.sparse_weights(recalibrate=loader):
            assert [module.training for module in network.modules()] == modes
        assert states() == before
    assert torch.equal(weights(network), w)
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert network.norm.momentum == 0.1
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], RuleError, "gave no batch"),
        ([torch.zeros(4, 6), "text"], RuleError, "dict of keywords, not str"),
        ([()], RuleError, "dict of keywords, not tuple"),
        ([torch.zeros(4, 6), torch.zeros(4, 7)], RuntimeError, "shapes"),
    ],
)
def test_batches_that_fail_leave_everything_as_it_was(batches, error, message):
    network, optimizer, _ = build()
    before, w = statistics(network), weights(network)
    for act in (
        lambda: optimizer.finalize(recalibrate=batches),
        lambda: optimizer.sparse_weights(recalibrate=batches).__enter__(),
        lambda: recalibrate(network, batches),
    ):
        with pytest.raises(error, match=message):
            act()
        assert same(statistics(network), before)
        assert torch.equal(weights(network), w)
        assert not optimizer.frozen
        assert network.training
        assert network.norm.momentum == 0.1
    optimizer.step()


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_norm_is_left_alone(training):
    """One in evaluation mode while the model trains, or whose scale and shift do not train."""
    network, optimizer, x = build()
    network.second = nn.Sequential(network.second, nn.BatchNorm1d(3))
    frozen = network.norm
    if training:
        frozen.eval()
    else:
        frozen.requires_grad_(False)
        network.eval()
    before = statistics(network)
    with optimizer.sparse_weights(recalibrate=[x]):
        assert same(statistics(network), before)
        assert network.second[1].num_batches_tracked == 1
        assert frozen.training is False
        assert frozen.momentum == 0.1
    optimizer.finalize(recalibrate=[x])
    assert same(statistics(network), before)
    assert network.second[1].num_batches_tracked == 1


def test_a_last_batch_of_one_sample_says_what_to_do():
    network, optimizer, x = build()
    before = statistics(network)
    for wrap in LOADERS.values():
        with pytest.raises(RuleError, match="drop_last=True"):
            optimizer.finalize(recalibrate=wrap(list(x[:17].split(16))))
        assert same(statistics(network), before)
        assert not optimizer.frozen
    loader = torch.utils.data.DataLoader(x[:17], batch_size=16, drop_last=True)
    optimizer.finalize(recalibrate=loader)
    assert network.norm.num_batches_tracked == 1


def test_without_the_model_it_says_what_to_do():
    network, optimizer, x = build(model=False)
    w = weights(network)
    for act in (
        lambda: optimizer.finalize(recalibrate=[x]),
        lambda: optimizer.sparse_weights(recalibrate=[x]).__enter__(),
    ):
        with pytest.raises(RuleError, match=r"pass model= to RVSM, or set optimizer\.model"):
            act()
    assert torch.equal(weights(network), w)
    assert not optimizer.frozen
    optimizer.model = network
    optimizer.finalize(recalibrate=[x])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_the_model_is_in_no_copy_and_no_state(duplicate):
    network, optimizer, x = build()
    assert optimizer.model is network
    twin = duplicate(optimizer)
    assert twin.model is None
    assert "model" not in str(optimizer.state_dict().keys())
    with pytest.raises(RuleError, match=r"set optimizer\.model"):
        twin.finalize(recalibrate=[x])


def test_the_model_gives_names_where_the_base_has_none():
    network = Network()
    base = torch.optim.SGD(network.parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("first.weight", L0(), lam=1.0)], model=network)
    assert optimizer.ruled_names() == ["first.weight"]


def test_a_model_without_batch_norm_is_left_alone():
    layer = nn.Linear(3, 2)
    recalibrate(layer, iter(()))  # not even a batch is asked for
    assert layer.training
