"""The proximal map of every penalty on every kind of group, against numerical minimisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from penalty_table import PENALTIES
from rvsm.groups import NM, Blocks, Columns, Filters, Groups, Heads, InputChannels, Rows
from rvsm.penalties import Penalty

# Groups of three or four weights: few enough to be searched in all directions.
CUTS: list[tuple[Groups, tuple[int, ...], list[tuple[slice, ...]]]] = [
    (Filters(), (4, 1, 2, 2), [(slice(o, o + 1),) for o in range(4)]),
    (InputChannels(), (3, 4), [(slice(None), slice(c, c + 1)) for c in range(4)]),
    (Rows(), (4, 3), [(slice(o, o + 1),) for o in range(4)]),
    (Columns(), (4, 3), [(slice(None), slice(c, c + 1)) for c in range(3)]),
    (
        Blocks(2, 2),
        (4, 4),
        [(slice(r, r + 2), slice(c, c + 2)) for r in (0, 2) for c in (0, 2)],
    ),
    (Heads(4), (8, 2), [(slice(h, h + 2),) for h in (0, 2, 4, 6)]),
]
each_cut = pytest.mark.parametrize(
    ("groups", "shape", "parts"), CUTS, ids=[str(c[0]) for c in CUTS]
)
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)


def drawn(shape: tuple[int, ...], parts: list[tuple[slice, ...]]) -> Tensor:
    """Return weights whose first group is zero and whose last two are equal."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[parts[0]] = 0
    x[parts[-1]] = x[parts[-2]]
    return x


def objective(penalty: Penalty, mu: float, x: Tensor, u: Tensor) -> float:
    """Return ``mu p(|u|) + |u - x|^2 / 2`` of one group."""
    return float(mu * penalty.value(u.norm().reshape(1)) + (u - x).square().sum() / 2)


def least(penalty: Penalty, mu: float, x: Tensor) -> float:
    """Search for the least objective: along x, and from several starts in all directions."""
    found = [objective(penalty, mu, x, x * share) for share in np.linspace(0, 1.2, 121)]
    starts = [x * 0.7, torch.full_like(x, 0.1)]
    for start in starts:
        search = minimize(
            lambda u: objective(penalty, mu, x, torch.as_tensor(u)),
            start.numpy(),
            method="Nelder-Mead",
            options={"maxfev": 60},
        )
        found.append(float(search.fun))
    return min(found)


@each_penalty
@each_cut
def test_no_vector_of_a_group_is_better_than_its_map(
    penalty: Penalty, groups: Groups, shape: tuple[int, ...], parts: list[tuple[slice, ...]]
) -> None:
    x = drawn(shape, parts)
    norms = groups.norms(x).flatten()
    for threshold in (0.6, 1.4):  # of the middle norm: it survives, and it is zero
        mu = penalty.mu_for_threshold(threshold * float(norms.median()))
        u = groups.prox(penalty, x, mu)
        for part in parts[:2]:  # the zero group, and another
            group = x[part].flatten()
            ours = objective(penalty, mu, group, u[part].flatten())
            assert ours <= least(penalty, mu, group) + 1e-9 * (1 + mu)
        assert not u[parts[0]].any()
        assert torch.equal(u[parts[-1]], u[parts[-2]])


@each_penalty
@each_cut
def test_no_strength_changes_nothing_and_a_huge_one_zeroes_all_that_can_be(
    penalty: Penalty, groups: Groups, shape: tuple[int, ...], parts: list[tuple[slice, ...]]
) -> None:
    x = drawn(shape, parts)
    torch.testing.assert_close(groups.prox(penalty, x, 0.0), x, rtol=0, atol=1e-12)
    strongest = penalty.mu_for_threshold(1e3)
    assert not groups.prox(penalty, x, strongest).any()


@each_penalty
def test_of_every_four_weights_the_two_largest_are_free(penalty: Penalty) -> None:
    """N:M against all choices of two free weights, the rest under the penalty one by one."""
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mu = penalty.mu_for_threshold(float(x.abs().median()))
    u = NM(2, 4).prox(penalty, x, mu).view(-1, 4)
    for row, own in zip(x.view(-1, 4), u, strict=True):
        best = min(
            sum(
                objective(penalty, mu, row[i : i + 1], penalty.prox(row[i : i + 1], mu))
                for i in range(4)
                if i not in free
            )
            for free in itertools.combinations(range(4), 2)
        )
        ours = [objective(penalty, mu, row[i : i + 1], own[i : i + 1]) for i in range(4)]
        free = row.abs().argsort(descending=True)[:2].tolist()
        assert torch.equal(own[free], row[free])
        assert sum(cost for i, cost in enumerate(ours) if i not in free) <= best + 1e-9 * (1 + mu)
