"""rvsm.handwriting.candidates: groups that match badly grow, and workers end with their parent."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rvsm.handwriting.candidates import Candidate, Job, Maker, Split
from rvsm.handwriting.manifest import Row
from rvsm.handwriting.splits import CarrierInfo

ORPHAN = """
import time
from dataclasses import dataclass
from rvsm.handwriting.candidates import Job, Split, pool


@dataclass(frozen=True)
class Slow:
    def sampler(self, carriers, texts):
        print("at work", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    with pool(2) as run:
        split = Split(0, "train", ("a",), ("b",), (0.4, 1.2), 2)
        list(run([Job(Slow(), split, True, (0.4, 1.2), 1, 0, (0,))]))
"""


class Fake:
    """Runs jobs without rendering: one feature, which grows with the amplitude of the tremor."""

    def __init__(self, growth: float) -> None:
        self.growth, self.made = growth, {True: 0, False: 0}

    def __call__(self, jobs: list[Job]) -> Iterator[list[Candidate]]:
        for job in jobs:
            rng = np.random.default_rng([job.entropy, *job.key])
            low, high = job.amplitude_mm
            out = []
            for _ in range(job.count):
                amplitude = float(rng.uniform(low, high))
                ink = 10 + rng.standard_normal() + job.shaky * self.growth * amplitude
                row = Row("", "train", "shaky", "word", "a", tremor_amplitude_mm=amplitude)
                out.append(Candidate(b"", np.array([ink]), row))
            self.made[job.shaky] += job.count
            yield out


def choose(growth: float) -> tuple[Fake, float, list[float]]:
    fake = Fake(growth)
    split = Split(0, "val", ("a",), ("word",), (0.4, 1.2), 1000)
    maker = Maker(None, 0, [CarrierInfo("a", "a", "fake")], [split], fake)  # type: ignore[arg-type]
    chosen = maker.choose(split)
    assert len(chosen.regular) == len(chosen.shaky) == 500
    assert maker.done == maker.total == sum(fake.made.values())
    assert chosen.acceptance == pytest.approx(1000 / maker.done)
    amplitudes = [c.row.tremor_amplitude_mm or 0.0 for c in chosen.shaky]
    return fake, chosen.gap, amplitudes


def test_only_what_matches_badly_is_made_in_plenty() -> None:
    alike, gap, _ = choose(0.0)
    assert gap < 0.1
    assert sum(alike.made.values()) == 2000
    apart, gap, amplitudes = choose(2.5)
    assert gap < 0.1
    assert sum(apart.made.values()) > 2700
    bands = np.geomspace(0.4, 1.2, 6)
    np.testing.assert_allclose(np.histogram(amplitudes, bands)[0], [100] * 5, atol=1)
    assert abs(np.corrcoef(np.arange(500), amplitudes)[0, 1]) < 0.15


@pytest.mark.skipif(sys.platform == "win32", reason="uses signals of POSIX")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Whoever lives holds standard output open: its end is the end of all of them."""
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"at work\n"
        parent.kill()
        assert parent.stdout.read() == b""
