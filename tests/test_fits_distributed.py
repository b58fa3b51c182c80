"""Two gloo processes find what one finds: DDP, FSDP2, and a layer split by columns."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import distributed_cases
import rvsm
from distributed_cases import BOTH_WAYS, CASES, RANKS, RESUMED, WRAPS, recalibration, run_case
from rvsm.errors import RuleError, RvsmError
from rvsm.optim import RVSM, Rule
from rvsm.optim.targets import smallest
from rvsm.penalties import L0

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32",
    reason="torch was built without torch.distributed",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both ranks found in every case; one start of the processes for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(distributed_cases.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    try:
        errors = [rank.communicate(timeout=280)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@functools.cache
def one(name):
    return run_case(CASES[name])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("wrap", "name"),
    [(wrap, name) for wrap in WRAPS for name in CASES if wrap != "hsdp" or name in BOTH_WAYS],
)
def test_two_processes_find_the_supports_of_one(two, wrap, name):
    """Weights, u, zeros, gap, Lagrangian and outputs at u and w, in and after training."""
    expected, near = one(name), CASES[name].tolerance
    assert any(0 < (u == 0).sum() < u.numel() for u in expected["u in training"].values())
    for rank in range(RANKS):
        found = two[rank][f"{wrap}: {name}"]
        assert found.keys() == expected.keys()
        for what, value in expected.items():
            if what.startswith("zeros"):
                assert found[what] == value
            elif what.startswith("numbers"):
                assert found[what] == pytest.approx(value, rel=1e-5, abs=near)
            elif what.startswith("outputs"):
                torch.testing.assert_close(found[what], value, rtol=0, atol=2 * near)
            else:
                for parameter, w in value.items():
                    assert torch.equal(found[what][parameter] == 0, w == 0), (what, parameter)
                    torch.testing.assert_close(found[what][parameter], w, rtol=0, atol=near)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("resumed", RESUMED, ids=str)
def test_a_run_resumed_under_fsdp2_is_the_run_bit_for_bit(two, resumed):
    name = "resume: " + ", ".join(map(str, resumed))
    assert [found[name] for found in two] == [""] * RANKS


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_a_nan_on_one_rank_stops_all_and_moves_nothing(two, wrap):
    for found in two:
        assert "gradient of 3.weight is not finite at step 1" in found[f"not finite: {wrap}"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_layer_split_by_columns_is_gathered(two):
    for found in two:
        spread, plain = found["columns"]
        assert spread["zeros"] == plain["zeros"] == {"w": (14, 35)}
        assert torch.equal(spread["w"] == 0, plain["w"] == 0)
        torch.testing.assert_close(spread["w"], plain["w"], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_cannot_be_right_raises(two):
    for found in two:
        refused = found["refusals"]
        assert "shard with torch.distributed.fsdp.fully_shard" in refused["ZeroRedundancyOptimizer"]
        assert "different process groups" in refused["two process groups"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("wrap", "counts"), [("ddp", (4, 2)), ("fsdp", (3, 3))])
def test_ranks_recalibrate_as_one(two, wrap, counts):
    """To the mean over the batches of all, however many each has; the same bits everywhere."""
    expected = recalibration(counts=counts)
    found = [ranks[f"recalibration: {wrap}"] for ranks in two]
    for when in ("inside", "final"):
        for x, y, alone in zip(*(f[when] for f in (*found, expected)), strict=True):
            assert torch.equal(x, y)
            torch.testing.assert_close(x, alone, rtol=1e-5, atol=1e-6)
    for own in (*found, expected):
        assert not torch.equal(own["inside"][0], own["after"][0])
        for when in ("after", "refused"):
            initial = [torch.zeros(5), torch.ones(5), torch.tensor(0)]
            assert all(map(torch.equal, own[when], initial))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_rank_waits_for_one_that_cannot_recalibrate(two):
    first, second = (ranks["recalibration: ddp"] for ranks in two)
    assert "failed on another rank" in first["text"]
    assert "dict of keywords, not str" in second["text"]
    assert "gave no batch" in first["none"]
    assert "gave no batch" in second["none"]
    for ranks in two:
        assert "different weights here" in ranks["recalibration: different models"]


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "_is_flat_param"])
def test_the_first_fsdp_is_refused(mark):
    """It needs an accelerator to start; its mark on a parameter does not."""
    p = nn.Parameter(torch.ones(3))
    setattr(p, mark, True)
    with pytest.raises(RuleError, match="w is a flattened shard of FullyShardedDataParallel"):
        RVSM(torch.optim.SGD([("w", p)], lr=0.1), [Rule("w", L0(), lam=1.0)])


@pytest.fixture(scope="module")
def single_process():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_sharded_weights_are_saved_and_counted_once_gathered(single_process, tmp_path):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Linear(8, 4), mesh=single_process)
    for use in (rvsm.report, lambda model: rvsm.save(model, tmp_path / "model")):
        with pytest.raises(RvsmError, match="'weight' is spread over several processes"):
            use(model)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    optimizer = RVSM(base, [Rule("weight", L0(), sparsity=0.5)])
    with optimizer.sparse_weights():
        found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        rvsm.save(found, tmp_path / "model")
    assert rvsm.report(rvsm.load(tmp_path / "model")).nonzeros == 16 + 4


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_threshold_found_by_bits_is_the_kth_smallest(single_process, dtype, data):
    """Beside the selection in one process, ties and plain tensors in the pool included."""
    from torch.distributed.tensor import Shard, distribute_tensor

    from rvsm.optim.distributed import smallest_of_shards

    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    values = data.draw(st.lists(st.integers(0, 6), min_size=sum(sizes), max_size=sum(sizes)))
    k = data.draw(st.integers(1, sum(sizes)))
    norms = (torch.tensor(values).double() ** 3 / 7).to(dtype)
    parts = list(norms.split(sizes))
    parts[0] = distribute_tensor(parts[0], single_process, [Shard(0)])
    masks, t = smallest_of_shards(parts, k)
    expected, threshold = smallest(norms, k)
    assert torch.equal(torch.cat(masks), expected)
    assert t == threshold
    assert t.dtype == dtype
