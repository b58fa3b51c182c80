"""A file of recorded tremor: who, which group, how large, how fast, and the signals themselves.

One safetensors file. Each tensor is an unbroken signal, float32 (n, 2) in millimetres; the header
says at which rate and, for each recording, whose it is and what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rvsm.atomic import atomic_write
from rvsm.errors import DataError
from rvsm.handwriting.manifest import LABELS
from rvsm.handwriting.readers import uci
from rvsm.handwriting.recorded.residual import RATE_HZ, peak_hz, pieces, pooled_rms
from rvsm.handwriting.timed import TimedStrokes
from rvsm.handwriting.tremor import FREQUENCY_RANGE_HZ

Array = npt.NDArray[np.float64]

FORMAT = "rvsm tremor library"
VERSION = 3
"""1 held signals whose two columns were mixed up, at twice the frequency; 2 did not say how fast
the pen was."""
GROUPS = ("control", "patient")
"""What the two labels, regular and shaky, are called in a library."""


@dataclass(frozen=True)
class Tremor:
    """What one person's hand did in one recording.

    Attributes
    ----------
    person, group, task : str
    rms_mm, peak_hz, seconds, speed_mm_s : float
        RMS length of the displacements, frequency of most power, time over all signals, mean speed
        of the pen without them.
    signals : tuple of ndarray, shapes (n, 2)
        Millimetres at the library's rate.
    """

    person: str
    group: str
    task: str
    rms_mm: float
    peak_hz: float
    seconds: float
    speed_mm_s: float
    signals: tuple[Array, ...]

    @property
    def unrest(self) -> float:
        """RMS in mm over the square root of the speed in mm/s.

        A fast hand corrects its course fast, and leaves more between 3 and 12 Hz: with the power
        0.47 of its speed in 24 recordings of controls at 9 to 40 mm/s (UCI 395).
        """
        return self.rms_mm / float(np.sqrt(self.speed_mm_s))


@dataclass(frozen=True)
class TremorLibrary:
    """Recorded tremor of several people, at `rate_hz` samples a second."""

    rate_hz: float
    tremors: tuple[Tremor, ...]

    def people(self, group: str | None = None) -> list[str]:
        """Names, each once, of all people or those of a group (``control``, ``patient``)."""
        return list(
            dict.fromkeys(t.person for t in self.tremors if group is None or t.group == group)
        )

    def of(self, people: Iterable[str]) -> TremorLibrary:
        """The part of the library that these people recorded."""
        wanted = set(people)
        return TremorLibrary(self.rate_hz, tuple(t for t in self.tremors if t.person in wanted))

    def trembling(self) -> TremorLibrary:
        """The recordings in which a patient's hand shakes, as no control's does.

        Its `unrest` is more than that of nine in ten recordings of controls, and it has most power
        at 4 Hz or more: what is slower is how people draw. What is left of a steady hand is that
        and noise of the tablet, which no scaling turns into tremor. Without controls the frequency
        alone counts.
        """
        steady = [t.unrest for t in self.tremors if t.group == "control"]
        least = float(np.quantile(steady, 0.9)) if steady else 0.0
        shaking = tuple(
            t
            for t in self.tremors
            if t.group == "patient" and t.unrest > least and t.peak_hz >= FREQUENCY_RANGE_HZ[0]
        )
        return TremorLibrary(self.rate_hz, shaking)

    def summary(self) -> list[str]:
        """A line for each task and group: people, median RMS with 10th and 90th percentile."""
        lines = []
        for task in dict.fromkeys(t.task for t in self.tremors):
            for group in GROUPS:
                found = [t for t in self.tremors if (t.task, t.group) == (task, group)]
                if not found:
                    continue
                low, size, high = np.quantile([t.rms_mm for t in found], (0.1, 0.5, 0.9))
                f_low, f, f_high = np.quantile([t.peak_hz for t in found], (0.1, 0.5, 0.9))
                lines.append(
                    f"{task}, {group}s: {len(found)} people, RMS {size:.3f} mm "
                    f"[{low:.3f}, {high:.3f}], peak {f:.1f} Hz [{f_low:.1f}, {f_high:.1f}]"
                )
        return lines


@dataclass(frozen=True)
class Extracted:
    """A library, what was left out of it and why (by recording or file)."""

    library: TremorLibrary
    left_out: dict[str, str]


def extract(folder: Path, progress: Callable[[int, int], None] | None = None) -> Extracted:
    """Take the tremor out of all recordings of a folder (see `readers.uci.read`).

    Left out is what the reader leaves out, copies that stand under several people among it, and
    what is too short.

    Raises
    ------
    DataError
        Nothing there, or no recording long enough.
    """
    collection = uci.read(folder)
    left_out = dict(collection.left_out)
    tremors = []
    for number, row in enumerate(collection.rows, start=1):
        group = GROUPS[LABELS.index(row.label)]
        strokes = collection.strokes(row)
        assert strokes is not None
        tremor = tremor_of(strokes, row.carrier, group, row.task.replace("-", " "))
        if tremor is None:
            left_out[row.file] = "it is too short"
        else:
            tremors.append(tremor)
        if progress is not None:
            progress(number, len(collection.rows))
    if not tremors:
        raise DataError(
            f"No recording in {folder} is long enough: 2.3 s of drawing without lifting the pen "
            "are needed."
        )
    return Extracted(TremorLibrary(RATE_HZ, tuple(tremors)), left_out)


def tremor_of(strokes: TimedStrokes, person: str, group: str, task: str) -> Tremor | None:
    """The tremor of one recording in mm, or None where no stretch of it is long enough.

    Parameters
    ----------
    strokes : TimedStrokes
        In mm.
    person, group, task : str
        Whose it is; ``control`` or ``patient``; what was drawn.

    Raises
    ------
    DataError
        The strokes have no scale.
    """
    if not strokes.in_mm:
        raise DataError(f"The recording of {person} has no scale in mm: a library needs one.")
    found = pieces(strokes)
    if not found:
        return None
    return Tremor(
        person,
        group,
        task,
        pooled_rms(found),
        peak_hz(found),
        seconds := sum(piece.seconds for piece in found),
        sum(piece.path_mm for piece in found) / seconds,
        tuple(piece.residual_mm for piece in found),
    )


def save_library(library: TremorLibrary, path: Path) -> None:
    """Write a library as one safetensors file."""
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[np.float32]] = {}
    entries = []
    for number, tremor in enumerate(library.tremors):
        names = [f"{number:04d}/{place:02d}" for place in range(len(tremor.signals))]
        # safetensors writes an array's memory as it lies, and a filter along axis 0 leaves columns.
        signals = (np.ascontiguousarray(s, np.float32) for s in tremor.signals)
        tensors |= dict(zip(names, signals, strict=True))
        told = {key: value for key, value in asdict(tremor).items() if key != "signals"}
        entries.append({**told, "signals": names})
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "rate_hz": f"{library.rate_hz:g}",
        "units": "mm",
        "recordings": json.dumps(entries),
    }
    with atomic_write(path) as stream:
        stream.write(_in_order(save(tensors, header)))


def _in_order(content: bytes) -> bytes:
    """The same file with the header's keys sorted: safetensors writes them in a random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@lru_cache(maxsize=4)
