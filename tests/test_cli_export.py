"""`rvsm export`: from a run and from a file."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import rvsm
from commandline import Run, make_folder
from modelfiles import sparse
from rvsm.deploy.files import read_architecture, read_metadata


def test_from_a_run(run: Run, tmp_path: Path) -> None:
    data, folder = make_folder(tmp_path / "data"), tmp_path / "run"
    assert run("train", data, "--out", folder, "--epochs", 1, "--method", "dense").code == 0
    done = run("export", folder, "--values", "float16", "--zstd")
    assert done.code == 0, done.err
    assert "before" in done.out
    assert "as stored" in done.out
    small = folder / "export.safetensors"
    assert f"{small.stat().st_size:,} bytes" in done.out
    assert small.stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    exact = rvsm.load(folder / "model.safetensors")
    for name, tensor in rvsm.load(small).items():
        assert tensor.dtype == exact[name].dtype
        assert torch.allclose(tensor, exact[name], rtol=1e-3, atol=1e-6)
    assert read_metadata(small) == read_metadata(folder / "model.safetensors")
    image = torch.rand(1, 1, 32, 128)
    whole = rvsm.load_network(folder / "model.safetensors")
    torch.testing.assert_close(rvsm.load_network(small)(image), whole(image), rtol=0.01, atol=0.01)
    assert run("export", small, "--format", "c", "--out", tmp_path / "small.c").code == 0

    told = json.loads(run("export", folder, "--values", "codebook", "--json").out)
    assert 0 <= told["accuracy_before"] <= 1
    assert 0 <= told["accuracy_after"] <= 1
    assert json.loads(run("export", folder, "--json").out)["accuracy_before"] is None  # exact
    shutil.rmtree(data)
    gone = run("export", folder, "--values", "bfloat16", "--out", tmp_path / "f")
    assert gone.code == 0
    assert "The accuracy is not measured: " in gone.err
    assert (tmp_path / "f").exists()


def test_from_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"conv.weight": sparse(50, 50, zeros=0.5), "fc.weight": sparse(90, 90, zeros=0.9)}
    rvsm.save(tensors, path, {"note": "x"}, architecture={"type": "net"})
    told = json.loads(
        run(
            *("export", path, "--format", "safetensors", "--json"),
            *("--values", "*=float16", "--values", "fc*=codebook-16"),
        ).out
    )
    assert [row["values"] for row in told["tensors"]] == ["F16", "codebook of 16"]
    assert told["path"] == str(tmp_path / "model-export.safetensors")
    assert read_metadata(told["path"]) == {"note": "x"}
    assert read_architecture(told["path"]) == {"type": "net"}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--values", "fp16"], "'fp16' is not known: choose exact"),
        (["--values", "conv=float16"], "matches no tensor"),
        (["--out", "absent/f"], "no such file"),
    ],
)
def test_errors_are_one_sentence(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    cause: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rvsm.save({"fc": torch.ones(2, 2)}, "model")
    assert cause in run("export", "model", *options).sentence()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_wrong_usage(run: Run, tmp_path: Path) -> None:
    rvsm.save({"fc": torch.ones(2, 2)}, tmp_path / "f")
    mixed = run("export", tmp_path / "f", "--values", "float16", "--values", "fc=exact")
    assert mixed.code == 2
    assert run("export", tmp_path / "f", "--format", "gif").code == 2
    assert "no such file" in run("export", tmp_path / "absent").sentence()
