"""Pooling, normalisation and ReLU in C against torch's own, in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm import native
from rvsm.handwriting import block, network
from rvsm.handwriting.block import (
    first_pool_norm_relu,
    fused,
    fused_first,
    pool_norm_relu,
)
from rvsm.handwriting.network import FixedScaleNorm, TremorNet

needs_compiler = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")
POOLS = [(1, 1), (1, 2), (2, 1), (2, 2)]


def by_torch(maps: Tensor, pool: tuple[int, int], scale: Tensor, bias: Tensor) -> Tensor:
    pooled = F.max_pool2d(maps, pool)
    return F.relu(F.batch_norm(pooled, None, None, scale, bias, training=True))


def drawn(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps without ties, scale, bias, and a gradient for each entry of the maps."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    scale = torch.rand(shape[1], generator=generator) + 0.5
    bias = torch.randn(shape[1], generator=generator)
    return maps, scale, bias, torch.randn(shape, generator=generator)


@needs_compiler
@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 37), st.integers(1, 5),
    st.integers(1, 5), st.sampled_from(POOLS),
)  # fmt: skip
def test_values_statistics_and_gradients_are_those_of_float64(
    seed: int, images: int, channels: int, height: int, width: int, pool: tuple[int, int]
) -> None:
    rows, columns = pool
    shape = (images, channels, height * rows, width * columns)
    maps, scale, bias, weights = drawn(seed, shape)
    weights = weights[..., :height, :width]
    maps.requires_grad_()
    bias.requires_grad_()
    if images * height * width == 1:
        assert not fused(maps, pool)
        return
    assert fused(maps, pool)
    found = pool_norm_relu(maps, pool, scale, bias, 1e-5)
    (found.maps * weights).sum().backward()

    wide, offset = (t.detach().double().requires_grad_() for t in (maps, bias))
    expected = by_torch(wide, pool, scale.double(), offset)
    (expected * weights).sum().backward()
    pooled = F.max_pool2d(wide.detach(), pool)
    # Where a channel hardly varies, x - mean and the variance, a difference of squares, lose the
    # digits that float32 has not.
    spread = pooled.std((0, 2, 3)).amin().clamp(min=1e-6).item()
    near = {"rtol": 0.0, "atol": 2e-5 / min(spread, 1) ** 2}
    assert found.maps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.maps.double(), expected, **near)
    torch.testing.assert_close(found.mean.double(), pooled.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.var.double(), pooled.var((0, 2, 3)), rtol=1e-4, atol=5e-6)
    if spread < 0.1 or (expected.detach().abs() < 1e-4).logical_xor(expected.detach() == 0).any():
        return  # on the brink of the ReLU float32 may fall to the other side
    near["atol"] /= min(spread, 1)
    assert maps.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(maps.grad.double(), wide.grad, **near)
    torch.testing.assert_close(bias.grad.double(), offset.grad, **near)


@needs_compiler
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 21), st.sampled_from(POOLS))
def test_maps_in_bfloat16_are_computed_with_in_float32(
    seed: int, channels: int, pool: tuple[int, int]
) -> None:
    maps, scale, bias, _ = drawn(seed, (3, channels, 4, 8))
    rounded = maps.bfloat16()
    toward = torch.randn(3, channels, 4 // pool[0], 8 // pool[1]).bfloat16()
    leaves = [rounded.requires_grad_(), rounded.detach().float().requires_grad_()]
    half, single = [pool_norm_relu(leaf, pool, scale, bias, 1e-5) for leaf in leaves]
    assert half.maps.dtype == torch.bfloat16
    assert torch.equal(half.maps, single.maps.bfloat16())
    assert torch.equal(half.mean, single.mean)
    assert torch.equal(half.var, single.var)
    for found in (half, single):
        found.maps.backward(toward.to(found.maps.dtype))
    gradient, expected = (leaf.grad for leaf in leaves)
    assert gradient is not None
    assert expected is not None
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(gradient, expected.bfloat16())


@needs_compiler
@pytest.mark.parametrize("channels", [1, 8])
def test_a_nan_of_any_bits_stays_one_in_bfloat16(channels: int) -> None:
    maps = torch.ones(2, channels, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    out = pool_norm_relu(maps, (1, 1), torch.ones(channels), torch.ones(channels), 1e-5).maps
    gradient = torch.full((2, channels, 1, 1), 0x7FFF, dtype=torch.int16).view(torch.bfloat16)
    out.backward(gradient)
    assert maps.grad is not None
    assert maps.grad.isnan().all()


@needs_compiler
@pytest.mark.parametrize("channels", [1, 8])
def test_what_the_first_layer_puts_out_is_rounded_under_autocast(channels: int) -> None:
    images = torch.rand(4, 1, 8, 8)
    _, scale, bias, _ = drawn(5, (1, channels, 1, 1))
    drawn_weight = torch.randn(channels, 1, 3, 3)
    toward = torch.randn(4, channels, 4, 4).bfloat16()
    found = []
    for half in (True, False):
        weight, offset = drawn_weight.clone().requires_grad_(), bias.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = first_pool_norm_relu(images, weight, scale, offset, 1e-5).maps
        out.backward(toward.to(out.dtype))
        found.append((out.bfloat16(), weight.grad, offset.grad))
        assert out.dtype == (torch.bfloat16 if half else torch.float32)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    with torch.autocast("cpu", torch.float16):
        out = first_pool_norm_relu(images, drawn_weight, scale, bias, 1e-5).maps
    assert out.dtype == torch.float32


@needs_compiler
@pytest.mark.parametrize("channels", [1, 8])
def test_a_nan_of_any_bits_in_an_image_stays_one_under_autocast(channels: int) -> None:
    images = torch.full((2, 1, 4, 4), 0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    weight, ones = torch.ones(channels, 1, 3, 3), torch.ones(channels)
    with torch.autocast("cpu", torch.bfloat16):
        out = first_pool_norm_relu(images, weight, ones, ones, 1e-5).maps
    assert out.dtype == torch.bfloat16
    assert out.isnan().all()


@needs_compiler
def test_under_autocast_the_network_trains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = TremorNet([4, 8, 8], size=(16, 32))
    images = torch.rand(8, 1, 16, 32)
    taken = []
    monkeypatch.setattr(block, "_call", _noting(block._call, taken))
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(images).float().square().sum()
    loss.backward()
    assert [name for name in taken if name in ("convolve", "pool_bf16", "spread_bf16")] == [
        "convolve", "pool_bf16", "pool_bf16", "spread_bf16", "spread_bf16",
    ]  # fmt: skip
    assert {"rectify_f32_bf16", "rectify_bf16_bf16", "correlate_bf16"} <= set(taken)
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_type_trains_too(dtype: torch.dtype) -> None:
    net = TremorNet([4, 8, 8], size=(16, 32)).to(dtype)
    net(torch.rand(8, 1, 16, 32, dtype=dtype)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert net.norm3 is not None
    assert net.norm3.running_mean.dtype == dtype


def _noting(call: Any, taken: list[str]) -> Any:
    def noted(name: str, *values: Any) -> None:
        taken.append(name)
        call(name, *values)

    return noted


@needs_compiler
@pytest.mark.parametrize("pool", POOLS[1:])
@pytest.mark.parametrize("channels", [3, 8, 19])
def test_of_ties_the_first_entry_gets_the_whole_gradient(
    pool: tuple[int, int], channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 2, (2, channels, 4, 6), generator=generator).float()
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    pool_norm_relu(maps, pool, torch.ones(channels), 9 * torch.ones(channels), 1e-5).maps.mul(
        torch.rand(2, channels, 4 // pool[0], 6 // pool[1], generator=generator)
    ).sum().backward()
    assert maps.grad is not None
    rows, columns = pool

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(2, rows, rows).unfold(3, columns, columns).flatten(4)

    gradient, values = blocks(maps.grad), blocks(maps.detach())
    assert torch.equal((gradient != 0).sum(-1) == 1, gradient.sum(-1) != 0)
    first = values.argmax(-1, keepdim=True)  # of equal ones the first
    assert torch.equal(gradient.gather(-1, first).squeeze(-1), gradient.sum(-1))


@needs_compiler
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("channels", [1, 8])
def test_a_nan_anywhere_in_a_block_comes_through(place: int, channels: int) -> None:
    maps = torch.randn(2, channels, 4, 4).contiguous(memory_format=torch.channels_last)
    maps[0, 0, place // 2, place % 2] = float("nan")
    maps.requires_grad_()
    bias = torch.zeros(channels, requires_grad=True)
    out = pool_norm_relu(maps, (2, 2), torch.ones(channels), bias, 1e-5).maps
    assert out[:, 0].isnan().any()
    assert not out[:, 1:].isnan().any()


@needs_compiler
def test_maps_of_any_layout_and_gradients_of_none() -> None:
    maps, scale, bias, _ = drawn(1, (3, 10, 4, 6))
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        leaf = maps.clone().contiguous(memory_format=layout).requires_grad_()
        out = pool_norm_relu(leaf, (2, 2), scale, bias, 1e-5).maps
        out.mean().backward()  # an expanded gradient: all strides 0
        results.append((out.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("maps", "pool"),
    [
        (torch.zeros(1, 1, 1, 1), (1, 1)),
        (torch.zeros(2, 3, 5, 4), (2, 2)),
        (torch.zeros(2, 3, 6, 6), (3, 2)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), (2, 2)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float16), (2, 2)),
        (torch.zeros(2, block._MOST_CHANNELS + 1, 2, 2), (2, 2)),
        (torch.zeros(2, 3, 4, 4, device="meta"), (2, 2)),
    ],
    ids=str,
)
def test_the_rest_is_left_to_torch(maps: Tensor, pool: tuple[int, int]) -> None:
    assert not fused(maps.requires_grad_(), pool)


@needs_compiler
@pytest.mark.parametrize("alive", [None, [0, 3, 4]])
def test_a_norm_trains_alike_with_and_without_it(
    alive: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = None if alive is None else torch.tensor(alive)
    maps, *_ = drawn(2, (4, 6 if alive is None else 3, 4, 8))
    found = []
    for own in (True, False):
        norm = FixedScaleNorm(6)
        with torch.no_grad():
            norm.bias.copy_(torch.linspace(-1, 1, 6))
        if not own:
            monkeypatch.setattr(network, "fused", lambda *_: False)
        leaf = maps.clone().requires_grad_()
        out = norm.pooled(leaf, (2, 2), chosen)
        (out**2).sum().backward()
        found.append((out, norm.running_mean, norm.running_var, leaf.grad, norm.bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def first_layer(channels: int = 5, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(1, channels, 3, padding=1, bias=False, **options)


@needs_compiler
@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 41), st.integers(1, 4),
    st.integers(1, 5),
)  # fmt: skip
def test_the_first_layer_is_that_of_float64(
    seed: int, images: int, channels: int, height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(images, 1, 2 * height, 2 * width, generator=generator)
    conv = first_layer(channels)
    if images * height * width == 1:
        assert not fused_first(x, conv, (2, 2))
        return
    assert fused_first(x, conv, (2, 2))
    weight = torch.randn(channels, 1, 3, 3, generator=generator).requires_grad_()
    _, scale, bias, toward = drawn(seed, (images, channels, height, width))
    bias.requires_grad_()
    found = first_pool_norm_relu(x, weight, scale, bias, 1e-5)
    (found.maps * toward).sum().backward()

    wide, offset = (t.detach().double().requires_grad_() for t in (weight, bias))
    maps = F.conv2d(x.double(), wide, padding=1)
    expected = by_torch(maps, (2, 2), scale.double(), offset)
    (expected * toward).sum().backward()
    pooled = F.max_pool2d(maps.detach(), (2, 2))
    # Where a channel hardly varies, x - mean and the variance lose the digits float32 has not.
    spread = pooled.std((0, 2, 3)).amin().clamp(min=1e-6).item()
    near = {"rtol": 0.0, "atol": 5e-5 / min(spread, 1) ** 2}
    assert found.maps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.maps.double(), expected, **near)
    torch.testing.assert_close(found.mean.double(), pooled.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.var.double(), pooled.var((0, 2, 3)), rtol=1e-4, atol=5e-5)
    blocks = maps.detach().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).sort(-1).values
    tied = (blocks[..., -1] - blocks[..., -2] < 1e-5).any()
    brink = (expected.detach().abs() < 1e-4).logical_xor(expected.detach() == 0).any()
    if tied or brink or spread < 0.3:
        return  # float32 may choose another entry, fall to the other side of the ReLU, or lose all
    near["atol"] *= 9 / min(spread, 1)
    assert weight.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(weight.grad.double(), wide.grad, **near)
    torch.testing.assert_close(bias.grad.double(), offset.grad, **near)


@needs_compiler
def test_in_the_first_layer_the_first_of_equal_entries_gets_the_gradient() -> None:
    """With a kernel of its centre alone the maps are the image; all of it is equal."""
    image = torch.ones(1, 1, 4, 4)
    image[0, 0, 0, 0] = 3.0  # or the variance is 0
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    weight.requires_grad_()
    out = first_pool_norm_relu(image, weight, torch.ones(1), 9 * torch.ones(1), 1e-5).maps
    out[0, 0, 1, 1].backward()
    maps = F.conv2d(image, weight.detach(), padding=1).requires_grad_()
    by_blocks = pool_norm_relu(maps, (2, 2), torch.ones(1), 9 * torch.ones(1), 1e-5).maps
    by_blocks[0, 0, 1, 1].backward()
    expected = F.conv2d(F.pad(image, (1, 1, 1, 1)), maps.grad)
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=1e-5)


@needs_compiler
def test_a_nan_in_an_image_comes_through() -> None:
    images = torch.rand(2, 1, 8, 8)
    images[0, 0, 3, 3] = float("nan")
    bias = torch.zeros(3, requires_grad=True)
    out = first_pool_norm_relu(images, torch.randn(3, 1, 3, 3), torch.ones(3), bias, 1e-5).maps
    assert out.isnan().any()


class Own(nn.Conv2d):
    """A convolution that may do anything."""


def hooked() -> nn.Conv2d:
    conv = first_layer()
    conv.register_forward_hook(lambda *_: None)
    return conv


def watched() -> nn.Conv2d:
    conv = first_layer()
    conv.register_full_backward_hook(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    ("images", "conv", "pool"),
    [
        (torch.zeros(2, 1, 8, 8), first_layer(), (1, 2)),
        (torch.zeros(2, 1, 7, 8), first_layer(), (2, 2)),
        (torch.zeros(2, 1, 8, 8).double(), first_layer().double(), (2, 2)),
        (torch.zeros(2, 1, 8, 8, requires_grad=True), first_layer(), (2, 2)),
        (torch.zeros(2, 1, 8, 8), first_layer(padding_mode="reflect"), (2, 2)),
        (torch.zeros(2, 1, 8, 8), first_layer(stride=2), (2, 2)),
        (torch.zeros(2, 1, 8, 8), nn.Conv2d(1, 5, 5, padding=2, bias=False), (2, 2)),
        (torch.zeros(2, 1, 8, 8), nn.Conv2d(1, 5, 3, padding=1), (2, 2)),
        (torch.zeros(2, 1, 8, 8), Own(1, 5, 3, padding=1, bias=False), (2, 2)),
        (torch.zeros(2, 1, 8, 8), first_layer().requires_grad_(False), (2, 2)),
        (torch.zeros(2, 1, 8, 8), hooked(), (2, 2)),
        (torch.zeros(2, 1, 8, 8), watched(), (2, 2)),
        (torch.zeros(2, 3, 8, 8), first_layer(), (2, 2)),
        (torch.zeros(1, 8, 8), first_layer(), (2, 2)),
        (torch.zeros(2, 1, 8, 8), first_layer(block._MOST_CHANNELS + 1), (2, 2)),
    ],
)
def test_other_first_layers_are_left_to_torch(
    images: Tensor, conv: nn.Conv2d, pool: tuple[int, int]
) -> None:
    assert not fused_first(images, conv, pool)


@needs_compiler
def test_the_first_layer_is_left_to_torch_without_gradients() -> None:
    images, conv = torch.zeros(2, 1, 8, 8), first_layer()
    assert fused_first(images, conv, (2, 2))
    with torch.no_grad():
        assert not fused_first(images, conv, (2, 2))


@needs_compiler
def test_images_may_not_change_before_the_way_back() -> None:
    images, weight = torch.rand(2, 1, 8, 8), torch.randn(3, 1, 3, 3, requires_grad=True)
    out = first_pool_norm_relu(images, weight, torch.ones(3), torch.zeros(3), 1e-5).maps
    images.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_does_not_matter(dtype: torch.dtype) -> None:
    images, weight = torch.rand(2, 1, 8, 8), torch.randn(20, 1, 3, 3)
    found = []
    for default in (torch.float32, dtype):
        leaf = weight.clone().requires_grad_()
        torch.set_default_dtype(default)
        try:
            ones, zeros = (torch.full((20,), x, dtype=torch.float32) for x in (1.0, 0.0))
            out = first_pool_norm_relu(images, leaf, ones, zeros, 1e-5).maps
            out.sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        found.append((out, leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@needs_compiler
def test_a_whole_batch_is_that_of_float64() -> None:
    """Of the size of training, where no channel is nearly constant and few entries nearly tie."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 32, 64, generator=generator)
    weight = torch.randn(27, 1, 3, 3, generator=generator).requires_grad_()
    _, scale, bias, toward = drawn(1, (6, 27, 16, 32))
    bias.requires_grad_()
    (first_pool_norm_relu(x, weight, scale, bias, 1e-5).maps * toward).sum().backward()
    wide, offset = (t.detach().double().requires_grad_() for t in (weight, bias))
    out = by_torch(F.conv2d(x.double(), wide, padding=1), (2, 2), scale.double(), offset)
    (out * toward).sum().backward()
    for found, expected in ((weight.grad, wide.grad), (bias.grad, offset.grad)):
        assert found is not None
        error = (found.double() - expected).norm() / expected.norm()
        assert error < 1e-4


