"""Examine a data folder for short cuts and leaks: what else than tremor could tell the class?"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError
from rvsm.handwriting.features import FEATURES, global_features
from rvsm.handwriting.images import describe, read_grey
from rvsm.handwriting.intervals import wilson
from rvsm.handwriting.manifest import LABELS, Row, read_manifest

if TYPE_CHECKING:
    from rich.console import Group

Array = npt.NDArray[np.float64]
Level = Literal["fine", "warning", "fault"]

WITHIN = 0.05
"""How far from chance the linear model may be."""

BANDS_MM = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
_LEAST_IN_BAND = 30
_LEAST_TO_FIT = 20
_BALANCE_LEAST = 0.4
_CUE_CHANCE = 0.01
_SHOWN = 3

_KEPT_APART = {
    "val": ("carrier", "text"),
    "test-paper": ("text",),
    "test-unseen": ("carrier", "text"),
    "curve": ("carrier", "text"),
}


_FIGURE_WIDTH = {"split": 11, "tremor, mm": 8, "95 % interval": 12}


@dataclass(frozen=True, slots=True)
class LinearScore:
    """Balanced accuracy of the linear model on one split, or one band of tremor amplitude in it.

    `low` and `high` bound the 95 % interval; `band_mm` is None over all amplitudes. `verdict` is
    ``warning`` where the score is beyond 5 points of chance but its interval takes in chance: too
    few images to tell.
    """

    split: str
    band_mm: tuple[float, float] | None
    regular: int
    shaky: int
    accuracy: float
    low: float
    high: float
    verdict: Level


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its name, how it stands, and a sentence."""

    name: str
    level: Level
    text: str


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; printable with rich.

    Attributes
    ----------
    path : Path
        The folder.
    images : dict of str to dict of str to int
        Readable images by split and label.
    unreadable : dict of str to str
        File and reason.
    findings : list of Finding
    linear : list of LinearScore
    """

    path: Path
    images: dict[str, dict[str, int]]
    unreadable: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    linear: list[LinearScore] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing found is a fault; warnings are allowed."""
        return all(finding.level != "fault" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path), "ok": self.ok}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        colours = {"fine": "green", "warning": "yellow", "fault": "red"}
        counts = Table("split", *LABELS, title=f"Images in {escape(str(self.path))}")
        for split, by_label in self.images.items():
            counts.add_row(split, *(str(by_label.get(label, 0)) for label in LABELS))
        told = Table("looked at", "", "found", title="Findings")
        for f in self.findings:
            told.add_row(f.name, f"[{colours[f.level]}]{f.level}[/]", escape(f.text))
        scores = Table(
            "split",
            "tremor, mm",
            "shaky images",
            "balanced accuracy, %",
            "95 % interval",
            "",
            title="A linear model on global features alone (chance is 50 %)",
        )
        for column in scores.columns:  # on a narrow terminal headings wrap, figures stay whole
            column.min_width = _FIGURE_WIDTH.get(str(column.header))
        for s in self.linear:
            scores.add_row(
                s.split,
                "all" if s.band_mm is None else f"{s.band_mm[0]:g}-{s.band_mm[1]:g}",
                str(s.shaky),
                f"{s.accuracy:.1%}".rstrip("%"),
                f"{100 * s.low:.1f} to {100 * s.high:.1f}",
                f"[{colours[s.verdict]}]{s.verdict}[/]",
            )
        return Group(counts, told, *([scores] if self.linear else []))


@dataclass(frozen=True, slots=True)
class _Image:
    row: Row
    digest: bytes
    mode: str
    size: str
    features: Array


