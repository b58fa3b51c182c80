"""Groups: every way to cut a tensor against a loop over its groups, and what cannot be cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups import (
    NM,
    Blocks,
    Columns,
    Elements,
    Filters,
    Groups,
    Heads,
    InputChannels,
    Partition,
    Rows,
    Tied,
)
from rvsm.penalties import L0, L1, Penalty, TransformedL1

PENALTIES = [L0(), L1(), TransformedL1(a=1.0)]


@dataclass(frozen=True)
class Cut:
    """Groups, a shape they cut, and the slow twin: the indices of each group's elements."""

    groups: Groups
    shape: tuple[int, ...]
    members: Callable[[Tensor], list[Tensor]]

    def __str__(self) -> str:
        return f"{self.groups} of {self.shape}"

    def indices(self) -> list[Tensor]:
        index = torch.arange(math.prod(self.shape)).view(self.shape)
        return [found.flatten() for found in self.members(index)]


def blocks_by_loop(rows: int, columns: int) -> Callable[[Tensor], list[Tensor]]:
    def members(index: Tensor) -> list[Tensor]:
        matrix = index.flatten(1)
        return [
            matrix[r : r + rows, c : c + columns]
            for r in range(0, matrix.shape[0], rows)
            for c in range(0, matrix.shape[1], columns)
        ]

    return members


CUTS = [
    Cut(Elements(), (2, 3), lambda i: list(i.flatten().split(1))),
    Cut(Filters(), (4, 5, 3, 3), lambda i: [i[o] for o in range(4)]),
    Cut(Filters(), (4, 6), lambda i: [i[o] for o in range(4)]),
    Cut(Filters(), (4,), lambda i: [i[o : o + 1] for o in range(4)]),
    Cut(InputChannels(), (4, 5, 3, 3), lambda i: [i[:, c] for c in range(5)]),
    Cut(InputChannels(), (3, 6), lambda i: [i[:, c] for c in range(6)]),
    Cut(InputChannels(4), (2, 12), lambda i: [i[:, c : c + 4] for c in (0, 4, 8)]),
    Cut(Rows(), (4, 6), lambda i: [i[o] for o in range(4)]),
    Cut(Columns(), (4, 6), lambda i: [i[:, c] for c in range(6)]),
    Cut(Columns(2), (4, 6), lambda i: [i[:, c : c + 2] for c in (0, 2, 4)]),
    Cut(Blocks(2, 3), (4, 6), blocks_by_loop(2, 3)),
    Cut(Blocks(2, 3), (4, 3, 2, 2), blocks_by_loop(2, 3)),
    Cut(Heads(3), (6, 5), lambda i: [i[h : h + 2] for h in (0, 2, 4)]),
    Cut(Heads(3), (6,), lambda i: [i[h : h + 2] for h in (0, 2, 4)]),
    Cut(Heads(3, axis=1), (5, 6), lambda i: [i[:, h : h + 2] for h in (0, 2, 4)]),
    Cut(
        Heads(2, parts=3),
        (12, 4),
        lambda i: [torch.stack([i[p + h : p + h + 2] for p in (0, 4, 8)]) for h in (0, 2)],
    ),
]


