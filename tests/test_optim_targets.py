"""Exact selection against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.optim import RVSM, Rule
from rvsm.optim.clear import clear_threshold
from rvsm.optim.near import Near
from rvsm.optim.targets import smallest, two_smallest
from rvsm.penalties import (
    L0,
    L1,
    MCP,
    SCAD,
    CappedL1,
    LHalf,
    LogSum,
    Lp,
    LTwoThirds,
    TransformedL1,
)

PENALTIES = [
    L0(), L1(), TransformedL1(), MCP(), SCAD(), CappedL1(), LogSum(), LHalf(), LTwoThirds(),
    Lp(0.3), Lp(0.9),
]  # fmt: skip


def smallest_by_sorting(magnitudes, k):
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[magnitudes.argsort(stable=True)[:k]] = True
    return mask


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_it_marks_what_a_stable_sort_puts_first(data):
    values = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))
    k = data.draw(st.integers(0, len(values)))
    magnitudes = torch.tensor(values, dtype=torch.float32) / 7
    mask, threshold = smallest(magnitudes, k)
    assert torch.equal(mask, smallest_by_sorting(magnitudes, k))
    assert threshold == (magnitudes[mask].max() if k else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 500, 4999, 5000])
def test_every_type(dtype, k):
    torch.manual_seed(0)
    magnitudes = torch.randn(5000).abs().to(dtype)
    before = magnitudes.clone()
    mask, threshold = smallest(magnitudes, k)
    assert torch.equal(mask, smallest_by_sorting(magnitudes, k))
    assert threshold.dtype == dtype
    assert torch.equal(magnitudes, before)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_the_kth_and_the_next_are_what_sorting_says_however_many_are_zero(data):
    zeros = data.draw(st.integers(0, 40))
    others = data.draw(st.lists(st.integers(1, 5), max_size=40))
    values = np.array([0] * zeros + others or [0], data.draw(st.sampled_from(["f2", "f4", "f8"])))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(values) / 7
    before = values.copy()
    k = data.draw(st.integers(1, len(values)))
    ordered = [*np.sort(values).tolist(), float("inf")]
    assert two_smallest(values, k) == (ordered[k - 1], ordered[k])
    assert np.array_equal(values, before)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_clear_threshold_marks_the_same_and_none_is_given_where_it_could_not(data):
    rounding = torch.finfo(torch.float32).eps
    numbers = st.integers(0, 5).map(lambda i: i / 7) | st.integers(0, 200).map(
        lambda i: 1 + i * rounding
    )
    parts = [
        torch.tensor(part, dtype=torch.float32)
        for part in data.draw(st.lists(st.lists(numbers, min_size=1, max_size=9), min_size=1))
    ]
    together = torch.cat(parts)
    k = data.draw(st.integers(1, len(together)))
    found = clear_threshold(parts, k)
    ordered = together.sort().values
    if found is None:
        assert ordered[k - 1] == 0 or ordered[k] <= ordered[k - 1] * (1 + 100 * rounding)
    else:
        assert found.t == ordered[k - 1]
        assert torch.equal(together <= found.t, smallest_by_sorting(together, k))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_where_a_threshold_lay_before_changes_nothing(data):
    """Whether weights hardly move, jump, or shrink until nothing is near the threshold."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    ws = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
    k, near = data.draw(st.integers(1, sum(sizes))), Near()
    for _ in range(6):
        found = clear_threshold(ws, k, 4, near)
        expected = clear_threshold(ws, k, 4)
        assert (found is None) == (expected is None)
        if found is not None:
            assert found[:2] == expected[:2]
            above = tuple(int((w.abs() > found.t).sum()) for w in ws)
            assert found.above is None or found.above == above
        moved = data.draw(st.sampled_from([0.0, 1e-4, 1e-2, 1.0]))
        shrunk = data.draw(st.sampled_from([0.5, 0.99, 1.0]))
        for w in ws:
            w[w.abs() <= (found.t if found else 0)] *= shrunk
            w += moved * torch.randn(len(w), generator=generator)
        k = min(max(k + data.draw(st.integers(-2, 2)), 1), sum(sizes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_threshold_is_found_near_the_last_one(dtype):
    torch.manual_seed(0)
    w, near, found = torch.randn(400_000, dtype=dtype), Near(), []
    for _ in range(5):
        found.append(near.look([w], 390_000))
        assert clear_threshold([w], 390_000, 4, near) is not None
        w *= 1 + 1e-3 * torch.randn(len(w))
    assert found[0] is None
    assert None not in found[2:]
    # What is zeroed has shrunk, and nothing lies between it and the survivors.
    w[w.abs() <= found[-1].t * 1.01] *= 0.99
    k = int((w.abs() < found[-1].t).sum())
    clear_threshold([w], k, 4, near)
    t, following, above = near.look([w], k)
    assert t < following == w.abs()[w.abs() > t].min()
    assert above == (len(w) - k,)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-4])
@pytest.mark.parametrize("tied", [False, True])
def test_a_target_is_met_exactly_whatever_the_penalty_type_and_size(penalty, dtype, scale, tied):
    """Ties at a magnitude whose shrunken survivors half precision rounds to nothing."""
    torch.manual_seed(0)
    w = torch.full((20, 30), scale) if tied else torch.randn(20, 30).mul(scale)
    p = torch.nn.Parameter(w.to(dtype))
    zeros_before = int((p == 0).sum())
    base = torch.optim.SGD([("weight", p)], lr=0.0)
    optimizer = RVSM(base, [Rule("weight", penalty, sparsity=0.5)])
    assert zeros_before < 300
    assert optimizer.zeros() == {"weight": (300, 600)}
    optimizer.finalize()
    assert int((p == 0).sum()) == 300


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_ties_at_the_ends_of_float64(penalty):
    for scale in (1e-30, 1e-3, 1e18):
        p = torch.nn.Parameter(torch.full((600,), scale, dtype=torch.float64))
        base = torch.optim.SGD([("weight", p)], lr=0.0)
        optimizer = RVSM(base, [Rule("weight", penalty, sparsity=0.5)])
        assert optimizer.zeros() == {"weight": (300, 600)}, scale
