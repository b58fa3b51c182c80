"""What the documents say works: Python runs, commands and options exist, links lead somewhere."""

import dataclasses
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
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
    ("channels", "size"),
    [
        ((12, 24, 24), (32, 128)),
        ((8, 16, 16), (64, 256)),
        ((8, 24, 32), (32, 128)),
        ((16, 24, 192), (32, 128)),
    ],
)
def test_table_of_layers(channels: tuple[int, int, int], size: tuple[int, int]) -> None:
    from rvsm.handwriting.network import TremorNet, layer_table

    text = (ROOT / "docs" / "network.md").read_text("utf-8")
    rows = layer_table(TremorNet(channels, size=size))
    total = sum(row.weights for row in rows)
    lines = []
    for row in rows:
        output = " x ".join(map(str, row.output))
        cells = (row.name, row.kind, output, f"{row.weights:,}", row.biases)
        lines.append(f"| {' | '.join(map(str, cells))} | {row.weights / total:.1%} |")
    lines.append(f"| all | | | {total:,} | {sum(row.biases for row in rows)} | |")
    table = text.partition(f"`size = {list(size)}`, `channels = {list(channels)}`")[2]
    assert table.partition("|---|\n")[2].startswith("\n".join(lines) + "\n")


def test_the_networks_of_the_study_have_tables() -> None:
    from rvsm.experiments import recipes

    text = (ROOT / "docs" / "network.md").read_text("utf-8")
    for full, command in ((False, "make demo"), (True, "rvsm reproduce --full")):
        network = recipes.recipe("dense", full=full, data="data", seed=0).network
        assert network.size is None, "half the size of words"
        channels = list(network.channels)
        assert f"`size = [32, 128]`, `channels = {channels}` (`{command}`):" in text


def test_table_of_batch_norm() -> None:
    import json

    found = json.loads((ROOT / "benchmarks" / "batchnorm" / "results.json").read_text("utf-8"))
    text = (ROOT / "docs" / "optimizer.md").read_text("utf-8")
    for zeros, row in found["results"].items():
        measures = (row[key] for key in ("at_w", "at_u", "at_u_recalibrated"))
        cells = [f"{100 * m['mean']:.1f} +- {100 * m['std']:.1f}" for m in measures]
        assert f"| {100 * float(zeros):.0f} % | {' | '.join(cells)} |" in text