def tensor_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYOUTS = [(cut, False) for cut in CUTS] + [(cut, True) for cut in CUTS if len(cut.shape) == 4]


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize(("cut", "channels_last"), LAYOUTS, ids=str)
def test_groups_against_a_loop(cut: Cut, penalty: Penalty, channels_last: bool) -> None:
    x = tensor_of(cut.shape)
    members = cut.indices()
    x.view(-1)[members[0]] = 0  # a zero group must give neither NaN nor a division by zero
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    groups, flat = cut.groups, x.flatten()
    assert isinstance(groups, Groups)
    norms = torch.stack([flat[m].norm() for m in members])
    torch.testing.assert_close(groups.norms(x).flatten(), norms)
    torch.testing.assert_close(groups.value(penalty, x), penalty.value(norms))
    mu = penalty.mu_for_threshold(float(norms.median()))
    expected = flat.clone()
    for m, norm in zip(members, norms, strict=True):
        if norm > 0:
            expected[m] *= penalty.prox(norm, mu) / norm
    u = groups.prox(penalty, x, mu)
    torch.testing.assert_close(u.flatten(), expected)
    assert 0 < (u == 0).sum() < u.numel()
    if isinstance(groups, Partition):  # single weights are the penalty's own affair
        assert not u[u == 0].signbit().any()
    marks = groups.spread(torch.arange(len(members)), x)
    assert marks.shape == x.shape
    assert all(bool((marks.flatten()[m] == i).all()) for i, m in enumerate(members))
    as_shaped = groups.spread(groups.norms(x), x)
    torch.testing.assert_close(as_shaped.flatten()[members[1]], norms[1].expand(len(members[1])))


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("cut", [c for c in CUTS if isinstance(c.groups, Partition)], ids=str)
def test_the_group_prox_is_a_minimum(cut: Cut, penalty: Penalty) -> None:
    """No random step lowers mu P(norms(u)) + |u - x|^2 / 2 from its proximal map."""
    x, mu = tensor_of(cut.shape), 0.3

    def objective(u: Tensor) -> float:
        return float(mu * cut.groups.value(penalty, u) + (u - x).square().sum() / 2)

    u = cut.groups.prox(penalty, x, mu)
    least = objective(u)
    assert least <= min(objective(x), objective(torch.zeros_like(x))) + 1e-12
    for seed, size in itertools.product(range(20), (1e-4, 1e-2, 1.0)):
        step = size * tensor_of(cut.shape, seed + 1)
        for other in (u + step, torch.where(u == 0, 0, u + step), u * (1 + size)):
            assert objective(other) >= least - 1e-12


@pytest.mark.parametrize("groups", [c.groups for c in CUTS], ids=str)
def test_equal_groups_are_equal(groups: Groups) -> None:
    assert groups == groups.__class__(*vars(groups).values())
    assert groups != "groups"
    assert hash(groups) == hash(groups.__class__(*vars(groups).values()))
    assert Rows() != Filters()


@pytest.mark.parametrize(
    ("groups", "shape", "message"),
    [
        (Filters(), (), "single number"),
        (InputChannels(5), (2, 12), "size of the map"),
        (InputChannels(), (3,), "size of the map"),
        (InputChannels(0), (3, 4), "size of the map"),
        (Rows(), (3, 4, 1, 1), "Rows cuts matrices only.*use Filters"),
        (Columns(), (3,), "Columns cuts matrices only.*use InputChannels"),
        (Blocks(2, 3), (3, 6), "does not divide a tensor of shape \\(3, 6\\)"),
        (Blocks(2, 3), (4, 5), "choose rows that divide"),
        (Blocks(1, 3), (6,), "does not divide"),
        (Heads(4), (6, 8), "give the number of heads"),
        (Heads(4, axis=1), (8,), "give the number of heads"),
        (Heads(4, parts=3), (16, 8), "give the number of heads"),
        (NM(2, 4), (3, 7), "cannot cut 7 inputs into blocks of 4, shape \\(3, 7\\)"),
        (NM(2, 4), (8,), "cannot cut a vector.*leave the parameter out"),
    ],
)
def test_a_shape_that_cannot_be_cut_is_refused(
    groups: Groups, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RuleError, match=message):
        groups.norms(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Blocks(0, 2), "rows and columns must be"),
        (lambda: Heads(0), "count and parts must be"),
        (lambda: Heads(2, axis=2), "axis 0 or 1"),
        (lambda: NM(0, 4), "1 <= n < m"),
        (lambda: NM(4, 4), "1 <= n < m"),
        (lambda: Tied({"a": Filters()}), "at least two parameter names"),
        (lambda: Tied(["a", "b"]), "at least two parameter names"),
        (lambda: Tied({"a": Filters(), "b": NM(2, 4)}), r"NM\(n=2, m=4\) of b cannot be tied"),
        (lambda: Tied({"*.a": Filters(), "b": Filters()}), "either every name one"),
        (lambda: Tied({"*.*": Filters(), "*.b": Filters()}), "either every name one"),
    ],
)
def test_options_that_cannot_work_are_refused(build: Callable[[], Groups], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        build()


def best_trimmed(x: list[float], n: int, penalty: Penalty, mu: float) -> float:
    """Return the least objective over every choice of which m - n weights are penalised."""
    values = torch.tensor(x, dtype=torch.float64)
    u = penalty.prox(values, mu)
    penalised = [
        float(mu * penalty.value(u[i : i + 1]) + (u[i] - values[i]).square() / 2)
        for i in range(len(x))
    ]
    choices = itertools.combinations(range(len(x)), len(x) - n)
    return min(sum(penalised[i] for i in choice) for choice in choices)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_prox_of_n_of_m_is_the_best_of_all_choices(data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 5))
    n = data.draw(st.integers(1, m - 1))
    penalty = data.draw(st.sampled_from(PENALTIES))
    mu = data.draw(st.sampled_from([0.0, 0.1, 0.5, 2.0]))
    x = data.draw(st.lists(st.integers(-4, 4).map(lambda v: v / 2), min_size=m, max_size=m))
    groups = NM(n, m)
    row = torch.tensor([x], dtype=torch.float64)
    u = groups.prox(penalty, row, mu)
    objective = float(mu * groups.value(penalty, u) + (u - row).square().sum() / 2)
    assert objective == pytest.approx(best_trimmed(x, n, penalty, mu), abs=1e-12)


