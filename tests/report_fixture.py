"""Small made-up run folders in the layout that rvsm train and rvsm reproduce write."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import rvsm
from rvsm.experiments.config import dump_config, make_config
from rvsm.handwriting.manifest import Row, write_manifest
from rvsm.handwriting.network import TremorNet

METHODS = ("dense", "l1", "l0", "transformed-l1")
WORDS = ("harbour", "seven", "light", "winter", "paper")
COUNTS = {"train": 8, "val": 4, "test-paper": 10, "test-unseen": 16, "curve": 60}


VOID = {"meta", "input", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, column: str) -> list[float]:
        """Raw numbers of one column of the result tables."""
        return [
            float(attrs["data-value"] or "nan")
            for tag, attrs in self.tags
            if tag == "td" and attrs.get("class") == f"k-{column}" and attrs.get("data-value")
        ]


def make_data(folder: Path, task: str, kind: str, seed: int = 0) -> list[Row]:
    """Words in Pillow's font, the shaky ones displaced line by line; a manifest beside them."""
    rng = np.random.default_rng(seed)
    font = ImageFont.load_default(size=30)
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            shaky = number % 2 == 1
            low, high = (0.05, 1.5) if split == "curve" else (0.4, 1.2)
            amplitude = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            word = WORDS[int(rng.integers(len(WORDS)))]
            picture = Image.new("L", (256, 64), 255)
            ImageDraw.Draw(picture).text((20 + int(rng.integers(60)), 12), word, 0, font=font)
            pixels = np.asarray(picture)
            if shaky:
                wave = amplitude * 8 * np.sin(np.arange(256) / 3 + rng.uniform(0, 6))
                source = np.arange(64)[:, None] + np.round(wave).astype(int)
                pixels = pixels[np.clip(source, 0, 63), np.arange(256)]
            label = "shaky" if shaky else "regular"
            file = f"{split}/{label}/{number:06d}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / file)
            rows.append(
                Row(
                    file,
                    split,
                    label,
                    word,
                    f"font-{number // 2 % 4}",
                    "outline",
                    5.5 if shaky else 0.0,
                    amplitude if shaky else 0.0,
                    amplitude,
                )
            )
    write_manifest(folder / "manifest.csv", rows)
    sizes = {split: {"regular": n // 2, "shaky": n // 2} for split, n in COUNTS.items()}
    info = {"format_version": 1, "task": task, "set": kind, "seed": seed, "counts": sizes}
    options = {"images": COUNTS, "source": {"task": task, "files": []}}
    info |= {"generator": "0.1.0+000000000000", "options": options}
    (folder / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    return rows


def make_run(
    folder: Path, data: Path, rows: Sequence[Row], method: str, seed: int, task: str, kind: str
) -> dict[str, Any]:
    """One finished run with an untrained network; returns what its result.json holds."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, METHODS.index(method)])
    options = {"data": str(data.resolve()), "method": method, "seed": seed}
    config = make_config({**options, "network": {"channels": [3, 4, 5], "size": [32, 128]}})
    (folder / "config.toml").write_text(dump_config(config), encoding="utf-8")
    environment = {"python": "3.11.7", "cpus": 2, "git_commit": "0" * 40}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")

    torch.manual_seed(seed)
    network = TremorNet([3, 4, 5]).folded().eval()
    if method != "dense":
        for name, weight in network.named_parameters():
            share = {"fc.weight": 0.95, "conv2.weight": 0.7, "conv3.weight": 0.8}.get(name, 0.0)
            with torch.no_grad():
                weight[torch.rand_like(weight) < share] = 0.0
    rvsm.save(network, folder / "model.safetensors")
    weights = {n: w for n, w in network.named_parameters() if n.endswith(".weight")}
    zeros = {n.removesuffix(".weight"): float((w == 0).double().mean()) for n, w in weights.items()}
    left = sum(int((w != 0).sum()) for w in weights.values())
    total = sum(w.numel() for w in weights.values())

    _write_metrics(folder / "metrics.csv", zeros | {"all": 1 - left / total}, method, rng)
    _write_predictions(folder / "test_predictions.csv", data, rows, network, rng)
    result: dict[str, Any] = {
        "task": task,
        "set": kind,
        "method": method,
        "seed": seed,
        "start": "scratch" if method == "dense" else "dense",
        "epochs": 6,
        "seconds": 12.5,
        "split_sizes": COUNTS,
        "zeros": 1 - left / total,
        "fc_zeros": zeros["fc"],
        "nonzeros": left,
        "scores": {
            split: {"accuracy": float(rng.uniform(0.97, 0.999)), "auc": float(rng.uniform(0.99, 1))}
            for split in ("test-paper", "test-unseen")
        },
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return result


def make_pen_run(folder: Path) -> Path:
    """Make a data folder of pen strokes and an l0 run on it; return the folder of the run."""
    rows = make_data(folder / "data", "pen", "headline")
    make_run(folder / "run", folder / "data", rows, "l0", 0, "pen", "headline")
    return folder / "run"


def make_reproduction(
    folder: Path,
    views: Sequence[tuple[str, str]] = (("fonts", "headline"), ("pen", "headline")),
    seeds: Sequence[int] = (0, 1),
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    """A folder as rvsm reproduce leaves it; returns the contents of its study.json."""
    listed: list[dict[str, Any]] = []
    for task, kind in views:
        data = folder / "data" / f"{task}-{kind}"
        rows = make_data(data, task, kind)
        for method in methods:
            for seed in seeds:
                name = f"{task}-{kind}-{method}-s{seed}"
                result = make_run(folder / name, data, rows, method, seed, task, kind)
                scores = result.pop("scores")
                listed += [
                    {**result, **score, "protocol": split.removeprefix("test-"), "run": name}
                    for split, score in scores.items()
                ]
    sweep = [
        {
            **listed[-1],
            "zeros": zeros,
            "nonzeros": round(14_000 * (1 - zeros)),
            "accuracy": right,
        }
        for zeros, right in ((0.5, 0.991), (0.9, 0.99), (0.97, 0.984), (0.99, 0.96))
    ]
    study: dict[str, Any] = {
        "protocol_note": "A note on the protocol.\nAnother note.",
        "sweep": sweep,
    }
    score = {"split": "curve", "regular": 30, "shaky": 31, "accuracy": 0.527}
    score |= {"low": 0.481, "high": 0.573, "verdict": "fine"}
    study["checks"] = [
        {
            "task": task,
            "set": kind,
            "most_per_split": 4000,
            "findings": [{"name": "equal files", "level": "fine", "text": "no two are equal"}],
            "linear": [
                {**score, "band_mm": None},
                {**score, "band_mm": [0.2, 0.4]},
                {**score, "band_mm": [0.4, 0.6], "decided": False},
            ],
            "small": [{"split": "curve", "band_mm": [0.6, 0.8], "shaky": 9}],
        }
        for task, kind in views
    ]
    (folder / "results.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return study


def _write_metrics(
    path: Path, zeros: dict[str, float], method: str, rng: np.random.Generator
) -> None:
    lines = []
    for epoch in range(6):
        fall = 0.6 * np.exp(-epoch / 2) + 0.01 * float(rng.random())
        grown = 1 - (1 - min(1.0, epoch / 4)) ** 3
        lines.append(
            {
                "epoch": epoch,
                "step": 80 * (epoch + 1),
                "lr": 0.003,
                "train_loss": fall + 0.02,
                "val_loss": fall + 0.03,
                "val_accuracy": 1 - fall / 2,
                "lagrangian": fall + (0 if method == "dense" else 0.05 * grown),
                "gap": 0.0 if method == "dense" else 0.5 * grown + 0.1,
                **{f"zeros/{name}": share * grown for name, share in zeros.items()},
            }
        )
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _write_predictions(
    path: Path, data: Path, rows: Sequence[Row], network: TremorNet, rng: np.random.Generator
) -> None:
    """Probabilities that rise with the amplitude, as those of a trained network would."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ("split", "file", "label", "probability", "tremor_amplitude_mm", "virtual_amplitude_mm")
        )
        for row in rows:
            if row.split in ("train", "val"):
                continue
            odds = 6 * np.log((row.tremor_amplitude_mm or 0.05) / 0.2) + rng.normal(0, 2)
            writer.writerow(
                (
                    row.split,
                    row.file,
                    row.label,
                    f"{1 / (1 + np.exp(-odds)):.6f}",
                    row.tremor_amplitude_mm,
                    row.virtual_amplitude_mm,
                )
            )
