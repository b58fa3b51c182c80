"""What the tests of `rvsm.shrink` share: networks with random zeros, and all that must hold."""

from __future__ import annotations

import copy
import json

import torch
from torch import Tensor, nn

import rvsm
from rvsm.deploy.network import Network


@torch.no_grad()
def check(model: nn.Module, example: Tensor, **options: int) -> Network:
    """Shrink in float64 and compare: outputs, account, a second time, a rebuilt one."""
    model, example = model.double().eval(), example.double()
    before = copy.deepcopy(model.state_dict())
    small = rvsm.shrink(model, example, **options)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    generator = torch.Generator().manual_seed(3)
    for scale in (1.0, 30.0):
        batch = scale * torch.randn(3, *example.shape[1:], generator=generator).double()
        wanted = model(batch)
        atol = 1e-10 * (float(wanted.abs().max()) + 1e-6)
        torch.testing.assert_close(small(batch), wanted, rtol=0, atol=atol)
    again = rvsm.shrink(small, example, **options)
    assert again.describe() == small.describe()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in small.state_dict().items())
    description = json.loads(json.dumps(small.describe()))
    rebuilt = Network.from_description(description, small.state_dict()).eval()
    assert torch.equal(rebuilt(example), small(example))
    return small


def sizes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def zero_at_random(state: dict[str, Tensor], seed: int, rows: float, columns: float) -> None:
    """Zero random filters, columns, biases and scales."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if not value.is_floating_point() or "running" in name:
            continue
        value[torch.rand(len(value), generator=generator) < rows] = 0
        if value.dim() > 1:
            value[:, torch.rand(value.shape[1], generator=generator) < columns] = 0
