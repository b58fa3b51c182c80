"""The command line as tests use it, and a small data folder made without the generator."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvsm.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence of a failure; anything else on standard error is a fault."""
        lines = self.err.strip().splitlines()
        errors = [line for line in lines if line.startswith("Error: ")]
        assert self.code != 0, self
        assert "Traceback" not in self.err + self.out, self.err
        assert len(errors) == 1, self.err
        assert lines[-1] == errors[0], self.err
        assert len(errors[0]) > 30, self.err
        return errors[0]


def run_here(capfd: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command in this process: warnings are errors, as in all tests."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert isinstance(stopped.value.code, int)
    return Outcome(stopped.value.code, out, err)


def run_apart(*arguments: object, before: str = "", timeout: float = 250) -> Outcome:
    """Run a command in a process of its own, after the Python statements `before`."""
    code = f"import sys\n{before}\nfrom rvsm.cli import main\nmain(sys.argv[1:])\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def drawing(shaky: bool, rng: np.random.Generator) -> Image.Image:
    """A line across the image, straight or jittered: trivial to tell apart."""
    image = np.full((64, 256), 255, dtype=np.uint8)
    columns = np.arange(256)
    rows = rng.integers(10, 50) + (rng.integers(-4, 5, 256) if shaky else np.zeros(256, int))
    for width in range(3):
        image[rows + width, columns] = 0
    return Image.fromarray(image)


def make_folder(root: Path, counts: dict[str, int] | None = None) -> Path:
    """An image folder SPLIT/LABEL/000000.png; `counts` are per split and label."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 24, "val": 8, "test": 8}).items():
        for label in ("regular", "shaky"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                drawing(label == "shaky", rng).save(folder / f"{number:06d}.png")
    return root


Run = Callable[..., Outcome]
