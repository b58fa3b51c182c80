"""What the documents say works: Python runs, commands and options exist, links lead somewhere."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from rvsm.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\$ (rvsm .*)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")  # Lightning's own use of a torch internal
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    for line in COMMAND.findall(page.read_text("utf-8")):
        check_command(shlex.split(line)[1:])


def check_command(words: list[str]) -> None:
    """Raise unless the command and its options exist; paths in the line need not."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in options, (command.name, word)


def test_examples_of_the_help_texts_exist() -> None:
    runner = CliRunner()

    def helps(command: object, path: list[str]) -> None:
        text = runner.invoke(app, [*path, "--help"]).output
        assert "rvsm " in text
        for line in re.findall(r"^\s+rvsm (.+)$", text, re.MULTILINE):
            check_command(line.split())
        for name, inner in getattr(command, "commands", {}).items():
            helps(inner, [*path, name])

    helps(typer.main.get_command(app), [])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_toml_and_links(page: Path) -> None:
    from rvsm.experiments.config import make_config

    for block in blocks(page, "toml"):
        make_config({"data": "data"} | tomllib.loads(block))
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize(
    ("channels", "size"), [((12, 24, 24), (32, 128)), ((8, 16, 16), (64, 256))]
)
def test_table_of_layers(channels: tuple[int, int, int], size: tuple[int, int]) -> None:
    from rvsm.handwriting.network import TremorNet, layer_table

    text = (ROOT / "docs" / "network.md").read_text("utf-8")
    for row in layer_table(TremorNet(channels, size=size)):
        output = " x ".join(map(str, row.output))
        line = f"| {row.name} | {row.kind} | {output} | {row.weights:,} | {row.biases} |"
        assert line in text


def test_table_of_batch_norm() -> None:
    import json

    found = json.loads((ROOT / "benchmarks" / "batchnorm" / "results.json").read_text("utf-8"))
    text = (ROOT / "docs" / "optimizer.md").read_text("utf-8")
    for zeros, row in found["results"].items():
        measures = (row[key] for key in ("at_w", "at_u", "at_u_recalibrated"))
        cells = [f"{100 * m['mean']:.1f} +- {100 * m['std']:.1f}" for m in measures]
        assert f"| {100 * float(zeros):.0f} % | {' | '.join(cells)} |" in text


def test_results_in_the_readme_are_those_of_a_run() -> None:
    import json

    folder = ROOT / "benchmarks" / "reproduce"
    rewrite = runpy.run_path(str(folder / "readme.py"))["rewrite"]
    text = (ROOT / "README.md").read_text("utf-8")
    results = json.loads((folder / "quick.json").read_text("utf-8"))
    assert rewrite(text, results, "benchmarks/reproduce/quick.json") == text
    before, _, after = text.partition("<!-- table -->")
    numbers = re.compile(r"\d\d,\d{3}|\d\d\.\d+ ?%?")
    outside = before + after.partition("<!-- end of table -->")[2]
    assert not numbers.findall(re.sub(r"```.*?```|\S+://\S+|arXiv \S+", "", outside, flags=re.S))


def test_example_of_any_model() -> None:
    found = runpy.run_path(str(ROOT / "examples" / "digits.py"))["main"](epochs=4)
    assert abs(found["zeros"] - 0.9) < 0.01
    assert found["sparse"] > 0.7
