"""Modelled tremor at frequencies of one's own, as a hand, a data set and at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commandline import run_here
from rvsm.errors import DataError
from rvsm.handwriting import tremor
from rvsm.handwriting.datasets import make
from rvsm.handwriting.manifest import read_manifest
from rvsm.handwriting.shaken import Paced
from rvsm.handwriting.sources import Rendered
from rvsm.handwriting.tremor import Modelled

COUNTS = {"train": 16, "val": 8, "test-paper": 8, "test-unseen": 8, "curve": 0}


def peak_hz(signal: np.ndarray, step: float) -> float:
    power = sum(np.abs(np.fft.rfft(signal[:, k] * np.hanning(len(signal)))) ** 2 for k in (0, 1))
    return float(np.fft.rfftfreq(len(signal), step)[np.argmax(power)])


@pytest.mark.parametrize("amplitude", [0.2, 1.2])
def test_it_shakes_as_fast_as_asked_whatever_the_amplitude(amplitude: float) -> None:
    t = np.arange(0, 20, 0.01)
    told = []
    for seed in range(20):
        shaking, hz = Modelled((3.0, 4.5))(t, np.random.default_rng(seed), amplitude)
        assert tremor.rms(shaking) == pytest.approx(amplitude)
        assert 3.0 <= hz <= 4.5
        assert peak_hz(shaking, 0.01) == pytest.approx(hz, rel=0.15)
        told.append(hz)
    assert np.ptp(told) > 0.7
    assert Modelled((5.0, 5.0))(t, np.random.default_rng(0), None)[1] == pytest.approx(5.0)


@pytest.mark.parametrize("hertz", [(0.5, 3), (8, 3), (3, 40), (float("nan"), 5)])
def test_what_no_tremor_can_be_is_refused(hertz: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="two frequencies from 1 to 25 Hz"):
        Modelled(hertz)


def test_a_set_says_at_which_frequencies_it_shakes(tmp_path: Path) -> None:
    made = make(tmp_path / "slow", task="pen", counts=COUNTS, tremor_hz=(3, 4.5), workers=1)
    assert made.description["options"]["source"]["tremor_hz"] == [3.0, 4.5]
    rows = read_manifest(tmp_path / "slow")
    shaky = [row.tremor_frequency_hz for row in rows if row.label == "shaky"]
    assert all(hz is not None and 3.0 <= hz <= 4.5 for hz in shaky)
    with pytest.raises(DataError, match="another options"):
        make(tmp_path / "slow", task="pen", counts=COUNTS, workers=1)
    assert not make(
        tmp_path / "slow", task="pen", counts=COUNTS, tremor_hz=(3, 4.5), workers=1
    ).fresh


def test_worker_processes_can_make_it() -> None:
    source = Paced(Rendered("pen"), Modelled((3.0, 8.0)))
    assert hash(source) == hash(Paced(Rendered("pen"), Modelled((3.0, 8.0))))
    assert source != Paced(Rendered("pen"), Modelled((3.0, 9.0)))


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = [f"--count={split}={count}" for split, count in COUNTS.items()]
    out = tmp_path / "set"
    done = run_here(capfd, "data", "make", out, "--task", "pen", "--tremor-hz", "3-8", *few)
    assert done.code == 0, done
    told = json.loads((out / "dataset.json").read_text())
    assert told["options"]["source"]["tremor_hz"] == [3.0, 8.0]
    for text, said in (("8", "LOW-HIGH"), ("8-3", "lower first"), ("a-b", "LOW-HIGH")):
        failed = run_here(capfd, "data", "make", tmp_path / "no", "--tremor-hz", text)
        assert failed.code != 0
        assert said in failed.err
        assert not (tmp_path / "no").exists()
    both = ("--tremor", tmp_path / "lib.safetensors", "--tremor-hz", "3-8")
    assert (
        "frequencies of its own"
        in run_here(capfd, "data", "make", tmp_path / "no", *both).sentence()
    )
