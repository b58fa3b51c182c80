"""ONNX files compute what the model does, or are not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm.deploy.onnx import OnnxAccount, export_onnx
from rvsm.deploy.onnx_checks import _gap
from rvsm.errors import RvsmError
from rvsm.handwriting.network import TremorNet

pytest.importorskip("onnxscript", reason="needs rvsm[onnx]")
onnx = pytest.importorskip("onnx", reason="needs rvsm[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs rvsm[onnx]")


class Residual(nn.Module):
    """Two convolutions with batch norm and a short cut, which has its own where sizes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.short(x))


class Mobile(nn.Module):
    """Depthwise convolution, LeakyReLU, concatenation, adaptive pooling to more than one place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(20 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = F.relu6(self.stem(x))
        inner = self.point(F.leaky_relu(self.norm(self.depth(stem)), 0.1))
        pooled = F.adaptive_avg_pool2d(torch.cat([stem, inner], 1), 2)
        return F.softmax(self.head(pooled.flatten(1)), 1)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.ReLU(), nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def tremor() -> nn.Module:
    return TremorNet((4, 6, 8), size=(16, 32))


def trained(model: nn.Module, *shape: int, zeros: float = 0.8) -> nn.Module:
    """Give a model zeros, and batch norm statistics and scales that are not those of the start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > zeros)
            else:
                parameter.add_(torch.rand_like(parameter) if "norm" in name else 0)
        model.train()
        for _ in range(3):
            model(torch.rand(8, *shape))
    return model.eval()


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("build", "shape", "operators"),
    [
        (tremor, (1, 32, 64), {"AveragePool", "MaxPool", "BatchNormalization"}),
        (lenet, (1, 28, 28), {"MaxPool"}),
        (resnet, (3, 16, 16), {"Add"}),
        (Mobile, (3, 16, 16), {"Concat", "Softmax"}),
    ],
)
def test_outputs_are_those_of_the_model(build, shape, operators, tmp_path: Path) -> None:
    model = trained(build(), *shape)
    path = tmp_path / "model.onnx"
    account = export_onnx(model, torch.rand(1, *shape), path)
    assert account.path == path
    assert account.size == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert operators <= set(account.operators)
    # Batch norm right after a convolution is folded into it; after a pooling it cannot be.
    assert ("BatchNormalization" in account.operators) == (build is tremor)
    assert account.inputs == {"input": ("batch", *shape)}
    assert list(account.outputs) == ["output"]
    assert account.batches == (1, 5)
    for batch in (1, 5, 2):
        images = torch.rand(batch, *shape)
        expected = model(images).detach().numpy()
        (found,) = run(path, images)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_openvino_reads_the_file(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino, which rvsm[dev] brings")
    model = trained(resnet(), 3, 16, 16)
    export_onnx(model, torch.rand(1, 3, 16, 16), tmp_path / "model.onnx", check=False)
    images = torch.rand(5, 3, 16, 16)
    # Not the half precision it may choose by itself.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(tmp_path / "model.onnx", "CPU", config)
    (found,) = compiled(images.numpy()).values()
    torch.testing.assert_close(torch.as_tensor(found), model(images).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("fold", [False, True])
def test_a_simplified_network_keeps_only_what_is_read(fold: bool, tmp_path: Path) -> None:
    """Channels that nothing reads are gone from the last layers of the file, at any size."""
    net = TremorNet((4, 6, 80), size=(32, 64))
    assert net.fc.weight.numel() > 8192  # more than the exporter folds by itself
    trained(net, 1, 32, 64, zeros=0.5)
    with torch.no_grad():
        net.fc.weight.view(2, 80, -1)[:, ::2] = 0
    whole = export_onnx(net, torch.zeros(1, 1, 64, 128), tmp_path / "whole.onnx")
    images = torch.rand(5, 1, 64, 128)
    before = net(images).diff(dim=1)
    net.simplify()
    net = net.folded() if fold else net
    path = tmp_path / "simplified.onnx"
    account = export_onnx(net, torch.zeros(1, 1, 64, 128), path)
    if not fold:
        assert account.size < 0.6 * whole.size
        assert "Gather" not in account.operators
    (found,) = run(path, images)
    expected = net(images).detach()
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.as_tensor(found).diff(dim=1), before, rtol=1e-4, atol=1e-4)


def test_the_file_is_reproducible_and_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    model = lenet()
    digests = set()
    for name in ("first", "second"):
        path = tmp_path / f"{name}.onnx"
        export_onnx(model, torch.rand(2, 1, 28, 28), path, check=False)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert b".py" not in path.read_bytes()
    assert b"pkg.torch" not in path.read_bytes()


def test_the_model_is_as_before(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    account = export_onnx(model, torch.rand(3, 4), tmp_path / "model.onnx")
    assert "Dropout" not in account.operators
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Two(nn.Module):
    def forward(self, words: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return words * weights, (words > 1).to(weights)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    example = (torch.arange(6).view(2, 3), torch.rand(2, 3))
    account = export_onnx(torch.compile(Two(), backend="eager"), example, path)
    assert account.inputs == {"input_0": ("batch", 3), "input_1": ("batch", 3)}
    assert list(account.outputs) == ["output_0", "output_1"]
    for ours, theirs in zip(Two()(*example), run(path, *example), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


class Sum(nn.Module):
    def forward(self, *terms: Tensor) -> Tensor:
        return terms[0] + 2 * terms[1]


def test_inputs_without_names(tmp_path: Path) -> None:
    path = tmp_path / "sum.onnx"
    example = (torch.rand(1, 3), torch.rand(1, 3))
    assert export_onnx(Sum(), example, path).inputs["input_1"] == ("batch", 3)
    np.testing.assert_allclose(run(path, *example)[0], Sum()(*example).numpy(), rtol=1e-6)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


def test_a_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    with pytest.raises(RvsmError, match="without a row for each input; pass dynamic_batch=False"):
        export_onnx(FixedBatch(), torch.rand(2, 3), path)
    account = export_onnx(FixedBatch(), torch.rand(2, 3), path, dynamic_batch=False)
    assert account.inputs == {"input": (2, 3)}
    assert account.outputs == {"output": (1, 6)}
    assert account.batches == (2,)


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x.view(-1, 2, 2)).real


class ByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class RowByRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([2 * x[row] for row in range(x.shape[0])])


class Diverged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


class Counted(nn.Module):
    """Computes what tracing cannot see: the number of its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "nothing"


def within(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Sequential(layer))


BAD = {
    "operation": (within(Eigenvalues()), r"aten\.linalg_eig\.default in 1\.0 \(Eigenvalues\); "),
    "by value": (within(ByValue()), r"Cannot trace 1\.0 \(ByValue\): .*; make what it computes"),
    "row by row": (within(RowByRow()), r"Constraints violated \(batch\); .*dynamic_batch=False"),
    "diverged": (within(Diverged()), r"outputs are all infinite or no numbers"),
    "differs": (within(Counted()), r"ONNX Runtime and PyTorch differ by [0-9.]+ where"),
    "no tensor": (within(Nothing()), r"returns str, and ONNX knows tensors alone"),
    "shape": (within(nn.Linear(5, 2)), r"does not take the example \(torch.float32 \(2, 4\)\): .* "
              r"in 1\.0 \(Linear\); give an example"),
    "integers": (within(nn.Embedding(3, 2)), r"does not take the example .* in 1\.0 \(Embedding\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("there", [False, True])
def test_a_bad_model_leaves_nothing(
    case: str, there: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, sentence = BAD[case]
    path = tmp_path / "model.onnx"
    if there:
        path.write_bytes(b"before")
    with pytest.raises(RvsmError, match=sentence) as caught:
        export_onnx(model, torch.rand(2, 4), path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"before"] * there
    assert model.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (None, "The example is a NoneType; give a tensor"),
        ((), "The example is empty; give a tensor"),
        ("x", "The example is a str; give a tensor"),
        ([3], "The example holds a int; give tensors alone"),
        (torch.rand(0, 4), r"The example of shape \(0, 4\) is empty"),
        ((torch.rand(2, 4), torch.rand(3, 4)), r"no common batch size \(shapes \(2, 4\), \(3, 4\)"),
        (torch.tensor(1.0), r"no common batch size \(shapes \(\)\)"),
    ],
)
def test_a_wrong_example(example: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RvsmError, match=sentence):
        export_onnx(nn.Linear(4, 4), example, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", [torch.relu, {"weight": torch.ones(1)}])
def test_what_is_no_module(model: object, tmp_path: Path) -> None:
    with pytest.raises(
        RvsmError, match=r"Cannot export a \w+: .*; give the torch.nn.Module itself"
    ):
        export_onnx(model, torch.rand(1, 4), tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", [7, 99])
def test_an_unknown_opset(opset: int, tmp_path: Path) -> None:
    with pytest.raises(RvsmError, match=f"{opset} was asked for; choose an opset from 18"):
        export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path / "model.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_another_opset(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    account = export_onnx(nn.Linear(4, 4), torch.rand(1, 4), path, opset=18)
    assert account.opset == 18
    assert onnx.load(path).opset_import[0].version == 18


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RvsmError, match=r"Cannot write .*no such file or folder"):
        export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path / "no" / "model.onnx", check=False)
    with pytest.raises(RvsmError, match="it is a folder"):
        export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path, check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_extra(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(missing, monkeypatch)
    with pytest.raises(RvsmError, match=rf"needs {missing}, .*: pip install 'rvsm\[onnx\]'"):
        export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_runtime_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("onnxruntime", monkeypatch)
    account = export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path / "model.onnx")
    assert account.difference is None
    assert account.batches == ()
    assert str(account).endswith("not compared with PyTorch")


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name)
    )


def test_half_precision(tmp_path: Path) -> None:
    """Compared by its own rounding; bfloat16 has no counterpart in NumPy."""
    account = export_onnx(nn.Linear(8, 4).half(), torch.rand(1, 8).half(), tmp_path / "half.onnx")
    assert account.difference is not None
    assert account.scale is not None
    assert account.difference <= 2e-2 * account.scale
    with pytest.raises(RvsmError, match=r"ONNX Runtime cannot run .*; export it in float32"):
        export_onnx(nn.Linear(8, 4).bfloat16(), torch.rand(1, 8).bfloat16(), tmp_path / "b.onnx")


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x < 0.5, -torch.inf)


def test_infinite_outputs_are_compared(tmp_path: Path) -> None:
    account = export_onnx(Masked(), torch.rand(2, 4), tmp_path / "model.onnx")
    assert account.difference == 0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_none_is_a_difference(wrong: float) -> None:
    right = torch.tensor([1.0, torch.nan, torch.inf])
    assert _gap(right, right.clone()) == 0
    assert _gap(right, torch.tensor([wrong, torch.nan, torch.inf])) == torch.inf
    assert _gap(torch.tensor([wrong]), torch.tensor([1.0])) == torch.inf


def test_the_account_in_words() -> None:
    account = OnnxAccount(Path("m.onnx"), 1234, 20, {}, {}, {}, (1, 5), 1.2e-7, 3.0)
    assert str(account) == (
        "m.onnx: 1,234 bytes, opset 20, outputs of ONNX Runtime at batch 1 and 5 differ by at "
        "most 1.2e-07 from PyTorch's (largest: 3)"
    )