def free_by_sorting(x: Tensor, n: int, m: int) -> Tensor:
    free = torch.zeros_like(x, dtype=torch.bool)
    for row in itertools.product(*(range(s) for i, s in enumerate(x.shape) if i != 1)):
        at = (row[0], slice(None), *row[1:])
        for start in range(0, x.shape[1], m):
            block = x[at][start : start + m].abs()
            free[at][start + block.argsort(stable=True)[m - n :]] = True
    return free


@pytest.mark.parametrize("shape", [(3, 8), (2, 8, 3, 3)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (5, 8)])
def test_n_of_m_frees_the_largest_along_the_input(shape: tuple[int, ...], n: int, m: int) -> None:
    x = (tensor_of(shape) * 2).round()  # many ties: of equals the later positions are larger
    groups = NM(n, m)
    free = free_by_sorting(x, n, m)
    assert torch.equal(groups.free(x), free)
    assert torch.equal(groups.norms(x), torch.where(free, math.inf, x.abs()))
    assert torch.equal(groups.prox(L1(), x, 0.5), torch.where(free, x, L1().prox(x, 0.5)))
    assert groups.value(L0(), groups.prox(L0(), x, 1e9)) == 0


def test_tied_groups_find_their_members_by_name() -> None:
    tied = Tied({"conv.weight": Filters(), "norm.weight": Elements()})
    assert tied.place("norm.weight") == ("", "norm.weight")
    assert tied.place("norm.bias") is None
    assert tied.place("a.norm.weight") is None
    tied = Tied({"*.q.weight": Heads(2), "*.out.weight": Heads(2, axis=1)})
    assert tied.place("layers.0.out.weight") == ("layers.0", "*.out.weight")
    assert tied.place("q.weight") is None
    assert hash(tied) == hash(Tied(dict(tied.members)))
    assert tied != Tied({"*.q.weight": Heads(2), "*.out.weight": Heads(2)})


def test_tied_groups_refuse_one_tensor_alone() -> None:
    tied, x = Tied({"a": Filters(), "b": Filters()}), torch.ones(2, 2)
    for call in (
        lambda: tied.norms(x),
        lambda: tied.spread(x, x),
        lambda: tied.value(L1(), x),
        lambda: tied.prox(L1(), x, 0.1),
    ):
        with pytest.raises(RuleError, match="cannot cut one tensor alone"):
            call()
