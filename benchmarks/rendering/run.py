"""Measure how many images a second one core renders, for both tasks and words, in one process.

OMP_NUM_THREADS=1 python benchmarks/rendering/run.py [--images 300] [--repeats 5] [--words DIR]

Writes results.json beside this file. The rate counts processor time, so that other programs on
the machine do not change it much; the rate by the clock is given as well. Loading the fonts is
measured apart: it happens once a process. What is rendered are candidates; of them a data set takes
those that make the classes alike, so the rate of finished images is given too, from making a small
set with one worker. Without --words, words are drawn in a script font as a stand-in.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rvsm.atomic import atomic_write
from rvsm.handwriting import texts
from rvsm.handwriting.datasets import make
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.made import Made
from rvsm.handwriting.sources import Rendered, Sampler, Source
from rvsm.handwriting.strokes import carriers
from rvsm.handwriting.synthesis import Generator
from rvsm.handwriting.words import Words

AMPLITUDE_MM = (0.4, 1.2)  # the headline sets
FINISHED = 2000


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def render(generator: Sampler, images: int, seed: int, *, encode: bool) -> None:
    """Render as many regular as shaky images, and encode them as PNG if asked."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        amplitude = float(np.exp(rng.uniform(*np.log(AMPLITUDE_MM))))
        sample = generator.sample(rng, shaky=number % 2 == 1, amplitude_mm=amplitude)
        if encode:
            encode_png(sample.image)


def rates(seconds: Sequence[tuple[float, float]], images: int) -> dict[str, float]:
    """Median and extremes of images a second."""
    cpu = [images / s for s, _ in seconds]
    return {
        "median": round(statistics.median(cpu), 1),
        "least": round(min(cpu), 1),
        "most": round(max(cpu), 1),
        "median_by_the_clock": round(statistics.median(images / s for _, s in seconds), 1),
    }


def stand_in(folder: Path) -> Path:
    """Words as Caveat writes them, in the layout of a folder of real ones: 30 writers of 40."""
    font = next(c for c in carriers("fonts") if c.name.startswith("Caveat"))
    lines, rng = ["file_name,text,writer_id"], np.random.default_rng(0)
    generator = Generator("fonts", [font], texts.words())
    for number in range(1200):
        sample = generator.sample(rng, shaky=False, amplitude_mm=0.05)
        (folder / f"{number}.png").write_bytes(encode_png(sample.image))
        lines.append(f"{number}.png,{sample.text},{number % 30}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def finished(source: Source) -> dict[str, float]:
    """Rate of images that a data set took, and their share of the candidates."""
    counts = {"train": FINISHED, "val": 0, "test-paper": 0, "test-unseen": 0, "curve": 0}
    with tempfile.TemporaryDirectory() as scratch:
        made: list[Made] = []
        cpu, clock = timed(
            lambda: made.append(make(Path(scratch, "x"), source=source, counts=counts, workers=1))
        )
    return {
        "images_per_second": round(FINISHED / cpu, 1),
        "by_the_clock": round(FINISHED / clock, 1),
        "accepted": round(FINISHED / made[0].rendered, 3),
    }


def measure(source: Source, images: int, repeats: int) -> dict[str, Any]:
    """Rates of one source, with all it has, after every glyph or word needed is traced."""
    found: list[Sampler] = []
    loading = timed(
        lambda: found.append(
            source.sampler([c.name for c in source.carriers()], list(source.texts()))
        )
    )[0]
    (generator,) = found
    first = timed(lambda: render(generator, images, 0, encode=False))
    # more texts than are measured, so that hardly a glyph is left to trace
    render(generator, 4 * images, 1, encode=False)
    runs = range(2, 2 + repeats)
    plain = [
        timed(lambda seed=seed: render(generator, images, seed, encode=False)) for seed in runs
    ]
    encoded = [
        timed(lambda seed=seed: render(generator, images, seed, encode=True)) for seed in runs
    ]
    return {
        "loading_s": round(loading, 2),
        "first_images_per_second": rates([first], images)["median"],
        "images_per_second": rates(plain, images),
        "with_png_per_second": rates(encoded, images),
        "finished": finished(source),
    }


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    """Measure both tasks, print and write the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300, help="images a repeat")
    parser.add_argument("--repeats", type=int, default=5, help="repeats, whose median counts")
    parser.add_argument("--words", type=Path, help="a folder of real words (default: a stand-in)")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "what": "images of 64x256 pixels rendered a second of processor time, on one core",
        "images": options.images,
        "repeats": options.repeats,
        "processor": processor(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
        "load_average": round(os.getloadavg()[0], 1),
        "tasks": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        sources: dict[str, Source] = {
            "fonts": Rendered("fonts"),
            "pen": Rendered("pen"),
            "words": Words(options.words or stand_in(Path(scratch))),
        }
        results["words"] = "real" if options.words else "stand-in"
        for task, source in sources.items():
            results["tasks"][task] = measure(source, options.images, options.repeats)
            print(task, json.dumps(results["tasks"][task]))
    with atomic_write(Path(__file__).with_name("results.json")) as file:
        file.write((json.dumps(results, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
