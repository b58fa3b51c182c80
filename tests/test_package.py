"""The package as published: metadata, contents, and a life without the checkout."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

import rvsm

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_metadata() -> None:
    told = metadata("rvsm")
    assert told["Version"] == rvsm.__version__ == PROJECT["version"]
    assert told["License-Expression"] == "Apache-2.0"
    assert f"version: {rvsm.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {rvsm.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    base = {need.split(">")[0] for need in requires("rvsm") or () if "extra ==" not in need}
    assert base == {"numpy", "rich", "safetensors", "torch", "typer"}


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert not [line for line in lines if "==" not in line or "+" in line]
    needs = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        needs += [need for need in extra if not need.startswith("rvsm")]
    for need in needs:
        assert need.split(">")[0].lower().replace("_", "-") in pinned, need


def test_importing_rvsm_is_light() -> None:
    """`import rvsm` loads no torch; its optimizer nothing of the application."""
    code = (
        "import sys, rvsm\n"
        "assert 'torch' not in sys.modules\n"
        "rvsm.RVSM, rvsm.Rule\n"
        "import rvsm.penalties, rvsm.groups\n"
        "heavy = {'lightning', 'matplotlib', 'pandas', 'PIL', 'skimage', 'sklearn', 'scipy',\n"
        "         'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_application_asks_for_it(tmp_path: Path) -> None:
    """With the modules of the extra hidden, its commands say what to install.

    Not pydantic: typer looks for it, and stumbles over one that is hidden this way.
    """
    hide = (
        "import sys\n"
        "for name in ('lightning', 'PIL', 'matplotlib', 'pandas', 'skimage', 'sklearn', 'scipy',\n"
        "             'jinja2', 'tomli_w', 'HersheyFonts', 'tensorboard'):\n"
        "    sys.modules[name] = None\n"
        "from rvsm.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    for command in (
        ["train", str(tmp_path)],
        ["data", "make", str(tmp_path / "data")],
        ["predict", str(tmp_path), str(tmp_path)],
        ["report", str(tmp_path)],
    ):
        done = subprocess.run(
            [sys.executable, "-c", hide, *command], capture_output=True, text=True
        )
        assert done.returncode == 1, (command, done.stderr)
        assert "pip install 'rvsm[handwriting]'" in done.stderr, (command, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_contents_of_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "rvsm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    assert {"rvsm/py.typed", "rvsm/experiments/report/template.html.j2"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if not name.startswith(("rvsm/", "rvsm-"))]


@pytest.mark.slow
def test_installed_alone_it_works(wheel: Path, tmp_path: Path) -> None:
    """A bare environment with the wheel: the base commands work, far from the checkout.

    The dependencies are those of this environment, seen through a path file: installing them
    again would test pip.
    """
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    script = "import sys; from rvsm.cli import main; main(sys.argv[1:])"
    here = Path(next(p for p in sys.path if p.endswith("site-packages")))
    for entry in here.iterdir():
        if not entry.name.startswith(("rvsm", "_rvsm", "__editable__")) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(home / "bin" / "python"), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    where = run("-c", "import rvsm; print(rvsm.__file__)")
    assert where.stdout.startswith(str(home)), where.stderr
    assert f"rvsm {rvsm.__version__}" in run("-c", script, "--version").stdout
    make = (
        "import rvsm, torch; from rvsm.penalties import L0;"
        "m = torch.nn.Linear(30, 30);"
        "o = rvsm.RVSM(torch.optim.SGD(m.named_parameters(), lr=.1),"
        " [rvsm.Rule('weight', L0(), sparsity=.9, beta=.1)]);"
        "m(torch.ones(1, 30)).sum().backward(); o.step(); o.finalize();"
        "rvsm.save(m, 'm.safetensors')"
    )
    made = run("-c", make)
    assert made.returncode == 0, made.stderr
    shown = run("-c", script, "inspect", "m.safetensors")
    assert "30x30" in shown.stdout, shown.stderr
    counts = [
        word
        for split in ("train", "val", "test-paper", "test-unseen", "curve")
        for word in ("--count", f"{split}=40")
    ]
    data = run("-c", script, "data", "make", "data", *counts)
    assert data.returncode == 0, data.stderr
    trained = run("-c", script, "train", "data", "--out", "run", "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    reported = run("-c", script, "report", "run")
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