def check(
    path: str | os.PathLike[str],
    *,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look for short cuts and leaks in a data folder, made by `datasets.make` or the user's own.

    - A linear model (logistic regression on the standardised `features.FEATURES`) is trained on
      the split ``train`` and scored on every other split, over all amplitudes and in each band
      of tremor amplitude against all regular images; without ``train`` and another split it is
      cross-validated fivefold. Within 5 points of chance is fine; beyond, with the 95 % interval
      excluding chance, a fault. The intervals are Wilson's for each class, combined by
      Newcombe's square-and-add.
    - Fonts, writers and words that splits share against their protocol; fonts or writers that go
      with a class; equal files.
    - Files that cannot be read; classes out of balance; colour modes or sizes of images that go
      with the class.

    Parameters
    ----------
    path : path-like
    most : int, optional
        Look at no more than so many images of each split, drawn once and for all.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of images read.

    Returns
    -------
    CheckReport

    Raises
    ------
    DataError
        No folder, no images, or one class only.
    """
    root = Path(path)
    rows = read_manifest(root)
    if most is not None:
        rows = _sample(rows, most)
    images, unreadable = _read(root, rows, progress)
    counts: dict[str, dict[str, int]] = {}
    for image in images:
        by_label = counts.setdefault(image.row.split, dict.fromkeys(LABELS, 0))
        by_label[image.row.label] += 1
    if len({image.row.label for image in images}) < 2:
        raise DataError(
            f"{root} holds readable images of fewer than two classes ({len(unreadable)} files "
            "cannot be read): replace the damaged ones."
        )
    linear = _linear(images)
    findings = [
        _unreadable(unreadable, len(rows)),
        _balance(counts),
        *_overlaps([image.row for image in images]),
        _carrier_cue([image.row for image in images]),
        _duplicates(images),
        _cue("colour mode", [(i.mode, i.row.label) for i in images]),
        _cue("image size", [(i.size, i.row.label) for i in images]),
        _linear_finding(linear),
    ]
    return CheckReport(root, counts, unreadable, findings, linear)


def _sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows of each split, always the same ones."""
    order = np.random.default_rng(0).permutation(len(rows))
    taken: Counter[str] = Counter()
    kept = []
    for index in order.tolist():
        if taken[rows[index].split] < most:
            taken[rows[index].split] += 1
            kept.append(index)
    return [rows[index] for index in sorted(kept)]


def _read(
    root: Path, rows: Sequence[Row], progress: Callable[[int, int], None] | None
) -> tuple[list[_Image], dict[str, str]]:
    images, unreadable = [], {}
    for done, row in enumerate(rows, start=1):
        try:
            if row.error:
                raise DataError(row.error)
            file = root / row.file
            features = global_features(read_grey(file))
            mode, (width, height) = describe(file)
            digest = hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
            images.append(_Image(row, digest, mode, f"{width}x{height}", features))
        except DataError as error:
            unreadable[row.file] = str(error)
        if progress is not None and (done % 100 == 0 or done == len(rows)):
            progress(done, len(rows))
    return images, unreadable


def _unreadable(unreadable: dict[str, str], total: int) -> Finding:
    if not unreadable:
        return Finding("readable files", "fine", f"all {total} files can be read")
    return Finding(
        "readable files",
        "warning",
        f"{len(unreadable)} of {total} files cannot be read and are skipped: {_some(unreadable)}",
    )


def _balance(counts: dict[str, dict[str, int]]) -> Finding:
    skewed = [
        f"{split} has {by['regular']} regular and {by['shaky']} shaky images"
        for split, by in counts.items()
        if min(by.values()) < _BALANCE_LEAST * sum(by.values())
    ]
    if skewed:
        text = "; ".join(skewed) + ": judge by balanced accuracy, not accuracy"
        return Finding("class balance", "warning", text)
    return Finding("class balance", "fine", "both classes are alike in number in every split")


def _overlaps(rows: Sequence[Row]) -> list[Finding]:
    """Which fonts, writers and words of other splits are known from training."""
    seen: dict[str, dict[str, set[str]]] = {"carrier": defaultdict(set), "text": defaultdict(set)}
    for row in rows:
        if row.carrier:
            seen["carrier"][row.split].add(row.carrier)
        seen["text"][row.split].update(row.text.split())
    splits = [split for split in dict.fromkeys(row.split for row in rows) if split != "train"]
    findings = []
    for what, plural in (("carrier", "fonts or writers"), ("text", "words")):
        name = f"{plural} apart"
        if not splits or not any(seen[what].values()):
            reason = "one split only" if not splits else "the manifest does not tell them"
            findings.append(Finding(name, "warning", f"cannot be checked: {reason}"))
            continue
        shared = {
            (split, other): common
            for split in splits
            for other in ("train", "val")
            if other != split and (common := seen[what][split] & seen[what][other])
        }
        faults = [pair for pair in shared if what in _KEPT_APART.get(pair[0], ())]
        unruled = [pair for pair in shared if pair[0] not in _KEPT_APART]
        told = [
            f"{split} shares {len(shared[split, other])} of {len(seen[what][split])} {plural} "
            f"with {other}"
            for split, other in faults + unruled
        ]
        level: Level = "fault" if faults else "warning" if unruled else "fine"
        allowed = sorted({split for split, _ in shared} - {s for s, _ in faults + unruled})
        fine = "no split shares any with training or validation"
        if allowed:
            fine += f", but for {', '.join(allowed)}, where the protocol shares them"
        findings.append(Finding(name, level, "; ".join(told) or fine))
    return findings


def _carrier_cue(rows: Sequence[Row]) -> Finding:
    """Whether the font or writer tells the class: the commoner one in training, tried elsewhere."""
    name = "fonts and classes"
    tally: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.split == "train" and row.carrier:
            tally[row.carrier] += 1 if row.label == "shaky" else -1
    hits: dict[str, list[bool]] = {label: [] for label in LABELS}
    for row in rows:
        if row.split != "train" and tally.get(row.carrier):
            hits[row.label].append((tally[row.carrier] > 0) == (row.label == "shaky"))
    if min(len(of) for of in hits.values()) < _LEAST_TO_FIT:
        return Finding(name, "fine", "no other split has fonts or writers of train to try this on")
    accuracy = float(np.mean([np.mean(of) for of in hits.values()]))
    text = f"the font or writer alone tells the class with {accuracy:.1%} balanced accuracy"
    return Finding(name, "fault" if accuracy > 0.5 + WITHIN else "fine", text)


def _duplicates(images: Iterable[_Image]) -> Finding:
    equal: dict[bytes, list[Row]] = defaultdict(list)
    for image in images:
        equal[image.digest].append(image.row)
    groups = [rows for rows in equal.values() if len(rows) > 1]
    if not groups:
        return Finding("equal files", "fine", "no two files are equal")
    worst = [rows for rows in groups if len({(r.split, r.label) for r in rows}) > 1]
    shown = worst or groups
    pairs = [f"{rows[0].file} = {rows[1].file}" for rows in shown]
    where = "in different splits or classes" if worst else "within one class of one split"
    text = f"{len(shown)} files occur more than once {where}: {_some(pairs)}"
    return Finding("equal files", "fault" if worst else "warning", text)


def _cue(name: str, pairs: Sequence[tuple[str, str]]) -> Finding:
    """Whether some value of a property goes with one class more than chance would have it."""
    from scipy.stats import binomtest

    values = Counter(value for value, _ in pairs)
    shaky = Counter(value for value, label in pairs if label == "shaky")
    share = sum(shaky.values()) / len(pairs)
    telling = [
        f"{shaky[value]} of {n} images of {value} are shaky"
        for value, n in values.items()
        if len(values) > 1 and binomtest(shaky[value], n, share).pvalue < _CUE_CHANCE / len(values)
    ]
    if telling:
        return Finding(name, "warning", f"goes with the class: {_some(telling)}")
    return Finding(name, "fine", f"{len(values)} found, alike in both classes")


def _linear(images: Sequence[_Image]) -> list[LinearScore]:
    x = np.array([image.features for image in images])
    y = np.array([LABELS.index(image.row.label) for image in images])
    amplitude = np.array([image.row.tremor_amplitude_mm or np.nan for image in images])
    splits = np.array([image.row.split for image in images])
    train = splits == "train"
    if train.all() or min(np.bincount(y[train], minlength=2)) < _LEAST_TO_FIT:
        if min(np.bincount(y)) < _LEAST_TO_FIT:
            return []
        return _scores("all, cross-validated", y, _cross_predict(x, y), amplitude)
    guess = _model().fit(x[train], y[train]).predict(x)
    scores = []
    for split in dict.fromkeys(splits[~train]):
        part = splits == split
        if len(set(y[part])) == 2:
            scores += _scores(str(split), y[part], guess[part], amplitude[part])
    return scores


def _model() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", C=10.0, max_iter=1000)
    )


