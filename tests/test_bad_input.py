"""Whatever a user gets wrong: one sentence, a nonzero exit code, no traceback, nothing lost."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rvsm
from commandline import Run, drawing, make_folder, run_apart
from rvsm.cli import main


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    command = ["train", str(data), "--out", str(folder), "--method", "dense", "--epochs", "1"]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    return folder


COUNTS = ("train", "val", "test-paper", "test-unseen", "curve")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_folder_without_images(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in (
        ("train", tmp_path / "empty", "--out", tmp_path / "run"),
        ("data", "check", tmp_path / "empty"),
    ):
        sentence = run(*command).sentence()
        assert "holds no images" in sentence
        assert str(tmp_path / "empty") in sentence
    assert not (tmp_path / "run").exists()


def test_no_such_folder(run: Run, tmp_path: Path) -> None:
    for command in (
        ("train", tmp_path / "absent", "--out", tmp_path / "run"),
        ("data", "check", tmp_path / "absent"),
        ("evaluate", tmp_path / "absent"),
        ("predict", tmp_path / "absent", tmp_path),
        ("report", tmp_path / "absent"),
        ("inspect", tmp_path / "absent"),
        ("train", "--config", tmp_path / "absent", "--out", tmp_path / "run"),
    ):
        assert str(tmp_path / "absent") in run(*command).sentence()
    assert list(tmp_path.iterdir()) == []


def test_one_class_only(run: Run, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    for split in ("train", "val", "test"):
        for image in (folder / split / "shaky").iterdir():
            image.unlink()
    sentence = run("train", folder, "--out", tmp_path / "run").sentence()
    assert "only images labelled 'regular'" in sentence
    assert "add 'shaky'" in sentence


def test_unreadable_images_are_counted_and_skipped(run: Run, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    whole = (folder / "train" / "regular" / "000000.png").read_bytes()
    (folder / "train" / "regular" / "000001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "shaky" / "000001.png").write_text("no image")
    (folder / "train" / "shaky" / "000002.png").write_bytes(b"")
    done = run("train", folder, "--out", tmp_path / "run", "--method", "dense", "--epochs", 1)
    assert done.code == 0, done.err
    assert "train: 3 files could not be read" in done.out
    listed = (tmp_path / "run" / "skipped.csv").read_text()
    for file in ("regular/000001.png", "shaky/000001.png", "shaky/000002.png"):
        assert f"train/{file}" in done.out
        assert f"train,train/{file}," in listed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["split_sizes"]["train"] == 45
    assert set(result["skipped_files"]["train"]) == {
        f"train/{file}" for file in ("regular/000001.png", "shaky/000001.png", "shaky/000002.png")
    }
    checked = run("data", "check", folder)
    assert "000001.png" in checked.out + checked.err


def test_bad_images_for_predict(run: Run, finished: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    drawing(True, np.random.default_rng(1)).save(good)
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good.read_bytes()[:300])
    text = tmp_path / "text.png"
    text.write_text("this is no image")
    wide = tmp_path / "wide.png"
    Image.new("L", (40_000, 3_000), 255).save(wide)
    before = files(finished)
    for bad in (truncated, text, wide, tmp_path / "absent.png"):
        assert str(bad) in run("predict", finished, bad).sentence()
    mixed = run("predict", finished, text, good)
    assert str(text) in mixed.sentence()
    assert str(good) in mixed.out
    assert files(finished) == before
    assert "image" in run("predict", finished, tmp_path / "empty-folder-not-there").sentence()


def test_a_wide_image_is_read_or_refused(run: Run, finished: Path, tmp_path: Path) -> None:
    """40,000 pixels in a row are no reason to run out of memory."""
    wide = tmp_path / "wide.png"
    Image.new("L", (40_000, 64), 255).save(wide)
    done = run("predict", finished, wide)
    assert done.code == 0 or str(wide) in done.sentence()


def test_colour_modes_give_the_same_answer(run: Run, finished: Path, tmp_path: Path) -> None:
    grey = drawing(True, np.random.default_rng(1))
    transparent = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    transparent.paste((0, 0, 0, 255), mask=grey.point(lambda value: 255 - value))
    transparent.save(tmp_path / "rgba.png")
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    grey.convert("1").save(tmp_path / "bits.png")
    grey.save(tmp_path / "grey.png")
    done = run("predict", finished, tmp_path, "--json")
    assert done.code == 0, done.err
    found = {Path(row["file"]).name: row["probability"] for row in json.loads(done.out)["files"]}
    assert len(found) == 6
    for name, probability in found.items():
        assert probability == pytest.approx(found["grey.png"], abs=0.02), name


def test_a_font_without_the_glyphs(run: Run, tmp_path: Path) -> None:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((500, 0))
    pen.lineTo((500, 500))
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "Q"])
    builder.setupCharacterMap({ord("Q"): "Q"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "Q": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "Q": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Q", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    (tmp_path / "fonts").mkdir()
    builder.save(tmp_path / "fonts" / "OnlyQ.ttf")
    counts = [word for split in COUNTS for word in ("--count", f"{split}=20")]
    made = run(
        "data", "make", tmp_path / "data", "--fonts", tmp_path / "fonts", "--workers", 1, *counts
    )
    assert "OnlyQ" in made.sentence()
    assert not (tmp_path / "data").exists()


def test_folders_that_cannot_be_written(
    run: Run, data: Path, finished: Path, tmp_path: Path
) -> None:
    """A path through a file fails for root too, whom permissions do not stop."""
    (tmp_path / "plain").write_text("x")
    target = tmp_path / "plain" / "run"
    for command in (
        ("train", data, "--out", target, "--method", "dense"),
        ("data", "make", target, "--count", "train=10"),
        ("reproduce", "--out", target),
    ):
        assert str(target) in run(*command).sentence()
    assert (tmp_path / "plain").read_text() == "x"


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))",
            "size limit",
        ),
        (
            # The first checkpoint and what is written before it pass; then the disk is full.
            "import errno, os\n"
            "from pathlib import Path\n"
            "sync = os.fsync\n"
            "def full(descriptor):\n"
            "    if len(list(Path(sys.argv[4]).glob('checkpoints/*.ckpt'))) > 1:\n"
            "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
            "    sync(descriptor)\n"
            "os.fsync = full",
            "disk is full",
        ),
    ],
    ids=["a limit on files", "after one checkpoint"],
)
def test_full_disk_during_a_checkpoint(
    run: Run, data: Path, finished: Path, tmp_path: Path, before: str, cause: str
) -> None:
    """`finished` has decoded the images before: their cache is no part of this."""
    folder = tmp_path / "run"
    command = ("train", data, "--out", folder, "--method", "dense", "--epochs", 4)
    sentence = run_apart(*command, before=before).sentence()
    assert cause in sentence
    assert str(folder) in sentence
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    assert not [path for path in folder.rglob("*.tmp*") if path.is_file()]
    assert run(*command).code == 0
    undisturbed = ("train", data, "--out", tmp_path / "other", *command[4:])
    assert run(*undisturbed).code == 0
    model = (folder / "model.safetensors").read_bytes()
    assert model == (tmp_path / "other" / "model.safetensors").read_bytes()


def test_unknown_key(run: Run, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'data = "{data}"\n[splitting]\nbetta = 0.1\n')
    sentence = run("train", "--config", config, "--out", tmp_path / "run").sentence()
    assert "betta" in sentence
    assert "beta" in sentence.replace("betta", "")
    config.write_text("data = [\n")
    assert str(config) in run("train", "--config", config, "--out", tmp_path / "run").sentence()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lam", "fc.weight=-1"), ["fc.weight", "lam", "-1"]),
        (("--lam", "fc.weight=nan"), ["fc.weight", "lam"]),
        (("--beta", "0"), ["beta", "0"]),
        (("--beta", "-0.5"), ["beta", "-0.5"]),
        (("--sparsity", "nothing.like.it=0.9"), ["nothing.like.it"]),
        (("--sparsity", "fc.weight=1.5"), ["sparsity"]),
        (("--method", "dense", "--lam", "fc.weight=-1"), ["fc.weight", "lam", "-1"]),
        (("--method", "dense", "--beta", "-1"), ["beta", "-1"]),
        (("--method", "dense", "--set", "splitting.beta=-1"), ["beta", "-1"]),
        (("--method", "dense", "--sparsity", "fc.weight=0.5"), ["dense", "--sparsity"]),
        (("--set", "network.size=[48,128]"), ["64x256", "48x128", "network.size"]),
        (("--set", "network.channels=[0,1,1]"), ["network.channels", "0"]),
        (("--set", "lr=fast"), ["lr"]),
        (("--set", "network.kernel.x=1"), ["kernel"]),
        (("--set", "splitting.betta=1"), ["betta"]),
        (("--method", "l0", "--set", "splitting.a=-1", "--method", "transformed-l1"), ["a"]),
        (("--start", "no/such/run"), ["no/such/run"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_work(
    run: Run, data: Path, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    sentence = run("train", data, "--out", tmp_path / "run", "--epochs", 1, *options).sentence()
    for word in words:
        assert word in sentence
    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite(run: Run, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sentence = run(
        "train", data, "--out", folder, "--method", "dense", "--set", "lr=1e30", "--epochs", 3
    ).sentence()
    assert "became" in sentence  # the loss, or the weights where the epoch is a single step
    assert "smaller lr" in sentence
    assert not (folder / "model.safetensors").exists()


def test_wrong_usage_has_its_own_exit_code(run: Run, data: Path, tmp_path: Path) -> None:
    for command in (
        ("train",),
        ("nonsense",),
        ("train", data, "--method", "l2"),
        ("train", data, "--set", "epochs"),
        ("train", data, "--lam", "fc.weight=much"),
        ("data", "make", tmp_path / "x", "--count", "train"),
        ("predict", tmp_path),
    ):
        done = run(*command)
        assert done.code == 2, command
        assert "Error: " in done.err
        assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_damaged_model(run: Run, finished: Path, tmp_path: Path) -> None:
    content = (finished / "model.safetensors").read_bytes()
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(content[:-3])
    assert str(broken) in run("inspect", broken).sentence()
    broken.write_bytes(content[:200] + b"X" + content[201:])
    assert str(broken) in run("inspect", broken).sentence()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for command in (("--debug", "inspect", tmp_path / "x"), ("inspect", tmp_path / "x", "--debug")):
        done = run_apart(*command)
        assert done.code == 1
        assert "Traceback" in done.err


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_run_that_is_stopped(data: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """It ends with one line; what was finished is there and goes on."""
    folder = tmp_path / "run"
    with apart("train", data, "--out", folder, "--method", "dense", "--epochs", 300) as child:
        wait_for_a_checkpoint(folder, child)
        child.send_signal(sent)
        out, err = child.communicate()
    assert child.returncode == code, err
    assert "Traceback" not in err + out
    assert err.strip().splitlines()[-1].startswith("Stopped. What was finished is kept")
    assert list(folder.glob("checkpoints/*.ckpt"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("doing", ["data", pytest.param("training", marks=pytest.mark.slow)])
def test_a_study_that_is_stopped_leaves_no_process(tmp_path: Path, doing: str) -> None:
    """Be it while a worker has processes of its own that draw, or while it trains."""
    long = "from rvsm.experiments.recipes import QUICK; QUICK['dense'] |= {'epochs': 100_000}"
    few = [word for split in COUNTS for word in ("--count", f"{split}=4")]
    study = ("reproduce", "--out", tmp_path, "--task", "fonts", "--method", "dense", *few)
    with apart(*study, "--workers", 2, before=long) as child:
        if doing == "training":
            wait_for_a_checkpoint(tmp_path / "fonts-headline-dense-s0", child)
        while len(started := descendants(child.pid)) < (3 if doing == "data" else 1):
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate()
    assert child.returncode == 143, err
    assert err.strip().splitlines()[-1].startswith("Stopped."), err
    assert "Traceback" not in err + out
    deadline = time.monotonic() + 20
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@contextlib.contextmanager
def apart(*arguments: object, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, after the Python statements `before`."""
    # A shell that started the tests in the background has them, and their children, ignore SIGINT.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listen}\n{before}\nfrom rvsm.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for_a_checkpoint(folder: Path, child: subprocess.Popen[str]) -> None:
    while not list(folder.glob("checkpoints/*.ckpt")):
        assert child.poll() is None
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and that those started, as Linux lists them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(after_name[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def test_finished_run_is_sound(finished: Path) -> None:
    assert set(rvsm.load(finished / "model.safetensors")) >= {"conv1.weight", "fc.weight"}
