import json

import pytest
import torch
from rich.console import Console
from torch import nn

from rvsm.accounting import report
from rvsm.errors import RvsmError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False),
        nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    )


def macs_by_products(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Count multiply-adds another way: with all weights and inputs one, outputs count terms.

    Only terms on real inputs count there, so this twin knows no padding.
    """
    counts = {}

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = module.weight.detach().clone()
        bias, module.bias = module.bias, None
        module.weight.data.fill_(1.0)
        counts[module] = int(module.forward(torch.ones_like(inputs[0])).sum())
        module.weight.data.copy_(weight)
        module.bias = bias

    layers = [m for m in model.modules() if getattr(m, "weight", None) is not None]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return {f"{n}.weight": counts[m] for n, m in model.named_modules() if m in counts}


def test_macs_agree_with_counted_terms() -> None:
    model = network()
    example = torch.ones(2, 3, 9, 9)
    layers = {layer.name: layer for layer in report(model, example).layers}
    expected = macs_by_products(model, example)
    assert {name: layers[name].macs for name in expected} == expected
    assert layers["0.bias"].macs is None


def test_padding_counts_as_positions() -> None:
    total = report(nn.Conv2d(1, 1, 3, padding=1, bias=False), torch.ones(1, 1, 4, 5)).to_dict()
    assert total["total"]["macs"] == 4 * 5 * 9
    assert report(nn.Conv1d(2, 3, 3), torch.ones(2, 10)).layers[0].macs == 8 * 18


def test_zeros_filters_and_effective_macs() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].weight[:, 1] = -0.0
        model[5].weight[1:] = 0
    account = report(model, (torch.ones(1, 3, 9, 9),))
    first, last = account.layers[0], account.layers[-2]
    assert (first.filters, first.zero_filters, first.inputs, first.zero_inputs) == (8, 3, 3, 1)
    assert first.nonzeros == 5 * 2 * 9
    assert first.effective_macs == 49 * first.nonzeros
    assert (last.zero_filters, last.zero_inputs, last.zeros) == (4, 0, 0.8)
    assert last.sparse_bytes < last.dense_bytes == 4 * last.weights
    assert account.weights == sum(p.numel() for p in model.parameters())
    assert account.nonzeros == sum(int((p != 0).sum()) for p in model.parameters())


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    model[1].eval()
    report(model, torch.randn(6, 4))
    assert [m.training for m in model] == [True, False, True]
    assert model[2].num_batches_tracked == 0
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RvsmError, match="cannot take an example"):
        report(model, torch.randn(6, 5))
    assert not any(m._forward_hooks for m in model.modules())
    assert model.training


def test_tied_weights_count_once_and_are_used_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    account = report(model, torch.ones(1, 4))
    assert account.weights == 16
    assert account.layers[0].macs == 32


def test_texts_and_numbers() -> None:
    account = report(network(), torch.ones(1, 3, 9, 9))
    json.dumps(account.to_dict())
    text = str(account)
    assert "5.weight" in text
    assert "5x144" in text
    assert "MACs" in text
    narrow = Console(width=80, color_system=None)
    with narrow.capture() as capture:
        narrow.print(account)
    assert "5.weight" in capture.get()
    assert "…" not in capture.get()
    assert "MACs" not in str(report(network()))


def test_state_dicts_odd_tensors_and_nothing() -> None:
    account = report({"a": torch.zeros(0, 3), "b": torch.tensor(2.0), "n": torch.tensor(0)})
    assert [layer.zeros for layer in account.layers] == [0.0, 0.0, 1.0]
    assert report({}).zeros == 0.0
    assert report(nn.ReLU(), torch.ones(1)).to_dict()["total"]["macs"] is None
    with pytest.raises(RvsmError, match="leave the example out"):
        report({"a": torch.ones(1)}, torch.ones(1))


def test_almost_all_zero_is_not_called_all() -> None:
    weight = torch.zeros(100, 200)
    weight[0, 0] = 1
    assert "99.9950%" in str(report({"w": weight}))
