"""`rvsm export --format onnx` and `--format c`: from a run and from a described network."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import rvsm
from commandline import Run, make_folder
from networks import network
from rvsm.deploy.compiler.export import export_c
from rvsm.deploy.network import load_network
from rvsm.deploy.tracing import trace
from rvsm.errors import CompilerError, FileFormatError, RvsmError
from rvsm.experiments.config import dump_config, make_config
from rvsm.experiments.runs import load_run, make_network

MAIN = """
#include <stdio.h>
#include "{name}.h"

static char workspace[{upper}_WORKSPACE_BYTES];
static float in[{upper}_INPUTS * {n}], out[{upper}_OUTPUTS * {n}];

int main(void)
{{
    if (fread(in, sizeof in, 1, stdin) != 1) return 1;
    {name}_init(workspace);
    {name}_run(in, out, {n}, workspace);
    return fwrite(out, sizeof out, 1, stdout) != 1;
}}
"""


def test_a_run_as_c_and_as_onnx(run: Run, tmp_path: Path) -> None:
    data, folder = make_folder(tmp_path / "data"), tmp_path / "run"
    assert run("train", data, "--out", folder, "--epochs", 1, "--method", "dense").code == 0
    done = run("export", folder, "--format", "c", "--out", tmp_path / "my-net.c")
    assert done.code == 0, done.err
    assert "functions my_net_*" in done.out
    main = tmp_path / "main.c"
    main.write_text(MAIN.format(name="my_net", upper="MY_NET", n=3).replace("my_net.h", "my-net.h"))
    program = tmp_path / "program"
    files = [str(main), str(tmp_path / "my-net.c")]
    subprocess.run(["cc", "-O1", *files, "-o", str(program), "-lm"], check=True)
    images = torch.rand(3, 1, 64, 256)
    answer = subprocess.run([str(program)], input=images.numpy().tobytes(), capture_output=True)
    assert answer.returncode == 0
    _, net = load_run(folder)
    with torch.no_grad():
        wanted = net(images).numpy()
    got = np.frombuffer(answer.stdout, dtype=np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)

    told = json.loads(run("export", folder, "--format", "onnx", "--json").out)
    assert told["path"] == str(folder / "export.onnx")
    assert told["difference"] < 1e-4 * max(1, told["scale"])


def test_a_described_network_as_c(run: Run, tmp_path: Path) -> None:
    model, example = network("resnet")
    path = tmp_path / "net.safetensors"
    rvsm.save(trace(model, example), path)
    rebuilt = load_network(path)
    with torch.no_grad():
        assert torch.equal(rebuilt(example), model(example))
    told = json.loads(run("export", path, "--format", "c", "--json").out)
    assert told["path"] == str(tmp_path / "net-export.c")
    assert told["name"] == "net_export"
    assert told["weights"] == sum(p.numel() for p in model.parameters())
    assert (tmp_path / "net-export.h").exists()
    single = json.loads(run("export", path, "--format", "c", "--single", "--tune", "--json").out)
    assert single["bytes"] < 0.7 * told["bytes"]
    assert single["workspace_bytes"] < 0.2 * told["workspace_bytes"]


def test_what_is_said_of_a_c_file_is_true(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.Tanh())
    told = export_c(model, torch.randn(1, 2, 9), tmp_path / "my net-2.c")
    assert (told.input_shape, told.output_shape) == ((2, 9), (3, 7))
    for text in (told.path.read_text(), told.header.read_text()):
        (plain,) = [line for line in text.splitlines() if "for any machine" in line]
        command = plain.removeprefix(" *").partition("for any")[0].replace("-O3", "-O0")
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)


def test_a_c_file_that_fails_leaves_no_header(tmp_path: Path) -> None:
    (tmp_path / "net.c").mkdir()
    with pytest.raises(RvsmError, match="it is a folder"):
        export_c(*network("mlp"), tmp_path / "net.c")
    assert [path.name for path in tmp_path.iterdir()] == ["net.c"]
    (tmp_path / "net.c").rmdir()
    (tmp_path / "net.h").mkdir()
    with pytest.raises(RvsmError, match="it is a folder"):
        export_c(*network("mlp"), tmp_path / "net.c")
    assert [path.name for path in tmp_path.iterdir()] == ["net.h"]


@pytest.mark.parametrize(("size", "taken"), [((128, 128), 256), ((256, 256), 256), ((64, 64), 64)])
def test_a_run_of_drawings_takes_drawings(
    run: Run, tmp_path: Path, size: tuple[int, int], taken: int
) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    for made in (data, folder):
        made.mkdir()
    (data / "dataset.json").write_text('{"task": "spiral"}')
    config = make_config({"data": str(data), "network": {"channels": [2, 2, 2], "size": size}})
    net = make_network(config).folded().eval()
    (folder / "config.toml").write_text(dump_config(config))
    rvsm.save(net, folder / "model.safetensors")
    assert run("export", folder, "--format", "c").code == 0
    assert f"Input: 1 x {taken} x {taken};" in (folder / "export.c").read_text()
    assert run("shrink", folder, "--out", tmp_path / "small").code == 0
    images = torch.rand(2, 1, taken, taken)
    with torch.no_grad():
        torch.testing.assert_close(rvsm.load_network(tmp_path / "small")(images), net(images))


def test_tensors_alone_are_no_network(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    rvsm.save({"weight": torch.ones(3, 3)}, path)
    with pytest.raises(FileFormatError, match="not the layers"):
        load_network(path)
    for form in ("c", "onnx"):
        failed = run("export", path, "--format", form)
        assert failed.code != 0
        assert "not the layers that use them" in failed.err
        assert "Traceback" not in failed.err
    assert [file.name for file in tmp_path.iterdir()] == ["tensors.safetensors"]


def test_wrong_usage(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "belong to safetensors" in run("export", tmp_path, "--format", "c", "--zstd").err
    assert "belong to c" in run("export", tmp_path, "--format", "onnx", "--single").err
    model, example = network("mlp")
    with pytest.raises(RvsmError, match=r"let it end in \.c"):
        export_c(model, example, tmp_path / "net.cpp")
    with pytest.raises(RvsmError, match="no such file or folder"):
        export_c(model, example, tmp_path / "absent" / "net.c")
    with monkeypatch.context() as changed:
        changed.setenv("CC", "no-such-compiler")
        with pytest.raises(CompilerError, match="to time with"):
            export_c(model, example, tmp_path / "net.c", tune=True)
    assert not list(tmp_path.iterdir())
    assert export_c(model, example, tmp_path / "1.c").name == "network_1"
