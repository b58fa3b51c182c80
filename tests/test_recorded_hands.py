"""rvsm.handwriting.recorded: a library is written and read; hands shake as recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import signal

from commandline import run_here
from rvsm.errors import DataError
from rvsm.handwriting import datasets, generator, tremor
from rvsm.handwriting.manifest import MANIFEST
from rvsm.handwriting.recorded.hands import RecordedHand, crossfaded, in_step, strung
from rvsm.handwriting.recorded.library import (
    FORMAT,
    Tremor,
    TremorLibrary,
    extract,
    load_library,
    save_library,
)
from rvsm.handwriting.recorded.sources import Shaken
from rvsm.handwriting.sources import Rendered
from rvsm.handwriting.splits import Parts
from rvsm.handwriting.synthesis import Generator
from rvsm.handwriting.words import Words, WordSampler
from tablets import shake, spiral, stand_in, write
from test_words import folder

RATE = 200.0


@pytest.fixture(scope="module")
def library_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uci")
    path = root / "tremor.safetensors"
    save_library(extract(stand_in(root)).library, path)
    return path


def one_person(hz: float = 5.0, seconds: float = 3.0, pieces: int = 2) -> TremorLibrary:
    t = np.arange(round(seconds * RATE)) / RATE
    signals = tuple(
        np.stack([np.cos(2 * np.pi * hz * t + k), 0.5 * np.sin(2 * np.pi * hz * t + k)], axis=1)
        for k in range(pieces)
    )
    return TremorLibrary(
        RATE, (Tremor("P", "patient", "static spiral", 0.79, hz, seconds * pieces, 20.0, signals),)
    )


def test_a_library_comes_back(library_file: Path) -> None:
    library = load_library(library_file)
    assert library.people("control") == ["C_0000", "C_0001", "C_0002"]
    assert len(library.people()) == 9
    assert library.trembling().people() == [f"P_{n:04d}" for n in range(6)]
    first = next(t for t in library.tremors if t.person == "P_0003")
    assert first.rms_mm == pytest.approx(0.6, rel=0.1)
    assert first.peak_hz == pytest.approx(5.5, abs=0.3)
    again = library_file.with_name("again.safetensors")
    save_library(library, again)
    assert again.read_bytes() == library_file.read_bytes()
    assert len(library.summary()) == 3
    assert library.of(["P_0003"]).people() == ["P_0003"]


def test_a_fast_hand_is_no_trembling_one(tmp_path: Path) -> None:
    """Five turns in 3.4 s leave more between 3 and 12 Hz than a steady slow hand ever does."""
    root = stand_in(tmp_path, patients=1)
    for name, moved in (("FAST", 0.0), ("BOTH", 1.0)):
        t, points = spiral(3.4, turns=5.0)
        file = root / "hw_dataset" / "parkinson" / f"{name}.txt"
        write(file, t, points + shake(t, moved, 6.0))
    library = extract(root).library
    unrest = {t.person: t.rms_mm for t in library.tremors}
    assert unrest["FAST"] > 0.2 > max(size for person, size in unrest.items() if person[0] == "C")
    assert library.trembling().people() == ["BOTH", "P_0000"]


def test_what_comes_back_is_what_was_recorded(tmp_path: Path) -> None:
    """A filter along axis 0 leaves memory in columns, which a file must not mix up."""
    extracted = extract(stand_in(tmp_path)).library
    assert not extracted.tremors[0].signals[0].flags["C_CONTIGUOUS"]
    save_library(extracted, tmp_path / "library")
    library = load_library(tmp_path / "library")
    for before, after in zip(extracted.tremors, library.tremors, strict=True):
        assert (before.person, before.peak_hz) == (after.person, after.peak_hz)
        for recorded, kept in zip(before.signals, after.signals, strict=True):
            np.testing.assert_allclose(kept, recorded, atol=1e-5)


def test_a_hand_is_as_fast_as_its_recording(library_file: Path) -> None:
    library = load_library(library_file)
    t = np.arange(round(8 * RATE)) / RATE
    for person in library.trembling().people():
        moved, hz = RecordedHand(library.of([person]))(t, np.random.default_rng(0), 0.5)
        f, power = signal.welch(moved, RATE, nperseg=400, nfft=2000, axis=0)
        assert f[np.argmax(power.sum(axis=1))] == pytest.approx(hz, abs=0.6), person


def test_files_that_are_no_library(tmp_path: Path, library_file: Path) -> None:
    with pytest.raises(DataError, match="There is no tremor library"):
        load_library(tmp_path / "absent")
    bad = tmp_path / "text"
    bad.write_text("nothing")
    with pytest.raises(DataError, match="damaged"):
        load_library(bad)
    cut = tmp_path / "cut"
    cut.write_bytes(library_file.read_bytes()[:-50])
    with pytest.raises(DataError, match="damaged"):
        load_library(cut)
    tensors = load_file(library_file)
    other = tmp_path / "model"
    save_file(tensors, other, {"format": "pt"})
    with pytest.raises(DataError, match="is no tremor library"):
        load_library(other)
    newer = tmp_path / "newer"
    save_file(tensors, newer, {"format": FORMAT, "version": "4"})
    with pytest.raises(DataError, match="version 4 and this program reads version 3"):
        load_library(newer)
    empty = tmp_path / "empty"
    header = {"format": FORMAT, "version": "3", "rate_hz": "200", "recordings": "[]"}
    save_file(tensors, empty, header)
    with pytest.raises(DataError, match="damaged"):
        load_library(empty)
    entry = {"person": "P", "group": "patient", "task": "x", "signals": ["0000/00"]}
    lacking = tmp_path / "lacking"
    save_file(tensors, lacking, {**header, "recordings": json.dumps([entry])})
    with pytest.raises(DataError, match="damaged"):
        load_library(lacking)
    with pytest.raises(DataError, match="more people"):
        RecordedHand(TremorLibrary(200.0, ()))


@settings(max_examples=20, deadline=None)
@given(size=st.floats(0.05, 2.0), seconds=st.floats(0.1, 12.0), seed=st.integers(0, 100))
def test_a_hand_shakes_as_much_as_asked(size: float, seconds: float, seed: int) -> None:
    t = np.sort(np.random.default_rng(seed).uniform(3.0, 3.0 + seconds, 400))
    moved, hz = RecordedHand(one_person())(t, np.random.default_rng(seed), size)
    assert moved.shape == (400, 2)
    assert hz == 5.0
    assert tremor.rms(moved) == pytest.approx(size)
    np.testing.assert_allclose(moved.mean(axis=0), 0.0, atol=1e-9)
    again, _ = RecordedHand(one_person())(t, np.random.default_rng(seed), size)
    np.testing.assert_array_equal(moved, again)


@pytest.mark.parametrize("hand", [tremor.modelled, RecordedHand(one_person())])
def test_both_hands_have_one_interface(hand: tremor.Shake) -> None:
    t = np.arange(0, 5, 0.005)
    own, hz = hand(t, np.random.default_rng(1), None)
    assert 0.01 < tremor.rms(own) < 2.0
    assert 3.0 <= hz <= 12.0
    asked, _ = hand(t, np.random.default_rng(1), 0.5)
    assert tremor.rms(asked) == pytest.approx(0.5)
    nothing, _ = hand(np.zeros(0), np.random.default_rng(1), 0.5)
    assert nothing.shape == (0, 2)


def test_as_recorded_is_as_large_as_recorded() -> None:
    t = np.arange(0, 2, 0.005)
    moved, _ = RecordedHand(one_person())(t, np.random.default_rng(0), None)
    assert tremor.rms(moved) == pytest.approx(0.79, rel=0.02)


def test_the_modelled_hand_is_the_generator_of_before() -> None:
    """The same draws in the same order: sets made before come out bit for bit."""
    t = np.linspace(0, 4, 300)
    found, hz = tremor.modelled(t, np.random.default_rng(5), 0.6)
    rng = np.random.default_rng(5)
    before = tremor.draw_frequency(rng, 0.6)
    assert hz == before
    np.testing.assert_array_equal(found, tremor.tremor(t, rng, 0.6, before))


def test_long_signals_have_no_seam() -> None:
    """20 s from stretches of 3 s: as even in step, size and spectrum as what they come from."""
    hz = 5.0
    track = strung(one_person(hz).tremors[0].signals, 4000, RATE, np.random.default_rng(3))
    assert track.shape == (4000, 2)
    envelope = np.hypot(track[:, 0], 2 * track[:, 1])
    assert envelope.min() > 0.97
    assert envelope.max() < 1.001
    steps = np.abs(np.diff(track[:, 0])).max()
    assert steps < 1.05 * 2 * np.pi * hz / RATE
    f, power = signal.welch(track[:, 0], RATE, nperseg=1000)
    assert f[np.argmax(power)] == pytest.approx(hz, abs=0.2)
    assert power[np.abs(f - hz) > 1].sum() < 0.01 * power.sum()


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 150), seed=st.integers(0, 50))
def test_in_step_finds_the_place(shift: int, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((260, 2))
    assert in_step(noise[shift : shift + 80], noise) == shift
    slow = [
        (noise[k : k + 80] * noise[shift : shift + 80]).sum()
        / np.sqrt((noise[k : k + 80] ** 2).sum())
        for k in range(181)
    ]
    assert int(np.argmax(slow)) == shift


def test_crossfade_keeps_what_is_equal() -> None:
    track = np.random.default_rng(0).standard_normal((100, 2))
    np.testing.assert_allclose(crossfaded(track[:60], track[40:], 20), track)
    short = crossfaded(track[:10], track[5:], 20)  # less to fade over than asked
    assert len(short) == 10 + 95 - 10
    np.testing.assert_array_equal(short[10:], track[15:])


def parts(n: int = 12) -> Parts:
    names = [f"c{i}" for i in range(n)]
    return Parts(tuple(names[:8]), tuple(names[8:10]), tuple(names[10:]), ("a",), ("b",), ("c",))


@pytest.mark.parametrize("seed", range(4))
def test_nobody_trembles_in_two_parts(library_file: Path, seed: int) -> None:
    shared = Shaken(Rendered("pen"), library_file).shared_out(parts(), np.random.default_rng(seed))
    people = [set(shared.people([names[0]])) for names, _ in shared.parts]
    assert all(people)
    assert sum(map(len, people)) == len(set.union(*people)) == 6
    assert not {p for group in people for p in group} & {"C_0000", "C_0001", "C_0002"}
    with pytest.raises(DataError, match="several parts"):
        shared.people(["c0", "c11"])


def test_too_few_people(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_library(extract(stand_in(tmp_path, 2, 2)).library, path)
    with pytest.raises(DataError, match="2 people whose hand shakes"):
        Shaken(Rendered("pen"), path).shared_out(parts(), np.random.default_rng(0))


def test_strokes_are_shaken_by_the_recording(library_file: Path) -> None:
    """The same word with the library's hand, with the model's, and steady: three images."""
    names = [c.name for c in Rendered("pen").carriers()[:3]]
    source = Shaken(Rendered("pen"), library_file, (((*names,), ("P_0005",)),))
    generator = source.sampler(names, ["tremor"])
    assert isinstance(generator, Generator)
    drawn = generator.sample(np.random.default_rng(2), shaky=True, amplitude_mm=0.6)
    assert drawn.meta["tremor_frequency_hz"] == pytest.approx(6.5, abs=0.3)
    other = Rendered("pen").sampler(names, ["tremor"])
    modelled = other.sample(np.random.default_rng(2), shaky=True, amplitude_mm=0.6)
    assert (drawn.image != modelled.image).any()


def test_real_words_are_shaken_by_the_recording(library_file: Path, tmp_path: Path) -> None:
    words = Words(folder(tmp_path, 3, 3))
    writers = ("writer0", "writer1")
    source = Shaken(words, library_file, ((writers, ("P_0004",)), (("writer2",), ("P_0001",))))
    sampler = source.sampler(writers, words.texts())
    assert isinstance(sampler, WordSampler)
    shaky = sampler.sample(np.random.default_rng(0), shaky=True, amplitude_mm=0.8)
    assert shaky.meta["tremor_frequency_hz"] == pytest.approx(6.0, abs=0.3)
    assert shaky.carrier in writers
    steady = sampler.sample(np.random.default_rng(0), shaky=False, amplitude_mm=0.8)
    assert steady.meta["tremor_frequency_hz"] == 0.0
    plain = words.sampler(writers, words.texts())
    modelled = plain.sample(np.random.default_rng(0), shaky=True, amplitude_mm=0.8)
    assert (modelled.image != shaky.image).any()


@pytest.mark.slow
def test_make_with_a_library(library_file: Path, tmp_path: Path) -> None:
    counts = {"train": 40, "val": 0, "test-paper": 0, "test-unseen": 20, "curve": 0}
    options = {"task": "pen", "seed": 1, "counts": counts, "tremor": library_file, "workers": 1}
    made = datasets.make(tmp_path / "a", **options)
    people = made.description["tremor_people"]
    assert not set(people["train"]) & set(people["test-unseen"])
    assert made.description["options"]["source"]["tremor"]["library"].startswith("tremor.safe")
    again = datasets.make(tmp_path / "a", **options)
    assert not again.fresh
    with pytest.raises(DataError, match="options"):
        datasets.make(tmp_path / "a", **{**options, "tremor": None})
    second = datasets.make(tmp_path / "b", **options)
    for file in sorted((tmp_path / "a").rglob("*.png")):
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert twin.read_bytes() == file.read_bytes()
    assert second.description == made.description


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = stand_in(tmp_path / "uci", 2, 3)
    (root / "hw_dataset" / "control" / "C_9.txt").write_text("nothing")
    out = tmp_path / "lib.safetensors"
    done = run_here(capfd, "data", "tremor", root, "--out", out)
    assert done.code == 0, done
    assert "static spiral, patients: 3 people" in done.out
    assert "left out: hw_dataset/control/C_9.txt" in done.out
    assert load_library(out).people("patient") == ["P_0000", "P_0001", "P_0002"]
    assert "no folder" in run_here(capfd, "data", "tremor", tmp_path / "no").sentence()
    text = tmp_path / "text"
    text.write_text("x")
    failed = run_here(capfd, "data", "make", tmp_path / "set", "--tremor", text)
    assert "tremor library" in failed.sentence()
    assert not (tmp_path / "set").exists()


def test_sets_of_earlier_generators_that_drew_alike_are_the_same(tmp_path: Path) -> None:
    """A study that began before stays one study; a set that looks otherwise is another."""
    head = {"task": "pen", "generator": generator.generator_version()}
    head |= {"counts": {}, "matching": {}, "carriers": {}}
    (tmp_path / MANIFEST).touch()
    told = tmp_path / datasets.DATASET
    for old in generator._DREW_ALIKE:
        told.write_text(json.dumps({**head, "generator": old}))
        assert datasets._existing(tmp_path, head) is not None
    told.write_text(json.dumps({**head, "generator": "0.0.1+000000000000"}))
    with pytest.raises(DataError, match="another generator"):
        datasets._existing(tmp_path, head)
