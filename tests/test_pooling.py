"""Max pooling in pairs against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rvsm.handwriting.pooling import max_pool

POOLS = [(2, 2), (1, 2), (2, 1), (1, 1), (3, 2), (2, 4)]


def both_gradients(maps: Tensor, pool: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Gradients of the same random sum over the pooled maps, ours and torch's."""
    gradients = []
    for function in (max_pool, F.max_pool2d):
        leaf = maps.clone().requires_grad_()
        pooled = function(leaf, pool)
        weights = torch.rand(pooled.shape, generator=torch.Generator().manual_seed(1))
        (pooled * weights.to(pooled)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    return gradients[0], gradients[1]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_those_of_torch(
    pool: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    # Numbers all different and exact in bfloat16, so that there are no ties.
    numbers = torch.randperm(2 * 1 * 12 * 8, generator=torch.Generator().manual_seed(0)) - 90
    maps = numbers.view(2, 1, 12, 8).to(dtype).contiguous(memory_format=layout)
    assert torch.equal(max_pool(maps.requires_grad_(), pool), F.max_pool2d(maps, pool))
    ours, theirs = both_gradients(maps.detach(), pool)
    assert torch.equal(ours, theirs)
    assert ours.dtype == dtype


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 5), st.sampled_from(POOLS[:3]))
def test_of_ties_one_entry_gets_the_whole_gradient(
    seed: int, images: int, channels: int, pool: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(0, 2, (images, channels, 4, 6), generator=generator).float()
    ours, theirs = both_gradients(maps, pool)
    block = F.avg_pool2d
    torch.testing.assert_close(block(ours, pool), block(theirs, pool))
    rows, columns = pool
    blocks = ours.unfold(2, rows, rows).unfold(3, columns, columns).flatten(4)
    assert torch.all((blocks != 0).sum(-1) == 1), "only one of each block"
    largest = F.max_pool2d(maps, pool).unsqueeze(-1)
    values = maps.unfold(2, rows, rows).unfold(3, columns, columns).flatten(4)
    assert torch.all((blocks == 0) | (values == largest)), "and it is a largest one"


def test_what_is_left_over_is_dropped() -> None:
    maps = torch.rand(2, 3, 5, 7, requires_grad=True)
    assert torch.equal(max_pool(maps, (2, 2)), F.max_pool2d(maps, 2))


def test_the_gradient_survives_numerical_differences() -> None:
    maps = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: max_pool(x, (2, 2)), maps)