def load_library(path: Path) -> TremorLibrary:
    """Read a library that `save_library` wrote.

    Raises
    ------
    DataError
        The file is missing, damaged, no tremor library, or one of another version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(
            f"There is no tremor library {path}: make one with "
            f"`rvsm data tremor UCI_DIR --out {path}`."
        )
    try:
        with safe_open(path, framework="numpy") as stored:
            header = stored.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(
                    f"{path} is no tremor library: make one with `rvsm data tremor UCI_DIR --out "
                    "FILE`."
                )
            if header.get("version") != str(VERSION):
                raise DataError(
                    f"{path} is a tremor library of version {header.get('version')} and this "
                    f"program reads version {VERSION}: make it again with `rvsm data tremor`."
                )
            rate = float(header["rate_hz"])
            tremors = tuple(_tremor(entry, stored) for entry in json.loads(header["recordings"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is a damaged tremor library ({error}): make it again with `rvsm data tremor`."
        ) from None
    if not tremors or not 50 <= rate <= 5000:
        raise DataError(
            f"{path} is a damaged tremor library ({len(tremors)} recordings at {rate:g} Hz): make "
            "it again with `rvsm data tremor`."
        )
    return TremorLibrary(rate, tremors)


def _tremor(entry: dict[str, Any], stored: Any) -> Tremor:
    signals = tuple(np.asarray(stored.get_tensor(n), np.float64) for n in entry["signals"])
    for signal in signals:
        if signal.ndim != 2 or signal.shape[1] != 2 or not np.isfinite(signal).all():
            raise ValueError(f"a signal of {entry['person']} is not (n, 2) finite numbers")
    told = {f.name: f.type for f in fields(Tremor) if f.name != "signals"}
    values = {
        name: str(entry[name]) if kind == "str" else float(entry[name])
        for name, kind in told.items()
    }
    return Tremor(**values, signals=signals)  # type: ignore[arg-type]
