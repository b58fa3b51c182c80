"""How many word images a second `rvsm predict RUN DIR --out CSV` answers: what docs/scans.md says.

python -m benchmarks.people.streaming FOLDER --run RUN --words DHSD

Two folders of single words: all of DHSD as they lie there (256 x 64 pixels, grey), and 1,500 that
the generator draws, put on tinted, shaded and noisy paper at 300 dots an inch and saved as JPEG
(made once, in FOLDER). Each is asked about as it is and with --scan (paper, ruled lines and skew
taken away, then brought to 64 x 256), by two worker processes and the compiled network.

Counted is the time by the clock from the start of the command to its end, imports and the C
compiler among it, on a machine where nothing else runs; the median of --repeats is taken and all
are kept, with the processor time of all processes together. Writes streaming.json beside this file;
--only NAME measures one folder and keeps the other's rows.

RUN's answers are kept too: nothing in DHSD was shaken, so what is called shaky there is a false
alarm, of a network that learned from drawn words most often.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rvsm.atomic import atomic_text
from rvsm.experiments.runs import environment
from rvsm.handwriting.sources import Rendered

RESULTS = Path(__file__).with_name("streaming.json")
DRAWN = 1500
WORKERS = 2
_DOTS_A_PIXEL = 300 / 25.4 / 8  # the generator draws 8 pixels a mm
_COMMAND = "import sys; from rvsm.cli import main; sys.argv[0] = 'rvsm'; sys.exit(main())"


def drawn(folder: Path, count: int = DRAWN) -> Path:
    """A folder of words on paper, the same ones each time; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Rendered("pen")
    sampler = source.sampler([c.name for c in source.carriers()], source.texts())
    for number in range(count):
        file = folder / f"{number:05d}.jpg"
        if file.exists():
            continue
        rng = np.random.default_rng(number)
        word = sampler.sample(rng, shaky=bool(number % 2), amplitude_mm=0.5).image
        part = file.with_suffix(".part")
        on_paper(word, rng).save(part, format="JPEG", quality=90, dpi=(300, 300))
        part.replace(file)
    return folder


def on_paper(word: np.ndarray[Any, np.dtype[np.uint8]], rng: np.random.Generator) -> Image.Image:
    """A word as scanners show it: 300 dots an inch, tinted, brighter at one side, noisy, askew."""
    height, width = (round(side * _DOTS_A_PIXEL) for side in word.shape)
    grown = Image.fromarray(word).resize((width, height), Image.Resampling.BICUBIC)
    askew = grown.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    ink = 1.0 - np.pad(np.asarray(askew) / 255.0, 12, constant_values=1.0)
    paper = rng.uniform(0.8, 1.0, 3) * rng.uniform(0.85, 1.0)
    shade = 1.0 - rng.uniform(0.0, 0.2) * np.linspace(0, 1, ink.shape[1])
    pen = rng.uniform(0.0, 0.25, 3)
    colour = (paper * (1 - ink[..., None]) + pen * ink[..., None]) * shade[None, :, None]
    noisy = colour + rng.normal(0, 0.015, ink.shape)[..., None]
    return Image.fromarray(np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8))


def measured(run: Path, folder: Path, scan: bool, out: Path) -> dict[str, Any]:
    """Processor and wall time of one command, and what it answered."""
    words = ["predict", str(run), str(folder), "--out", str(out), "--workers", str(WORKERS)]
    words += ["--scan"] if scan else []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:  # what was compiled before is not to help
        subprocess.run(
            [sys.executable, "-c", _COMMAND, *words],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "RVSM_CACHE": cache},
            stderr=subprocess.DEVNULL,
        )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    with out.open(encoding="utf-8", newline="") as stream:
        answers = Counter(line["answer"] for line in csv.DictReader(stream))
    count = sum(answers.values())
    return {
        "command": " ".join(["rvsm predict RUN", folder.name, "--out", out.name, *words[5:]]),
        "files": count,
        "answers": dict(sorted(answers.items())),
        "cpu_seconds": round(cpu, 2),
        "cpu_ms_a_word": round(1e3 * cpu / count, 3),
        "wall_seconds": round(wall, 2),
        "words_a_second": round(count / wall),
        "load_before": round(load, 2),
    }


def table(results: Mapping[str, Any]) -> str:
    """Processor time, rate and answers of each folder, in Markdown."""
    lines = [
        "| folder | files | processor ms a word | words a second | called shaky, % |",
        "|---|---|---|---|---|",
    ]
    for name, found in results["results"].items():
        shaky = found["answers"].get("shaky", 0) / found["files"]
        lines.append(
            f"| {name} | {found['files']:,} | {found['cpu_ms_a_word']:.2f} | "
            f"{found['words_a_second']:,} | {100 * shaky:.0f} |"
        )
    return "\n".join(lines) + "\n"


def middle(of: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The measurement of median length by the clock, and how long all took."""
    ordered = sorted(of, key=lambda found: found["wall_seconds"])
    lengths = [found["wall_seconds"] for found in of]
    return ordered[len(ordered) // 2] | {"wall_seconds_of_all": lengths}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both folders both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("dhsd", "drawn"))
    given = parser.parse_args(arguments)
    folders = {"dhsd": given.words / "german_hw_data", "drawn": drawn(given.folder / "drawn")}
    found = json.loads(RESULTS.read_text("utf-8"))["results"] if given.only else {}
    for name, folder in folders.items():
        for scan in (False, True):
            if given.only not in {None, name}:
                continue
            out = given.folder / f"{name}-{scan}.csv"
            again = [measured(given.run, folder, scan, out) for _ in range(given.repeats)]
            found[f"{name}, {'scan' if scan else 'as it is'}"] = middle(again)
    told = json.loads((given.run / "result.json").read_text("utf-8"))
    learned = {name: told[name] for name in ("task", "set", "method", "seed", "nonzeros")}
    results = {"run": learned, "results": found, "environment": environment()}
    atomic_text(RESULTS, json.dumps(results, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
