"""Exact selection against a stable sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvsm.optim.targets import smallest


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
