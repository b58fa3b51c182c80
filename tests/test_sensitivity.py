"""`rvsm.sensitivity` against a hand loop, what it leaves behind, and the pictures."""

import json
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import rvsm
from rvsm.accounting import Report
from rvsm.accounting.picture import MOST_LAYERS, shortened
from rvsm.errors import RvsmError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[2].weight[:, :7] = -0.0  # 21 of 30 are zero, and must come back with their sign
    return model


def score(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1, 1, 24).view(4, 6)).square().mean()


def bits(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone().view(torch.int32) for p in model.parameters()]


def by_hand(weight: Tensor, zeros: int) -> Tensor:
    order = sorted(range(weight.numel()), key=lambda i: abs(float(weight.flatten()[i])))
    pruned = weight.detach().clone().flatten()
    pruned[order[:zeros]] = 0
    return pruned.view(weight.shape)


def test_agrees_with_a_hand_loop_and_restores_every_bit() -> None:
    model = network()
    before = bits(model)
    found = rvsm.sensitivity(model, score, sparsities=(0.9, 0.5, 0.7, 1), progress=False)
    assert all(torch.equal(x, y) for x, y in zip(before, bits(model), strict=True))
    first, second = found.layers
    assert first.zeros == (0, 30, 42, 54, 60)
    assert second.zeros == (21, 27, 30)  # it has 70 % already
    assert second.sparsities == (0.7, 0.9, 1.0)
    assert found.score == first.scores[0] == second.scores[0]
    for index, curve in ((0, first), (2, second)):
        for zeros, told in zip(curve.zeros[1:], curve.scores[1:], strict=True):
            other = network()
            with torch.no_grad():
                other[index].weight.copy_(by_hand(other[index].weight, zeros))
            assert int((other[index].weight == 0).sum()) == zeros
            assert told == float(score(other).detach())


def test_ties_go_by_position() -> None:
    layer = nn.Linear(5, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    seen = []

    def look(model: nn.Module) -> float:
        seen.append(layer.weight.detach().clone())
        return 0.0

    rvsm.sensitivity(layer, look, sparsities=[0.3], progress=False)
    assert seen[1].flatten().tolist() == [0.0] * 3 + [-1.0] * 7


def test_restores_when_evaluate_raises() -> None:
    model = network()
    before = bits(model)
    calls = iter(range(3))

    def fails(model: nn.Module) -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        rvsm.sensitivity(model, fails, progress=False)
    assert all(torch.equal(x, y) for x, y in zip(before, bits(model), strict=True))


def test_patterns_progress_and_bad_input() -> None:
    model = network()
    told: list[tuple[int, int]] = []
    found = rvsm.sensitivity(
        model, score, sparsities=[0.5, 0.8], layers=["2.*"], progress=lambda *x: told.append(x)
    )
    assert [layer.name for layer in found.layers] == ["2.weight", "2.bias"]
    assert told == [(1, 3), (2, 3), (3, 3)]  # of three biases both shares are two
    with pytest.raises(RvsmError, match=r"'fc\.\*' matches no parameter"):
        rvsm.sensitivity(model, score, layers=["fc.*"])
    with pytest.raises(RvsmError, match="from 0 to 1"):
        rvsm.sensitivity(model, score, sparsities=[90])
    with pytest.raises(RvsmError, match="not a number"):
        rvsm.sensitivity(model, lambda model: "good")  # type: ignore[arg-type,return-value]


def test_bearable_table_and_numbers() -> None:
    model = network()
    scores = iter([0.9, 0.9, 0.895, 0.7, 0.895, 0.85])
    found = rvsm.sensitivity(
        model, lambda model: next(scores), sparsities=[0.5, 0.8, 0.9], progress=False
    )
    assert found.bearable() == {"0.weight": 0.8, "2.weight": 0.8}
    assert found.bearable(drop=0.06) == {"0.weight": 0.8, "2.weight": 0.9}
    assert json.loads(json.dumps(found.to_dict()))["layers"][1] == {
        "name": "2.weight",
        "weights": 30,
        "zeros": [21, 24, 27],
        "scores": [0.9, 0.895, 0.85],
        "sparsities": [0.7, 0.8, 0.9],
    }
    assert "70.0%" in str(found)
    narrow = Console(width=80, color_system=None)
    with narrow.capture() as capture:
        narrow.print(found)
    assert "0.895" in capture.get()
    assert max(map(len, capture.get().splitlines())) <= 80


def pixels(path: Path) -> tuple[int, ...]:
    picture = matplotlib.image.imread(path)
    assert picture[..., :3].std() > 0.01
    return tuple(picture.shape)


def test_pictures(tmp_path: Path) -> None:
    model = network()
    account = rvsm.report(model, torch.randn(3, 6))
    found = rvsm.sensitivity(model, score, sparsities=[0.5, 1.0], progress=False)
    account.plot(tmp_path / "report.png")
    account.plot(tmp_path / "both.png", found)
    found.plot(tmp_path / "curves.png")
    assert pixels(tmp_path / "both.png")[0] > pixels(tmp_path / "report.png")[0]
    pixels(tmp_path / "curves.png")
    account.plot(str(tmp_path / "report.svg"))
    assert "Multiply-adds" in (tmp_path / "report.svg").read_text("utf-8")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("shapes", [[], [()], [(4,)], [(0, 3)], [(3, 3)] * (MOST_LAYERS + 1)])
def test_pictures_of_odd_models(shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    account = rvsm.report({f"layer{i}.weight": torch.ones(s) for i, s in enumerate(shapes)})
    account.plot(tmp_path / "report.png")
    pixels(tmp_path / "report.png")


def test_pictures_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Report(())
    with pytest.raises(RvsmError, match=r"\.png"):
        account.plot(tmp_path / "report.txt")
    with pytest.raises(RvsmError, match="no such file or folder"):
        account.plot(tmp_path / "absent" / "report.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RvsmError, match="pip install matplotlib"):
        account.plot(tmp_path / "report.png")
    assert list(tmp_path.iterdir()) == []


def test_long_names_are_shortened_in_the_middle() -> None:
    assert shortened("fc.weight") == "fc"
    long = shortened("encoder.layers.11.self_attention.in_proj.weight")
    assert len(long) <= 28
    assert long.startswith("encoder")
    assert long.endswith("in_proj")


def test_tables_fit_eighty_columns() -> None:
    model = nn.Sequential(nn.Conv2d(3, 128, 3), nn.Conv2d(128, 256, 3), nn.Flatten())
    account = rvsm.report(model, torch.randn(2, 3, 40, 40))
    for width in (60, 80, 200):
        console = Console(width=width, color_system=None)
        with console.capture() as capture:
            console.print(account)
        text = capture.get()
        assert max(map(len, text.splitlines())) <= width
        if width >= 80:
            assert "…" not in text
        assert "dead units" in " ".join(text.split()) or width < 80
