"""Tablet recordings in the layout of UCI 395, drawn by formula: spirals, steady or trembling."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rvsm.handwriting.readers.uci import MM_PER_UNIT

Array = np.ndarray


def spiral(
    seconds: float = 20.0, rate_hz: float = 133.0, turns: float = 3.0
) -> tuple[Array, Array]:
    """Times and points (mm) of a spiral of 36 mm radius as a hand draws it: slower in the middle.

    By the two-thirds power law the speed goes with radius^(1/3), about 20 mm/s at the rim.
    """
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    theta = np.linspace(0.0, 2 * np.pi * turns, 4000)
    radius = 1.5 + 34.5 * theta / theta[-1]
    points = radius[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    length = np.hypot(*np.diff(points, axis=0).T)
    clock = np.concatenate([[0.0], np.cumsum(length / radius[1:] ** (1 / 3))])
    place = t / t[-1] * clock[-1]
    return t, np.stack([np.interp(place, clock, points[:, k]) for k in (0, 1)], axis=1)


def shake(t: Array, rms_mm: float, hz: float) -> Array:
    """An ellipse of this RMS length and frequency."""
    phase = 2 * np.pi * hz * t
    return rms_mm * np.stack([np.sqrt(1.6) * np.cos(phase), np.sqrt(0.4) * np.sin(phase)], axis=1)


def write(path: Path, t: Array, points_mm: Array, test: int = 0, append: bool = False) -> None:
    """Add one test to a person's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    units = np.rint(points_mm / MM_PER_UNIT + 200).astype(int)
    lines = [
        f"{x};{y};0;300;900;{16000000 + round(1000 * s)};{test}\n"
        for s, (x, y) in zip(t, units, strict=True)
    ]
    with path.open("a" if append else "w", encoding="ascii") as stream:
        stream.writelines(lines)


def stand_in(root: Path, controls: int = 3, patients: int = 6, seconds: float = 8.0) -> Path:
    """A small set in the layout of UCI 395: steady controls, patients of 0.3 mm and more."""
    for number in range(controls):
        t, points = spiral(seconds)
        moved = points + shake(t, 0.02, 9.0 + number / 10)
        write(root / "hw_dataset" / "control" / f"C_{number:04d}.txt", t, moved)
    for number in range(patients):
        t, points = spiral(seconds)
        file = root / "hw_dataset" / "parkinson" / f"P_{number:04d}.txt"
        write(file, t, points + shake(t, 0.3 + 0.1 * number, 4.0 + 0.5 * number))
        write(file, t, points[::-1] + shake(t, 0.4, 4.0 + 0.5 * number), 1, append=True)
        write(file, t, points, 2, append=True)
    return root