@needs_compiler
def test_a_network_trains_alike_with_and_without_its_own_first_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for own in (True, False):
        torch.manual_seed(0)
        net = TremorNet((16, 8, 8), size=(16, 32))
        if not own:
            monkeypatch.setattr(network, "fused_first", lambda *_: False)
        (net(torch.rand(6, 1, 32, 64)) ** 2).sum().backward()
        found.append([p.grad for p in net.parameters()] + list(net.buffers()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_without_a_compiler_a_network_trains_all_the_same() -> None:
    script = (
        "import torch\n"
        "from rvsm.handwriting.network import TremorNet\n"
        "torch.manual_seed(0)\n"
        "net = TremorNet((4, 8, 8))\n"
        "images = torch.rand(3, 1, 64, 256)\n"
        "loss = net(images).square().sum()\n"
        "loss.backward()\n"
        "print(loss.item(), net.conv1.weight.grad.abs().sum().item())\n"
    )
    told = []
    for compiler in ("", "/nowhere/cc"):
        environment = {k: v for k, v in os.environ.items() if k != "CC"}
        if compiler:
            environment["CC"] = compiler
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        told.append([float(word) for word in done.stdout.split()])
    assert told[0] == pytest.approx(told[1], rel=1e-2)


def test_a_network_is_compiled_by_torch_without_it() -> None:
    net = TremorNet((2, 4, 4), size=(8, 16))
    exported = torch.export.export(net.train(), (torch.rand(3, 1, 8, 16),))
    assert "batch_norm" in str(exported.graph)
