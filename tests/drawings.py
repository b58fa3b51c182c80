"""A data folder drawn in a second: lines, smooth ones regular and jagged ones shaky."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rvsm.experiments.config import make_config
from rvsm.experiments.probability import FILE
from rvsm.experiments.train import train

SPLITS = {"train": 64, "val": 32, "test-paper": 16, "test-unseen": 16, "curve": 16}


def draw(rng: np.random.Generator, amplitude: float) -> Image.Image:
    """Draw one line across the page; ``amplitude`` pixels of jitter make it shaky."""
    image = Image.new("L", (256, 64), 255)
    x = np.linspace(10, 246, 60)
    y = 32 + 14 * np.sin(x / rng.uniform(12, 30) + rng.uniform(0, 6))
    y = y + amplitude * rng.standard_normal(60)
    ImageDraw.Draw(image).line(list(zip(x, y, strict=True)), fill=0, width=2)
    return image


def drawn_run(factory: pytest.TempPathFactory) -> Path:
    """Train a network on a drawn folder for one epoch and return the folder of the run."""
    folder = make_folder(factory.mktemp("drawn"))
    config = make_config({"data": str(folder), "method": "dense", "epochs": 1, "batch_size": 16})
    return train(config, factory.mktemp("runs") / "dense").run_dir


@contextmanager
def other_calibration(run: Path, slope: float, offset: float) -> Iterator[None]:
    """Give a run another scaling of its probabilities for a while."""
    file = run / FILE
    kept = file.read_bytes()
    file.write_text(json.dumps({**json.loads(kept), "slope": slope, "offset": offset}))
    yield
    file.write_bytes(kept)


def make_folder(folder: Path, splits: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Write a data folder with a manifest, half of each split regular and half shaky."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, count in (SPLITS if splits is None else splits).items():
        for number in range(count):
            label = ("regular", "shaky")[number % 2]
            millimetres = float(rng.uniform(0.4, 1.2))
            file = f"{split}/{label}/{number:06d}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            draw(rng, 8 * millimetres if label == "shaky" else 0.0).save(folder / file)
            rows.append(
                {
                    "file": file,
                    "split": split,
                    "label": label,
                    "text": "line",
                    "carrier": f"{split}-{number % 4}",
                    "tremor_amplitude_mm": millimetres if label == "shaky" else 0.0,
                    "virtual_amplitude_mm": millimetres,
                }
            )
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file_object:
        writer = csv.DictWriter(file_object, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "dataset.json").write_text(
        json.dumps({"format_version": 1, "task": "pen", "set": "headline", "seed": seed})
    )
    return folder