@pytest.fixture
def relatives(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the benchmark, whose scripts import each other."""
    folder = ROOT / "benchmarks" / "relatives"
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("tasks", "methods"):
        sys.modules.pop(name, None)


def test_tables_of_the_relatives(relatives: Path) -> None:
    run = runpy.run_path(str(relatives / "run.py"))
    found = run["Runs"](relatives / "results.json", only_read=True)
    rows = run["compare"](run["digits"](), found, seeds=3)
    assert run["table"](rows) in (ROOT / "docs" / "relatives.md").read_text("utf-8")
    ablation = runpy.run_path(str(relatives / "ablation.py"))
    found = ablation["Runs"](relatives / "ablation.json", only_read=True)
    assert ablation["tables"](found) in (ROOT / "docs" / "choosing.md").read_text("utf-8")


def test_benchmark_of_the_relatives(relatives: Path, tmp_path: Path) -> None:
    """Every method ends with the zeros asked for, a run that is there is not run again."""
    run = runpy.run_path(str(relatives / "run.py"))
    task = dataclasses.replace(run["digits"](), epochs=1)
    for method in run["METHODS"]:
        if method.name.startswith("torchao") and importlib.util.find_spec("torchao") is None:
            continue
        setting = (*method.settings, 0.01)[0]
        runs = run["Runs"](tmp_path / "results.json")
        (made,) = run["several"](task, runs, method, 0.9, setting, [0])
        # Too strong a lam leaves fewer; what a method zeroed never comes back.
        assert made["zeros"] == pytest.approx(max(made["own"], 0.9), abs=2e-4), method.name
        again = run["Runs"](tmp_path / "results.json")
        assert run["several"](task, again, method, 0.9, setting, [0]) == [made]
        assert again(f"{method.name} | 0.9 | {setting:g} | 0") == made  # nothing to train it with


def test_tables_of_keys() -> None:
    from rvsm.experiments.config import SECTIONS, TrainConfig

    _, _, listed = (ROOT / "docs" / "config.md").read_text("utf-8").partition("<!-- keys -->\n")
    assert CliRunner().invoke(app, ["train", "--keys"]).output == listed, "make keys"
    for model in (TrainConfig, *SECTIONS.values()):
        for name, field in model.model_fields.items():
            assert name in SECTIONS or (field.description or "").endswith("."), name
            assert name in SECTIONS or f"| `{name}` |" in listed, name
    assert set(SECTIONS) <= set(TrainConfig.model_fields)


def test_table_of_file_sizes() -> None:
    import json

    folder = ROOT / "benchmarks" / "files"
    results = json.loads((folder / "results.json").read_text("utf-8"))
    table = runpy.run_path(str(folder / "run.py"))["table"](results)
    assert table in (ROOT / "docs" / "file-format.md").read_text("utf-8")


def test_table_of_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    folder = ROOT / "benchmarks" / "inference"
    monkeypatch.syspath_prepend(folder)
    found = json.loads((folder / "networks.json").read_text("utf-8"))
    page = (ROOT / "docs" / "compiler.md").read_text("utf-8")
    assert runpy.run_path(str(folder / "networks.py"))["table"](found).strip() in page
    layers = json.loads((folder / "kernels.json").read_text("utf-8"))
    assert runpy.run_path(str(folder / "kernels.py"))["table"](layers) in page


def test_table_of_shrinking() -> None:
    import json

    folder = ROOT / "benchmarks" / "shrink"
    table = runpy.run_path(str(folder / "run.py"))["table"]
    found = json.loads((folder / "results.json").read_text("utf-8"))
    assert table(found) in (ROOT / "docs" / "shrink.md").read_text("utf-8")


def test_tables_of_words() -> None:
    import json

    from benchmarks.people import streaming, words_shown

    folder = ROOT / "benchmarks" / "people"
    found = json.loads((folder / "words.json").read_text("utf-8"))
    assert words_shown.table(found) in (ROOT / "docs" / "tremor.md").read_text("utf-8")
    found = json.loads((folder / "streaming.json").read_text("utf-8"))
    assert streaming.table(found) in (ROOT / "docs" / "scans.md").read_text("utf-8")


def test_the_file_of_recorded_tremor_is_as_its_page_says() -> None:
    from dataclasses import fields

    from rvsm.handwriting.recorded.library import VERSION, Tremor

    page = (ROOT / "docs" / "tremor.md").read_text("utf-8").partition("## The file")[2]
    assert f"`version` ({VERSION})" in page
    for field in fields(Tremor):
        assert f"`{field.name}`" in page


def test_results_in_the_readme_are_those_of_a_run() -> None:
    folder = ROOT / "benchmarks" / "reproduce"
    rewrite = runpy.run_path(str(folder / "readme.py"))["rewrite"]
    text = (ROOT / "README.md").read_text("utf-8")
    assert rewrite(text, folder / "quick") == text
    before, _, after = text.partition("<!-- table -->")
    numbers = re.compile(r"\d\d,\d{3}|\d\d\.\d+ ?%?")
    outside = before + after.partition("<!-- end of table -->")[2]
    assert not numbers.findall(re.sub(r"```.*?```|\S+://\S+|arXiv \S+", "", outside, flags=re.S))


def test_table_of_the_study() -> None:
    import json

    folder = ROOT / "benchmarks" / "reproduce"
    full_table = runpy.run_path(str(folder / "readme.py"))["full_table"]
    rows = json.loads((folder / "full" / "results.json").read_text("utf-8"))
    assert full_table(rows) in (ROOT / "docs" / "reproduce.md").read_text("utf-8")


def test_example_of_any_model() -> None:
    found = runpy.run_path(str(ROOT / "examples" / "digits.py"))["main"](epochs=4)
    assert abs(found["zeros"] - 0.9) < 0.01
    assert found["sparse"] > 0.7


def test_real_words_that_are_called_shaky() -> None:
    import json

    found = json.loads((ROOT / "benchmarks" / "people" / "streaming.json").read_text("utf-8"))
    scans = found["results"]["dhsd, scan"]
    share = round(100 * scans["answers"]["shaky"] / scans["files"])
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"one of them called {share} % shaky" in readme
    table = (ROOT / "docs" / "scans.md").read_text("utf-8")
    assert re.search(rf"^\| dhsd, scan \|.*\| {share} \|$", table, flags=re.M)


def test_tables_of_drawings_of_people() -> None:
    import json

    from benchmarks.people import nested

    folder = ROOT / "benchmarks" / "people"
    found = json.loads((folder / "drawings.json").read_text("utf-8"))
    run = runpy.run_path(str(folder / "drawings.py"))
    text = (ROOT / "docs" / "crossval.md").read_text("utf-8")
    assert run["table"](found) in text
    assert run["differences"](found) in text
    if nested.RESULTS.is_file():
        assert nested.table(json.loads(nested.RESULTS.read_text("utf-8"))) in text
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    told = {
        study: round(100 * found[study]["rows"][-1]["image"]["accuracy"]["value"])
        for study in ("spiral", "wave")
    }
    assert f"others' {told['spiral']} times in 100, waves {told['wave']} times" in readme
    # Every command that the results come from is one that there is.
    commands = run["commands"](Path("drawings"), Path("uci"), Path("work"))
    for command in [*commands, nested.command(Path("drawings"), Path("work"))]:
        check_command(list(command))
        for word in command:
            assert not word.endswith(".toml") or Path(word).is_file(), word
