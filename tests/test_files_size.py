"""Sizes: near the information bound, with the header and without."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfiles import sparse
from rvsm.deploy import coding
from rvsm.deploy.entries import encode
from rvsm.deploy.files import save, sparse_bytes
from rvsm.deploy.values import read_form


def test_size_near_the_information_bound(tmp_path: Path) -> None:
    """LeNet-5 at 99 % zeros: at most 24 kB, where dense takes 1,724 kB."""
    tensors = {
        "conv1.weight": sparse(20, 1, 5, 5, zeros=0.99),
        "conv1.bias": sparse(20, zeros=0.99),
        "conv2.weight": sparse(50, 20, 5, 5, zeros=0.99),
        "conv2.bias": sparse(50, zeros=0.99),
        "fc1.weight": sparse(500, 800, zeros=0.99),
        "fc1.bias": sparse(500, zeros=0.99),
        "fc2.weight": sparse(10, 500, zeros=0.99),
        "fc2.bias": sparse(10, zeros=0.99),
    }
    save(tensors, tmp_path / "f")
    assert (tmp_path / "f").stat().st_size <= 24_000


@pytest.mark.parametrize("zeros", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_places_cost_little_more_than_their_information(zeros: float) -> None:
    tensor = sparse(500, 800, zeros=zeros)
    n, k = tensor.numel(), int((tensor != 0).sum())
    places = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    assert sparse_bytes(tensor) <= 1.1 * (places / 8 + 4 * k)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), elements=st.integers(0, 3000))
def test_places_round_trip(data: st.DataObject, elements: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, max(elements - 1, 0)), max_size=elements))
    places = np.array(sorted(chosen), dtype=np.int64) if elements else np.zeros(0, np.int64)
    mask = coding.bitmask_encode(places, elements)
    assert coding.bitmask_decode(mask, elements).tolist() == places.tolist()
    for width in (*range(coding.MIN_BITS, coding.MAX_BITS + 1),):
        packed, count = coding.gaps_encode(places, elements, width)
        assert count == coding.gap_codes(places, elements, width)
        assert packed.size == (count * width + 7) // 8
        assert coding.gaps_decode(packed, count, width, elements).tolist() == places.tolist()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), elements=st.integers(0, 3000), low=st.integers(0, coding.MAX_LOW))
def test_rice_codes_round_trip(data: st.DataObject, elements: int, low: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, max(elements - 1, 0)), max_size=elements))
    places = np.array(sorted(chosen) if elements else [], dtype=np.int64)
    packed = coding.rice_encode(places, low)
    assert coding.rice_decode(packed, places.size, low, elements).tolist() == places.tolist()
    best, size = coding.rice_bits(places)
    assert coding.rice_encode(places, best).size == size <= packed.size


@settings(max_examples=60, deadline=None)
@given(
    elements=st.integers(1, 30_000),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
    form=st.sampled_from(["exact", "float16", "bfloat16", "codebook", "codebook-16"]),
)
def test_every_tensor_is_near_its_bound(elements: int, share: float, seed: int, form: str) -> None:
    """Apart from the 120 bytes that a sparse tensor costs more than a dense one in the header."""
    kept = round(share * elements)
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.zeros(1, elements)
    places = torch.randperm(elements, generator=generator)[:kept]
    tensor[0, places] = torch.randn(kept, generator=generator)
    found = encode("x", tensor, {}, read_form(form))
    assert found.kept == int((tensor != 0).sum())
    assert found.size <= 1.1 * found.bound + 120 + 4
    # A lucky draw may need less than the mean of all draws; few zeros less as codes than as places.
    assert found.bound <= 1.1 * found.size + 4


@pytest.mark.parametrize("form", ["exact", "float16", "bfloat16", "codebook"])
def test_whole_files_are_near_the_bound(tmp_path: Path, form: str) -> None:
    """The header, some 200 bytes a tensor, is what files of less than 15 kB have beyond it."""
    root = Path(__file__).parent.parent
    models = runpy.run_path(str(root / "benchmarks" / "files" / "run.py"))["models"]()
    del models["ResNet-18, 90% zeros"]  # takes seconds; in the results of the benchmark
    for name, tensors in models.items():
        saved = save(tensors, tmp_path / "f", values=form)
        if form == "exact" or saved.bytes > 15_000:
            assert saved.bytes <= 1.15 * saved.bound_bytes, name
        assert saved.bytes <= 1.05 * saved.bound_bytes + 230 * len(tensors), name
