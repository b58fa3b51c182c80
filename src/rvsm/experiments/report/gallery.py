"""The pictures of writing: examples with their evidence, amplitudes, and how the data look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rvsm.errors import RvsmError
from rvsm.experiments.report import pictures
from rvsm.experiments.report.source import Predictions, Run, View

if TYPE_CHECKING:
    from rvsm.handwriting.manifest import Row as ImageRow

EXAMPLE_SPLITS = ("test-unseen", "test-paper", "test")
STRIP = (0.06, 0.12, 0.25, 0.4, 0.7, 1.2)


@dataclass
class Example:
    """One image with what was measured on it."""

    image: str
    truth: str
    caption: str
    overlay: str = ""
    probability: float = math.nan
    called: str = ""


@dataclass
class Images:
    """The images of the data folder that were read, by file name, and how many were not, by split.

    None of either where there is no folder.
    """

    read: dict[str, ImageRow] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def images_of(view: View) -> Images:
    """The images of the data folder, in the splits that the networks were trained with."""
    from rvsm.experiments.data import read_rows

    found = Images()
    if view.data is None:
        return found
    try:
        rows = read_rows(view.data)
    except RvsmError:
        return found
    unreadable = {file: split for run in view.runs for file, split in run.skipped.items()}
    for row in rows:
        if row.error or row.file in unreadable:
            found.skipped[unreadable.get(row.file, row.split)] += 1
        else:
            found.read[row.file] = row
    return found


@dataclass
class Examples:
    """Examples by kind (right, wrong, uncertain) and the split they come from."""

    kinds: dict[str, list[Example]]
    split: str


def examples(view: View, run: Run, images: Mapping[str, ImageRow]) -> Examples:
    """Chosen images of the hardest test split there is, each with its evidence."""
    from rvsm.experiments.report.evidence import choose

    table = run.predictions
    if table is None or view.data is None:
        return Examples({}, "")
    splits = [s for s in dict.fromkeys(table.split.tolist()) if s != "curve"]
    split = next((s for s in EXAMPLE_SPLITS if s in splits), splits[0] if splits else "")
    table = table.where(table.split == split)
    kinds: dict[str, list[Example]] = {}
    for choice in choose(table):
        example = _example(view, table, choice.index, images)
        if example is not None:
            _explain(example, run, view, str(table.file[choice.index]))
            kinds.setdefault(choice.kind, []).append(example)
    return Examples(kinds, split)


def _explain(example: Example, run: Run, view: View, file: str) -> None:
    """Lay the evidence over the picture, and say so if the model and the predictions differ."""
    from rvsm.experiments.report.evidence import occlusion

    if run.network is None:
        return
    odds, evidence = occlusion(run.network, _read(view, file))
    example.overlay = pictures.evidence(evidence, max(float(np.abs(evidence).max()), 0.5))
    again = 1 / (1 + math.exp(-odds))
    if abs(again - example.probability) > 0.02:
        run.missing.append(
            f"{run.name}: the model gives P(shaky) = {again:.2f} for {file}, "
            f"test_predictions.csv says {example.probability:.2f}"
        )


def _example(
    view: View, table: Predictions, index: int, images: Mapping[str, ImageRow]
) -> Example | None:
    file = str(table.file[index])
    try:
        image = pictures.paper(_read(view, file))
    except (RvsmError, OSError):
        return None
    amplitude = float(table.amplitude_mm[index])
    shaky = bool(table.shaky[index])
    known = images.get(file)
    parts = []
    if shaky and amplitude > 0:
        parts.append(f"tremor {amplitude:.2f} mm")
    if known and known.tremor_frequency_hz and shaky:
        parts.append(f"{known.tremor_frequency_hz:.1f} Hz")
    if known and known.carrier:
        parts.append(known.carrier)
    probability = float(table.probability[index])
    return Example(
        image,
        "shaky" if shaky else "regular",
        " · ".join(parts) or file,
        probability=probability,
        called="shaky" if probability > 0.5 else "regular",
    )


def _read(view: View, file: str) -> Any:
    from rvsm.handwriting.description import whole_size
    from rvsm.handwriting.images import read_grey

    assert view.data is not None
    return read_grey(view.data / file, whole_size(view.data))


def contact_sheet(
    view: View, images: Mapping[str, ImageRow], lines: int = 6
) -> tuple[dict[str, list[Example]], str]:
    """Both classes side by side, a line per carrier where the data know carriers; their split."""
    if view.data is None or not images:
        return {}, ""
    train = [row for row in images.values() if row.split == "train"] or list(images.values())
    by_label: dict[str, dict[str, ImageRow]] = {"regular": {}, "shaky": {}}
    order = np.random.default_rng(0).permutation(len(train))
    for row in (train[int(i)] for i in order):
        by_label[row.label].setdefault(row.carrier or row.file, row)
    shared = sorted(by_label["regular"].keys() & by_label["shaky"].keys())
    carriers = shared[:: max(1, len(shared) // lines)][:lines]
    sheet = {}
    for label, rows in by_label.items():
        picked = [rows[c] for c in carriers] or list(rows.values())[:lines]
        found = [e for row in picked if (e := _contact_example(view, row)) is not None]
        if found:
            sheet[label] = found
    return sheet, train[0].split


def _contact_example(view: View, row: ImageRow) -> Example | None:
    try:
        image = pictures.paper(_read(view, row.file))
    except (RvsmError, OSError):
        return None
    parts = [row.carrier] if row.carrier else []
    if row.label == "shaky" and row.tremor_amplitude_mm:
        parts.append(f"{row.tremor_amplitude_mm:.2f} mm")
        if row.tremor_frequency_hz:
            parts.append(f"{row.tremor_frequency_hz:.1f} Hz")
    return Example(image, row.label, " · ".join(parts) or row.file)


def amplitude_strip(view: View, run: Run, images: Mapping[str, ImageRow]) -> list[Example]:
    """One shaky image near each amplitude of STRIP, with what the network makes of it."""
    if run.predictions is None or view.data is None:
        return []
    every = run.predictions
    table = every.where((every.split == "curve") & every.shaky & (every.amplitude_mm > 0))
    if not len(table):
        return []
    logs = np.log(table.amplitude_mm)
    shown, taken = [], set[int]()
    for wanted in STRIP:
        index = int(np.argmin(np.abs(logs - math.log(wanted))))
        if abs(logs[index] - math.log(wanted)) < 0.3 and index not in taken:
            taken.add(index)
            example = _example(view, table, index, images)
            if example:
                shown.append(example)
    return shown


def split_facts(images: Images) -> list[dict[str, str]]:
    """One line per split of the data folder: images, carriers, texts and amplitudes."""
    lines = []
    for split in dict.fromkeys((*(row.split for row in images.read.values()), *images.skipped)):
        rows = [row for row in images.read.values() if row.split == split]
        carriers = {row.carrier for row in rows if row.carrier}
        texts = {row.text for row in rows if row.text}
        amplitudes = [row.tremor_amplitude_mm for row in rows if row.tremor_amplitude_mm]
        lines.append(
            {
                "split": split,
                "regular": f"{sum(row.label == 'regular' for row in rows):,}",
                "shaky": f"{sum(row.label == 'shaky' for row in rows):,}",
                "skipped": f"{images.skipped[split]:,}" if images.skipped else "",
                "carriers": f"{len(carriers):,}" if carriers else "unknown",
                "texts": f"{len(texts):,}" if texts else "unknown",
                "amplitude": f"{min(amplitudes):.2f}–{max(amplitudes):.2f} mm"
                if amplitudes
                else "unknown",
            }
        )
    return lines
