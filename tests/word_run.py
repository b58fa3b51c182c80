"""A small network that really tells words of a steady hand from those of a trembling one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rvsm.experiments.config import make_config
from rvsm.experiments.serve import example as made
from rvsm.experiments.serve.drawing import parse_drawing, render
from rvsm.experiments.train import train
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import Row, write_manifest

WORDS = ("harbour", "seven", "light", "winter", "paper", "morning", "writer", "during")
COUNTS = {"train": 320, "val": 64, "test": 64}


def written(kind: str, word: str, rng: np.random.Generator) -> bytes:
    """A made word as a browser sends it: events some 60 times a second, in whole pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "TEXT", word)
        strokes, _ = made.example(kind, rng)
    scale = float(rng.uniform(3.0, 6.0))
    sent = []
    for stroke in strokes:
        kept = [stroke[0]]
        for point in stroke[1:-1]:
            if point[0] - kept[-1][0] >= 16:
                kept.append(point)
        kept.append(stroke[-1])
        sent.append([[t, round(scale * x), round(scale * y)] for t, x, y in kept])
    return json.dumps({"strokes": sent, "px_per_mm": scale}).encode()


def make_word_run(folder: Path) -> Path:
    """Train on words as the page reads them; return the folder of the run."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            kind = made.KINDS[number % 2]
            label = "shaky" if kind == "shaky" else "regular"
            word = WORDS[int(rng.integers(len(WORDS)))]
            file = f"{split}/{label}/{number:06d}.png"
            (folder / "data" / file).parent.mkdir(parents=True, exist_ok=True)
            image = render(parse_drawing(written(kind, word, rng))).image
            (folder / "data" / file).write_bytes(encode_png(image))
            rows.append(Row(file, split, label, word))
    write_manifest(folder / "data" / "manifest.csv", rows)
    options = {"data": str(folder / "data"), "method": "dense", "seed": 0, "epochs": 6}
    options |= {"batch_size": 16, "lr": 0.01, "network": {"channels": [6, 8, 8]}}
    return train(make_config(options), folder / "run").run_dir