def _cross_predict(x: Array, y: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(_model(), x, y, cv=folds), dtype=np.intp)


def _scores(
    split: str, y: npt.NDArray[np.intp], guess: npt.NDArray[np.intp], amplitude: Array
) -> list[LinearScore]:
    right = guess == y
    regular = right[y == 0]
    scores = [_score(split, None, regular, right[y == 1])]
    for band in itertools.pairwise(BANDS_MM):
        shaky = right[(y == 1) & (amplitude >= band[0]) & (amplitude < band[1])]
        if len(shaky) >= _LEAST_IN_BAND:
            scores.append(_score(split, band, regular, shaky))
    return scores


def _score(
    split: str,
    band: tuple[float, float] | None,
    regular: npt.NDArray[np.bool_],
    shaky: npt.NDArray[np.bool_],
) -> LinearScore:
    accuracy = float(regular.mean() + shaky.mean()) / 2
    below, above = np.zeros(2), np.zeros(2)
    for i, right in enumerate((regular, shaky)):
        share = right.mean()
        low, high = wilson(share, len(right))
        below[i], above[i] = share - low, high - share
    least = accuracy - float(np.hypot(*below)) / 2
    most = accuracy + float(np.hypot(*above)) / 2
    verdict: Level = "fine" if abs(accuracy - 0.5) <= WITHIN else "warning"
    # A model that is mostly wrong has found no short cut that holds.
    if accuracy > 0.5 + WITHIN and least > 0.5:
        verdict = "fault"
    return LinearScore(split, band, len(regular), len(shaky), accuracy, least, most, verdict)


def _linear_finding(scores: Sequence[LinearScore]) -> Finding:
    name = "global features"
    if not scores:
        return Finding(
            name, "warning", f"cannot be checked: fewer than {_LEAST_TO_FIT} images of a class"
        )
    worst = max(scores, key=lambda s: (s.verdict == "fault", abs(s.accuracy - 0.5)))
    where = worst.split if worst.band_mm is None else f"{worst.split} at {worst.band_mm} mm"
    figures = f"{worst.accuracy:.1%} [{worst.low:.1%}, {worst.high:.1%}] on {where}"
    if worst.verdict == "fault":
        text = f"a linear model on {', '.join(FEATURES)} alone reaches {figures}"
        return Finding(name, "fault", text)
    return Finding(
        name, worst.verdict, f"a linear model gets no farther from chance than {figures}"
    )


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
